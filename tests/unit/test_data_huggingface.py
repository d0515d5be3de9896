"""Data sets of Hugging Face give the same columns; their pictures stay bytes until somebody opens them."""

import io
import pickle

import numpy as np
import pytest
from datasets import Dataset, DatasetDict, Features, Image, List, Value, Video, load_from_disk
from PIL import Image as PillowImage

from open_r1.completions import get_answer_contract
from open_r1.data.columns import build_features
from open_r1.data.hub_reader import HubSource
from open_r1.data.huggingface import load_huggingface_rows
from open_r1.data.media import BadImageError, load_image, load_row_images
from open_r1.data.reading import LoadOptions
from open_r1.data.schema import BadDataError


TEXT = Value("string")


def make_picture(seed, size=(20, 10)):
    pixels = np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return PillowImage.fromarray(pixels)


def save_vqa(path, num_rows=4, **columns):
    """The layout of the VQA guide."""
    content = {
        "image": [make_picture(i) for i in range(num_rows)],
        "question": [f"Is this {i}?" for i in range(num_rows)],
        "answer": ["A"] * num_rows,
        "reference_steps": [["Look.", f"Count {i}."] for i in range(num_rows)],
        "choices": [["yes", "no"]] * num_rows,
        "source": ["count"] * num_rows,
    } | columns
    content = {name: column for name, column in content.items() if column is not ...}
    Dataset.from_dict(content).save_to_disk(path)
    return str(path)


def load(name, split="train", image_root=None, **options):
    source = HubSource(name=str(name), split=split, image_root=image_root)
    return load_huggingface_rows(source, LoadOptions(contract=get_answer_contract("vqa"), **options))


def test_a_row_has_the_columns_of_every_loader_and_its_picture_beside_them(tmp_path):
    path = save_vqa(tmp_path / "set")
    dataset = load(path)
    row = dataset[2]
    assert set(dataset.column_names) == {*build_features(), "image"}
    assert row["problem"] == "Is this 2?\n\nA) yes\nB) no"
    assert (row["solution"], row["options"]) == ("<answer> A </answer>", ["yes", "no"])
    assert row["reference_steps"] == ["Look.", "Count 2."]
    assert (row["dataset_name"], row["id"], row["source"]) == ("count", "2", f"{path}:2")
    assert (row["image_path"], row["video_path"], row["mos"]) == ([f"{path}#2"], [], None)
    assert [part["type"] for part in row["prompt"][0]["content"]] == ["image", "text"]
    assert isinstance(row["image"]["bytes"], bytes)
    (picture,) = load_row_images(row)
    assert np.array_equal(np.asarray(picture), np.asarray(make_picture(2)))


def test_pictures_stay_in_the_file_that_is_mapped(tmp_path):
    path = save_vqa(tmp_path / "set", num_rows=50, image=[make_picture(i, (200, 200)) for i in range(50)])
    dataset = load(path, verify_images="none")
    pictures = sum(len(dataset[i]["image"]["bytes"]) for i in range(50))
    assert pictures > 4_000_000
    assert len(pickle.dumps(dataset)) < pictures / 20  # as a worker gets it


def test_a_split_is_picked_and_a_wrong_one_refused_with_those_there_are(tmp_path):
    save_vqa(tmp_path / "one", num_rows=3)
    save_vqa(tmp_path / "two", num_rows=2)
    DatasetDict({name: load_from_disk(tmp_path / name) for name in ("one", "two")}).save_to_disk(tmp_path / "both")
    assert len(load(tmp_path / "both", split="two")) == 2
    with pytest.raises(ValueError, match=r"no split 'train': take one of one, two .*--dataset_train_split"):
        load(tmp_path / "both")


def test_the_columns_of_r1_v_and_dictionaries_of_options_are_read_too(tmp_path):
    path = save_vqa(
        tmp_path / "set",
        num_rows=2,
        question=...,
        answer=...,
        choices=...,
        reference_steps=...,
        problem=["How many?", "Which?"],
        solution=["<answer> 3 </answer>", "B"],
        options=[{"A": None, "B": None}, {"A": "x", "B": "y"}],
        source=...,
    )
    dataset = load(path)
    assert dataset["problem"][:] == ["How many?", "Which?\n\nA) x\nB) y"]
    assert dataset["solution"][:] == ["<answer> 3 </answer>", "<answer> B </answer>"]
    assert dataset["dataset_name"][:] == ["set", "set"]
    assert dataset["mos"][:] == [3.0, None]


def test_several_pictures_of_a_row_and_rows_without_any(tmp_path):
    lists = [[make_picture(0), make_picture(1)], [], [make_picture(2)]]
    content = {"images": lists, "question": ["a?", "b?", "c?"], "answer": ["1", "2", "3"]}
    features = Features({"images": List(Image()), "question": TEXT, "answer": TEXT})
    Dataset.from_dict(content, features=features).save_to_disk(tmp_path / "set")
    for verify in ("decode", "none"):
        dataset = load(tmp_path / "set", verify_images=verify)
        assert [len(paths) for paths in dataset["image_path"]] == [2, 0, 1]
        assert [len(load_row_images(row)) for row in dataset] == [2, 0, 1]
    assert dataset[0]["image_path"] == [f"{tmp_path}/set#0.0", f"{tmp_path}/set#0.1"]


def test_pictures_may_be_names_of_files_below_the_root(tmp_path):
    make_picture(3).save(tmp_path / "3.png")
    path = save_vqa(tmp_path / "set", num_rows=1, image=["3.png"])
    dataset = load(path, image_root=str(tmp_path))
    assert "image" not in dataset.column_names
    assert dataset[0]["image_path"] == [str(tmp_path / "3.png")]
    assert load_row_images(dataset[0])[0].size == (20, 10)
    with pytest.raises(BadDataError, match="no such file"):
        load(path, image_root=str(tmp_path / "set"))


@pytest.fixture
def damaged(tmp_path):
    """Rows 1 (a truncated picture) and 3 (no answer) cannot be used."""
    buffer = io.BytesIO()
    make_picture(1, (90, 90)).save(buffer, "PNG")
    whole = {"bytes": buffer.getvalue(), "path": None}
    cut = {"bytes": buffer.getvalue()[:2000], "path": None}
    content = {
        "image": [whole, cut, whole, whole, whole],
        "question": list("abcde"),
        "answer": ["1", "2", "3", None, "5"],
    }
    features = Features({"image": Image(), "question": TEXT, "answer": TEXT})
    Dataset.from_dict(content, features=features).save_to_disk(tmp_path / "set")
    return str(tmp_path / "set")


def test_bad_rows_are_named_by_data_set_and_row(damaged):
    with pytest.raises(BadDataError) as caught:
        load(damaged)
    first, second = map(str, caught.value.bad_rows)
    assert first.startswith(f"{damaged}:1: image: cannot be decoded")
    assert second == f"{damaged}:3: no 'answer' value"


def test_rows_that_are_left_out_take_their_pictures_with_them(damaged):
    for options in ({}, {"arrow_cache_dir": f"{damaged}_cache"}, {"arrow_cache_dir": f"{damaged}_cache"}):
        dataset = load(damaged, on_bad_data="skip", **options)
        assert dataset["problem"][:] == ["a", "c", "e"]
        assert dataset[2]["image_path"] == [f"{damaged}#4"]
        assert load_row_images(dataset[1])[0].size == (90, 90)


def test_what_is_no_data_set_says_what_would_be_one(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="neither a folder that save_to_disk wrote nor"):
        load(tmp_path / "empty")
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match=r"--dataset_name nobody/nothing: .*without a network"):
        load("nobody/nothing")
    Dataset.from_dict({"text": ["a"]}).save_to_disk(tmp_path / "texts")
    with pytest.raises(ValueError, match="has the columns text: it needs question"):
        load(tmp_path / "texts")


def test_bytes_that_are_no_picture_say_so():
    with pytest.raises(BadImageError, match="a.png: not an image"):
        load_image({"bytes": b"text", "path": "a.png"})
    with pytest.raises(BadImageError, match="no such file"):
        load_image({"bytes": None, "path": "gone.png"})


def test_videos_are_names_of_files_and_nothing_else(tmp_path):
    (tmp_path / "1.mp4").write_bytes(b"x")
    content = {"video": ["1.mp4"], "question": ["a?"], "answer": ["1"]}
    Dataset.from_dict(content).save_to_disk(tmp_path / "names")
    row = load(tmp_path / "names", image_root=str(tmp_path), verify_images="exists")[0]
    assert row["video_path"] == [str(tmp_path / "1.mp4")]
    assert [part["type"] for part in row["prompt"][0]["content"]] == ["video", "text"]
    content["video"] = [{"bytes": b"x", "path": None}]
    features = Features({"video": Video(), "question": TEXT, "answer": TEXT})
    Dataset.from_dict(content, features=features).save_to_disk(tmp_path / "videos")
    with pytest.raises(ValueError, match="store names of files"):
        load(tmp_path / "videos")

"""JSONL rows are all checked when loaded; bad ones are named together, or left out with a count."""

import json
import logging
import os
import sys

import numpy as np
import pytest
from PIL import Image

from open_r1.completions import IQA_QUESTION, get_answer_contract
from open_r1.data.jsonl import load_jsonl_dataset, split_paths, split_train_validation
from open_r1.data.schema import BadDataError


CONTRACT = get_answer_contract("scoring")


def make_row(number, **changes):
    row = {
        "id": number,
        "dataset_name": "KADID-10K",
        "image": [f"{number}.png"],
        "conversations": [{"from": "human", "value": IQA_QUESTION}, {"from": "gpt", "value": 1.0 + number / 100}],
    }
    return {key: value for key, value in (row | changes).items() if value is not ...}


def answer(value):
    return [{"from": "human", "value": "Rate {it}."}, {"from": "gpt", "value": value}]


def write(path, rows):
    lines = [row if isinstance(row, bytes) else json.dumps(row).encode() for row in rows]
    path.write_bytes(b"\n".join(lines) + b"\n")
    return str(path)


@pytest.fixture
def folder(tmp_path):
    """Ten images, 1.png to 10.png."""
    images = tmp_path / "images"
    images.mkdir()
    rng = np.random.default_rng(0)
    for number in range(1, 11):
        Image.fromarray(rng.integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(images / f"{number}.png")
    return images


def load(files, folder, **options):
    files = [files] if isinstance(files, str) else files
    return load_jsonl_dataset(
        files, [str(folder)] * len(files), **{"contract": CONTRACT, "require_mos": True} | options
    )


def test_a_row_becomes_the_columns_that_training_reads(tmp_path, folder):
    row = load(write(tmp_path / "a.jsonl", [make_row(1), make_row(2)]), folder)[1]
    assert row == {
        "id": "2",
        "dataset_name": "KADID-10K",
        "image_path": [os.path.join(folder, "2.png")],
        "video_path": [],
        "problem": IQA_QUESTION,
        "solution": "<answer> 1.02 </answer>",
        "mos": 1.02,
        "prompt": [
            {
                "role": "user",
                "content": [
                    {"type": "image", "text": None},
                    {"type": "text", "text": CONTRACT.render(IQA_QUESTION)},
                ],
            }
        ],
        "source": f"{tmp_path}/a.jsonl:2",
        "reference": None,
        "accu_reward_method": None,
        "options": [],
        "reference_steps": [],
        "explanations": [],
    }


def test_every_kind_of_damage_is_named_with_file_and_line_in_one_message(tmp_path, folder):
    content = (folder / "5.png").read_bytes()
    Image.open(folder / "5.png").resize((300, 300)).save(folder / "cut.jpg")
    jpeg = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(jpeg[: len(jpeg) // 2])
    (folder / "text.png").write_bytes(b"x" + content)
    rows = [
        make_row(1),
        json.dumps(make_row(2)).encode()[:-5],
        make_row(3, image=["gone.png"]),
        make_row(4, image=["cut.jpg"]),
        make_row(5, conversations=answer("good")),
        make_row(6, conversations=...),
        make_row(7, image=...),
        make_row(8, conversations=answer(float("nan"))),
        make_row(9, conversations=answer(True)),
        b"[1, 2]",
        b'{"id": "\xff"}',
        make_row(10, image=["text.png"]),
        make_row(10, conversations=answer(4)[:1]),
    ]
    file = write(tmp_path / "a.jsonl", rows)
    other = write(tmp_path / "b.jsonl", [make_row(1, image="gone.png", conversations=answer(3.0)), b"{}"])
    with pytest.raises(BadDataError) as caught:
        load([file, other], folder)
    lines = str(caught.value).splitlines()
    assert lines[0] == "14 rows cannot be used:"
    expected = [
        (file, 2, "not JSON"), (file, 3, "gone.png: no such file"), (file, 4, "cut.jpg: cannot be decoded"),
        (file, 5, "'good' is not a number"), (file, 6, "no conversations"), (file, 7, "no image"),
        (file, 8, "nan is not finite"), (file, 9, "True is not a number"), (file, 10, "not a list"),
        (file, 11, "not UTF-8"), (file, 12, "text.png: not an image"), (file, 13, "no 'gpt' turn"),
        (other, 1, "gone.png: no such file"), (other, 2, "no image; no conversations"),
    ]  # fmt: skip
    assert len(lines) == len(expected) + 2
    for line, (path, number, reason) in zip(lines[1:], expected, strict=False):
        assert line.startswith(f"{path}:{number}: ")
        assert reason in line
    assert "--on_bad_data skip" in lines[-1]


def test_twenty_bad_rows_are_shown_and_all_are_counted(tmp_path, folder):
    file = write(tmp_path / "a.jsonl", [b"{"] * 33)
    with pytest.raises(BadDataError) as caught:
        load(file, folder)
    lines = str(caught.value).splitlines()
    assert lines[0] == "33 rows cannot be used:"
    assert sum(line.startswith(file) for line in lines) == 20
    assert "... and 13 more" in lines
    assert len(caught.value.bad_rows) == 33


def test_all_that_is_wrong_with_one_row_is_said_at_once(tmp_path, folder):
    row = make_row(1, image=3, id=[], conversations=answer("good"))
    with pytest.raises(BadDataError, match=r"the image must be .* 3; the MOS .*'good'.*; the id must be"):
        load(write(tmp_path / "a.jsonl", [row]), folder)


def test_bad_rows_are_left_out_on_request_and_counted(tmp_path, folder, caplog):
    rows = [make_row(1), b"{", make_row(2, image="gone.png"), make_row(3)]
    with caplog.at_level(logging.WARNING):
        dataset = load(write(tmp_path / "a.jsonl", rows), folder, on_bad_data="skip")
    assert dataset["id"][:] == ["1", "3"]
    assert "left out 2 of 4 rows" in caplog.text
    assert "a.jsonl:2: not JSON" in caplog.text


def test_no_usable_row_is_an_error_also_when_skipping(tmp_path, folder):
    with pytest.raises(ValueError, match="no usable row"):
        load(write(tmp_path / "a.jsonl", [b"{"]), folder, on_bad_data="skip")
    for content in (b"", b"\n  \n"):
        (tmp_path / "empty.jsonl").write_bytes(content)
        with pytest.raises(ValueError, match=r"empty.jsonl: the file is empty"):
            load(str(tmp_path / "empty.jsonl"), folder, on_bad_data="skip")


def test_existence_alone_is_checked_on_request(tmp_path, folder):
    (folder / "1.png").write_bytes(b"no image")
    file = write(tmp_path / "a.jsonl", [make_row(1)])
    assert len(load(file, folder, verify_images="exists")) == 1
    with pytest.raises(BadDataError, match="not an image"):
        load(file, folder)
    with pytest.raises(BadDataError, match="no such file"):
        load(write(tmp_path / "b.jsonl", [make_row(11)]), folder, verify_images="exists")


def test_an_image_of_many_rows_is_opened_once(tmp_path, folder):
    path = os.path.join(folder, "1.png")
    file = write(tmp_path / "a.jsonl", [make_row(number, image="1.png") for number in range(50)])
    opened = []
    sys.addaudithook(lambda event, arguments: opened.append(arguments[0]) if event == "open" else None)
    load(file, folder)
    assert opened.count(path) == 1


def test_files_and_folders_must_match_in_number_and_exist(tmp_path, folder):
    file = write(tmp_path / "a.jsonl", [make_row(1)])
    options = {"contract": CONTRACT, "require_mos": True}
    with pytest.raises(ValueError, match="1 data files and 2 image folders"):
        load_jsonl_dataset([file], [str(folder)] * 2, **options)
    with pytest.raises(ValueError, match=r"the data file .*b.jsonl does not exist"):
        load(str(tmp_path / "b.jsonl"), folder)
    with pytest.raises(ValueError, match=r"the image folder .*nowhere does not exist"):
        load(file, tmp_path / "nowhere")
    with pytest.raises(ValueError, match="named twice"):
        load([file, file], folder)


def test_each_file_has_its_own_image_folder(tmp_path, folder):
    other = tmp_path / "other"
    other.mkdir()
    (folder / "1.png").rename(other / "1.png")
    files = [write(tmp_path / "a.jsonl", [make_row(1)]), write(tmp_path / "b.jsonl", [make_row(2)])]
    dataset = load_jsonl_dataset(files, [str(other), str(folder)], contract=CONTRACT, require_mos=True)
    assert dataset["image_path"][:] == [[os.path.join(other, "1.png")], [os.path.join(folder, "2.png")]]


def test_rows_without_a_data_set_name_get_the_given_one_or_one_of_their_own_file(tmp_path, folder):
    files = []
    for name in ("x/train", "y/train"):
        (tmp_path / name).parent.mkdir()
        files.append(write(tmp_path / f"{name}.jsonl", [make_row(1, dataset_name=...), make_row(2)]))
    assert load(files[0], folder)["dataset_name"][:] == ["train", "KADID-10K"]
    assert load(files, folder)["dataset_name"][:] == ["x/train", "KADID-10K", "y/train", "KADID-10K"]
    assert load(files, folder, dataset_name="MINE")["dataset_name"][:] == ["MINE", "KADID-10K"] * 2


def test_text_only_rows_and_textual_answers_are_allowed_where_no_mos_is_required(tmp_path, folder):
    rows = [
        make_row(1, image=..., conversations=answer("<answer>có</answer><explain>vì trời nắng</explain>")),
        make_row(2, image=["1.png", "2.png"], conversations=answer("a cat")),
        make_row(3, id=..., conversations=answer(2)),
    ]
    dataset = load(write(tmp_path / "a.jsonl", rows), folder, require_mos=False)
    assert dataset["solution"][:] == [
        "<answer>có</answer><explain>vì trời nắng</explain>", "<answer> a cat </answer>", "<answer> 2 </answer>",
    ]  # fmt: skip
    assert dataset["mos"][:] == [None, None, 2.0]
    assert dataset["id"][:] == ["1", "2", "3"]
    assert [len(row["content"]) for (row,) in dataset["prompt"]] == [1, 3, 2]
    assert "Rate {it}." in dataset[0]["prompt"][0]["content"][0]["text"]


def test_image_tokens_are_removed_and_refused_where_there_is_no_image(tmp_path, folder):
    turns = answer(3)
    turns[0]["value"] = "<image>\nHow good is it?<image>"
    rows = [make_row(1, conversations=turns), make_row(2, conversations=turns, image=...)]
    dataset = load(write(tmp_path / "a.jsonl", rows[:1]), folder)
    assert dataset["problem"][0] == "How good is it?"
    with pytest.raises(BadDataError, match="the row has no image"):
        load(write(tmp_path / "a.jsonl", rows), folder, require_mos=False)


@pytest.mark.parametrize("value", [4.5, "4.5", " 4.5 ", "<answer> 4.5 </answer>", "45e-1"])
def test_a_mos_may_be_a_number_or_its_text(tmp_path, folder, value):
    assert load(write(tmp_path / "a.jsonl", [make_row(1, conversations=answer(value))]), folder)["mos"][0] == 4.5


@pytest.mark.parametrize("value", ["4,5", "1_000", "", "inf", None, [4.5], False, "4.5 of 5"])
def test_a_mos_that_is_no_finite_number_is_refused(tmp_path, folder, value):
    with pytest.raises(BadDataError, match=r"a.jsonl:1: "):
        load(write(tmp_path / "a.jsonl", [make_row(1, conversations=answer(value))]), folder)


def test_hostile_lines_are_bad_rows_and_nothing_worse(tmp_path, folder):
    rows = [
        b"[" * 100_000,
        b'{"id": ' + b"9" * 5000 + b"}",
        make_row(3, image="a\0b.png"),
        make_row(4, image="\ud800.png"),
        make_row(5, conversations=[None]),
        make_row(6, conversations="hello"),
        make_row(7, conversations=[{"from": ["human"], "value": "x"}]),
        make_row(8, conversations=answer(10**400)),
        b"null",
    ]
    with pytest.raises(BadDataError) as caught:
        load(write(tmp_path / "a.jsonl", rows), folder)
    assert [bad.line for bad in caught.value.bad_rows] == list(range(1, 10))
    str(caught.value).encode("utf-8")


def test_a_byte_order_mark_windows_line_ends_and_a_missing_last_line_end_do_no_harm(tmp_path, folder):
    lines = [json.dumps(make_row(number)).encode() for number in (1, 2)]
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\r\n".join(lines))
    assert load(str(tmp_path / "a.jsonl"), folder)["id"][:] == ["1", "2"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["a.jsonl:b.jsonl"], ["a.jsonl", "b.jsonl"]),
        (["a.jsonl", "b.jsonl:c.jsonl"], ["a.jsonl", "b.jsonl", "c.jsonl"]),
        ("A:B", ["A", "B"]),
        (["s3://bucket/a.jsonl:gs://bucket/b"], ["s3://bucket/a.jsonl", "gs://bucket/b"]),
        (["http://host:9000/a:b"], ["http://host:9000/a", "b"]),
        ([r"C:\data\a.jsonl:D:/data/b.jsonl"], [r"C:\data\a.jsonl", "D:/data/b.jsonl"]),
        (["/data/a:/data/b"], ["/data/a", "/data/b"]),
    ],
)
def test_colons_split_paths_but_not_uris_and_drive_letters(values, expected):
    assert split_paths(values) == expected


def test_a_path_that_exists_is_not_split(tmp_path):
    for name in ("a:b", "c"):
        (tmp_path / name).mkdir()
    joined = f"{tmp_path}/c:{tmp_path}/a:b:{tmp_path}/c"
    assert split_paths([joined]) == [f"{tmp_path}/c", f"{tmp_path}/a:b", f"{tmp_path}/c"]


@pytest.mark.parametrize("value", ["", "a::b", ":a", "a:"])
def test_an_empty_path_is_refused(value):
    with pytest.raises(ValueError, match="empty path"):
        split_paths([value])


def test_the_validation_rows_depend_on_the_seed_alone_and_share_no_image(tmp_path, folder):
    rows = [make_row(number, image=[f"{number % 10 + 1}.png"]) for number in range(40)]
    rows.append(make_row(40, image=["1.png", "2.png"]))  # joins the rows of two images
    dataset = load(write(tmp_path / "a.jsonl", rows), folder)
    train, validation = split_train_validation(dataset, 0.25, seed=3)
    assert sorted(train["source"][:] + validation["source"][:]) == sorted(dataset["source"])
    images = [{path for paths in side["image_path"] for path in paths} for side in (train, validation)]
    assert images[0] & images[1] == set()
    assert 1 <= len(validation) <= 10
    assert split_train_validation(dataset, 0.25, seed=3)[1]["source"][:] == validation["source"][:]
    others = [split_train_validation(dataset, 0.25, seed=seed)[1]["source"][:] for seed in range(4, 9)]
    assert any(other != validation["source"][:] for other in others)


def test_a_split_that_leaves_a_side_empty_is_refused(tmp_path, folder):
    dataset = load(write(tmp_path / "a.jsonl", [make_row(1), make_row(2, image="1.png")]), folder)
    with pytest.raises(ValueError, match="neither side may be empty"):
        split_train_validation(dataset, 0.5, seed=0)
    with pytest.raises(ValueError, match="between 0 and 1"):
        split_train_validation(dataset, 1.0, seed=0)

"""ViVQA-X items become rows that keep every explanation and the folder of the image."""

import json
import unicodedata
from pathlib import Path

import pytest

from open_r1.completions import extract_answer, get_answer_contract
from open_r1.data.jsonl import load_jsonl_dataset
from open_r1.data.schema import BadDataError
from open_r1.data.vivqa import build_row, create_jsonl_for_grpo, main


def make_item(number=1, **changes):
    item = {
        "question": "bức ảnh này có gì?",
        "image_id": number,
        "image_name": f"COCO_val2014_{number:012d}.jpg",
        "explanation": ["vì có một con mèo", "con mèo ngồi trên ghế", "vì có một con mèo"],
        "answer": "con mèo",
        "question_id": 10 * number,
        "question_type": "khác",
        "answer_type": "other",
    }
    return {key: value for key, value in (item | changes).items() if value is not ...}


def write_items(folder, *items, split="val"):
    folder.mkdir(exist_ok=True)
    (folder / f"ViVQA-X_{split}.json").write_text(json.dumps(items), encoding="utf-8")
    return str(folder)


def test_a_row_keeps_all_explanations_and_the_folder_of_its_image():
    row = build_row(make_item(), 1, "val")
    assert row["image"] == "val2014/COCO_val2014_000000000001.jpg"
    assert row["explanations"] == ["vì có một con mèo", "con mèo ngồi trên ghế"]
    human, gpt = row["conversations"]
    assert human == {"from": "human", "value": "<image>bức ảnh này có gì?"}
    assert extract_answer(gpt["value"]).strip() == "con mèo"
    contract = get_answer_contract("vivqa")
    assert contract.read_explanation(gpt["value"]).strip() == "vì có một con mèo"


@pytest.mark.parametrize(
    ("item", "split", "expected"),
    [
        ({"image_name": "COCO_train2014_000000000007.jpg"}, "train", "train2014/COCO_train2014_000000000007.jpg"),
        ({"image_name": "COCO_train2014_000000000007.jpg"}, "test", "train2014/COCO_train2014_000000000007.jpg"),
        ({"image_name": "val2014/COCO_val2014_000000000007.jpg"}, "test", "val2014/COCO_val2014_000000000007.jpg"),
        ({"image_name": "7.jpg"}, "train", "train2014/7.jpg"),
        ({"image_name": ..., "image_id": 7}, "val", "val2014/COCO_val2014_000000000007.jpg"),
    ],
)
def test_the_folder_is_that_of_cocos_name_or_else_of_the_split(item, split, expected):
    assert build_row(make_item(**item), 1, split)["image"] == expected


def test_texts_are_composed_and_written_as_they_are(tmp_path):
    loose = unicodedata.normalize("NFD", "con mèo")
    root = write_items(
        tmp_path / "raw", make_item(answer=f" {loose}  đen ", explanation=unicodedata.normalize("NFD", "vì tối"))
    )
    path = create_jsonl_for_grpo("val", str(tmp_path / "out" / "val.jsonl"), root)
    text = (tmp_path / "out" / "val.jsonl").read_text(encoding="utf-8")
    assert path == str(tmp_path / "out" / "val.jsonl")
    assert "con mèo đen" in text and "vì tối" in text and "\\u" not in text


def test_ids_are_numbers_of_items_also_behind_one_that_is_left_out(tmp_path, caplog):
    root = write_items(tmp_path / "raw", make_item(1), make_item(2, answer=""), make_item(3))
    path = create_jsonl_for_grpo("val", str(tmp_path / "val.jsonl"), root, on_bad_data="skip")
    assert [json.loads(line)["id"] for line in Path(path).read_text("utf-8").splitlines()] == [1, 3]
    assert "left out 1 of 3 items" in caplog.text


def test_every_item_that_lacks_something_is_named(tmp_path):
    items = [
        make_item(1, question=" "),
        make_item(2),
        make_item(3, explanation=[], image_name=..., image_id=...),
        3,
    ]
    with pytest.raises(BadDataError) as caught:
        create_jsonl_for_grpo("val", str(tmp_path / "val.jsonl"), write_items(tmp_path / "raw", *items))
    assert [(bad.line, bad.reason) for bad in caught.value.bad_rows] == [
        (1, "no question"), (3, "no explanation; no image_name"), (4, "an item must be an object, not 3"),
    ]  # fmt: skip
    assert not (tmp_path / "val.jsonl").exists()


def test_images_are_looked_for_where_a_root_is_given(tmp_path):
    (tmp_path / "train2014").mkdir()
    (tmp_path / "train2014" / "7.jpg").write_bytes(b"")
    assert build_row(make_item(image_name="7.jpg"), 1, "val", str(tmp_path))["image"] == "train2014/7.jpg"
    with pytest.raises(ValueError, match="no image 8.jpg in val2014 or train2014"):
        build_row(make_item(image_name="8.jpg"), 1, "val", str(tmp_path))


def test_what_is_no_vivqa_file_is_refused_by_name(tmp_path):
    with pytest.raises(ValueError, match=r"ViVQA-X_test.json does not exist: --vivqa_root"):
        create_jsonl_for_grpo("test", vivqa_root=str(tmp_path))
    (tmp_path / "ViVQA-X_test.json").write_text("{}")
    with pytest.raises(ValueError, match="must be a list"):
        create_jsonl_for_grpo("test", vivqa_root=str(tmp_path))
    with pytest.raises(ValueError, match="the split must be train, val, test"):
        create_jsonl_for_grpo("dev", vivqa_root=str(tmp_path))


def test_the_rows_of_all_splits_load_with_one_image_folder(tmp_path):
    from PIL import Image

    files = []
    for split, folder in (("train", "train2014"), ("val", "val2014")):
        (tmp_path / folder).mkdir()
        Image.new("RGB", (30, 30)).save(tmp_path / folder / f"COCO_{folder}_000000000001.jpg")
        items = [make_item(1, image_name=f"COCO_{folder}_000000000001.jpg")]
        root = write_items(tmp_path / "raw", *items, split=split)
        files.append(str(tmp_path / f"{split}.jsonl"))
        main(["--vivqa_root", root, "--split", split, "--output", files[-1], "--image_root", str(tmp_path)])
    dataset = load_jsonl_dataset(files, [str(tmp_path)] * 2, contract=get_answer_contract("vivqa"), require_mos=False)
    assert [len(texts) for texts in dataset["explanations"]] == [2, 2]
    assert set(dataset["dataset_name"]) == {"ViVQA-X"}
    text = dataset[0]["prompt"][0]["content"][1]["text"]
    assert text.count("bức ảnh này có gì?") == 1 and text.count("<explain>") == 2  # instruction once

"""The official lists of DFEW and MAFW become rows, and their folds reach WAR and UAR."""

import json
from pathlib import Path

import pytest
from builders import make_image

from open_r1 import evaluate
from open_r1.completions import get_answer_contract
from open_r1.data import emotion
from open_r1.data.jsonl import load_jsonl_dataset
from open_r1.data.schema import BadDataError


DFEW_LIST = "EmoLabel_DataSplit/{split}(single-labeled)/set_{fold}.csv"
MAFW_LIST = "Train & Test Set/single/no_caption/set_{fold}/{split}.txt"


def write(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


@pytest.fixture
def dfew(tmp_path) -> Path:
    """Two folds; clips 1 to 4 are files, 5 a folder of frames."""
    root = tmp_path / "DFEW"
    write(root / DFEW_LIST.format(split="test", fold=1), "video_name,label\n1,7\n02,1\n")
    write(root / DFEW_LIST.format(split="test", fold=2), "video_name,label\n00003,4\n4,3\n5,6\n")
    for number in range(1, 5):
        write(root / "Clip" / "original" / f"{number:05d}.mp4")
    (root / "Clip" / "clip_224x224" / "00005").mkdir(parents=True)
    (root / "Clip" / "clip_224x224" / "00001").mkdir()
    for clip in ("00001", "00005"):
        make_image(8, 8).save(root / "Clip" / "clip_224x224" / clip / "1.jpg")
    return root


def convert(root: Path, dataset: str, *options: str) -> list[dict]:
    output = root / "rows.jsonl"
    emotion.main(["--dataset", dataset, "--root", str(root), "--output", str(output), *options])
    return [json.loads(line) for line in output.read_text().splitlines()]


def test_numbers_of_dfew_become_names_and_ids_stay_text(dfew):
    rows = convert(dfew, "DFEW", "--fold", "1", "2", "--split", "test")
    assert [(row["id"], row["fold"], row["conversations"][1]["value"]) for row in rows] == [
        ("DFEW_00001", "1", "fear"),
        ("DFEW_00002", "1", "happiness"),
        ("DFEW_00003", "2", "anger"),
        ("DFEW_00004", "2", "neutral"),
        ("DFEW_00005", "2", "disgust"),
    ]
    assert rows[0]["video"] == "Clip/original/00001.mp4"  # the file, which has sound, before the folder of frames
    assert rows[4]["video"] == "Clip/clip_224x224/00005"


def test_rows_are_those_of_the_loader(dfew):
    convert(dfew, "DFEW", "--fold", "1", "--split", "test")
    how = {"contract": get_answer_contract("emotion"), "require_mos": False, "verify_images": "exists"}
    rows = load_jsonl_dataset([str(dfew / "rows.jsonl")], [str(dfew)], **how)
    assert list(rows["id"]) == ["DFEW_00001", "DFEW_00002"]
    assert rows[0]["video_path"] == [str(dfew / "Clip/original/00001.mp4")]
    assert rows[0]["solution"] == "<answer> fear </answer>"
    assert rows[0]["problem"].startswith("As an emotional recognition expert")


def test_names_of_mafw_are_taken_as_they_are(tmp_path):
    write(tmp_path / MAFW_LIST.format(split="train", fold=3), "00001.mp4 anger\n00002.mp4 helplessness\n\n")
    for number in (1, 2):
        write(tmp_path / "data" / "clips" / f"{number:05d}.mp4")
    rows = convert(tmp_path, "MAFW", "--fold", "3")
    assert [(row["id"], row["video"]) for row in rows] == [
        ("MAFW_00001", "data/clips/00001.mp4"),
        ("MAFW_00002", "data/clips/00002.mp4"),
    ]
    assert [row["conversations"][1]["value"] for row in rows] == ["anger", "helplessness"]


def test_clips_that_are_not_there_and_labels_that_are_none_are_named_with_their_lines(dfew):
    path = write(dfew / DFEW_LIST.format(split="train", fold=1), "video_name,label\n1,8\n77,1\n2,2\n2,2\n")
    with pytest.raises(BadDataError) as caught:
        convert(dfew, "DFEW", "--fold", "1")
    message = str(caught.value)
    assert f"{path}:2: DFEW has no emotion '8'" in message
    assert f"{path}:3: no clip 00077 below" in message
    assert f"{path}:5: clip 00002 stands in the list twice" in message
    rows = convert(dfew, "DFEW", "--fold", "1", "--on_bad_data", "skip")
    assert [row["id"] for row in rows] == ["DFEW_00002"]


def test_a_name_that_two_files_have_asks_for_a_folder(dfew):
    write(dfew / "Clip" / "cropped" / "00001.avi")
    with pytest.raises(ValueError, match="--clip_folder"):
        convert(dfew, "DFEW", "--fold", "1", "--split", "test")
    rows = convert(dfew, "DFEW", "--fold", "1", "--split", "test", "--clip_folder", "Clip/original")
    assert rows[0]["video"] == "Clip/original/00001.mp4"


def test_a_list_that_is_not_there_a_line_of_another_form_and_two_training_folds_are_refused(dfew, capsys):
    with pytest.raises(ValueError, match=r"set_5.csv does not exist"):
        convert(dfew, "DFEW", "--fold", "5", "--split", "test")
    write(dfew / DFEW_LIST.format(split="test", fold=5), "1,2,3\n")
    with pytest.raises(ValueError, match=r"set_5.csv:1: it must be a clip and its label"):
        convert(dfew, "DFEW", "--fold", "5", "--split", "test")
    with pytest.raises(SystemExit):
        convert(dfew, "DFEW", "--fold", "1", "2")
    assert "share clips" in capsys.readouterr().err


def test_folds_of_the_lists_reach_war_and_uar(dfew, tmp_path):
    """Fold 1: one of two right. Fold 2: two of three right; its classes have recalls 1, 1 and 0."""
    convert(dfew, "DFEW", "--fold", "1", "2", "--split", "test")
    answers = {"00001": "fear", "00002": "sad", "00003": "angry", "00004": "neutral", "00005": "happy"}
    records = [
        json.dumps({"id": f"DFEW_{clip}", "text": f"<think>…</think><answer>{answer}</answer>"})
        for clip, answer in answers.items()
    ]
    write(tmp_path / "predictions.jsonl", "\n".join(records))
    evaluate.main(
        [
            *("--task", "emotion", "--predictions", str(tmp_path / "predictions.jsonl")),
            *("--labels", str(dfew / "rows.jsonl"), "--output", str(tmp_path / "report.json")),
        ]
    )
    metrics = json.loads((tmp_path / "report.json").read_text())["metrics"]
    assert metrics["DFEW/fold_1/war"] == 0.5 and metrics["DFEW/fold_2/uar"] == pytest.approx(2 / 3)
    assert metrics["DFEW/war"] == metrics["DFEW/uar"] == pytest.approx((1 / 2 + 2 / 3) / 2)

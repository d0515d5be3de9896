"""make_data.py: label files in, normalised and split JSONL out; the released KADID-10k data come out unchanged."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

from open_r1.completions import IQA_QUESTION, get_answer_contract
from open_r1.data.jsonl import load_jsonl_dataset
from open_r1.data.mos import load_labels
from open_r1.data.splits import SPLITS, read_manifest


REPO = Path(__file__).parents[2]
REAL_LABELS = REPO.parent / "shared" / "data"
REAL_KADID = REAL_LABELS / "KADID-10K"
needs_real_labels = pytest.mark.skipif(not REAL_LABELS.is_dir(), reason="the real label files are not at hand")

CARD = """
name: TOY
source: made up
kind: fr
reference_pattern: ^(r\\d+)_
exclude: [r0_9.png]
layouts:
  - {file: toy.txt, columns: dis mos, mos_range: [0, 100], direction: dmos, sha256: "00"}
"""


def load_command():
    spec = importlib.util.spec_from_file_location("make_data", REPO / "datasets" / "make_data.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its data classes look themselves up there
    spec.loader.exec_module(module)
    return module


make_data = load_command()


def run(tmp_path, *arguments):
    """Runs the command and returns the rows of each part and the folder."""
    make_data.main([*map(str, arguments), "--output_dir", str(tmp_path / "out")])
    (folder,) = (tmp_path / "out").iterdir()
    rows = {}
    for split in SPLITS:
        path = folder / f"RL-{folder.name}_{split}_scoring.jsonl"
        rows[split] = list(map(json.loads, path.read_text(encoding="utf-8").splitlines())) if path.exists() else []
    return rows, folder


@pytest.fixture
def toy(tmp_path):
    """A card and DMOS of 10 references with 10 images each: 10 * reference + image, so from 0 to 99."""
    (tmp_path / "toy.yaml").write_text(CARD)
    lines = [f"r{number // 10}_{number % 10}.png {number}" for number in range(100)]
    (tmp_path / "toy.txt").write_text("\n".join(lines))
    return tmp_path


def test_a_card_says_columns_direction_references_and_what_is_left_out(toy, caplog):
    rows, _ = run(toy, "--dataset", toy / "toy.yaml", "--labels", toy / "toy.txt")
    assert sum(map(len, rows.values())) == 99
    parts = [{row["image"][0][:2] for row in rows[split]} for split in SPLITS]
    assert [len(part) for part in parts] == [6, 2, 2]
    assert len(set.union(*parts)) == 10
    mos = {row["image"][0]: row["conversations"][1]["value"] for split in SPLITS for row in rows[split]}
    assert "r0_9.png" not in mos
    assert mos["r0_0.png"] == 5.0  # the lowest DMOS is the best quality
    assert mos["r9_9.png"] == 1.0
    assert mos["r4_5.png"] == pytest.approx((99 - 45) / 99 * 4 + 1)
    assert "differs from the file that the card of TOY describes" in caplog.text


def test_rows_have_the_documented_form_and_the_loader_takes_them(toy):
    rows, folder = run(toy, "--dataset", toy / "toy.yaml", "--labels", toy / "toy.txt")
    first = rows["val"][0]
    assert list(first) == ["id", "dataset_name", "image", "conversations", "reference", "mos_raw"]
    number = int(first["image"][0][1]) * 10 + int(first["image"][0][3])
    assert (first["reference"], first["mos_raw"]) == (first["image"][0][:2], number)  # DMOS as the file has it
    assert (first["id"], first["dataset_name"]) == (1, "TOY")
    assert first["conversations"][0] == {"from": "human", "value": IQA_QUESTION}
    assert [row["id"] for row in rows["val"]] == list(range(1, len(rows["val"]) + 1))
    images = toy / "images"
    images.mkdir()
    for row in rows["val"]:
        (images / row["image"][0]).touch()
    dataset = load_jsonl_dataset(
        [str(folder / "RL-TOY_val_scoring.jsonl")], [str(images)],
        contract=get_answer_contract("scoring"), require_mos=True, verify_images="exists",
    )  # fmt: skip
    assert dataset["mos"][:] == [row["conversations"][1]["value"] for row in rows["val"]]


def test_the_text_files_hold_the_same_labels_with_references(toy):
    rows, folder = run(toy, "--dataset", toy / "toy.yaml", "--labels", toy / "toy.txt")
    for split in SPLITS:
        records = load_labels(folder / f"TOY_{split}_set.txt")
        assert [record.image for record in records] == [row["image"][0] for row in rows[split]]
        assert [record.mos for record in records] == [row["conversations"][1]["value"] for row in rows[split]]
        assert all(record.reference == record.image[:2] for record in records)


def test_a_stored_manifest_gives_the_same_split_again(toy):
    rows, folder = run(toy, "--dataset", toy / "toy.yaml", "--labels", toy / "toy.txt", "--seed", 7)
    manifest = read_manifest(folder / "manifest.json")
    assert (manifest.seed, manifest.unit, manifest.num_rows["train"]) == (7, "reference", len(rows["train"]))
    stored = toy / "stored.json"
    (folder / "manifest.json").rename(stored)
    again, folder = run(toy, "--dataset", toy / "toy.yaml", "--labels", toy / "toy.txt", "--manifest", stored)
    assert again == rows
    assert read_manifest(folder / "manifest.json").splits == manifest.splits


def test_a_manifest_that_lacks_a_reference_is_refused(toy):
    _, folder = run(toy, "--dataset", toy / "toy.yaml", "--labels", toy / "toy.txt")
    (toy / "toy.txt").write_text("r0_0.png 1\nr77_0.png 2\n")
    with pytest.raises(ValueError, match=r"has no part for 1 labels, the first is r77_0.png"):
        run(toy, "--dataset", toy / "toy.yaml", "--labels", toy / "toy.txt", "--manifest", folder / "manifest.json")


def test_images_of_one_reference_stay_together_in_any_case_of_its_name(tmp_path):
    lines = [f"{'iI'[image % 2]}{ref:02d}.bmp d{ref}_{image}.bmp {image}" for ref in range(10) for image in range(4)]
    (tmp_path / "labels.txt").write_text("\n".join(lines))
    rows, folder = run(
        tmp_path, "--labels", tmp_path / "labels.txt", "--columns", "ref dis mos", "--dataset_name", "X"
    )
    assert [len(rows[split]) for split in SPLITS] == [24, 8, 8]
    assert len(read_manifest(folder / "manifest.json").splits["train"]) == 6


def test_without_references_single_images_are_split(tmp_path, caplog):
    caplog.set_level("INFO")
    (tmp_path / "labels.txt").write_text("".join(f"{number}.png {number}\n" for number in range(10)))
    rows, folder = run(tmp_path, "--labels", tmp_path / "labels.txt", "--columns", "dis mos", "--dataset_name", "X")
    assert [len(rows[split]) for split in SPLITS] == [6, 2, 2]
    assert read_manifest(folder / "manifest.json").unit == "image"
    assert "the split is by image" in caplog.text


def test_a_full_reference_data_set_without_references_is_refused(toy):
    card = toy / "toy.yaml"
    card.write_text(CARD.replace("reference_pattern: ^(r\\d+)_", ""))
    with pytest.raises(ValueError, match=r"r\d_\d.png has no reference image"):
        run(toy, "--dataset", card, "--labels", toy / "toy.txt")


def test_several_label_files_are_normalised_together(tmp_path):
    for name, low in (("A1.txt", 1000), ("A2.txt", 2000)):
        (tmp_path / name).write_text("".join(f"{name[:2]}_{i}.bmp,{low + i * 100}\n" for i in range(11)))
    rows, _ = run(
        tmp_path, "--dataset", "PIPAL", "--labels", tmp_path / "A1.txt", tmp_path / "A2.txt", "--ratios", 0.5, 0.5, 0
    )
    mos = {row["image"][0]: row["conversations"][1]["value"] for split in SPLITS for row in rows[split]}
    assert (mos["A1_0.bmp"], mos["A1_10.bmp"], mos["A2_10.bmp"]) == (1.0, 3.0, 5.0)


def test_an_empty_part_leaves_no_file_behind_not_even_an_older_one(toy):
    arguments = ["--dataset", toy / "toy.yaml", "--labels", toy / "toy.txt"]
    _, folder = run(toy, *arguments)
    rows, _ = run(toy, *arguments, "--ratios", 0.8, 0.2, 0)
    assert rows["test"] == []
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "RL-TOY_train_scoring.jsonl",
        "RL-TOY_val_scoring.jsonl",
        "TOY_train_set.txt",
        "TOY_val_set.txt",
        "manifest.json",
    }


def test_names_with_spaces_and_prompts_as_references_survive(tmp_path):
    lines = [f'image {n}.png,"a ""big"" cat, no. {n % 10}",{n}' for n in range(20)]
    (tmp_path / "labels.csv").write_text("\n".join(["dis,ref,mos", *lines]))
    rows, folder = run(
        tmp_path, "--labels", tmp_path / "labels.csv", "--columns", "dis ref mos", "--dataset_name", "X"
    )
    records = load_labels(folder / "X_train_set.txt")
    assert [record.image for record in records] == [row["image"][0] for row in rows["train"]]
    assert all(record.reference.startswith('a "big" cat, no. ') for record in records)


def write_parts(folder, parts):
    for split, lines in zip(SPLITS, parts, strict=True):
        (folder / f"{split}.txt").write_text("\n".join(lines))
    arguments = [folder / f"{split}.txt" for split in SPLITS]
    return ["--split_files", *arguments, "--columns", "ref dis mos", "--dataset_name", "X"]


def test_given_parts_are_used_as_they_are(tmp_path):
    parts = [["r1 a.png 4.25", "r1 b.png 3"], ["r2 c.png 1"], ["r3 d.png 5"]]
    rows, folder = run(tmp_path, *write_parts(tmp_path, parts))
    assert [row["conversations"][1]["value"] for row in rows["train"]] == [4.25, 3.0]
    assert read_manifest(folder / "manifest.json").seed is None


@pytest.mark.parametrize(
    ("parts", "reason"),
    [
        ([["r1 a.png 4"], ["r2 b.png 3"], ["R1 c.png 3"]], "R1 is in both train and test"),
        ([["r1 a.png 4"], ["r2 b.png 55"], ["r3 c.png 3"]], "val.txt: the MOS 55 of b.png lies outside 1 to 5"),
    ],
)
def test_given_parts_that_overlap_or_are_not_normalised_are_refused(tmp_path, parts, reason):
    with pytest.raises(ValueError, match=reason):
        run(tmp_path, *write_parts(tmp_path, parts))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--labels", "a.txt"],
        ["--labels", "a.txt", "--columns", "dis mos"],
        ["--dataset", "BID"],
        ["--dataset", "BID", "--labels", "a.txt", "--direction", "dmos"],
        ["--dataset", "BID", "--split_files", "a", "b", "c", "--manifest", "m.json"],
        ["--columns", "dis mos", "--dataset_name", "../X", "--labels", "a.txt"],
    ],
)
def test_arguments_that_leave_something_open_are_refused(tmp_path, arguments):
    with pytest.raises(SystemExit) as caught:
        run(tmp_path, *arguments)
    assert caught.value.code == 2


def test_bad_labels_end_the_command_with_one_message_and_without_output(tmp_path):
    (tmp_path / "BID_test_all.txt").write_text("a.JPG 3\nb.JPG bad\nc.JPG\n")
    command = [
        sys.executable,
        REPO / "datasets" / "make_data.py",
        "--dataset",
        "BID",
        "--output_dir",
        tmp_path / "out",
    ]
    result = subprocess.run(
        [*command, "--labels", tmp_path / "BID_test_all.txt"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 1
    assert "error: 2 rows cannot be used:" in result.stderr
    assert "BID_test_all.txt:2: " in result.stderr
    assert "BID_test_all.txt:3: " in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "out").exists()


def test_the_files_do_not_depend_on_the_hash_seed_of_the_interpreter(toy):
    contents = []
    for seed in ("1", "2"):
        command = [sys.executable, REPO / "datasets" / "make_data.py", "--dataset", toy / "toy.yaml"]
        command += ["--labels", toy / "toy.txt", "--output_dir", toy / seed]
        subprocess.run(command, env={"PYTHONHASHSEED": seed}, check=True, capture_output=True)
        contents.append({path.name: path.read_bytes() for path in (toy / seed / "TOY").iterdir()})
    assert len(contents[0]) == 7
    assert contents[0] == contents[1]


@needs_real_labels
def test_the_released_kadid_split_gives_the_released_rows(tmp_path):
    files = [REAL_KADID / f"KADID-10K_{split}_set.txt" for split in SPLITS]
    rows, folder = run(tmp_path, "--dataset", "KADID-10K", "--split_files", *files)
    released = (REAL_KADID / "RL-KADID-10K_train_scoring_500.jsonl").read_text(encoding="utf-8").splitlines()
    for row, line in zip(rows["train"][:500], released, strict=True):
        expected = json.loads(line)
        assert {key: row[key] for key in expected} == expected
    assert [len(rows[split]) for split in SPLITS] == [6125, 2000, 2000]
    for file in files:
        assert (folder / file.name).read_bytes() == file.read_bytes()


@needs_real_labels
def test_kadid_from_raw_labels_has_the_released_sizes_and_labels(tmp_path):
    rows, folder = run(tmp_path, "--dataset", "KADID-10K", "--labels", REAL_KADID / "KADID-10K_mos.txt")
    assert [len(rows[split]) for split in SPLITS] == [6125, 2000, 2000]
    assert [len(part) for part in read_manifest(folder / "manifest.json").splits.values()] == [49, 16, 16]
    mos = {row["image"][0]: row["conversations"][1]["value"] for split in SPLITS for row in rows[split]}
    for line in (REAL_KADID / "RL-KADID-10K_train_scoring_500.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        assert mos[row["image"][0]] == pytest.approx(row["conversations"][1]["value"], rel=1e-15)


@needs_real_labels
def test_the_seven_training_images_of_livec_are_left_out(tmp_path):
    rows, _ = run(tmp_path, "--dataset", "LIVEC", "--labels", REAL_LABELS / "LIVEC_test_all.txt")
    images = [row["image"][0] for split in SPLITS for row in rows[split]]
    assert len(images) == 1162
    assert not any(image.startswith("t") for image in images)

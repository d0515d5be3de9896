"""The demo data: splits by photograph, KADID-10k's labels, the same files for the same seed."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


pytest.importorskip("skimage", reason="the demo data needs scikit-image")

REPO = Path(__file__).parents[2]
sys.path.insert(0, str(REPO / "datasets"))

import demo_distortions  # noqa: E402
import make_demo  # noqa: E402


SIZES = {"train": 40, "val": 6, "test": 20}
BY_TYPE = {distortion.type_id: distortion for distortion in demo_distortions.DISTORTIONS}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("demo")
    make_demo.make_demo(path, SIZES, seed=7)
    return path


def read_rows(folder: Path, split: str) -> list[dict]:
    return [json.loads(line) for line in (folder / f"demo_{split}.jsonl").read_text().splitlines()]


def photograph():
    chelsea = next(photo for photo in make_demo.PHOTOS if photo.name == "chelsea")
    return make_demo.load_photo(chelsea)[0][60:172, 100:212]


def test_no_photograph_serves_two_splits(folder):
    sources = {split: {row["reference"] for row in read_rows(folder, split)} for split in SIZES}
    assert not sources["train"] & sources["test"]
    assert not sources["train"] & sources["val"]
    assert not sources["val"] & sources["test"]
    assert len(sources["test"]) >= 3


def test_rows_have_the_format_of_real_data(folder):
    from open_r1.completions import get_answer_contract
    from open_r1.data.jsonl import load_jsonl_dataset

    dataset = load_jsonl_dataset(
        [str(folder / "demo_train.jsonl")],
        [str(folder / "images")],
        contract=get_answer_contract("scoring"),
        require_mos=True,
    )
    assert len(dataset) == SIZES["train"]
    assert set(dataset["dataset_name"]) == {"DEMO"}
    assert [row["id"] for row in read_rows(folder, "train")] == list(range(1, SIZES["train"] + 1))


def test_labels_are_those_of_the_table(folder):
    levels = range(1, 6)
    dmos = {(each.name, level): each.dmos[level - 1] for each in BY_TYPE.values() for level in levels}
    for split in SIZES:
        for row in read_rows(folder, split):
            assert row["conversations"][1]["value"] == dmos[row["distortion"], row["level"]]


def test_the_default_has_a_dozen_types_and_the_table_two_dozen():
    visible = [distortion for distortion in demo_distortions.DISTORTIONS if distortion.is_visible]
    assert len(visible) == 12
    assert sorted(BY_TYPE) == [type_id for type_id in range(1, 26) if type_id != 20]


def test_the_same_seed_gives_the_same_bytes_and_another_seed_other_ones(folder, tmp_path):
    for name, seed in (("same", 7), ("other", 8)):
        make_demo.make_demo(tmp_path / name, SIZES, seed=seed)
    for path in folder.rglob("*.*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / "same" / path.relative_to(folder)).read_bytes()
    assert (folder / "demo_train.jsonl").read_bytes() != (tmp_path / "other" / "demo_train.jsonl").read_bytes()


def test_pictures_are_squares_of_112_pixels(folder):
    sizes = {Image.open(path).size for path in (folder / "images").iterdir()}
    assert sizes == {(112, 112)}
    assert len(list((folder / "images").iterdir())) == sum(SIZES.values())


@pytest.mark.parametrize("type_id", [18, 25])
def test_level_three_of_mean_shift_and_contrast_is_the_undistorted_picture(type_id):
    picture = photograph()
    distorted = demo_distortions.distort(picture, BY_TYPE[type_id], 3, np.random.default_rng(0))
    assert np.abs(distorted.astype(int) - picture).max() <= 1
    assert BY_TYPE[type_id].dmos[2] == max(BY_TYPE[type_id].dmos)


@pytest.mark.parametrize("type_id", [type_id for type_id in BY_TYPE if type_id not in (18, 25)])
def test_the_fifth_level_changes_the_picture_more_than_the_first(type_id):
    picture = photograph().astype(float)
    change = []
    for level in (1, 5):
        distorted = demo_distortions.distort(photograph(), BY_TYPE[type_id], level, np.random.default_rng(0))
        change.append(np.abs(distorted - picture).mean())
    assert change[1] > change[0]
    assert BY_TYPE[type_id].dmos[4] < BY_TYPE[type_id].dmos[0]


def test_color_distortions_are_not_given_to_grey_photographs():
    grey = [photo for photo in make_demo.PHOTOS if not photo.has_color]
    mixed = [photo for photo in make_demo.PHOTOS if photo.split == "train"]
    for photos in (grey, mixed):
        plan = make_demo.plan_split(photos, list(BY_TYPE.values()), 500, np.random.default_rng(0))
        assert all(photo.has_color or not distortion.needs_color for photo, distortion, _ in plan)
        assert len(plan) == 500


def test_licences_name_every_photograph(folder):
    text = (folder / "LICENSES.md").read_text()
    assert all(f"| {photo.name} |" in text for photo in make_demo.PHOTOS)


def test_the_command_runs_from_another_folder(tmp_path):
    command = [sys.executable, str(REPO / "datasets" / "make_demo.py"), "--output_dir", "out", "--num_train", "2"]
    subprocess.run([*command, "--num_val", "1", "--num_test", "1"], check=True, cwd=tmp_path)
    assert len(list((tmp_path / "out" / "images").iterdir())) == 4

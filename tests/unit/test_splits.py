"""Splits depend on the references, the ratios and the seed, and on nothing else."""

import json
import subprocess
import sys

import pytest

from open_r1.data.splits import (
    SplitManifest,
    group_by_shared_images,
    read_manifest,
    split_by_reference,
    write_manifest,
)


REFERENCES = [f"I{number:02d}.png" for number in range(1, 82)]


def count(split_of):
    return [list(split_of.values()).count(split) for split in ("train", "val", "test")]


def test_eighty_one_references_give_49_16_and_16():
    split_of = split_by_reference(REFERENCES)
    assert count(split_of) == [49, 16, 16]
    assert sorted(split_of) == REFERENCES


def test_order_and_repetition_of_the_references_have_no_influence():
    assert split_by_reference(REFERENCES) == split_by_reference(list(reversed(REFERENCES)) * 3)


def test_another_seed_gives_another_split():
    assert split_by_reference(REFERENCES, seed=1) != split_by_reference(REFERENCES, seed=2)


def test_the_split_does_not_depend_on_the_hash_seed_of_the_interpreter():
    code = (
        "from open_r1.data.splits import split_by_reference\n"
        "print(sorted(split_by_reference({f'I{n:02d}.png' for n in range(1, 82)}).items()))"
    )
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0] == f"{sorted(split_by_reference(REFERENCES).items())}\n"


@pytest.mark.parametrize(
    ("num_references", "ratios", "expected"),
    [
        (10, (0.8, 0.1, 0.1), [8, 1, 1]),
        (5, (0.5, 0.5, 0), [2, 3, 0]),
        (7, (1, 0, 0), [7, 0, 0]),
        (3, (0, 0, 1), [0, 0, 3]),
    ],
)
def test_ratios_are_rounded_and_a_part_of_ratio_zero_stays_empty(num_references, ratios, expected):
    assert count(split_by_reference(REFERENCES[:num_references], ratios)) == expected


@pytest.mark.parametrize("ratios", [(0.6, 0.2), (0.6, 0.6, -0.2), (0.6, 0.2, 0.1), (6, 2, 2)])
def test_ratios_that_are_no_shares_of_one_are_refused(ratios):
    with pytest.raises(ValueError, match="add up to 1"):
        split_by_reference(REFERENCES, ratios)


def test_too_few_references_are_refused():
    with pytest.raises(ValueError, match="2 references are too few"):
        split_by_reference(REFERENCES[:2])


def make_manifest(**changes):
    entries = {
        "dataset_name": "X",
        "unit": "reference",
        "splits": {"train": ["I01.png", "Ü 2.png"], "val": ["i03.png"], "test": []},
        "seed": 1,
        "ratios": [0.6, 0.4, 0.0],
        "num_rows": {"train": 2},
        "label_files": {"a.txt": "0f"},
    }
    return SplitManifest(**entries | changes)


def test_a_manifest_is_read_as_it_was_written(tmp_path):
    write_manifest(tmp_path / "manifest.json", make_manifest())
    assert read_manifest(tmp_path / "manifest.json") == make_manifest()


def test_references_are_looked_up_in_any_case():
    assert make_manifest().split_of == {"i01.png": "train", "ü 2.png": "train", "i03.png": "val"}


def test_a_manifest_with_a_reference_in_two_parts_is_refused():
    with pytest.raises(ValueError, match=r"i01.png is in both train and test"):
        make_manifest(splits={"train": ["I01.png"], "val": [], "test": ["i01.png"]})


@pytest.mark.parametrize("content", ["[]", "{", '{"splits": {}}', '{"splits": null}'])
def test_a_file_that_is_no_manifest_is_refused_by_name(tmp_path, content):
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(ValueError, match=r"manifest.json: not a split manifest"):
        read_manifest(tmp_path / "manifest.json")


def test_a_manifest_with_other_parts_is_refused(tmp_path):
    write_manifest(tmp_path / "manifest.json", make_manifest())
    content = json.loads((tmp_path / "manifest.json").read_text())
    content["splits"] = {"training": []}
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="not a split manifest: a split has the parts train, val, test"):
        read_manifest(tmp_path / "manifest.json")


def test_rows_that_share_images_directly_or_through_others_form_one_group():
    rows = [["a"], ["b", "c"], ["d"], ["c", "d"], [], ["./a"], []]
    assert group_by_shared_images(rows) == [[0, 5], [1, 2, 3], [4], [6]]

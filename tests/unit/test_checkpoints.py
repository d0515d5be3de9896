"""Checkpoint folders: whole or torn, the newest first, none lost; and logs that end where they do."""

import json
from pathlib import Path

import pytest
from transformers.trainer_utils import get_last_checkpoint

from open_r1.trainer.checkpoints import (
    MANIFEST,
    UNFINISHED,
    find_damage,
    find_last_complete,
    list_checkpoints,
    move_files,
    publish,
    remove_leftovers,
    rewind_log,
    rotate,
    set_log_aside,
)


def write_files(folder: Path, content: str = "weights") -> Path:
    (folder / "global_step").mkdir(parents=True)
    (folder / "model.safetensors").write_text(content)
    (folder / "global_step" / "optimizer.pt").write_text("moments")
    return folder


def make_checkpoint(run_dir: Path, step: int, content: str = "weights") -> Path:
    publish(write_files(run_dir / UNFINISHED / f"checkpoint-{step}", content), run_dir)
    return run_dir / f"checkpoint-{step}"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


# ---- torn or whole ----------------------------------------------------------------------------------------------


def test_a_published_checkpoint_is_whole_and_leaves_nothing_unfinished(tmp_path):
    folder = make_checkpoint(tmp_path, 5)
    assert find_damage(folder) is None
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-5"]


@pytest.mark.parametrize("name", ["model.safetensors", "global_step/optimizer.pt"])
def test_a_file_cut_off_or_missing_is_noticed_by_name(tmp_path, name):
    folder = make_checkpoint(tmp_path, 5)
    truncate(folder / name)
    assert find_damage(folder).startswith(f"{name} has ")
    (folder / name).unlink()
    assert find_damage(folder) == f"{name} is missing"


def test_a_small_file_of_the_right_size_with_another_content_is_noticed(tmp_path):
    folder = make_checkpoint(tmp_path, 5, content="weights")
    (folder / "model.safetensors").write_text("wrights")
    assert "is not the file that was written" in find_damage(folder)


def test_a_large_file_is_known_by_its_size_alone(tmp_path):
    folder = make_checkpoint(tmp_path, 5, content="w" * (1 << 20) + "w")
    manifest = json.loads((folder / MANIFEST).read_text())
    assert "sha256" not in manifest["files"]["model.safetensors"]
    assert "sha256" in manifest["files"]["global_step/optimizer.pt"]


def test_a_manifest_missing_or_cut_off_is_noticed(tmp_path):
    folder = make_checkpoint(tmp_path, 5)
    text = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(text[: len(text) // 2])
    assert "is not whole" in find_damage(folder)
    (folder / MANIFEST).write_text('{"of": "somebody else"}')
    assert "is not whole" in find_damage(folder)
    (folder / MANIFEST).unlink()
    assert "written last" in find_damage(folder)


def test_a_checkpoint_that_is_still_written_is_none_for_us_or_for_transformers(tmp_path):
    write_files(tmp_path / UNFINISHED / "checkpoint-9")
    assert list_checkpoints(tmp_path) == []
    assert get_last_checkpoint(tmp_path) is None
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


# ---- which one --------------------------------------------------------------------------------------------------


def test_the_newest_checkpoint_is_the_last_one_written_even_below_an_older_runs(tmp_path):
    for step in (90, 100, 5, 10):
        make_checkpoint(tmp_path, step)
    assert [path.name for path in list_checkpoints(tmp_path)] == [f"checkpoint-{n}" for n in (10, 5, 100, 90)]


def test_steps_are_numbers_where_nothing_else_tells(tmp_path):
    for step in (9, 10):
        write_files(tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-best").mkdir()
    assert [path.name for path in list_checkpoints(tmp_path)] == ["checkpoint-10", "checkpoint-9"]


def test_torn_checkpoints_are_passed_over_with_a_warning_that_names_them(tmp_path, caplog):
    whole, torn = make_checkpoint(tmp_path, 5), make_checkpoint(tmp_path, 10)
    truncate(torn / "model.safetensors")
    assert find_last_complete(tmp_path) == whole
    assert f"{torn} is torn and passed over: model.safetensors has 6 bytes instead of 7" in caplog.text


def test_a_checkpoint_takes_the_place_of_one_of_the_same_step(tmp_path):
    make_checkpoint(tmp_path, 5, content="old")
    make_checkpoint(tmp_path, 10)
    folder = make_checkpoint(tmp_path, 5, content="new")
    assert (folder / "model.safetensors").read_text() == "new"
    assert find_last_complete(tmp_path) == folder
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-10", "checkpoint-5"]


# ---- rotation ---------------------------------------------------------------------------------------------------


def names(run_dir: Path) -> list[str]:
    return sorted(path.name for path in run_dir.iterdir())


@pytest.mark.parametrize(
    "limit, best, kept",
    [
        (None, None, [1, 2, 3, 4]),
        (2, None, [3, 4]),
        (1, None, [4]),
        (2, "checkpoint-1", [1, 4]),
        (1, "checkpoint-1", [1, 4]),
        (3, "checkpoint-4", [2, 3, 4]),
    ],
)
def test_rotation_keeps_the_newest_and_the_best(tmp_path, limit, best, kept):
    for step in (1, 2, 3, 4):
        make_checkpoint(tmp_path, step)
    rotate(tmp_path, limit, best and str(tmp_path / best))
    assert names(tmp_path) == [f"checkpoint-{step}" for step in kept]


def test_torn_checkpoints_do_not_push_a_whole_one_out(tmp_path):
    whole = make_checkpoint(tmp_path, 1)
    for step in (2, 3):
        write_files(tmp_path / f"checkpoint-{step}")
    rotate(tmp_path, 1, None)
    assert find_last_complete(tmp_path) == whole
    assert len(names(tmp_path)) == 3


# ---- the final model --------------------------------------------------------------------------------------------


def test_a_final_model_arrives_whole_and_replaces_what_was_there(tmp_path):
    (tmp_path / "model.safetensors").write_text("old")
    source = write_files(tmp_path / UNFINISHED / "model", content="new")
    move_files(source, tmp_path)
    assert (tmp_path / "model.safetensors").read_text() == "new"
    assert (tmp_path / "global_step" / "optimizer.pt").is_file()
    assert not source.exists()


# ---- logs -------------------------------------------------------------------------------------------------------


def test_a_log_ends_where_the_checkpoint_does(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"step": 1, "loss": 0.5}, {"step": 2}, {"step": 2, "train_runtime": 3.0}, {"step": 3}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 2, "lo')
    rewind_log(path, last_step=2)
    assert path.read_text() == '{"step": 1, "loss": 0.5}\n{"step": 2}\n'
    assert names(tmp_path) == ["metrics.jsonl"]


def test_lines_that_a_loss_of_power_garbled_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n\x00\x00\x00\n')
    rewind_log(path, last_step=5)
    assert path.read_text() == '{"step": 1}\n'


def test_a_log_that_is_not_there_stays_so(tmp_path):
    rewind_log(tmp_path / "metrics.jsonl", last_step=2)
    set_log_aside(tmp_path / "metrics.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_the_log_of_an_earlier_run_is_kept_under_a_free_number(tmp_path):
    path = tmp_path / "metrics.jsonl"
    for text in ("first", "second"):
        path.write_text(text)
        set_log_aside(path)
    assert not path.exists()
    assert (tmp_path / "earlier" / "metrics.1.jsonl").read_text() == "first"
    assert (tmp_path / "earlier" / "metrics.2.jsonl").read_text() == "second"

"""`--resume_from_checkpoint` means what it says."""

from pathlib import Path

import pytest

from open_r1.trainer.run import find_checkpoint


def make_checkpoint(folder: Path, step: int, *files: str) -> str:
    path = folder / f"checkpoint-{step}"
    path.mkdir(parents=True)
    for name in files:
        (path / name).write_text("{}")
    return str(path)


COMPLETE = ("trainer_state.json", "optimizer.pt")


@pytest.mark.parametrize("option", [None, "false", "False"])
def test_without_it_a_run_starts_anew_even_where_checkpoints_lie(tmp_path, option):
    make_checkpoint(tmp_path, 5, *COMPLETE)
    assert find_checkpoint(option, str(tmp_path)) is None


def test_true_and_auto_take_the_last_checkpoint(tmp_path):
    make_checkpoint(tmp_path, 5, *COMPLETE)
    last = make_checkpoint(tmp_path, 20, *COMPLETE)
    assert find_checkpoint("true", str(tmp_path)) == find_checkpoint("auto", str(tmp_path)) == last


def test_without_any_checkpoint_auto_starts_anew_and_true_refuses(tmp_path):
    assert find_checkpoint("auto", str(tmp_path / "absent")) is None
    with pytest.raises(ValueError, match="there is no checkpoint"):
        find_checkpoint("true", str(tmp_path))


def test_a_path_is_taken_as_it_is(tmp_path):
    path = make_checkpoint(tmp_path, 5, *COMPLETE)
    make_checkpoint(tmp_path, 9, *COMPLETE)
    assert find_checkpoint(path, str(tmp_path)) == path


def test_a_checkpoint_of_the_model_alone_is_refused_with_a_way_out(tmp_path):
    make_checkpoint(tmp_path, 5, "trainer_state.json")
    with pytest.raises(ValueError, match="--model_name_or_path"):
        find_checkpoint("auto", str(tmp_path))


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint of a training run"):
        find_checkpoint(str(tmp_path), str(tmp_path))

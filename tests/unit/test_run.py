"""`--resume_from_checkpoint` means what it says."""

from pathlib import Path

import pytest

from open_r1.trainer.checkpoints import UNFINISHED, publish
from open_r1.trainer.run import find_checkpoint


def make_checkpoint(run_dir: Path, step: int, *files: str) -> str:
    written = run_dir / UNFINISHED / f"checkpoint-{step}"
    written.mkdir(parents=True)
    for name in files:
        (written / name).write_text("{}")
    publish(written, run_dir)
    return str(run_dir / f"checkpoint-{step}")


def tear(checkpoint: str) -> str:
    (Path(checkpoint) / "optimizer.pt").write_text("{")
    return checkpoint


COMPLETE = ("trainer_state.json", "optimizer.pt")


@pytest.mark.parametrize("option", [None, "false", "False", False])
def test_without_it_a_run_starts_anew_even_where_checkpoints_lie(tmp_path, option):
    make_checkpoint(tmp_path, 5, *COMPLETE)
    assert find_checkpoint(option, str(tmp_path)) is None


@pytest.mark.parametrize("option", ["true", "auto", True])
def test_true_and_auto_take_the_last_checkpoint(tmp_path, option):
    make_checkpoint(tmp_path, 5, *COMPLETE)
    last = make_checkpoint(tmp_path, 20, *COMPLETE)
    assert find_checkpoint(option, str(tmp_path)) == last


@pytest.mark.parametrize("option", ["true", "auto"])
def test_true_and_auto_pass_over_torn_checkpoints_and_name_them(tmp_path, option, caplog):
    whole = make_checkpoint(tmp_path, 5, *COMPLETE)
    torn = [tear(make_checkpoint(tmp_path, step, *COMPLETE)) for step in (10, 20)]
    assert find_checkpoint(option, str(tmp_path)) == whole
    assert all(path in caplog.text for path in torn)


def test_without_any_whole_checkpoint_auto_starts_anew_and_true_refuses(tmp_path):
    tear(make_checkpoint(tmp_path, 5, *COMPLETE))
    for folder in (tmp_path, tmp_path / "absent"):
        assert find_checkpoint("auto", str(folder)) is None
        with pytest.raises(ValueError, match="there is no complete checkpoint"):
            find_checkpoint("true", str(folder))


def test_a_path_is_taken_as_it_is(tmp_path):
    path = make_checkpoint(tmp_path, 5, *COMPLETE)
    make_checkpoint(tmp_path, 9, *COMPLETE)
    assert find_checkpoint(path, str(tmp_path)) == path


def test_a_path_to_a_torn_checkpoint_is_refused(tmp_path):
    make_checkpoint(tmp_path, 5, *COMPLETE)
    torn = tear(make_checkpoint(tmp_path, 9, *COMPLETE))
    with pytest.raises(ValueError, match=r"checkpoint-9 is torn: optimizer.pt has 1 bytes instead of 2"):
        find_checkpoint(torn, str(tmp_path))


def test_a_checkpoint_of_the_model_alone_is_refused_with_a_way_out(tmp_path):
    make_checkpoint(tmp_path, 5, "trainer_state.json")
    with pytest.raises(ValueError, match="--model_name_or_path"):
        find_checkpoint("auto", str(tmp_path))


def test_a_folder_that_is_no_checkpoint_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint of a training run"):
        find_checkpoint(str(tmp_path), str(tmp_path))

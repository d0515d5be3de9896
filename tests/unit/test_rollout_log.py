"""What was generated can be read afterwards: rollouts always, the parents' text log in debug mode."""

import json

import pytest

from open_r1.trainer.rollout_log import GroupRecord, RolloutLog


def make_record(name: str) -> GroupRecord:
    return GroupRecord(
        step=3,
        row={"image_path": [f"{name}.png"], "problem": f"How good is {name}?", "solution": "<answer> 4 </answer>"},
        completions=[f"{name} one", f"{name} two"],
        rewards={"fidelity_reward": [0.5, None], "format_reward": [1.0, 0.0]},
        advantages=[0.7, -0.7],
        finish_reasons=["stop", "length"],
    )


def test_each_group_is_one_line_with_all_its_completions(tmp_path, monkeypatch):
    monkeypatch.delenv("DEBUG_MODE", raising=False)
    log = RolloutLog(str(tmp_path), rank=0)
    log.write([make_record("a")])
    log.write([make_record("b")])
    lines = [json.loads(line) for line in (tmp_path / "rollouts" / "rank0.jsonl").read_text().splitlines()]
    assert [line["row"]["image_path"] for line in lines] == [["a.png"], ["b.png"]]
    assert lines[0]["completions"] == ["a one", "a two"]
    assert lines[0]["rewards"]["fidelity_reward"] == [0.5, None]
    assert lines[0]["finish_reasons"] == ["stop", "length"]
    assert not (tmp_path / "debug.txt").exists()


def test_debug_mode_logs_every_completion_with_its_own_problem_and_image(tmp_path, monkeypatch):
    monkeypatch.setenv("DEBUG_MODE", "true")
    monkeypatch.setenv("LOG_PATH", str(tmp_path / "logs" / "debug.txt"))
    RolloutLog(str(tmp_path), rank=0).write([make_record("a"), make_record("b")])
    entries = (tmp_path / "logs" / "debug.txt").read_text().split("-------------\n")[1:]
    assert len(entries) == 4
    for entry, name in zip(entries, "aabb"):
        assert f"How good is {name}?" in entry
        assert f"{name}.png" in entry
        assert f"Content: {name} " in entry
    formats = (tmp_path / "logs" / "debug_format.txt").read_text()
    assert formats.count("Format reward: 1.0") == 2
    assert formats.count("Format reward: 0.0") == 2


def test_without_log_path_the_debug_log_goes_into_the_output_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DEBUG_MODE", "true")
    monkeypatch.delenv("LOG_PATH", raising=False)
    RolloutLog(str(tmp_path), rank=0).write([make_record("a")])
    assert "Fidelity reward: 0.5" in (tmp_path / "debug.txt").read_text()


@pytest.mark.parametrize("rank", [1, 7])
def test_ranks_write_files_of_their_own(tmp_path, monkeypatch, rank):
    monkeypatch.setenv("DEBUG_MODE", "true")
    monkeypatch.setenv("LOG_PATH", str(tmp_path / "debug.txt"))
    RolloutLog(str(tmp_path), rank).write([make_record("a")])
    assert (tmp_path / f"debug_rank{rank}.txt").is_file()
    assert (tmp_path / "rollouts" / f"rank{rank}.jsonl").is_file()
    assert not (tmp_path / "debug.txt").exists()

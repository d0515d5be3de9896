"""The training command, killed at random moments and started again with `auto`, equals the command left alone."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest
import torch
from builders import write_iqa_data
from safetensors.torch import load_file

from open_r1.trainer.checkpoints import UNFINISHED, find_damage, list_checkpoints


MODULE = [sys.executable, "-m", "open_r1.grpo_jsonl"]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node"]

# A round is three groups of two completions, gone over twice in three optimizer steps; six rows are two rounds, so the
# second epoch begins after step 6, and four checkpoints in six are saved in the middle of a round.
SETTINGS = {
    "num_generations": "2",
    "per_device_train_batch_size": "2",
    "gradient_accumulation_steps": "2",
    "steps_per_generation": "3",
    "num_iterations": "2",
    "max_completion_length": "8",
    "learning_rate": "1e-3",
    "max_steps": "12",
    "save_strategy": "steps",
    "save_steps": "1",
    "save_total_limit": "3",
    "resume_from_checkpoint": "auto",
    "report_to": "none",
    "use_cpu": "true",
    "disable_tqdm": "true",
}
SLOW_REWARD = """
import time
def letters_reward(completions, **kwargs):
    time.sleep(0.3)  # so that there are moments to be killed in
    return [sum(c.isalpha() for c in completion[0]["content"]) / 40 for completion in completions]
"""


@pytest.fixture(scope="module")
def arguments(tiny_checkpoint, tmp_path_factory) -> Callable[..., list[str]]:
    """Builds the words of a command from an output folder and changed settings."""
    folder = tmp_path_factory.mktemp("data")
    path, images = write_iqa_data(folder, num_rows=6)
    (folder / "rewards.py").write_text(SLOW_REWARD)
    places = {
        "model_name_or_path": tiny_checkpoint,
        "data_file_paths": str(path),
        "image_folders": str(images),
        "reward_funcs": f"{folder}/rewards.py:letters_reward",
    }

    def build(output_dir: Path, **changes: str) -> list[str]:
        settings = places | SETTINGS | {"output_dir": str(output_dir)} | changes
        return [word for name, value in settings.items() for word in (f"--{name}", value)]

    return build


def start(command: list[str], output_dir: Path) -> subprocess.Popen:
    """Starts a command in a process group of its own; what it says is kept beside the output folder."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with output_dir.with_suffix(".log").open("a") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def finish(command: list[str], output_dir: Path) -> None:
    process = start(command, output_dir)
    assert process.wait(timeout=300) == 0, output_dir.with_suffix(".log").read_text()[-3000:]


def find_last_step(output_dir: Path) -> int:
    return max((int(path.name.split("-")[1]) for path in list_checkpoints(output_dir)), default=0)


def wait_until(process: subprocess.Popen, is_time: Callable[[], bool]) -> None:
    """Waits for a moment in the life of a process."""
    deadline = time.monotonic() + 120
    while not is_time():
        assert process.poll() is None and time.monotonic() < deadline, "the process ended before its time"
        time.sleep(0.002)


def kill(process: subprocess.Popen) -> None:
    """Kills a process and everything that it started."""
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait(timeout=30) == -signal.SIGKILL


def read_lines(path: Path) -> list[dict]:
    """Lines of a log without what depends on the clock."""
    lines = map(json.loads, path.read_text().splitlines())
    lines = ({name: value for name, value in line.items() if not name.startswith("time/")} for line in lines)
    return [line for line in lines if "train_runtime" not in line]


def assert_same_run(output_dir: Path, expected_dir: Path, num_ranks: int = 1) -> None:
    """Weights, optimizer, random numbers, metrics and rollouts, bit for bit."""
    weights, expected = (load_file(folder / "model.safetensors") for folder in (output_dir, expected_dir))
    assert weights.keys() == expected.keys()
    assert [name for name in weights if not torch.equal(weights[name], expected[name])] == []
    last = f"checkpoint-{find_last_step(expected_dir)}"
    states, expected = (
        torch.load(folder / last / "optimizer.pt", weights_only=True) for folder in (output_dir, expected_dir)
    )
    assert states["param_groups"] == expected["param_groups"]
    for index, state in expected["state"].items():
        assert all(torch.equal(states["state"][index][name], value) for name, value in state.items())
    for rank in range(num_ranks):
        name = f"rollouts/rank{rank}.jsonl"
        assert (output_dir / name).read_text() == (expected_dir / name).read_text()
    metrics, expected = (read_lines(folder / "metrics.jsonl") for folder in (output_dir, expected_dir))
    assert [line["step"] for line in metrics] == list(range(1, len(expected) + 1))
    assert metrics == expected
    assert not (output_dir / UNFINISHED).exists()
    assert [path for path in list_checkpoints(output_dir) if find_damage(path)] == []


@pytest.fixture(scope="module")
def whole(arguments, tmp_path_factory) -> Path:
    """The output folder of a run that nobody interrupted."""
    output_dir = tmp_path_factory.mktemp("whole") / "run"
    finish(MODULE + arguments(output_dir), output_dir)
    return output_dir


def has_begun(output_dir: Path, since: float) -> bool:
    """Whether training is about to start: `run.json` has been written again."""
    path = output_dir / "run.json"
    return path.exists() and path.stat().st_mtime > since


def is_saving(output_dir: Path, since: float) -> bool:
    """Whether a checkpoint is being written, not one that an earlier kill left behind."""
    return has_begun(output_dir, since) and any(
        path.stat().st_mtime > since for path in (output_dir / UNFINISHED).glob("checkpoint-*")
    )


def has_reached(output_dir: Path, step: int) -> bool:
    return find_last_step(output_dir) >= step


def run_with_kills(command: list[str], output_dir: Path, num_kills: int, seed: int) -> list[str]:
    """Kills a run again and again and lets it finish; returns what each kill came upon.

    One kill in three comes while a checkpoint is written, the others some random time after a random step.
    """
    rng = random.Random(seed)
    moments = []
    for number, step in enumerate(sorted(rng.sample(range(11), num_kills))):
        since, process = time.time(), start(command, output_dir)
        if number % 3 == 1:
            wait_until(process, partial(is_saving, output_dir, since))
        else:
            wait_until(process, partial(has_begun, output_dir, since))
            wait_until(process, partial(has_reached, output_dir, step))
            time.sleep(rng.uniform(0.0, 0.4))
        kill(process)
        moments.append("a save" if (output_dir / UNFINISHED).exists() else "a step")
    finish(command, output_dir)
    return moments


def test_three_kills_leave_no_trace(arguments, whole, tmp_path):
    output_dir = tmp_path / "killed"
    moments = run_with_kills(MODULE + arguments(output_dir), output_dir, num_kills=3, seed=1)
    assert len(moments) == 3
    assert_same_run(output_dir, whole)


@pytest.mark.slow
def test_ten_kills_leave_no_trace(arguments, whole, tmp_path):
    output_dir = tmp_path / "killed"
    moments = run_with_kills(MODULE + arguments(output_dir), output_dir, num_kills=10, seed=0)
    assert len(moments) == 10 and set(moments) == {"a save", "a step"}
    assert_same_run(output_dir, whole)


def test_a_torn_checkpoint_is_named_and_the_one_before_it_taken(arguments, whole, tmp_path):
    output_dir = tmp_path / "torn"
    shutil.copytree(whole, output_dir)
    newest = list_checkpoints(output_dir)[0]
    weights = newest / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    (output_dir / "model.safetensors").unlink()  # as if the kill had come before the end
    finish(MODULE + arguments(output_dir), output_dir)
    assert f"{newest} is torn and passed over: model.safetensors" in output_dir.with_suffix(".log").read_text()
    assert_same_run(output_dir, whole)


def test_a_scheduler_stops_a_run_with_its_data_loader_workers(arguments, whole, tmp_path):
    output_dir = tmp_path / "stopped"
    command = MODULE + arguments(output_dir, save_strategy="no", dataloader_num_workers="1")
    process = start(command, output_dir)
    wait_until(process, (output_dir / "metrics.jsonl").exists)
    os.killpg(process.pid, signal.SIGTERM)  # to every process of the job at once, as schedulers do
    log = output_dir.with_suffix(".log")
    assert process.wait(timeout=60) == 128 + signal.SIGTERM, log.read_text()[-3000:]
    assert "Stopped by SIGTERM after step" in log.read_text() and "Traceback" not in log.read_text()
    assert len(list_checkpoints(output_dir)) == 1
    assert not (output_dir / "model.safetensors").exists()
    finish(MODULE + arguments(output_dir), output_dir)
    assert_same_run(output_dir, whole)


def test_two_processes_stop_together_and_go_on_as_if_they_had_not(arguments, tmp_path):
    def build_command(output_dir: Path) -> list[str]:
        return [*TORCHRUN, "2", "-m", "open_r1.grpo_jsonl", *arguments(output_dir, max_steps="5")]

    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    finish(build_command(whole), whole)
    process = start(build_command(stopped), stopped)
    wait_until(process, partial(has_reached, stopped, 1))
    psutil.Process(process.pid).children()[-1].terminate()  # one worker alone; the other one saves the checkpoint
    assert process.wait(timeout=60) != 0
    last_step = find_last_step(stopped)
    assert 1 <= last_step < 5
    assert f"Stopped by SIGTERM after step {last_step}" in stopped.with_suffix(".log").read_text()
    finish(build_command(stopped), stopped)
    assert_same_run(stopped, whole, num_ranks=2)

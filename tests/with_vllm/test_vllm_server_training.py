"""Training with completions from a server: the same weights on both sides, and a server that dies costs nothing."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from processes import build_environment, find_free_port, run_alone
from safetensors.torch import load_file
from servers import Server
from training_runs import Seen, train


TIMEOUT_S = 30
REWARD = """
def letters_reward(completions, **columns):
    return [sum(map(str.isalpha, completion[0]["content"])) / 40 for completion in completions]
"""


@pytest.fixture(scope="module")
def rows(iqa_data) -> tuple[str, str]:
    return str(iqa_data[0]), str(iqa_data[1])


@pytest.fixture(scope="module")
def server(tiny_checkpoint, tmp_path_factory) -> Iterator[Server]:
    options = ("--logprobs_mode", "raw_logprobs", "--worker-extension-cls", "training_runs.WeightReader")
    running = Server(tiny_checkpoint, tmp_path_factory.mktemp("server"), *options)
    try:
        running.start()
        yield running
    finally:
        running.kill()


@pytest.fixture(scope="module")
def run(tiny_checkpoint, rows, server, tmp_path_factory) -> Seen:
    """Six steps of all weights in one process."""
    settings = {"vllm_mode": "server", "vllm_server_port": server.port, "vllm_group_port": find_free_port()}
    settings |= {"vllm_enforce_eager": False, "vllm_server_timeout": TIMEOUT_S}  # the first is the server's
    return run_alone(train, tiny_checkpoint, rows, str(tmp_path_factory.mktemp("run")), settings, {})


def test_greedy_completions_before_training_are_those_of_transformers_token_for_token(run):
    assert len(run.greedy_of_trainer) == 10
    assert run.greedy_of_engine == run.greedy_of_trainer


def test_the_server_has_the_policy_s_weights_whenever_it_generates(run):
    assert run.largest_difference == [0.0] * 6
    assert all(moved > 1e-4 for moved in run.movement[1:])


def test_log_probabilities_of_server_and_trainer_agree(run):
    steps = [line for line in run.metrics if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert all(0 < line["sampling/sampling_logp_difference/max"] < 1e-3 for line in steps)


# ---- a server that dies -------------------------------------------------------------------------------------------


def build_command(checkpoint: str, rows: tuple[str, str], server: Server, output: Path) -> list[str]:
    reward = output.parent / "letters.py"
    reward.write_text(REWARD)
    options = {
        "model_name_or_path": checkpoint,
        "data_file_paths": rows[0],
        "image_folders": rows[1],
        "task_type": "iqa",
        "reward_funcs": f"{reward}:letters_reward",
        "output_dir": output,
        "num_generations": 4,
        "per_device_train_batch_size": 8,
        "max_completion_length": 10,
        "learning_rate": 1e-3,
        "max_steps": 6,
        "save_strategy": "no",
        "report_to": "none",
        "use_vllm": True,
        "vllm_mode": "server",
        "vllm_server_port": server.port,
        "vllm_group_port": find_free_port(),
        "vllm_server_timeout": TIMEOUT_S,
        "resume_from_checkpoint": "auto",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return [sys.executable, "-m", "open_r1.grpo_jsonl", *words, "--use_cpu"]


def start(command: list[str], log: Path) -> subprocess.Popen:
    with log.open("a") as file:
        return subprocess.Popen(command, env=build_environment(), stdout=file, stderr=subprocess.STDOUT)


def read_steps(output: Path) -> list[int]:
    path = output / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.is_file() else []
    return [record["step"] for record in map(json.loads, lines) if "loss" in record]


def load_weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_run_whose_server_is_killed_saves_ends_in_time_and_goes_on_as_if_nothing_had_been(
    tiny_checkpoint, rows, server, tmp_path
):
    undisturbed, broken, log = tmp_path / "undisturbed", tmp_path / "broken", tmp_path / "log.txt"
    assert start(build_command(tiny_checkpoint, rows, server, undisturbed), log).wait(300) == 0, log.read_text()[
        -3000:
    ]

    process = start(build_command(tiny_checkpoint, rows, server, broken), log)
    while len(read_steps(broken)) < 3:
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.01)
    server.kill()
    killed = time.monotonic()
    try:
        assert process.wait(300) == 1
        assert time.monotonic() - killed < TIMEOUT_S + 30  # and what it takes to save and to leave Python
        last = read_steps(broken)[-1]
        assert 3 <= last < 6
        assert (broken / f"checkpoint-{last}" / "optimizer.pt").is_file()
        message = log.read_text().rpartition("error: ")[2]
        assert f"127.0.0.1:{server.port}" in message
        assert f"checkpoint-{last} is saved; go on with --resume_from_checkpoint auto" in log.read_text()
    finally:
        server.start()

    assert start(build_command(tiny_checkpoint, rows, server, broken), log).wait(300) == 0, log.read_text()[-3000:]
    assert read_steps(broken) == [1, 2, 3, 4, 5, 6]
    resumed, expected = load_weights(broken), load_weights(undisturbed)
    assert all(torch.equal(resumed[name], value) for name, value in expected.items())

"""Two nodes on loopback: two launchers of one process each meet, train, and go on after a stop."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from test_grpo import build_arguments
from test_run_scripts import find_free_port


def train_on_two_nodes(arguments: list[str]) -> None:
    """Both launchers, as `docs/multi-node.md` starts them, one per node."""
    port = str(find_free_port())
    rendezvous = ["--nnodes", "2", "--nproc_per_node", "1", "--master_addr", "127.0.0.1", "--master_port", port]
    launch = [sys.executable, "-m", "torch.distributed.run", *rendezvous]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    nodes = [
        subprocess.Popen(
            [*launch, "--node_rank", rank, "-m", "open_r1.grpo_jsonl", *arguments],
            env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for rank in ("0", "1")
    ]  # fmt: skip
    try:
        for node in nodes:
            log, _ = node.communicate(timeout=300)
            assert node.returncode == 0, log[-3000:]
    finally:
        for node in nodes:
            node.kill()


def read_losses(output_dir: Path) -> list[float]:
    lines = (output_dir / "metrics.jsonl").read_text().splitlines()
    return [line["loss"] for line in map(json.loads, lines) if "loss" in line]


@pytest.mark.slow
def test_two_nodes_train_and_go_on_where_they_stopped(tiny_checkpoint, iqa_data, tmp_path):
    def build(name: str, max_steps: int) -> list[str]:
        settings = {"save_strategy": "steps", "save_steps": "1", "resume_from_checkpoint": "auto"}
        settings |= {"lr_scheduler_type": "constant", "max_steps": str(max_steps), "num_iterations": "2"}
        return build_arguments(tiny_checkpoint, iqa_data, tmp_path / name, **settings)

    train_on_two_nodes(build("whole", 4))
    train_on_two_nodes(build("stopped", 1))  # in the middle of a round of two steps
    train_on_two_nodes(build("stopped", 4))
    assert len(read_losses(tmp_path / "whole")) == 4
    assert read_losses(tmp_path / "stopped") == read_losses(tmp_path / "whole")
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("whole", "stopped")]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    for name in ("rank0.jsonl", "rank1.jsonl"):
        assert (tmp_path / "whole" / "rollouts" / name).is_file()

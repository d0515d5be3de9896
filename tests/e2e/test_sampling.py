"""Two data sets on two devices: the command deals, compares and resumes as the options say."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from builders import write_iqa_data


LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
SETTINGS = {
    "num_generations": "2",
    "per_device_train_batch_size": "4",
    "sampling": "dataset_homogeneous",
    "question_template": "scoring",
    "max_completion_length": "8",
    "learning_rate": "1e-3",
    "max_steps": "4",
    "save_strategy": "steps",
    "save_steps": "2",
    "report_to": "none",
    "use_cpu": "true",
    "resume_from_checkpoint": "auto",
}


@pytest.fixture(scope="module")
def runs(tiny_checkpoint, tmp_path_factory) -> tuple[Path, Path]:
    """A run of four steps over two data sets of five rows, and one that goes on from the first one's second step."""
    files = []
    for name in "AB":
        path, _ = write_iqa_data(tmp_path_factory.mktemp(name), num_rows=5, name=f"{name}.jsonl")
        path.write_text(path.read_text().replace("NOISE", name))
        files.append(path)
    whole, resumed = (tmp_path_factory.mktemp(name) / "run" for name in ("whole", "resumed"))

    def train(folder: Path) -> None:
        places = {"model_name_or_path": tiny_checkpoint, "output_dir": str(folder)}
        words = [word for name, value in (places | SETTINGS).items() for word in (f"--{name}", value)]
        words += ["--data_file_paths", *map(str, files), "--image_folders", *(str(path.parent) for path in files)]
        command = [*LAUNCH, "-m", "open_r1.grpo_jsonl", *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=environment)
        assert done.returncode == 0, done.stderr[-3000:]

    train(whole)
    shutil.copytree(whole, resumed)
    shutil.rmtree(resumed / "checkpoint-4")
    train(resumed)
    return whole, resumed


def read_rollouts(folder: Path) -> list[list[dict]]:
    """The groups of each rank."""
    return [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted((folder / "rollouts").glob("rank*.jsonl"))
    ]


def test_a_device_has_prompts_of_one_data_set_in_a_step(runs):
    for records in read_rollouts(runs[0]):
        for step in range(4):
            groups = [record for record in records if record["step"] == step]
            assert len(groups) == 2
            assert len({group["row"]["dataset_name"] for group in groups}) == 1


def test_no_prompt_is_on_two_devices_in_a_step(runs):
    first, second = read_rollouts(runs[0])
    for step in range(4):
        ids = [
            (group["row"]["dataset_name"], group["row"]["id"]) for group in [*first, *second] if group["step"] == step
        ]
        assert len(set(ids)) == 4


def test_what_the_ranking_gathers_is_logged(runs):
    lines = [json.loads(line) for line in (runs[0] / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["ranking/gathered_bytes"] for line in steps] == [8 * 4 * (4 + 2)] * 4


def test_a_resumed_run_goes_on_in_the_same_order(runs):
    whole, resumed = (read_rollouts(folder) for folder in runs)
    assert resumed == whole

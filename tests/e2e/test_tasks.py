"""Every task from its run script: samples as `make_task_samples.py` writes them, three steps of a tiny model."""

import json
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from families import build_checkpoint


ROOT = Path(__file__).parents[2]
NUM_ROWS = 24
# Later options win over the script's. DeepSpeed, an extra, has tests of its own.
TINY = [
    *("--use_cpu", "true", "--bf16", "false", "--dtype", "float32", "--deepspeed", "", "--max_steps", "3"),
    *("--max_completion_length", "12", "--gradient_accumulation_steps", "1", "--warmup_steps", "0"),
]
ANY = "any/one_node_run_task.sh"


@dataclass(frozen=True, kw_only=True)
class Case:
    """How a task is run, and what its run reports."""

    script: str
    rewards: tuple[str, ...]
    variables: dict[str, str] = field(default_factory=dict)  # {root} is the folder of the task's samples
    options: tuple[str, ...] = ()


JSONL = {"DATA_FILE": "{root}/train.jsonl", "IMAGE_FOLDER": "{root}/images"}
CASES = {
    "rec": Case(script="REC/one_node_run_rec.sh", variables=JSONL, rewards=("iou", "rec_format")),
    "rec_lora": Case(script="REC/one_node_run_rec_lora.sh", variables=JSONL, rewards=("iou", "rec_format")),
    "gui": Case(script="GUI/one_node_run_gui.sh", variables=JSONL, rewards=("all_match", "format")),
    "vqa": Case(
        script="VQA-JSON/one_node_run_vqa.sh",
        variables={"DATASET": "{root}/dataset"},
        rewards=("vqa_accuracy", "json_steps_format", "reasoning"),
    ),
    "vivqa": Case(
        script="ViVQA-X/one_node_run_vivqa_internvl.sh",
        variables={"DATA_FILE": "{root}/train.jsonl", "IMAGE_FOLDER": "{root}/COCO_Images"},
        options=("--reward_funcs", "accuracy", "format", "explanation", "--explanation_alpha", "1.0"),
        rewards=("vivqa_accuracy", "vivqa_format", "explanation"),
    ),
    "emotion": Case(
        script="DFEW/one_node_run_dfew.sh",
        variables={"DATA_FILE": "{root}/train.json", "VIDEO_FOLDER": "{root}"},
        rewards=("emotion", "format"),
    ),
    "emotion_omni": Case(
        script="MAFW/one_node_run_mafw.sh",
        variables={"DATA_FILE": "{root}/train.json", "VIDEO_FOLDER": "{root}"},
        rewards=("emotion", "format"),
    ),
    "od": Case(script=ANY, variables=JSONL, rewards=("map", "format")),
    "od_length": Case(script=ANY, variables=JSONL, rewards=("od_length", "format")),
    "counting": Case(
        script=ANY,
        variables=JSONL,
        options=("--reward_funcs", "accuracy", "format", "length", "repetition"),
        rewards=("default_accuracy", "format", "length", "repetition"),
    ),
    "math": Case(script=ANY, variables=JSONL, rewards=("math_accuracy", "format")),
    "ic": Case(script=ANY, variables=JSONL, rewards=("method_accuracy", "format")),
    "iqa_compare": Case(script=ANY, variables=JSONL, rewards=("mcq_accuracy", "format")),
    "default": Case(script=ANY, variables=JSONL, rewards=("method_accuracy", "format")),
}


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_python(*arguments: str) -> None:
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def samples(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("samples")
    script = str(ROOT / "datasets" / "make_task_samples.py")
    run_python(script, "--output_dir", str(root), "--num_rows", str(NUM_ROWS))
    vivqa = root / "vivqa"
    run_python(
        *("-m", "open_r1.data.vivqa", "--vivqa_root", str(vivqa / "ViVQA-X"), "--split", "train"),
        *("--output", str(vivqa / "train.jsonl")),
    )
    return root


@pytest.fixture(scope="module")
def runs(samples, tiny_checkpoint, tmp_path_factory) -> dict[str, tuple[subprocess.CompletedProcess, Path]]:
    """Every task's run, two at a time: exit and output, and the run's folder."""
    others = {"vivqa": "internvl", "emotion_omni": "qwen2_5_omni_thinker"}
    others = {task: build_checkpoint(family, tmp_path_factory.mktemp(task)) for task, family in others.items()}
    output_dir = tmp_path_factory.mktemp("runs")

    def run(task: str) -> tuple[subprocess.CompletedProcess, Path]:
        case = CASES[task]
        root = samples / task.removesuffix("_lora").removesuffix("_omni")
        inherited = {name: os.environ[name] for name in ("HOME", "LANG", "LD_LIBRARY_PATH") if name in os.environ}
        environment = inherited | {
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "OMP_NUM_THREADS": "1",
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
            "MODEL_PATH": others.get(task, tiny_checkpoint),
            "TASK_TYPE": task,
            "OUTPUT_DIR": str(output_dir / task),
            "GPUS_PER_NODE": "1",
            "MASTER_PORT": str(find_free_port()),
            **{name: value.format(root=root) for name, value in case.variables.items()},
        }
        command = ["bash", str(ROOT / "run_scripts" / case.script), *TINY, *case.options]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT, timeout=600)
        return done, output_dir / task

    with ThreadPoolExecutor(2) as pool:
        return dict(zip(CASES, pool.map(run, CASES), strict=True))


def read_jsonl(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("task", CASES)
def test_a_task_trains_from_its_run_script(task, runs):
    done, folder = runs[task]
    assert done.returncode == 0, done.stdout[-3000:]
    steps = [row for row in read_jsonl(folder / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in steps] == [1, 2, 3]
    for name in CASES[task].rewards:
        assert all(f"rewards/{name}_reward/mean" in row for row in steps), sorted(steps[0])
    rollouts = read_jsonl(folder / "rollouts" / "rank0.jsonl")
    assert {record["step"] for record in rollouts} == {0, 1, 2}
    for record in rollouts:
        assert record["rewards"].keys() == {f"{name}_reward" for name in CASES[task].rewards}

"""The same command line under every launcher: torchrun, accelerate, deepspeed, plain python."""

import sys
from pathlib import Path

import pytest
from test_grpo import build_arguments, read_metrics, run
from test_run_scripts import find_free_port


ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
NUMBERS = ("loss", "reward", "kl", "entropy", "grad_norm", "num_tokens")


def build_launchers() -> dict[str, list[str]]:
    port = str(find_free_port())
    configs = ROOT / "configs" / "accelerate"
    overrides = ["--num_processes", "2", "--main_process_port", "0", "--config_file"]
    return {
        "torchrun": [str(BIN / "torchrun"), "--standalone", "--nproc_per_node", "2", "-m"],
        "accelerate": [str(BIN / "accelerate"), "launch", *overrides, str(configs / "ddp.yaml"), "-m"],
        **{
            f"accelerate {name}": [str(BIN / "accelerate"), "launch", *overrides, str(configs / f"{name}.yaml"), "-m"]
            for name in ("zero2", "zero3", "fsdp2")
        },
        "deepspeed": [str(BIN / "deepspeed"), "--num_gpus", "2", "--master_port", port, "--module"],
    }


def train(launcher: list[str], checkpoint: str, data: tuple[Path, Path], output_dir: Path) -> dict:
    """One step; returns its metrics."""
    arguments = build_arguments(checkpoint, data, output_dir, max_steps="1")
    result = run([*launcher, "open_r1.grpo_jsonl", *arguments], CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 0, result.stderr[-3000:]
    metrics = read_metrics(output_dir)
    assert len(metrics) == 1
    return {name: metrics[0][name] for name in NUMBERS}


@pytest.fixture(scope="module")
def expected(tiny_checkpoint, iqa_data, tmp_path_factory) -> dict:
    """What two processes of torchrun compute."""
    return train(build_launchers()["torchrun"], tiny_checkpoint, iqa_data, tmp_path_factory.mktemp("torchrun") / "run")


@pytest.mark.parametrize(
    "name",
    [
        *("accelerate", "accelerate fsdp2"),
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("deepspeed", "accelerate zero2", "accelerate zero3")
        ),
    ],
)
def test_two_processes_compute_the_same_under_every_launcher(name, expected, tiny_checkpoint, iqa_data, tmp_path):
    if name not in ("accelerate", "accelerate fsdp2"):
        pytest.importorskip("deepspeed")
    assert expected["reward"] > 0 and expected["grad_norm"] > 0
    found = train(build_launchers()[name], tiny_checkpoint, iqa_data, tmp_path / "run")
    assert found == pytest.approx(expected, rel=1e-5)
    assert sorted(path.name for path in (tmp_path / "run" / "rollouts").iterdir()) == ["rank0.jsonl", "rank1.jsonl"]


def test_plain_python_needs_no_launcher(tiny_checkpoint, iqa_data, tmp_path):
    train([sys.executable, "-m"], tiny_checkpoint, iqa_data, tmp_path / "run")
    assert [path.name for path in (tmp_path / "run" / "rollouts").iterdir()] == ["rank0.jsonl"]

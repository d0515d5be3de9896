"""The training command as users type it, on a tiny model: real processes, real files."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from builders import write_iqa_data
from safetensors.torch import load_file


REPO = Path(__file__).parents[2]
MODULE = [sys.executable, "-m", "open_r1.grpo_jsonl"]


def run(command: list[str], **environment: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    return subprocess.run(command, capture_output=True, text=True, env=env, timeout=300)


def build_arguments(checkpoint: str, data: tuple[Path, Path], output_dir: Path, **changes: str) -> list[str]:
    arguments = {
        "model_name_or_path": checkpoint,
        "data_file_paths": str(data[0]),
        "image_folders": str(data[1]),
        "output_dir": str(output_dir),
        "num_generations": "4",
        "per_device_train_batch_size": "8",
        "max_completion_length": "12",
        "learning_rate": "1e-3",
        "max_steps": "3",
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": "true",
        # The untrained model never writes a score, so a reward that it can earn: see `write_reward`.
        "reward_funcs": f"{write_reward(output_dir)}:letters_reward format",
    } | changes
    return [word for name, value in arguments.items() for word in (f"--{name}", *value.split(" "))]


def write_reward(output_dir: Path) -> Path:
    path = output_dir.parent / "my_rewards.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        "def letters_reward(completions, **kwargs):\n"
        "    return [sum(c.isalpha() for c in completion[0]['content']) / 40 for completion in completions]\n"
    )
    return path


def read_metrics(output_dir: Path) -> list[dict]:
    lines = [json.loads(line) for line in (output_dir / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


@pytest.fixture(scope="module")
def trained(tiny_checkpoint, iqa_data, tmp_path_factory) -> tuple[subprocess.CompletedProcess, Path]:
    """Three steps in one process, in debug mode."""
    output_dir = tmp_path_factory.mktemp("run") / "output"
    arguments = build_arguments(tiny_checkpoint, iqa_data, output_dir)
    return run(MODULE + arguments, DEBUG_MODE="true"), output_dir


def test_a_run_trains_and_leaves_an_ordinary_checkpoint(trained, tiny_checkpoint):
    result, output_dir = trained
    assert result.returncode == 0, result.stderr[-3000:]
    before = load_file(Path(tiny_checkpoint) / "model.safetensors")
    after = load_file(output_dir / "model.safetensors")
    moved = [name for name in before if not torch.equal(before[name], after[name])]
    assert any("visual" in name for name in moved) and any("visual" not in name for name in moved)
    from transformers import AutoModelForImageTextToText, AutoProcessor

    AutoProcessor.from_pretrained(output_dir)
    AutoModelForImageTextToText.from_pretrained(output_dir)


def test_metrics_have_trls_names_and_stage_times(trained):
    metrics = read_metrics(trained[1])
    assert [line["step"] for line in metrics] == [1, 2, 3]
    names = """loss grad_norm learning_rate reward reward_std rewards/letters_reward/mean rewards/format_reward/mean
        frac_reward_zero_std kl entropy clip_ratio/low_mean clip_ratio/high_mean completions/mean_length
        completions/clipped_ratio num_tokens time/generate_s time/reward_s time/ref_logps_s time/loss_forward_s"""
    assert not set(names.split()) - set(metrics[0])
    assert metrics[0]["kl"] == pytest.approx(0.0, abs=1e-6)  # the policy is still the reference
    assert metrics[2]["kl"] > 0


def test_rollouts_run_information_and_debug_log_are_written(trained):
    output_dir = trained[1]
    groups = [json.loads(line) for line in (output_dir / "rollouts" / "rank0.jsonl").read_text().splitlines()]
    assert len(groups) == 6  # three rounds of two groups
    assert all(len(group["completions"]) == len(group["advantages"]) == 4 for group in groups)
    info = json.loads((output_dir / "run.json").read_text())
    assert info["config"]["training"]["num_generations"] == 4
    assert list(info["data"].values())[0] and info["versions"]["transformers"]
    assert (output_dir / "debug.txt").read_text().count("Letters reward") == 24
    assert (output_dir / "debug_format.txt").read_text().count("Format reward: 0.0") == 24


def test_the_same_seed_gives_the_same_losses_and_another_seed_others(trained, tiny_checkpoint, iqa_data, tmp_path):
    expected = [(line["loss"], line["reward"]) for line in read_metrics(trained[1])]
    curves = {}
    for seed in ("42", "43"):
        arguments = build_arguments(tiny_checkpoint, iqa_data, tmp_path / seed, seed=seed)
        assert run(MODULE + arguments).returncode == 0
        curves[seed] = [(line["loss"], line["reward"]) for line in read_metrics(tmp_path / seed)]
    assert curves["42"] == expected
    assert curves["43"] != expected


def test_two_processes_work_on_different_prompts_and_agree_on_the_metrics(tiny_checkpoint, iqa_data, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    arguments = build_arguments(tiny_checkpoint, iqa_data, tmp_path / "ddp")
    result = run([*launcher, "-m", "open_r1.grpo_jsonl", *arguments])
    assert result.returncode == 0, result.stderr[-3000:]
    ranks = []
    for rank in (0, 1):
        lines = (tmp_path / "ddp" / "rollouts" / f"rank{rank}.jsonl").read_text().splitlines()
        ranks.append([json.loads(line) for line in lines])
    assert len(ranks[0]) == len(ranks[1]) == 6
    first_round = [group["row"]["id"] for groups in ranks for group in groups[:2]]
    assert len(set(first_round)) == 4
    for group in ranks[0] + ranks[1]:  # each rank got the advantages of its own groups
        rewards = torch.tensor(group["rewards"]["letters_reward"])
        expected = (rewards - rewards.mean()) / (rewards.std() + 1e-4)
        assert group["advantages"] == pytest.approx(expected.tolist(), abs=1e-4)
    metrics = read_metrics(tmp_path / "ddp")
    everywhere = [reward for groups in ranks for group in groups[:2] for reward in group["rewards"]["letters_reward"]]
    assert metrics[0]["rewards/letters_reward/mean"] == pytest.approx(sum(everywhere) / len(everywhere))


def test_torchrun_by_path_from_a_yaml_file_works_too(tiny_checkpoint, iqa_data, tmp_path):
    config = tmp_path / "config.yaml"
    words = build_arguments(tiny_checkpoint, iqa_data, tmp_path / "out", max_steps="1", reward_funcs="format")
    config.write_text("\n".join(f"{name[2:]}: {json.dumps(value)}" for name, value in zip(words[::2], words[1::2])))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
    result = run([*launcher, str(REPO / "src" / "open_r1" / "grpo_jsonl.py"), "--config", str(config)])
    assert result.returncode == 0, result.stderr[-3000:]
    assert len(read_metrics(tmp_path / "out")) == 1


def test_every_bad_row_is_named_at_once_and_nothing_is_trained(tiny_checkpoint, tmp_path):
    path, folder = write_iqa_data(tmp_path, num_rows=6)
    lines = path.read_text().splitlines()
    lines[1] = lines[1][:40]  # a broken line
    lines[2] = lines[2].replace("2.png", "absent.png")
    image = (folder / "3.png").read_bytes()
    (folder / "3.png").write_bytes(image[: len(image) // 2])  # a truncated file
    row = json.loads(lines[4])
    row["conversations"][1]["value"] = "rather good"
    lines[4] = json.dumps(row)
    row = json.loads(lines[5])
    del row["image"]
    lines[5] = json.dumps(row)
    path.write_text("\n".join(lines) + "\n")
    arguments = build_arguments(tiny_checkpoint, (path, folder), tmp_path / "out", reward_funcs="accuracy format")
    result = run(MODULE + arguments)
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    for number in (2, 3, 4, 5, 6):
        assert f"train.jsonl:{number}: " in result.stderr
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").glob("*.safetensors"))

    skipped = run(MODULE + arguments + ["--on_bad_data", "skip", "--max_steps", "1"])
    assert skipped.returncode == 0, skipped.stderr[-3000:]
    assert "left out 5 of 6 rows" in skipped.stderr


def test_help_lists_our_options():
    result = run([*MODULE, "--help"])
    assert result.returncode == 0
    for option in ("--data_file_paths", "--num_generations", "--logps_mode", "--freeze_vision_modules", "--beta"):
        assert option in result.stdout

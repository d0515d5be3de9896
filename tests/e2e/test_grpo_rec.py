"""The commands of the VQA guide and of VLM-R1's `grpo_rec`, as their users type them, on a tiny model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders import make_image
from datasets import Dataset, load_from_disk


MODULE = [sys.executable, "-m", "open_r1.grpo_rec"]
SMALL = {
    "num_generations": "4",
    "per_device_train_batch_size": "8",
    "gradient_accumulation_steps": "1",
    "max_steps": "2",
    "max_completion_length": "8",
    "save_strategy": "no",
    "use_cpu": "true",
    "report_to": "none",
}


def run(words: list[str], **environment: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    small = [word for name, value in SMALL.items() for word in (f"--{name}", value)]
    return subprocess.run([*MODULE, *words, *small], capture_output=True, text=True, env=env, timeout=300)


@pytest.fixture(scope="module")
def vqa_dataset(tmp_path_factory) -> str:
    """Six pictures with questions, options and reference steps, as `save_to_disk` writes them."""
    folder = tmp_path_factory.mktemp("vqa") / "dataset"
    rows = {
        "image": [make_image(56, 56, seed=i) for i in range(6)],
        "question": [f"Which is picture {i}?" for i in range(6)],
        "answer": ["A"] * 6,
        "choices": [["the first", "the second"]] * 6,
        "reference_steps": [["It is noise.", "It is the first."]] * 6,
        "source": ["noise"] * 6,
    }
    Dataset.from_dict(rows).save_to_disk(folder)
    return str(folder)


def read_rollouts(output_dir: Path) -> list[dict]:
    return [json.loads(line) for line in (output_dir / "rollouts" / "rank0.jsonl").read_text().splitlines()]


def test_the_command_of_the_vqa_guide_trains_on_pictures_of_a_data_set(tiny_checkpoint, vqa_dataset, tmp_path):
    words = f"""--use_huggingface_dataset --dataset-name {vqa_dataset} --task_type vqa --model_name_or_path
        {tiny_checkpoint} --output_dir {tmp_path}/out --reward_funcs accuracy format --torch_dtype float32
        --gradient_checkpointing --learning_rate 1e-5 --num_train_epochs 1 --warmup_steps 100 --max_grad_norm 1.0
        --save_total_limit 3 --logging_dir {tmp_path}/logs --report_to tensorboard --use_peft --lora_r 8
        --lora_alpha 16 --lora_dropout 0.05 --target_modules q_proj v_proj --seed 42 --tf32 false
        --is_reward_customized_from_vlm_module true --overwrite_output_dir true"""
    result = run(words.split())
    assert result.returncode == 0, result.stderr[-3000:]
    assert "--task_type says" in result.stderr and "--overwrite_output_dir does nothing" in result.stderr
    groups = read_rollouts(tmp_path / "out")
    assert len(groups) == 4  # two steps of two groups
    assert groups[0]["row"]["dataset_name"] == "noise"
    assert groups[0]["row"]["image_path"][0].startswith(f"{vqa_dataset}#")
    assert groups[0]["row"]["problem"].endswith("A) the first\nB) the second")
    assert {"vqa_accuracy_reward", "json_steps_format_reward"} == set(groups[0]["rewards"])
    info = json.loads((tmp_path / "out" / "run.json").read_text())
    assert info["data"][f"{vqa_dataset}/state.json"]


def test_a_picture_of_a_data_set_and_the_same_in_a_file_train_alike(tiny_checkpoint, vqa_dataset, tmp_path):
    """The same prompts and rewards, so the same losses, whichever loader the rows came through."""
    rows = []
    for i, row in enumerate(load_from_disk(vqa_dataset)):
        row.pop("image").save(tmp_path / f"{i}.png")
        rows.append(json.dumps({**row, "dataset_name": row.pop("source"), "image": f"{i}.png"}))
    (tmp_path / "rows.jsonl").write_text("\n".join(rows) + "\n")
    (tmp_path / "mix.yaml").write_text(json.dumps({"datasets": [{"json_path": f"{tmp_path}/rows.jsonl"}]}))
    path = tmp_path / "letters.py"
    path.write_text(
        "def letters_reward(completions, **kwargs):\n"
        "    return [sum(c.isalpha() for c in completion[0]['content']) / 40 for completion in completions]\n"
    )
    common = f"""--model_name_or_path {tiny_checkpoint} --reward_funcs {path}:letters_reward --task_type vqa
        --learning_rate 1e-3""".split()
    sources = {
        "set": ["--use_huggingface_dataset", "--dataset_name", vqa_dataset],
        "mix": ["--dataset_name", f"{tmp_path}/mix.yaml", "--image_root", str(tmp_path)],
    }
    losses = {}
    for name, words in sources.items():
        result = run([*words, *common, "--output_dir", f"{tmp_path}/{name}"])
        assert result.returncode == 0, result.stderr[-3000:]
        lines = (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        losses[name] = [line["loss"] for line in map(json.loads, lines) if "loss" in line]
    assert losses["set"] == losses["mix"]
    assert any(losses["set"])


def test_what_is_no_data_file_is_refused_in_words(tiny_checkpoint, vqa_dataset, tmp_path):
    words = f"--dataset_name {vqa_dataset} --model_name_or_path {tiny_checkpoint} --output_dir {tmp_path}/out"
    result = run(words.split())
    assert result.returncode != 0
    assert "Unsupported file type" in result.stderr and "--use_huggingface_dataset" in result.stderr
    assert "Traceback" not in result.stderr


def test_help_lists_the_options_of_both_parents():
    result = run(["--help"])
    assert result.returncode == 0
    for option in (
        "--use_huggingface_dataset",
        "--image_root",
        "--dataset-name",
        "--target_modules",
        "--reward_method",
    ):
        assert option in result.stdout
    assert "(default: rec)" in result.stdout

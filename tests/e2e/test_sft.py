"""The cold start as users type it, on a tiny model: real processes, real files."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file


@pytest.fixture(scope="module")
def data(iqa_data, tmp_path_factory) -> tuple[Path, Path]:
    """The shared rows, with something to think and with levels."""
    rows = [json.loads(line) for line in iqa_data[0].read_text().splitlines()]
    path = tmp_path_factory.mktemp("sft_data") / "rows.jsonl"
    names = ("jpeg", "lens blur")
    lines = [json.dumps(row | {"distortion": names[row["id"] % 2], "level": 1 + row["id"] % 5}) for row in rows]
    path.write_text("\n".join(lines))
    return path, iqa_data[1]


def run(module: str, data: tuple[Path, Path], checkpoint: str, output_dir: Path, **options: str):
    arguments = {
        "model_name_or_path": checkpoint,
        "data_file_paths": str(data[0]),
        "image_folders": str(data[1]),
        "output_dir": str(output_dir),
    } | options
    words = [word for name, value in arguments.items() for word in (f"--{name}", value)]
    command = [sys.executable, "-m", f"open_r1.{module}", *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def run_sft(data, checkpoint, output_dir, **options):
    settings = {
        "config": str(Path(__file__).parents[2] / "configs" / "sft" / "demo.yaml"),
        "per_device_train_batch_size": "4",
        "max_steps": "2",
        "warmup_steps": "1",
        "logging_steps": "1",
    }
    return run("sft", data, checkpoint, output_dir, **settings | options)


@pytest.fixture(scope="module")
def trained(data, tiny_checkpoint, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("sft")
    return run_sft(data, tiny_checkpoint, output_dir), output_dir


def test_two_steps_save_a_checkpoint_that_loads_and_has_moved(trained, tiny_checkpoint):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    result, output_dir = trained
    assert result.returncode == 0, result.stderr
    AutoProcessor.from_pretrained(output_dir)
    AutoModelForImageTextToText.from_pretrained(output_dir)
    before = load_file(f"{tiny_checkpoint}/model.safetensors")
    after = load_file(output_dir / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved
    assert not any("visual" in name for name in moved)  # the demo's setting freezes the tower


def test_the_loss_is_finite_and_is_logged(trained):
    state = json.loads((trained[1] / "trainer_state.json").read_text())
    losses = [entry["loss"] for entry in state["log_history"] if "loss" in entry]
    assert len(losses) == 2
    assert all(0 < loss < 20 for loss in losses)


def test_the_loss_is_taken_on_the_completion_alone(data, tiny_checkpoint, tmp_path):
    from open_r1.sft import build_trainer, parse_arguments

    settings = ["--per_device_train_batch_size", "2", "--use_cpu", "true", "--bf16", "false", "--report_to", "none"]
    places = ["--data_file_paths", str(data[0]), "--image_folders", str(data[1]), "--output_dir", str(tmp_path)]
    trainer = build_trainer(*parse_arguments(["--model_name_or_path", tiny_checkpoint, *settings, *places]))
    batch = next(iter(trainer.get_train_dataloader()))
    for labels, input_ids in zip(batch["labels"], batch["input_ids"]):
        learnt = trainer.processing_class.tokenizer.decode(labels[labels != -100])
        assert learnt.startswith("<think>") and learnt.endswith("</answer><|im_end|>\n")
        assert len(input_ids) > 30 + (labels != -100).sum()


def test_rows_without_anything_to_learn_from_are_refused(iqa_data, tiny_checkpoint, tmp_path):
    result = run_sft(iqa_data, tiny_checkpoint, tmp_path / "out")
    assert result.returncode != 0
    assert "`distortion`" in result.stderr and "Traceback" not in result.stderr
    assert not (tmp_path / "out" / "model.safetensors").exists()


def test_the_warm_up_moves_the_vision_tower_and_nothing_else(data, tiny_checkpoint, tmp_path):
    result = run("warm_up", data, tiny_checkpoint, tmp_path, max_steps="2", batch_size="4")
    assert result.returncode == 0, result.stderr
    before = load_file(f"{tiny_checkpoint}/model.safetensors")
    after = load_file(tmp_path / "model.safetensors")
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and all("visual" in name for name in moved)


def test_a_cold_start_goes_on_from_a_checkpoint_as_if_it_had_never_stopped(data, tiny_checkpoint, tmp_path):
    settings = {"max_steps": "4", "save_strategy": "steps", "save_steps": "1", "logging_steps": "2"}
    assert run_sft(data, tiny_checkpoint, tmp_path / "run", **settings).returncode == 0
    checkpoint = str(tmp_path / "run" / "checkpoint-1")
    again = run_sft(data, tiny_checkpoint, tmp_path / "again", resume_from_checkpoint=checkpoint, **settings)
    assert again.returncode == 0, again.stderr
    weights = [load_file(tmp_path / folder / "model.safetensors") for folder in ("run", "again")]
    assert [name for name in weights[0] if not torch.equal(weights[0][name], weights[1][name])] == []
    curves = []
    for folder in ("run", "again"):
        lines = map(json.loads, (tmp_path / folder / "metrics.jsonl").read_text().splitlines())
        names = ("step", "loss", "num_tokens", "mean_token_accuracy")
        curves.append([[line[name] for name in names] for line in lines if "loss" in line])
    assert len(curves[0]) == 2
    assert curves[0] == curves[1]

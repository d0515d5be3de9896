"""Trackers get the metrics of a run and tables of its completions; adapters get a card. All is read from files."""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


METRICS = ("loss", "reward", "kl", "rewards/letters_reward/mean", "completions/mean_length", "time/generate_s")


@pytest.fixture(scope="module")
def run(tiny_checkpoint, iqa_data, tmp_path_factory) -> Path:
    """Two steps of LoRA with both trackers, offline."""
    pytest.importorskip("tensorboard", reason="needs the extra `track`")
    pytest.importorskip("wandb", reason="needs the extra `track`")
    folder = tmp_path_factory.mktemp("tracked")
    rewards = folder / "my_rewards.py"
    rewards.write_text(
        "def letters_reward(completions, **kwargs):\n"
        "    return [sum(c.isalpha() for c in completion[0]['content']) / 40 for completion in completions]\n"
    )
    (folder / "trackers.yaml").write_text("report_to: [tensorboard, wandb]\n")
    arguments = {
        "model_name_or_path": tiny_checkpoint,
        "data_file_paths": iqa_data[0],
        "image_folders": iqa_data[1],
        "output_dir": folder / "run",
        "num_generations": 2,
        "per_device_train_batch_size": 4,
        "max_completion_length": 8,
        "max_steps": 2,
        "save_strategy": "no",
        "use_cpu": "true",
        "use_peft": "true",
        "reward_funcs": f"{rewards}:letters_reward format",
        "config": folder / "trackers.yaml",
        "log_completions": "true",
        "num_logged_completions": 3,
    }
    words = [word for name, value in arguments.items() for word in (f"--{name}", *str(value).split(" "))]
    places = {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(folder),
        "TENSORBOARD_LOGGING_DIR": str(folder / "tensorboard"),
    }
    result = subprocess.run(
        [sys.executable, "-m", "open_r1.grpo_jsonl", *words],
        env={**os.environ, "OMP_NUM_THREADS": "1", "WANDB_SILENT": "true", **places},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    return folder


def read_metrics(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "run" / "metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def test_tensorboard_has_the_metrics_the_table_and_the_images(run):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"), size_guidance={"images": 0, "tensors": 0}).Reload()
    tags = events.Tags()
    assert {f"train/{name}" for name in METRICS} <= set(tags["scalars"])
    for line, event in zip(read_metrics(run), events.Scalars("train/reward"), strict=True):
        assert (event.step, event.value) == (line["step"], pytest.approx(line["reward"], rel=1e-5))
    tables = [tensor.tensor_proto.string_val[0].decode() for tensor in events.Tensors("completions/text_summary")]
    assert len(tables) == 2
    header, _, *rows = tables[0].strip().splitlines()
    names = ["group", "step", "prompt", "completion", "letters_reward", "format_reward", "advantage", "finish_reason"]
    assert [cell.strip() for cell in header.strip("| ").split("|")] == names
    assert len(rows) == 3
    assert [len(events.Images(f"completions/group_{group}")) for group in (0, 1)] == [2, 2]


def read_blocks(path: Path) -> Iterator[bytes]:
    """The records of a `.wandb` file: LevelDB's log format (blocks of 32 KiB) behind a header of 7 bytes."""
    content, place, parts = path.read_bytes(), 7, b""
    while place + 7 <= len(content):
        room = 32768 - place % 32768
        if room < 7:
            place += room
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last of several parts
            yield parts
            parts = b""


def test_weights_and_biases_has_the_metrics_and_tables_with_images(run):
    from wandb.proto import wandb_internal_pb2

    (path,) = run.glob("wandb/offline-run-*/run-*.wandb")
    keys, rewards, tables = set(), [], []
    for content in read_blocks(path):
        record = wandb_internal_pb2.Record()
        record.ParseFromString(content)
        if record.WhichOneof("record_type") == "artifact":  # the table with its images
            tables.append([entry.path for entry in record.artifact.manifest.contents])
        items = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
        keys |= items.keys()
        if "train/reward" in items:
            rewards.append(json.loads(items["train/reward"]))
    assert {f"train/{name}" for name in METRICS} <= keys
    assert rewards == pytest.approx([line["reward"] for line in read_metrics(run)])
    assert [len([name for name in names if name.startswith("media/images/")]) for names in tables] == [2, 2]
    previews = sorted(run.glob("wandb/offline-run-*/files/media/table/completions*.json"))
    assert len(previews) == 2
    table = json.loads(previews[0].read_text())
    assert table["columns"][-1] == "image" and table["columns"][2] == "completion"
    assert len(table["data"]) == 3


def test_adapters_come_with_the_card_of_the_run(run):
    card = (run / "run" / "README.md").read_text()
    assert "adapters (LoRA) of" in card and "letters_reward" in card
    reward = read_metrics(run)[-1]["reward"]
    assert f"| reward | {reward:.4g} |" in card
    assert (run / "run" / "adapter_model.safetensors").is_file()

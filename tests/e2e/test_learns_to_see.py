"""Thirty steps of GRPO teach a tiny random model of each family to tell red pictures from blue ones.

A completion is one token; red wants an even one, blue an odd one, so a model earns 0.5 until it sees. Measured on a
CPU, seeds 0 to 2 of every family that takes images and that transformers has: 0.48 to 0.60 in the first five steps; in
the last five 0.93 to 0.98 for Aria and 0.99 to 1.00 for all others; where all pictures have one colour, 0.47 to 0.53
(seed 0).
"""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import ask
from capabilities import proves
from datasets import Dataset
from families import FAMILIES, build_checkpoint
from PIL import Image
from remote_family import build_remote_checkpoint

from open_r1.configs import GRPOModelConfig
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.grpo_trainer import VLMGRPOTrainer
from open_r1.trainer.loading import load_policy, load_processor, load_vlm_module


NUM_STEPS = 30
SEEN, BLIND = 0.8, 0.65  # far from what is measured, on either side
QUICK = "qwen2_5_vl"


def side_reward(completions, completion_ids, is_red, **columns):
    return [float((ids[0] % 2 == 0) == red) for ids, red in zip(completion_ids, is_red, strict=True)]


def build_rows(folder: Path, is_visible: bool) -> Dataset:
    """Eight noisy pictures, red and blue in turn, or all green."""
    folder.mkdir()
    rows = []
    for number in range(8):
        is_red = number % 2 == 0
        pixels = np.random.default_rng(number).integers(0, 60, (56, 56, 3), dtype=np.uint8)
        channel = 1 if not is_visible else 0 if is_red else 2
        pixels[..., channel] += 180
        path = folder / f"{number}.png"
        Image.fromarray(pixels).save(path)
        row = {"id": str(number), "dataset_name": "COLOURS", "source": f"rows.jsonl:{number + 1}", "is_red": is_red}
        rows.append(row | {"image_path": [str(path)], "prompt": ask("Red or blue?", 1)})
    return Dataset.from_list(rows)


def train(checkpoint: str, rows: Dataset, output_dir: Path, seed: int = 0) -> list[float]:
    """Mean rewards of the steps; everything is trained, the vision tower too."""
    model_args = GRPOModelConfig(model_name_or_path=checkpoint, dtype="float32", trust_remote_code=True)
    args = GRPOConfig(
        output_dir=str(output_dir),
        num_generations=32,
        per_device_train_batch_size=128,
        max_completion_length=1,
        learning_rate=5e-3,
        lr_scheduler_type="constant",
        beta=0.0,
        max_steps=NUM_STEPS,
        logging_steps=1,
        seed=seed,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
    )
    torch.manual_seed(seed)
    vlm_module = load_vlm_module(model_args)
    trainer = VLMGRPOTrainer(
        load_policy(model_args, vlm_module),
        None,
        [side_reward],
        args,
        vlm_module=vlm_module,
        processing_class=load_processor(model_args, vlm_module),
        train_dataset=rows,
    )
    trainer.train()
    lines = map(json.loads, (output_dir / "metrics.jsonl").read_text().splitlines())
    return [line["reward"] for line in lines if "loss" in line]


CASES = [
    name if name == QUICK else pytest.param(name, marks=pytest.mark.slow) for name in (*FAMILIES, "internvl_chat")
]


@pytest.mark.parametrize("model_type", CASES)
@proves("learns to see")
def test_the_reward_rises_where_the_model_sees_the_colour_and_not_where_there_is_none(
    model_type: str, tmp_path: Path, record_property: Callable
):
    record_property("model_type", model_type)
    record_property("capability", "learns to see")
    build = build_remote_checkpoint if model_type == "internvl_chat" else lambda to: build_checkpoint(model_type, to)
    checkpoint = build(tmp_path / "model")
    seen = train(checkpoint, build_rows(tmp_path / "colours", True), tmp_path / "seen")
    blind = train(checkpoint, build_rows(tmp_path / "green", False), tmp_path / "blind")
    assert len(seen) == len(blind) == NUM_STEPS
    assert np.mean(seen[:2]) < BLIND  # the pictures are all that there is to learn from
    assert np.mean(seen[-5:]) > SEEN
    assert np.mean(blind[-5:]) < BLIND

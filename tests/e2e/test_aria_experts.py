"""Adapters on the routed experts of Aria, which are parameters of three dimensions: packed rows learn as others do."""

from pathlib import Path

import pytest
import torch
from builders import ask, make_image
from datasets import Dataset
from families import build_checkpoint

from open_r1.configs import GRPOModelConfig
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.grpo_trainer import VLMGRPOTrainer
from open_r1.trainer.loading import load_policy, load_processor, load_vlm_module


EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]


def some_reward(completion_ids, **columns):
    return [float(sum(ids) % 7) for ids in completion_ids]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return build_checkpoint("aria", tmp_path_factory.mktemp("aria"))


def train(checkpoint: str, folder: Path, logps_mode: str, **options) -> dict[str, torch.Tensor]:
    """What three steps made of the adapters."""
    model_args = GRPOModelConfig(
        model_name_or_path=checkpoint, use_peft=True, lora_r=2, lora_target_parameters=EXPERTS, **options
    )
    vlm_module = load_vlm_module(model_args)
    torch.manual_seed(0)
    make_image(56, 56).save(folder / "a.png")
    row = {"id": "1", "dataset_name": "A", "source": "a.jsonl:1", "image_path": [str(folder / "a.png")]}
    trainer = VLMGRPOTrainer(
        load_policy(model_args, vlm_module),
        None,
        [some_reward],
        GRPOConfig(
            output_dir=str(folder / "run"),
            num_generations=4,
            per_device_train_batch_size=4,
            max_completion_length=4,
            max_steps=3,
            learning_rate=1e-2,
            logps_mode=logps_mode,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
        ),
        vlm_module=vlm_module,
        processing_class=load_processor(model_args, vlm_module),
        train_dataset=Dataset.from_list([row | {"prompt": ask("?", 1)}]),
    )
    trainer.train()
    return {name: value.detach() for name, value in trainer.model.named_parameters() if value.requires_grad}


def test_experts_alone_learn_the_same_in_packed_rows_and_in_replicated_ones(checkpoint, tmp_path):
    packed = train(checkpoint, tmp_path, "packed")
    replicated = train(checkpoint, tmp_path, "replicated")
    assert len(packed) == 2 * 2 * 2  # layers, parameters, matrices of an adapter
    assert all(".mlp.experts." in name for name in packed)
    assert all(value.any() for value in packed.values())  # lora_B starts as zeros
    for name, value in packed.items():  # Adam makes a whole step of a gradient that is all rounding, here and there
        assert (value - replicated[name]).norm() < 0.01 * value.norm(), name


def test_experts_are_adapted_beside_the_linear_layers_on_request(checkpoint, tmp_path):
    learnt = train(checkpoint, tmp_path, "auto", lora_modules=["language"])
    assert any(".mlp.experts." in name for name in learnt)
    assert any(".self_attn.q_proj." in name for name in learnt)
    assert any(".shared_experts." in name for name in learnt)
    assert not any("router" in name or "vision" in name for name in learnt)

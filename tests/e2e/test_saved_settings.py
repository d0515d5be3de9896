"""Checkpoints of a full fine-tuning generate as the model that they came from: what they say of it is unchanged."""

import json
from pathlib import Path

import pytest
from builders import ask, make_image
from datasets import Dataset
from families import build_checkpoint
from transformers import AutoModelForImageTextToText

from open_r1.configs import GRPOModelConfig
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.grpo_trainer import VLMGRPOTrainer
from open_r1.trainer.loading import load_policy, load_vlm_module


def length_reward(completion_ids, **columns):
    return [float(sum(ids)) for ids in completion_ids]


def read(folder: Path, name: str) -> dict:
    """A configuration, without what has nothing to do with generation."""
    values = json.loads((folder / name).read_text())
    for part in (values, values.get("text_config", {}), values.get("vision_config", {})):
        part.pop("dtype", None)
    return values


@pytest.fixture(scope="module", params=["qwen2_5_vl", "idefics3", "llava"])
def run(request, tmp_path_factory) -> tuple[Path, Path]:
    """The folder of a model whose end and beginning of text are not the tokenizer's, and that of a run on it."""
    root = tmp_path_factory.mktemp(request.param)
    checkpoint = build_checkpoint(request.param, root / "model")
    changed = {"bos_token_id": 5, "eos_token_id": [7, 8], "temperature": 0.3, "do_sample": True}
    path = root / "model" / "generation_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    path = root / "model" / "config.json"
    config = json.loads(path.read_text())
    config["text_config"] |= {"bos_token_id": 5, "eos_token_id": 7}
    path.write_text(json.dumps(config))

    make_image(56, 56).save(root / "a.png")
    row = {"id": "1", "dataset_name": "A", "source": "a.jsonl:1", "image_path": [str(root / "a.png")]}
    model_args = GRPOModelConfig(model_name_or_path=checkpoint)
    vlm_module = load_vlm_module(model_args)
    settings = {"save_strategy": "steps", "save_steps": 1, "report_to": "none", "use_cpu": True, "disable_tqdm": True}
    trainer = VLMGRPOTrainer(
        load_policy(model_args, vlm_module),
        None,
        [length_reward],
        GRPOConfig(
            output_dir=str(root / "run"),
            num_generations=2,
            per_device_train_batch_size=2,
            max_completion_length=2,
            max_steps=1,
            beta=0.0,
            gradient_checkpointing=True,
            **settings,
        ),
        vlm_module=vlm_module,
        processing_class=vlm_module.load_processor(checkpoint),
        train_dataset=Dataset.from_list([row | {"prompt": ask("?", 1)}]),
    )
    trainer.train()
    trainer.save_final_model()
    return root / "model", root / "run"


@pytest.mark.parametrize("saved", [".", "checkpoint-1"])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_what_a_checkpoint_says_of_generation_is_what_its_base_says(run, saved, name):
    base, output = run
    assert read(output / saved, name) == read(base, name)


def test_a_loaded_checkpoint_uses_its_cache(run):
    model = AutoModelForImageTextToText.from_pretrained(run[1])
    assert getattr(model.config, "use_cache", True)
    assert model.generation_config.use_cache is not False

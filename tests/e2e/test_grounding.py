"""Referring expressions through the trainer: rewards know the sizes of pictures and the coordinates of the family."""

import json

import pytest
import torch
from builders import make_image

from open_r1.completions import get_answer_contract
from open_r1.configs import GRPOModelConfig
from open_r1.data.jsonl import load_jsonl_dataset
from open_r1.rewards import build_reward_funcs
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.grpo_trainer import VLMGRPOTrainer
from open_r1.trainer.loading import load_policy, load_vlm_module


SIZES = {"a.png": (60, 90), "b.png": (100, 40)}
INPUT_SIZES = {"a.png": (56, 84), "b.png": (112, 28)}  # multiples of 28


@pytest.fixture
def rows(tmp_path):
    lines = []
    for i, (name, size) in enumerate(SIZES.items()):
        make_image(*size, seed=i).save(tmp_path / name)
        turns = [
            {"from": "human", "value": "<image>Where is the dog?"},
            {"from": "gpt", "value": f"[0, 0, {size[0] // 2}, {size[1]}]"},
        ]
        lines.append(json.dumps({"id": i, "dataset_name": "REF", "image": [name], "conversations": turns}))
    (tmp_path / "train.jsonl").write_text("\n".join(lines) + "\n")
    return load_jsonl_dataset(
        [str(tmp_path / "train.jsonl")], [str(tmp_path)], contract=get_answer_contract("rec"), require_mos=False
    )


def test_boxes_are_rewarded_in_the_coordinates_of_the_family_in_training_and_evaluation(
    tiny_checkpoint, rows, tmp_path
):
    """Whatever the model writes, it is rewarded for the left half of each picture, in pixels of the resized one."""
    (iou,) = build_reward_funcs(["accuracy"], "rec")
    seen = []

    def left_half_reward(prompts, completions, completion_ids=None, **columns):
        texts = []
        for path, (input_size,) in zip(columns["image_path"], columns["input_size"], strict=True):
            seen.append((path[0].rsplit("/", 1)[-1], input_size, columns["family_box_format"]))
            texts.append(f"<answer>[0, 0, {input_size[0] // 2}, {input_size[1]}]</answer>")
        as_written = [[{"role": "assistant", "content": text}] for text in texts]
        rewards = iou(prompts, as_written, completion_ids, **columns)
        assert rewards == pytest.approx([1.0] * len(texts))
        assert max(iou(prompts, completions, completion_ids, **columns)) < 1
        return [reward + len(completion_ids[b]) for b, reward in enumerate(rewards)]

    args = GRPOConfig(
        output_dir=str(tmp_path / "run"),
        num_generations=2,
        per_device_train_batch_size=4,
        max_completion_length=4,
        max_steps=1,
        report_to="none",
        save_strategy="no",
        use_cpu=True,
        disable_tqdm=True,
        beta=0.0,
    )
    model_args = GRPOModelConfig(model_name_or_path=tiny_checkpoint)
    torch.manual_seed(0)
    vlm_module = load_vlm_module(model_args)
    trainer = VLMGRPOTrainer(
        load_policy(model_args, vlm_module),
        None,
        [left_half_reward],
        args,
        vlm_module=vlm_module,
        processing_class=vlm_module.load_processor(tiny_checkpoint),
        train_dataset=rows,
        eval_dataset=rows,
    )
    expected = {(name, size, "input_pixel") for name, size in INPUT_SIZES.items()}
    trainer.train()
    assert len(seen) == 4
    assert set(seen) == expected
    seen.clear()
    trainer.evaluate()
    assert set(seen) == expected

"""Training cases with videos, in the processes that torchrun starts, as in `distributed_cases.py`.

    torchrun --nproc_per_node 2 tests/video_cases.py CHECKPOINT ROWS OUTPUT_DIR CASE...

Devices show different kinds of media at the same time, and some show nothing.
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from distributed_cases import (
    ALONE,
    CHECKPOINTING,
    FROZEN,
    FSDP2,
    ROWS,
    SETTINGS,
    FixedRollouts,
    clean_up,
    read_steps,
    score_fixed_batch,
    zero,
)

from open_r1.configs import GRPOModelConfig
from open_r1.data.video import VideoSettings
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.grpo_trainer import VLMGRPOTrainer
from open_r1.trainer.loading import load_policy, load_reference, load_vlm_module


# Images and videos of each row: eight are a round, the first four of them for the first device.
SHOWN = [
    *[(1, 0), (0, 0), (2, 0), (1, 0), (0, 1), (0, 0), (0, 1), (0, 2)],  # images here, videos there
    *[(1, 1), (0, 0), (1, 0), (0, 0), (0, 0), (0, 0), (0, 0), (0, 0)],  # both here, nothing there
]

# name: settings of training, options of the model
CASES = {
    "one": (ALONE, {}),
    "one_frozen": (ALONE, FROZEN),
    "ddp": ({}, {}),
    "ddp_checkpointing": (CHECKPOINTING, {}),
    "zero3": (zero(3), {}),
    "zero3_rows": (zero(3) | ROWS, {}),
    "zero3_frozen": (zero(3), FROZEN),
    "fsdp2": (FSDP2, {}),
    "ddp_generate": ({}, {}),
    "zero3_generate": (zero(3), {}),
    "zero3_layerwise_generate": (zero(3) | {"ds3_gather_for_generation": False}, {}),
}


def token_reward(completions, completion_ids, image_path, video_path, **columns):
    """Groups that show nothing have no advantage."""
    shown = [bool(images or videos) for images, videos in zip(image_path, video_path)]
    return [sum(ids) % 17 / 17 if is_shown else 0.5 for ids, is_shown in zip(completion_ids, shown)]


def run_case(checkpoint: str, rows: list[dict], output_dir: Path, case: str) -> None:
    settings, model_options = CASES[case]
    args = GRPOConfig(**({"output_dir": str(output_dir / case)} | SETTINGS | settings))
    model_args = GRPOModelConfig(model_name_or_path=checkpoint, **model_options)
    torch.manual_seed(0)
    vlm_module = load_vlm_module(model_args)
    processor = vlm_module.load_processor(checkpoint)
    takes_sound = vlm_module.get_sampling_rate(processor) is not None
    trainer = (VLMGRPOTrainer if case.endswith("generate") else FixedRollouts)(
        load_policy(model_args, vlm_module),
        load_reference(model_args, vlm_module, args.beta),
        [token_reward],
        args,
        vlm_module=vlm_module,
        processing_class=processor,
        train_dataset=Dataset.from_list(rows),
        video_settings=VideoSettings(max_frames=4, audio=takes_sound),
    )
    trainer.train()
    result = {"steps": read_steps(output_dir / case)}
    if not case.endswith("generate"):
        result["logps"] = score_fixed_batch(trainer, rows)
    if trainer.is_world_process_zero():
        (output_dir / f"{case}.json").write_text(json.dumps(result))


def main(checkpoint: str, rows_path: str, output_dir: str, *cases: str) -> None:
    rows = json.loads(Path(rows_path).read_text())
    for case in cases:
        run_case(checkpoint, rows, Path(output_dir), case)
        clean_up()


if __name__ == "__main__":
    main(*sys.argv[1:])

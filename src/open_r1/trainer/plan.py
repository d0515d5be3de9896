"""What a run would do, told before any weight is loaded: `--dry_run`.

options, rows, rewards     checked as always                  grpo_jsonl
-> prompts                 a few are encoded                  measure_prompts
-> the plan                batch arithmetic, as text          describe_plan
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from open_r1.configs import GRPOModelConfig
from open_r1.data.columns import read_column
from open_r1.data.video import VideoSettings
from open_r1.trainer.collator import GroupCollator
from open_r1.trainer.fsdp import uses_fsdp
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.pools import build_pools
from open_r1.trainer.samplers import RepeatRandomSampler
from open_r1.vlm_modules.vlm_module import VLMBaseModule


if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the rows are used up. KADID-10K on eight GPUs: 64 prompts, 384 completions, 96 steps per epoch."""

    prompts_per_step: int  # over all devices
    completions_per_step: int
    steps_per_epoch: int
    num_steps: int


def compute_schedule(args: GRPOConfig, dataset: "Dataset", num_processes: int) -> Schedule:
    """The optimizer steps of a run; an epoch's last step may be smaller than the others.

    Args:
        args: Settings.
        dataset: Training rows.
        num_processes: On all nodes together.

    Raises:
        ValueError: the rows cannot be dealt to devices as the settings ask for.
    """
    micro_steps = RepeatRandomSampler(
        len(dataset),
        prompts_per_round=args.groups_per_step * args.steps_per_generation,
        steps_per_round=args.steps_per_generation * args.num_iterations,
        world_size=num_processes,
        pools=build_pools(dataset, args),
    )
    steps_per_epoch = math.ceil(len(micro_steps) / args.gradient_accumulation_steps)
    groups = args.groups_per_step * args.gradient_accumulation_steps * num_processes
    return Schedule(
        prompts_per_step=groups,
        completions_per_step=groups * args.num_generations,
        steps_per_epoch=steps_per_epoch,
        num_steps=args.max_steps if args.max_steps > 0 else math.ceil(args.num_train_epochs * steps_per_epoch),
    )


def measure_prompts(
    args: GRPOConfig,
    dataset: "Dataset",
    vlm_module: VLMBaseModule,
    processor: Any,
    video_settings: VideoSettings,
    num_rows: int = 16,
) -> int:
    """Tokens of the longest prompt, those of images and videos included, of a few rows spread over the data.

    Raises:
        ValueError: a prompt is longer than `--max_prompt_length`.
    """
    rows = range(0, len(dataset), max(1, len(dataset) // num_rows))
    collator = GroupCollator(vlm_module, processor, args.max_prompt_length, video_settings)
    return max(group.prompt.num_tokens for i in rows for group in collator([dataset[i]]))


def describe_plan(
    args: GRPOConfig,
    model_args: GRPOModelConfig,
    *,
    reward_names: Sequence[str],
    train_dataset: "Dataset",
    eval_dataset: "Dataset | None",
    prompt_length: int,
    checkpoint: str | None,
) -> str:
    """The plan as lines of text.

    Args:
        args: Settings.
        model_args: Which model, and which part of it is trained.
        reward_names: Names of the reward functions.
        train_dataset: Training rows.
        eval_dataset: Validation rows, or None.
        prompt_length: Tokens of the longest prompt that was tried.
        checkpoint: Where the run would go on from, or None.
    """
    schedule = compute_schedule(args, train_dataset, args.world_size)
    counts = Counter(read_column(train_dataset, "dataset_name"))
    trained = f"LoRA of rank {model_args.lora_r}" if model_args.use_peft else "all weights"
    if model_args.frozen_parts:
        trained += f", {' and '.join(model_args.frozen_parts)} frozen"
    lines = {
        "model": f"{model_args.model_name_or_path}, {model_args.dtype}; {trained}",
        "rows": ", ".join(f"{count} of {name}" for name, count in sorted(counts.items())),
        "validation": "none" if eval_dataset is None else f"{len(eval_dataset)} rows",
        "rewards": ", ".join(reward_names),
        "prompts": f"up to {prompt_length} tokens in the rows that were tried",
        "processes": f"{args.world_size} on {args.device.type}, {describe_sharding(args)}",
        "generation": describe_generation(args),
        "step": f"{schedule.prompts_per_step} prompts, {schedule.completions_per_step} completions",
        "epoch": f"{schedule.steps_per_epoch} steps",
        "run": f"{schedule.num_steps} steps" + (f", on from {checkpoint}" if checkpoint else ""),
        "output": str(args.output_dir),
    }
    return "\n".join(f"{name:<11} {text}" for name, text in lines.items())


def describe_sharding(args: GRPOConfig) -> str:
    """What is shared out among processes."""
    if uses_fsdp(args):
        return "FSDP2"
    plugin = args.deepspeed_plugin
    return "every one with the whole model" if plugin is None else f"DeepSpeed ZeRO-{plugin.zero_stage}"


def describe_generation(args: GRPOConfig) -> str:
    """Who draws the completions, and where."""
    if not args.use_vllm:
        return "the policy itself"
    if args.vllm_mode == "server":
        return f"vLLM at {args.vllm_server_address}"
    size = args.vllm_tensor_parallel_size
    parts = ["vLLM on the same devices", f"{args.vllm_gpu_memory_utilization:.0%} of each one's memory"]
    parts += [f"{size} processes to a copy"] * (size > 1) + ["given back between rounds"] * args.vllm_enable_sleep_mode
    return ", ".join(parts)

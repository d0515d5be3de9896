"""Trains a vision-language model with GRPO on JSONL data.

    python -m open_r1.grpo_jsonl --config configs/grpo/demo.yaml
    torchrun --nproc_per_node 8 -m open_r1.grpo_jsonl --model_name_or_path Qwen/Qwen2.5-VL-7B-Instruct \
        --dtype bfloat16 --bf16 --use_peft --gradient_checkpointing \
        --data_file_paths train.jsonl --image_folders images --output_dir output/run

`--help` lists every option; those of transformers' `TrainingArguments` are all there.
"""

import logging
import sys
from typing import TYPE_CHECKING

from open_r1.utils.compat import speed_up_help


if TYPE_CHECKING:
    from datasets import Dataset

    from open_r1.configs import GRPOModelConfig, GRPOScriptArguments
    from open_r1.trainer.grpo_config import GRPOConfig
    from open_r1.trainer.grpo_trainer import VLMGRPOTrainer

# Which task a question template belongs to, where --task_type does not say.
_TASK_OF_TEMPLATE = {"scoring": "iqa", "scoring_no_think": "iqa_nothink"}


def parse_arguments(argv: list[str]) -> "tuple[GRPOScriptArguments, GRPOConfig, GRPOModelConfig]":
    speed_up_help(argv)
    from trl import TrlParser

    from open_r1.configs import GRPOModelConfig, GRPOScriptArguments
    from open_r1.trainer.grpo_config import GRPOConfig

    parser = TrlParser((GRPOScriptArguments, GRPOConfig, GRPOModelConfig), prog="grpo_jsonl")
    return parser.parse_args_and_config(argv)


def load_data(script_args: "GRPOScriptArguments", training_args: "GRPOConfig") -> "tuple[Dataset, Dataset | None]":
    """Training rows, and validation rows or None."""
    from open_r1.completions import get_answer_contract
    from open_r1.data.jsonl import load_jsonl_dataset, split_paths, split_train_validation

    dataset = load_jsonl_dataset(
        split_paths(script_args.data_file_paths),
        split_paths(script_args.image_folders),
        contract=get_answer_contract(script_args.question_template),
        require_mos=script_args.question_template.startswith("scoring"),
        dataset_name=script_args.dataset_name,
        on_bad_data=script_args.on_bad_data,
        verify_images=script_args.verify_images,
    )
    if script_args.val_split_ratio == 0:
        return dataset, None
    return split_train_validation(dataset, script_args.val_split_ratio, training_args.seed)


def build_rewards(script_args: "GRPOScriptArguments", training_args: "GRPOConfig") -> list:
    from open_r1.rewards import build_reward_funcs
    from open_r1.rewards.overlong import choose_overlong_cache

    return build_reward_funcs(
        script_args.reward_funcs,
        task_type=script_args.task_type or _TASK_OF_TEMPLATE[script_args.question_template],
        ranking_reward=script_args.ranking_reward,
        ranking_scope=script_args.ranking_scope,
        ranking_variance=script_args.ranking_variance,
        max_completion_length=training_args.max_completion_length,
        overlong_cache=choose_overlong_cache(training_args.max_completion_length, script_args.overlong_cache),
    )


def build_trainer(
    script_args: "GRPOScriptArguments", training_args: "GRPOConfig", model_args: "GRPOModelConfig"
) -> "VLMGRPOTrainer":
    from transformers import set_seed

    from open_r1.trainer.grpo_trainer import VLMGRPOTrainer
    from open_r1.trainer.loading import load_policy, load_processor, load_reference, load_vlm_module

    reward_funcs = build_rewards(script_args, training_args)
    train_dataset, eval_dataset = load_data(script_args, training_args)
    set_seed(training_args.seed)
    vlm_module = load_vlm_module(model_args)
    return VLMGRPOTrainer(
        load_policy(model_args, vlm_module),
        load_reference(model_args, vlm_module, training_args.beta),
        reward_funcs,
        training_args,
        vlm_module=vlm_module,
        processing_class=load_processor(model_args, vlm_module, script_args.min_pixels, script_args.max_pixels),
        train_dataset=train_dataset,
        eval_dataset=eval_dataset,
    )


def main(argv: list[str] | None = None) -> None:
    script_args, training_args, model_args = parse_arguments(sys.argv[1:] if argv is None else argv)
    from open_r1.trainer.run import find_checkpoint, train_and_save

    checkpoint = find_checkpoint(training_args.resume_from_checkpoint, training_args.output_dir)
    trainer = build_trainer(script_args, training_args, model_args)
    train_and_save(trainer, checkpoint, script_args, model_args)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")

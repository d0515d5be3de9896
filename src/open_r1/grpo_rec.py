"""Trains as `grpo_jsonl` does, on a Hugging Face data set or a YAML mixture of files.

    python -m open_r1.grpo_rec --use_huggingface_dataset --dataset_name vqa_dataset --task_type vqa \
        --reward_funcs accuracy format reasoning --model_name_or_path Qwen/Qwen2.5-VL-3B-Instruct \
        --output_dir output/vqa
    torchrun --nproc_per_node 8 -m open_r1.grpo_rec --dataset_name refcoco.yaml --image_root coco \
        --model_name_or_path Qwen/Qwen2.5-VL-3B-Instruct --output_dir output/rec

Options are those of `grpo_jsonl`; the task is `rec` where none is named.
"""

import logging
import sys
from typing import TYPE_CHECKING

from open_r1.utils.compat import speed_up_help


if TYPE_CHECKING:
    from open_r1.configs import GRPOModelConfig, RecScriptArguments
    from open_r1.trainer.grpo_config import GRPOConfig


def parse_arguments(argv: list[str]) -> "tuple[RecScriptArguments, GRPOConfig, GRPOModelConfig]":
    speed_up_help(argv)
    from trl import TrlParser

    from open_r1.configs import GRPOModelConfig, RecScriptArguments
    from open_r1.trainer.grpo_config import GRPOConfig
    from open_r1.utils.old_options import replace_old_options

    parser = TrlParser((RecScriptArguments, GRPOConfig, GRPOModelConfig), prog="grpo_rec")
    return parser.parse_args_and_config(replace_old_options(argv))


def main(argv: list[str] | None = None) -> None:
    from open_r1.grpo_jsonl import run

    run(*parse_arguments(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        main()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")

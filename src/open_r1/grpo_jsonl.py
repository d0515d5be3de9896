"""Trains a vision-language model with GRPO on JSONL data.

    python -m open_r1.grpo_jsonl --config configs/grpo/demo.yaml
    torchrun --nproc_per_node 8 -m open_r1.grpo_jsonl --model_name_or_path Qwen/Qwen2.5-VL-7B-Instruct \
        --dtype bfloat16 --bf16 --use_peft --gradient_checkpointing \
        --data_file_paths train.jsonl --image_folders images --output_dir output/run

`--help` lists every option; those of transformers' `TrainingArguments` are all there.
"""

import functools
import logging
import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from open_r1.utils.compat import speed_up_help


if TYPE_CHECKING:
    from datasets import Dataset

    from open_r1.configs import GRPOModelConfig, GRPOScriptArguments
    from open_r1.trainer.grpo_config import GRPOConfig
    from open_r1.trainer.grpo_trainer import VLMGRPOTrainer
    from open_r1.utils.score_metrics import EvalMetrics

logger = logging.getLogger(__name__)


def parse_arguments(argv: list[str]) -> "tuple[GRPOScriptArguments, GRPOConfig, GRPOModelConfig]":
    speed_up_help(argv)
    from trl import TrlParser

    from open_r1.configs import GRPOModelConfig, GRPOScriptArguments
    from open_r1.trainer.grpo_config import GRPOConfig
    from open_r1.utils.old_options import replace_old_options

    parser = TrlParser((GRPOScriptArguments, GRPOConfig, GRPOModelConfig), prog="grpo_jsonl")
    return parser.parse_args_and_config(replace_old_options(argv))


def load_data(script_args: "GRPOScriptArguments", training_args: "GRPOConfig") -> "tuple[Dataset, Dataset | None]":
    """Training rows, and validation rows or None."""
    from open_r1.data.loading import count_shared_images, load_rows
    from open_r1.data.splits import split_train_validation

    check_validation_options(script_args, training_args)
    choice = {
        "seed": training_args.seed if training_args.data_seed is None else training_args.data_seed,
        "require_mos": script_args.task.needs_mos,
        "reward_methods": find_reward_methods(script_args),
    }
    train_split, test_split = script_args.dataset_train_split, script_args.dataset_test_split
    files, folders = script_args.data_file_paths, script_args.image_folders
    dataset = load_rows(script_args, files, folders, split=train_split, **choice)
    if script_args.val_split_ratio > 0:
        return split_train_validation(dataset, script_args.val_split_ratio, training_args.seed)
    files, folders = script_args.eval_data_file_paths, script_args.eval_image_folders
    is_wanted = training_args.eval_strategy != "no" or training_args.eval_on_start
    if not files and not (script_args.use_huggingface_dataset and is_wanted):
        return dataset, None
    eval_dataset = load_rows(script_args, files, folders, split=test_split, **choice)
    num_shared = count_shared_images(dataset, eval_dataset)
    if num_shared:
        logger.warning("%d of %d validation rows show an image of the training data", num_shared, len(eval_dataset))
    return dataset, eval_dataset


def find_reward_methods(script_args: "GRPOScriptArguments") -> Iterable[str] | None:
    """The known values of `accu_reward_method`, where a reward goes by them; None: none does."""
    from open_r1.tasks import REWARD_METHODS

    short_names = script_args.task.rewards
    names = {short_names.get(name, name) for name in script_args.reward_funcs}
    return REWARD_METHODS if "method_accuracy" in names else None


def check_validation_options(script_args: "GRPOScriptArguments", training_args: "GRPOConfig") -> None:
    """Refuses evaluation without data; warns of data without evaluation."""
    is_wanted = training_args.eval_strategy != "no" or training_args.eval_on_start
    has_data = bool(script_args.val_split_ratio or script_args.eval_data_file_paths)
    if is_wanted and not has_data and not script_args.use_huggingface_dataset:
        raise ValueError(
            "--eval_strategy and --eval_on_start need validation data: hold out rows with --val_split_ratio, or name "
            "files with --eval_data_file_paths and --eval_image_folders."
        )
    if has_data and not is_wanted:
        logger.warning("nothing evaluates on the validation rows: add --eval_strategy steps or epoch")


def build_eval_metrics(script_args: "GRPOScriptArguments", eval_dataset: "Dataset | None") -> "EvalMetrics | None":
    """Correlations of scores and MOS, for tasks that ask for scores."""
    from open_r1.utils.score_metrics import compute_score_metrics, explain_unmeasurable

    if eval_dataset is None or not script_args.task.needs_mos:
        return None
    for name, reason in explain_unmeasurable(eval_dataset.select_columns(["dataset_name", "mos"])).items():
        logger.warning("the validation rows of %s allow of no SRCC or PLCC: %s", name, reason)
    return compute_score_metrics


def build_rewards(
    script_args: "GRPOScriptArguments", training_args: "GRPOConfig", trust_remote_code: bool = False
) -> list:
    from open_r1.rewards import build_reward_funcs
    from open_r1.rewards.judge import add_grader
    from open_r1.rewards.overlong import choose_overlong_cache
    from open_r1.trainer.reward_models import build_reward_model

    judge = script_args.build_judge(os.environ)
    reward_funcs = build_reward_funcs(
        script_args.reward_funcs,
        task_type=script_args.task_type,
        **script_args.reward_options,
        build_model=functools.partial(
            build_reward_model, device=script_args.reward_device, trust_remote_code=trust_remote_code
        ),
        judge=judge,
        question_template=script_args.question_template,
        max_completion_length=training_args.max_completion_length,
        overlong_cache=choose_overlong_cache(training_args.max_completion_length, script_args.overlong_cache),
    )
    return [add_grader(func, judge) for func in reward_funcs] if script_args.use_llm_judge else reward_funcs


def set_data_options(
    script_args: "GRPOScriptArguments", reward_funcs: list[Callable], train_dataset: "Dataset"
) -> list[Callable]:
    """The rewards with what they must know of the whole training data: how common the words of explanations are."""
    from open_r1.data.columns import read_column
    from open_r1.rewards import get_option_names, set_options
    from open_r1.rewards.explanation import count_explanations

    needed = any("document_frequencies" in get_option_names(func) for func in reward_funcs)
    if not needed or script_args.explanation_alpha == 0:
        return reward_funcs
    columns = (list(read_column(train_dataset, name)) for name in ("explanations", "solution"))
    frequencies = count_explanations(*columns)
    return [set_options(func, {"document_frequencies": frequencies}) for func in reward_funcs]


def prepare_task(
    script_args: "GRPOScriptArguments", training_args: "GRPOConfig", trust_remote_code: bool = False
) -> dict[str, Any]:
    """What `VLMGRPOTrainer` needs beside models: rewards, rows, metrics of validation rows, how videos are read."""
    from open_r1.data.video import VideoSettings
    from open_r1.trainer.evaluation import check_evaluation

    reward_funcs = build_rewards(script_args, training_args, trust_remote_code)
    train_dataset, eval_dataset = load_data(script_args, training_args)
    reward_funcs = set_data_options(script_args, reward_funcs, train_dataset)
    eval_metrics = build_eval_metrics(script_args, eval_dataset)
    check_evaluation(training_args, eval_dataset, [func.__name__ for func in reward_funcs], eval_metrics)
    return {
        "reward_funcs": reward_funcs,
        "train_dataset": train_dataset,
        "eval_dataset": eval_dataset,
        "eval_metrics": eval_metrics,
        "video_settings": VideoSettings(**script_args.video_options),
    }


def choose_trainer(training_args: "GRPOConfig", model_args: "GRPOModelConfig") -> "Callable[..., VLMGRPOTrainer]":
    """The trainer that generates as the options say."""
    if not training_args.use_vllm:
        from open_r1.trainer.grpo_trainer import VLMGRPOTrainer

        return VLMGRPOTrainer
    from open_r1.inference.vllm_engine import check_vllm
    from open_r1.trainer.loading import find_source
    from open_r1.trainer.vllm_grpo_trainer import VLLMGRPOTrainer

    check_vllm()
    return functools.partial(VLLMGRPOTrainer, source=find_source(model_args))


def build_trainer(
    script_args: "GRPOScriptArguments", training_args: "GRPOConfig", model_args: "GRPOModelConfig"
) -> "VLMGRPOTrainer":
    from transformers import set_seed

    from open_r1.trainer.loading import load_policy, load_processor, load_reference, load_vlm_module

    build = choose_trainer(training_args, model_args)
    task = prepare_task(script_args, training_args, model_args.trust_remote_code)
    set_seed(training_args.seed)
    vlm_module = load_vlm_module(model_args)
    return build(
        load_policy(model_args, vlm_module),
        load_reference(model_args, vlm_module, training_args.beta),
        args=training_args,
        vlm_module=vlm_module,
        processing_class=load_processor(model_args, vlm_module, script_args.image_bounds),
        **task,
    )


def print_plan(
    script_args: "GRPOScriptArguments",
    training_args: "GRPOConfig",
    model_args: "GRPOModelConfig",
    checkpoint: str | None,
) -> None:
    """What the run would do. One process of every node checks the files there, the first one prints."""
    from open_r1.trainer.loading import load_processor, load_vlm_module
    from open_r1.trainer.plan import describe_plan, measure_prompts

    if training_args.local_process_index != 0:
        return
    task = prepare_task(script_args, training_args, model_args.trust_remote_code)
    vlm_module = load_vlm_module(model_args)
    processor = load_processor(model_args, vlm_module, script_args.image_bounds)
    plan = describe_plan(
        training_args,
        model_args,
        reward_names=[func.__name__ for func in task["reward_funcs"]],
        train_dataset=task["train_dataset"],
        eval_dataset=task["eval_dataset"],
        prompt_length=measure_prompts(
            training_args, task["train_dataset"], vlm_module, processor, task["video_settings"]
        ),
        checkpoint=checkpoint,
    )
    if training_args.process_index == 0:
        print(plan, flush=True)


def run(script_args: "GRPOScriptArguments", training_args: "GRPOConfig", model_args: "GRPOModelConfig") -> None:
    """Trains and saves, or prints the plan of `--dry_run`."""
    from open_r1.trainer.run import find_checkpoint, train_and_save

    checkpoint = find_checkpoint(training_args.resume_from_checkpoint, training_args.output_dir)
    if script_args.dry_run:
        print_plan(script_args, training_args, model_args, checkpoint)
        return
    trainer = build_trainer(script_args, training_args, model_args)
    train_and_save(trainer, checkpoint, script_args, model_args)


def main(argv: list[str] | None = None) -> None:
    run(*parse_arguments(sys.argv[1:] if argv is None else argv))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    try:
        main()
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"error: {error}")

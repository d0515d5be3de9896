"""Evaluation during training: completions for the validation rows, and the numbers out of them.

    every W-th row for each of W devices   complete_rows            one greedy completion, or K sampled ones
    -> rewards                             of the trainer           the rows of all devices are one global batch
    -> rewards, lengths                    summarise_completions    the same numbers on every device, since each
    -> the task's own metrics              measure_task             device decides by them what to save, when to stop

`check_evaluation` refuses at start-up what could not work.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from open_r1.inference.generator import Generator
from open_r1.trainer.advantages import combine_rewards
from open_r1.trainer.collator import GroupCollator
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.metrics import summarise_lengths, summarise_rewards
from open_r1.trainer.rollout_log import EvalRecord
from open_r1.utils.score_metrics import EvalMetrics, EvalReport
from open_r1.utils.scoring import compute_batch_seed


AllGather = Callable[[list[Any]], list[Any]]


@dataclass(kw_only=True)
class EvalRollout:
    """M validation rows of this device with K completions each."""

    indices: list[int]  # M, the rows' places in the validation data
    rows: list[dict[str, Any]]  # M
    texts: list[str]  # M * K, row-major, as the next two
    token_ids: list[list[int]]
    finish_reasons: list[str]

    @property
    def texts_per_row(self) -> list[list[str]]:
        size = len(self.texts) // len(self.rows)
        return [self.texts[start : start + size] for start in range(0, len(self.texts), size)]


# ---- at start-up ------------------------------------------------------------------------------------------------


def check_evaluation(
    args: GRPOConfig, dataset: Any, reward_names: Sequence[str], eval_metrics: EvalMetrics | None
) -> None:
    """Refuses what evaluation could not do, where evaluation is asked for.

    Raises:
        ValueError: no validation data, or too few rows; a `metric_for_best_model` that evaluation never reports.
    """
    if args.eval_strategy == "no" and not args.eval_on_start:
        return
    check_validation_data(dataset, args.world_size)
    wanted = args.metric_for_best_model
    known = list_metric_names(reward_names, dataset, args.eval_num_generations, eval_metrics)
    if wanted is not None and wanted.removeprefix("eval_") not in known:
        raise ValueError(
            f"--metric_for_best_model {wanted}: evaluation reports no such thing; take one of {', '.join(known)}. For "
            "a measure of your own, write a reward function and give it the weight 0 in --reward_weights."
        )


def check_validation_data(dataset: Any, num_processes: int) -> None:
    """ValueError where there are no validation rows, or not one for every process."""
    if dataset is None:
        raise ValueError(
            "There is no validation data: give --val_split_ratio or --eval_data_file_paths, or turn off "
            "--eval_strategy and --eval_on_start."
        )
    if len(dataset) < num_processes:
        raise ValueError(f"{len(dataset)} validation rows are too few for {num_processes} processes.")


def list_metric_names(
    reward_names: Sequence[str], dataset: Any, num_generations: int, eval_metrics: EvalMetrics | None
) -> list[str]:
    """What evaluation reports, without its prefix. What reward functions log is left out: it differs by device."""
    rewards = torch.zeros(num_generations, len(reward_names))
    names = [
        *summarise_rewards(rewards, list(reward_names), rewards.sum(dim=1), num_generations),
        *summarise_lengths(torch.ones(1), torch.zeros(1, dtype=torch.bool)),
    ]
    if eval_metrics is not None:
        rows = _list_rows(dataset)
        report = eval_metrics(rows, [[""] * num_generations for _ in rows])
        names += sorted({*report.values, *report.reasons})
    return names


# ---- completions ------------------------------------------------------------------------------------------------


def complete_rows(
    generator: Generator, collator: GroupCollator, dataset: Any, indices: Sequence[int], args: GRPOConfig
) -> EvalRollout:
    """Draws `eval_num_generations` completions for each of these rows.

    Devices may have shares of different size and call the generator a different number of times: with all weights on
    every device, nothing in it waits for the others. Random numbers are a stream of their own for each batch, the same
    at every evaluation; training's are left as they were.
    """
    size = max(1, args.per_device_eval_batch_size // args.eval_num_generations)
    batches = [list(indices[start : start + size]) for start in range(0, len(indices), size)]
    loader = DataLoader(
        dataset,
        batch_sampler=batches,
        collate_fn=collator,
        num_workers=args.dataloader_num_workers,
        generator=torch.Generator(),  # or it would draw from training's
    )
    rollout = EvalRollout(indices=list(indices), rows=[], texts=[], token_ids=[], finish_reasons=[])
    for batch, groups in zip(batches, loader, strict=True):
        sampling = args.build_eval_sampling(seed=compute_batch_seed(args.seed, [str(index) for index in batch]))
        prompts = [group.prompt for group in groups]
        completions = generator.generate(prompts, args.eval_num_generations, sampling)
        rollout.rows += [group.row for group in groups]
        rollout.texts += generator.decode(completions.token_ids)
        rollout.token_ids += completions.token_ids
        rollout.finish_reasons += completions.finish_reasons
    return rollout


# ---- numbers ----------------------------------------------------------------------------------------------------


def summarise_completions(
    rollout: EvalRollout,
    rewards_per_func: torch.Tensor,
    reward_names: list[str],
    reward_weights: torch.Tensor,
    all_gather: AllGather,
) -> dict[str, float]:
    """Rewards and lengths over all devices, under the names that they have in training; NaN where there is no value.

    Args:
        rollout: Of this device.
        rewards_per_func: (M * K, F) of its completions.
        reward_names: F names.
        reward_weights: (F,).
        all_gather: Concatenates lists over the devices.
    """
    num_generations = len(rollout.texts) // len(rollout.rows)
    everywhere = torch.tensor(all_gather(rewards_per_func.tolist()))
    rewards = combine_rewards(everywhere, reward_weights)
    lengths = torch.tensor(all_gather([len(ids) for ids in rollout.token_ids]))
    is_truncated = torch.tensor(all_gather([reason == "length" for reason in rollout.finish_reasons]))
    return summarise_rewards(everywhere, reward_names, rewards, num_generations) | summarise_lengths(
        lengths, is_truncated
    )


def measure_task(
    eval_metrics: EvalMetrics | None, dataset: Any, rollout: EvalRollout, all_gather: AllGather
) -> EvalReport:
    """The task's own metrics of all rows of the data set, in its order; `columns` has one value for each of them."""
    if eval_metrics is None:
        return EvalReport()
    texts = dict(zip(all_gather(rollout.indices), all_gather(rollout.texts_per_row), strict=True))
    return eval_metrics(_list_rows(dataset), [texts[index] for index in range(len(dataset))])


def _list_rows(dataset: Any) -> list[dict[str, Any]]:
    """All rows, without the pictures that lie in a data set."""
    if "image" in getattr(dataset, "column_names", ()):
        dataset = dataset.remove_columns("image")
    return [dataset[index] for index in range(len(dataset))]


def add_worst_value(metrics: dict[str, float], args: GRPOConfig) -> dict[str, float]:
    """With an infinite value for the metric that chooses the best model, where it has none: no other is worse."""
    wanted = args.metric_for_best_model
    if wanted is None:
        return metrics
    worst = -math.inf if args.greater_is_better else math.inf
    return {f"eval_{wanted.removeprefix('eval_')}": worst} | metrics


# ---- logs -------------------------------------------------------------------------------------------------------


def build_eval_records(
    step: int, rollout: EvalRollout, rewards_per_func: torch.Tensor, reward_names: list[str], report: EvalReport
) -> list[EvalRecord]:
    """This device's rows, each with its completions, for the rollout log."""
    rewards = [[None if value != value else value for value in column] for column in rewards_per_func.T.tolist()]
    size = len(rollout.texts) // len(rollout.rows)
    records = []
    for m, (index, row) in enumerate(zip(rollout.indices, rollout.rows, strict=True)):
        members = slice(m * size, (m + 1) * size)
        records.append(
            EvalRecord(
                step=step,
                row=row,
                completions=rollout.texts[members],
                rewards={name: column[members] for name, column in zip(reward_names, rewards, strict=True)},
                finish_reasons=rollout.finish_reasons[members],
                metrics={name: column[index] for name, column in report.columns.items()},
            )
        )
    return records


def describe_outcome(values: dict[str, float], reasons: dict[str, str]) -> str:
    """One line for the terminal: what has no path in its name, then what has no value and why."""
    shown = [f"{name} {value:.4g}" for name, value in values.items() if "/" not in name]
    missing = [f"no {name} ({reason})" for name, reason in reasons.items()]
    return ", ".join([*shown, *missing])

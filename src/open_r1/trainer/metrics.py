"""Collects what a step has to say between two log lines."""

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch

from open_r1.trainer.distributions import Distribution


if TYPE_CHECKING:
    from open_r1.trainer.watchdog import StageWatch


class MetricStore:
    """Means of named values, kept apart for training and evaluation, emptied when read.

    Args:
        watch: Is told which stage is timed.
    """

    def __init__(self, watch: "StageWatch | None" = None):
        self._watch = watch
        self._values: dict[str, list[float]] = defaultdict(list)
        self._totals: dict[str, float] = defaultdict(float)
        self._sums: dict[str, list[float]] = {}  # a sum, and the number of values in it
        self._distributions: dict[str, Distribution] = {}

    def add(self, name: str, value: float) -> None:
        """A value to be averaged. NaN (nothing to say) is left out."""
        value = float(value)
        if value == value:
            self._values[name].append(value)

    def add_total(self, name: str, value: float) -> None:
        """A value to be summed up (seconds spent, tokens seen)."""
        self._totals[name] += float(value)

    def add_sum(self, name: str, total: float, count: float) -> None:
        """The sum of `count` values (tokens, completions), each of which is to weigh the same in the mean."""
        held, number = self._sums.get(name, (0.0, 0.0))
        self._sums[name] = [held + total, number + count]

    def add_distribution(self, name: str, values: Distribution) -> None:
        """Values of which `<name>/min`, `<name>/p50` and the like are to be told, over all that were added."""
        held = [self._distributions[name]] if name in self._distributions else []
        self._distributions[name] = Distribution.merge([*held, values])

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Adds the wall-clock seconds of the block to `time/<stage>_s`."""
        start = time.perf_counter()
        try:
            with contextlib.nullcontext() if self._watch is None else self._watch.stage(stage):
                yield
        finally:
            self.add_total(f"time/{stage}_s", time.perf_counter() - start)

    def pop(self) -> dict[str, float]:
        """All means, sums and distributions since the last call."""
        collected = {name: sum(values) / len(values) for name, values in self._values.items()} | dict(self._totals)
        collected |= {name: total / count for name, (total, count) in self._sums.items() if count}
        for name, distribution in self._distributions.items():
            collected |= {f"{name}/{what}": value for what, value in distribution.summarise().items()}
        self._values.clear()
        self._totals.clear()
        self._sums.clear()
        self._distributions.clear()
        return collected

    def state(self) -> dict[str, dict]:
        """Everything that waits to be read, as JSON."""
        distributions = {name: values.to_json() for name, values in self._distributions.items()}
        return {
            "values": dict(self._values),
            "totals": dict(self._totals),
            "sums": dict(self._sums),
            "distributions": distributions,
        }

    def restore(self, state: dict[str, dict]) -> None:
        """Takes the place of what is held with what `state` gave."""
        self._values = defaultdict(list, {name: list(values) for name, values in state["values"].items()})
        self._totals = defaultdict(float, state["totals"])
        self._sums = dict(state.get("sums", {}))
        distributions = state.get("distributions", {})
        self._distributions = {name: Distribution.from_json(content) for name, content in distributions.items()}


def summarise_rewards(
    rewards_per_func: torch.Tensor, names: list[str], rewards: torch.Tensor, num_generations: int
) -> dict[str, float]:
    """TRL's reward metrics over the completions of all devices.

    Args:
        rewards_per_func: (B, F), NaN where a function abstained.
        names: F names.
        rewards: (B,) combined.
        num_generations: G.
    """
    summary = {}
    for i, name in enumerate(names):
        present = rewards_per_func[:, i][~rewards_per_func[:, i].isnan()]
        summary[f"rewards/{name}/mean"] = present.mean().item() if present.numel() else float("nan")
        summary[f"rewards/{name}/std"] = present.std().item() if present.numel() > 1 else float("nan")
    groups = rewards.view(-1, num_generations)
    summary["reward"] = groups.nanmean().item()
    present_groups = groups[~groups.isnan().any(dim=1)]
    if num_generations > 1:
        summary["reward_std"] = present_groups.std(dim=1).mean().item() if len(present_groups) else float("nan")
    return summary


def summarise_lengths(lengths: torch.Tensor, is_truncated: torch.Tensor) -> dict[str, float]:
    """TRL's completion metrics.

    Args:
        lengths: (B,) tokens per completion.
        is_truncated: (B,) whether the limit was reached before an end token.
    """
    summary = {
        "completions/mean_length": lengths.float().mean().item(),
        "completions/min_length": lengths.min().item(),
        "completions/max_length": lengths.max().item(),
        "completions/clipped_ratio": is_truncated.float().mean().item(),
    }
    if not is_truncated.all():
        summary["completions/mean_terminated_length"] = lengths[~is_truncated].float().mean().item()
    return summary

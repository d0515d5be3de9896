"""Regression reward of image quality: how near a score is to the MOS itself, the baseline of the ranking reward.

With `--reward_funcs score_regression format` in the place of `accuracy format`, nothing else of a run changes.
"""

import math
from typing import Any

from open_r1.completions import parse_score


_SCALE = (1.0, 5.0)  # of scores, and therefore of the labels
_ROUNDING = 1e-3  # labels may leave the scale by that


def score_regression_reward(
    prompts: list[Any],
    completions: list[list[dict[str, str]]],
    completion_ids: list[list[int]] | None = None,
    *,
    regression_kernel: str = "threshold",
    regression_width: float = 0.35,
    **columns: Any,
) -> list[float | None]:
    """How near the score is to the MOS.

    `threshold`: 1.0 where |score - MOS| is below `regression_width`, else 0.0. `gaussian`:
    exp(-(score - MOS)^2 / (2 regression_width^2)). An unreadable score earns 0; a row without MOS abstains.

    Range: 0 to 1.
    Scope: completion.
    Needs: column `mos`, on the scale of 1 to 5.
    Source: Q-Insight, arXiv 2503.22679, score reward with its threshold of 0.35.

    >>> completions = [[{"role": "assistant", "content": f"<answer>{score}</answer>"}] for score in (3.3, 3.4, "?")]
    >>> score_regression_reward([], completions, mos=[3.0, 3.0, 3.0])
    [1.0, 0.0, 0.0]

    Args:
        prompts: Not read.
        completions: B conversations of one assistant message.
        completion_ids: Not read.
        regression_kernel: `threshold` or `gaussian`.
        regression_width: The threshold, or the standard deviation.
        columns: `mos`.

    Raises:
        ValueError: an unknown kernel, a width that is not positive, or a MOS outside the scale.
    """
    if regression_kernel not in ("threshold", "gaussian"):
        raise ValueError(f"--regression_kernel is {regression_kernel!r}; take threshold or gaussian.")
    if not regression_width > 0:
        raise ValueError(f"--regression_width must be positive, not {regression_width}.")
    return [
        _score(parse_score(completion[-1]["content"]), mos, regression_kernel, regression_width)
        for completion, mos in zip(completions, columns["mos"], strict=True)
    ]


def _score(score: float | None, mos: float | None, kernel: str, width: float) -> float | None:
    if mos is None or math.isnan(mos):
        return None
    low, high = _SCALE
    if not low - _ROUNDING <= mos <= high + _ROUNDING:
        raise ValueError(
            f"score_regression compares scores of 1 to 5 with the MOS itself, which is {mos} in a row: rescale the "
            "labels to 1 to 5, or take the reward `fidelity`, which needs their order only."
        )
    if score is None:
        return 0.0
    distance = abs(score - mos)
    return float(distance < width) if kernel == "threshold" else math.exp(-0.5 * (distance / width) ** 2)

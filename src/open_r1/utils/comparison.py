"""What changed between two evaluations of the same labels: paired interval and tests. Built on `evaluation.py`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_r1.utils.bootstrap import (
    NUM_RESAMPLES,
    compute_interval,
    count_units,
    draw_resample_counts,
    resample_measures,
)
from open_r1.utils.evaluation import Matches, find_caveats, load_evaluation
from open_r1.utils.math import compute_agreement, compute_plcc, compute_srcc
from open_r1.utils.significance import compute_meng_p, compute_paired_p


@dataclass(frozen=True, kw_only=True)
class Change:
    """One metric before and after, over the images scored in both runs. Example: +0.13 in [0.08, 0.18], n = 512."""

    difference: float | None  # after minus before
    ci95: list[float] | None  # of the difference; paired, by reference image where there are any
    n: int
    p_paired: float | None = None  # two-sided, of the paired bootstrap
    p_meng: float | None = None  # two-sided, of Meng's test; SRCC and PLCC of independent images only


def compare_matches(
    before: Matches, after: Matches, metric: str = "srcc", num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> Change:
    """Change of one metric over the images that both runs scored; resamples are paired, hence narrower intervals."""
    positions = {image: index for index, image in enumerate(after.image)}
    rows = [(i, positions[image]) for i, image in enumerate(before.image) if image in positions]
    mos = [before.mos[i] for i, _ in rows]
    if any(before.mos[i] != after.mos[j] for i, j in rows):
        raise ValueError("the two evaluations used different labels for the same images")
    scores = [before.pred_score[i] for i, _ in rows], [after.pred_score[j] for _, j in rows]
    values = [compute_agreement(score, mos).values[metric] for score in scores]
    if None in values:
        return Change(difference=None, ci95=None, n=len(rows))
    reference = None if before.reference is None else [before.reference[i] for i, _ in rows]
    find_caveats(reference)
    counts = draw_resample_counts(len(rows), reference, num_resamples, seed)
    resampled = [resample_measures(score, mos, counts, [metric])[metric] for score in scores]
    interval = compute_interval(resampled[1] - resampled[0], count_units(len(rows), reference))
    correlate = {"srcc": compute_srcc, "plcc": compute_plcc}.get(metric)
    is_testable = correlate is not None and reference is None
    return Change(
        difference=values[1] - values[0],
        ci95=interval,
        n=len(rows),
        p_paired=None if interval is None else compute_paired_p(resampled[1] - resampled[0]),
        p_meng=compute_meng_p(*values, correlate(*scores), len(rows)) if is_testable else None,
    )


def compare_reports(
    before_path: str | Path,
    after_path: str | Path,
    metric: str = "srcc",
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> tuple[dict[str, Any], dict[str, Any], Change]:
    """Reads two evaluations and compares them (see `compare_matches`).

    Where the rows behind either were not kept, the difference is that of the two reports and has no interval.

    Returns:
        The report before, the report after, and the change.
    """
    (before, rows_before), (after, rows_after) = load_evaluation(before_path), load_evaluation(after_path)
    if rows_before is not None and rows_after is not None:
        return before, after, compare_matches(rows_before, rows_after, metric, num_resamples, seed)
    is_defined = before[metric] is not None and after[metric] is not None
    difference = after[metric] - before[metric] if is_defined else None
    return before, after, Change(difference=difference, ci95=None, n=min(before["n"], after["n"]))

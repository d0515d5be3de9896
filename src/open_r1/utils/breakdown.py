"""Where predictions agree with the MOS and where they do not: by distortion, by level, image by image."""

import re
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np

from open_r1.utils.bootstrap import compute_interval, count_units, draw_resample_counts, resample_measures
from open_r1.utils.evaluation import Matches
from open_r1.utils.math import compute_plcc, compute_srcc, explain_undefined


_MEASURES = {"srcc": compute_srcc, "plcc": compute_plcc}


def compute_breakdown(matches: Matches, num_resamples: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """SRCC and PLCC of each distortion and each level, with intervals: "distortion" and "level" -> a row per value.

    A column that the labels do not have, or that has one value only, is left out.
    """
    columns = {"distortion": matches.distortion, "level": matches.level}
    breakdown = {}
    for name, values in columns.items():
        groups = _group_rows(values or ())
        if len(groups) > 1:
            breakdown[name] = [
                {"name": value, **_measure_rows(matches, rows, num_resamples, seed)} for value, rows in groups
            ]
    return breakdown


def _group_rows(values: Sequence[str]) -> list[tuple[str, list[int]]]:
    """Rows by value, in natural order ("level 2" before "level 10"); rows without a value belong nowhere."""
    groups = defaultdict(list)
    for row, value in enumerate(values):
        if value:
            groups[value].append(row)
    return sorted(groups.items(), key=lambda item: re.sub(r"\d+", lambda m: m.group().zfill(9), item[0].casefold()))


def _measure_rows(matches: Matches, rows: Sequence[int], num_resamples: int, seed: int) -> dict[str, Any]:
    score, mos = [matches.pred_score[row] for row in rows], [matches.mos[row] for row in rows]
    reference = None if matches.reference is None else [matches.reference[row] for row in rows]
    intervals = dict.fromkeys(_MEASURES)
    num_units = count_units(len(rows), reference)
    if explain_undefined(score, mos) is None and num_units > 1:
        counts = draw_resample_counts(len(rows), reference, num_resamples, seed)
        resampled = resample_measures(score, mos, counts, list(_MEASURES))
        intervals = {name: _round(compute_interval(values, num_units)) for name, values in resampled.items()}
    values = {name: _round(measure(score, mos)) for name, measure in _MEASURES.items()}
    return {"n": len(rows), **values, "ci95": intervals}


def _round(value: float | list[float] | None) -> float | list[float] | None:
    if isinstance(value, list):
        return [round(bound, 6) for bound in value]
    return None if value is None else round(value, 6)


def find_worst_cases(matches: Matches, num_worst: int) -> list[dict[str, Any]]:
    """The images whose rank by prediction is farthest from their rank by MOS, the worst first.

    `rank_difference` is in shares of all images: 0.5 means that the prediction puts the image half the list too high.
    """
    from scipy.stats import rankdata

    if not matches.image:
        return []
    difference = (rankdata(matches.pred_score) - rankdata(matches.mos)) / len(matches.image)
    worst = np.argsort(-np.abs(difference), kind="stable")[:num_worst]
    texts = matches.text or [""] * len(matches.image)
    return [
        {
            "image": matches.image[row],
            "score": matches.pred_score[row],
            "mos": matches.mos[row],
            "rank_difference": round(float(difference[row]), 4),
            "text": texts[row],
        }
        for row in worst.tolist()
    ]

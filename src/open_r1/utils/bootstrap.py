"""95 % bootstrap intervals for the measures of `utils/math.py`: expanded percentiles, seeded, by reference image.

Distorted versions of one photograph are not independent observations. Where each image has a reference, whole
references are therefore drawn with replacement, each with all its images; elsewhere single images are.

A resample is a row of counts (how often each image was drawn), so the correlations of all resamples come from a few
array operations: SRCC and PLCC take no loop, KRCC and the refitted curve take one call per resample.
"""

from collections.abc import Sequence

import numpy as np

from open_r1.utils.math import (
    FITTED,
    METRICS,
    compute_fitted_measures,
    compute_krcc,
    explain_undefined,
    fit_logistic4,
    fit_logistic5,
)


NUM_RESAMPLES = 1000
MAX_UNDEFINED_FRACTION = 0.05  # of the resamples; an interval that ignores more of them would mislead
REFIT_TOLERANCE = 1e-5  # moves a measure by far less than the width of any interval, and saves most of the time
_BLOCK = 100  # resamples per array operation, to bound memory at about _BLOCK * n * 50 bytes


def draw_resample_counts(
    num_rows: int, references: Sequence[str] | None = None, num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Draws how often each of n rows appears in each of R resamples: integers (R, n).

    Args:
        references: the reference image of each row (n,); rows of one reference are then drawn together.
    """
    rng = np.random.default_rng(seed)
    labels = np.arange(num_rows) if references is None else np.unique(references, return_inverse=True)[1]
    if num_rows == 0:
        return np.zeros((num_resamples, 0), dtype=int)
    num_units = int(labels.max()) + 1
    unit_counts = rng.multinomial(num_units, np.full(num_units, 1 / num_units), size=num_resamples)
    return unit_counts[:, labels]


def compute_ci95(
    pred_score: Sequence[float],
    mos: Sequence[float],
    references: Sequence[str] | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
    metrics: Sequence[str] = METRICS,
) -> dict[str, list[float] | None]:
    """The 95 % interval of every measure over resamples of predictions (n,) and MOS (n,).

    An interval is None where the measure itself is undefined, where all rows share one reference, and where more than
    MAX_UNDEFINED_FRACTION of the resamples have no value.
    """
    counts = draw_resample_counts(len(mos), references, num_resamples, seed)
    resampled = resample_measures(pred_score, mos, counts, metrics)
    num_units = count_units(len(mos), references)
    return {name: compute_interval(values, num_units) for name, values in resampled.items()}


def count_units(num_rows: int, references: Sequence[str] | None) -> int:
    """How many independent things are drawn in a resample of n rows: references (n,), or rows without them."""
    return num_rows if references is None else len(set(references))


def compute_interval(values: np.ndarray, num_units: int) -> list[float] | None:
    """The 95 % interval from resampled values (R,), NaN where undefined; None where too many are, or for one unit.

    Plain percentiles (2.5 and 97.5) are too narrow where few units are drawn. These are expanded as Hesterberg ("What
    Teachers Should Know About the Bootstrap", 2015) says, by the quantile of Student's t and the factor
    sqrt(m / (m - 1)): 1.6 and 98.4 for m = 20 units, 2.3 and 97.7 for m = 100.
    """
    from scipy.special import ndtr, stdtrit

    is_defined = np.isfinite(values)
    if num_units < 2 or is_defined.sum() == 0 or np.mean(~is_defined) > MAX_UNDEFINED_FRACTION:
        return None
    tail = 100 * ndtr(stdtrit(num_units - 1, 0.025) * np.sqrt(num_units / (num_units - 1)))
    return [float(bound) for bound in np.percentile(values[is_defined], [tail, 100 - tail])]


def resample_measures(
    pred_score: Sequence[float], mos: Sequence[float], counts: np.ndarray, metrics: Sequence[str] = METRICS
) -> dict[str, np.ndarray]:
    """Computes measures on every resample: metric -> (R,), NaN where a resample has no value.

    Args:
        counts: (R, n), from `draw_resample_counts`. The same counts on two sets of predictions pair their resamples.
        metrics: which measures; for those after a fit, the curve is fitted anew to each resample.
    """
    x, y = np.asarray(pred_score, dtype=float), np.asarray(mos, dtype=float)
    resampled = {name: np.full(len(counts), np.nan) for name in metrics}
    if explain_undefined(x, y):
        return resampled
    for start in range(0, len(counts), _BLOCK):
        rows, weights = slice(start, start + _BLOCK), counts[start : start + _BLOCK]
        if "srcc" in resampled:
            ranks = compute_weighted_midranks(x, weights), compute_weighted_midranks(y, weights)
            resampled["srcc"][rows] = compute_weighted_plcc(*ranks, weights)
        if "plcc" in resampled:
            resampled["plcc"][rows] = compute_weighted_plcc(x[None], y[None], weights)
    looped = [name for name in metrics if name not in ("srcc", "plcc")]
    # Started anew, the 5-parameter fit would end in another local minimum for some resamples.
    start = fit_logistic5(x, y).params if set(looped) & set(FITTED[5]) else None
    if looped:
        for index, row_counts in enumerate(counts):
            chosen = np.repeat(np.arange(len(x)), row_counts)
            for name, value in _compute_looped_measures(x[chosen], y[chosen], looped, start).items():
                resampled[name][index] = np.nan if value is None else value
    return resampled


def _compute_looped_measures(
    x: np.ndarray, y: np.ndarray, metrics: Sequence[str], start: tuple[float, ...] | None
) -> dict[str, float | None]:
    values: dict[str, float | None] = {}
    if "krcc" in metrics:
        values["krcc"] = compute_krcc(x, y)
    if set(metrics) & set(FITTED[4]):
        values |= compute_fitted_measures(fit_logistic4(x, y, REFIT_TOLERANCE), x, y)
    if set(metrics) & set(FITTED[5]):
        values |= compute_fitted_measures(fit_logistic5(x, y, REFIT_TOLERANCE, start), x, y, 5)
    return {name: value for name, value in values.items() if name in metrics}


def compute_weighted_midranks(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Ranks (R, n) of values (n,) in R resamples, row i being present weights[r, i] times; ties share a mean rank."""
    order = np.argsort(values, kind="stable")
    is_start = np.concatenate([[True], np.diff(values[order]) != 0])
    tie_group = np.cumsum(is_start) - 1  # (n,) in sorted order
    group_weights = np.add.reduceat(weights[:, order], np.flatnonzero(is_start), axis=1)  # (R, tie groups)
    midranks = np.cumsum(group_weights, axis=1) - group_weights / 2 + 0.5
    ranks = np.empty(weights.shape)
    ranks[:, order] = midranks[:, tie_group]
    return ranks


def compute_weighted_plcc(a: np.ndarray, b: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Pearson correlations (R,) of a with b, (R, n) or (1, n) each, under weights (R, n); NaN where undefined."""
    total = weights.sum(axis=1, keepdims=True)
    centred, is_constant = [], np.zeros(len(weights), dtype=bool)
    for values in (a, b):
        centred.append(values - (weights * values).sum(axis=1, keepdims=True) / total)
        spread = np.where(weights > 0, np.abs(centred[-1]), 0.0).max(axis=1)
        is_constant |= spread <= 1e-12 * np.abs(values).max(axis=1)
    a, b = centred
    variances = (weights * a * a).sum(axis=1) * (weights * b * b).sum(axis=1)
    with np.errstate(all="ignore"):
        correlations = (weights * a * b).sum(axis=1) / np.sqrt(variances)
    return np.where(is_constant, np.nan, np.clip(correlations, -1.0, 1.0))

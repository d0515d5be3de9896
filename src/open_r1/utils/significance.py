"""Whether two sets of predictions for the same images differ in how they agree with the MOS; for `comparison.py`."""

import numpy as np


def compute_paired_p(differences: np.ndarray) -> float:
    """Two-sided p-value of "no difference" from resampled differences (R,), NaN where undefined.

    Twice the share of resamples on the far side of 0, with one added to both counts so that it is never 0 (Davison and
    Hinkley, "Bootstrap Methods and their Application", 1997). Resamples by reference make it hold for versions of one
    photograph too.
    """
    defined = differences[np.isfinite(differences)]
    fewer = min((defined <= 0).sum(), (defined >= 0).sum())
    return min(1.0, float(2 * (fewer + 1) / (len(defined) + 1)))


def compute_meng_p(first: float, second: float, between: float, num_rows: int) -> float | None:
    """Two-sided p-value of Meng, Rosenthal and Rubin (1992): two predictors' correlations with one variable.

    z = (z1 - z2) sqrt((n - 3) / (2 (1 - r) h)) with Fisher's z1 and z2, h = (1 - f q) / (1 - q), q the mean of the
    squared correlations, f = min(1, (1 - r) / (2 (1 - q))). For rank correlations it is an approximation that is in
    common use. Rows must be independent of each other.

    Args:
        first: Correlation of one predictor with the variable.
        second: Of the other one.
        between: r, the correlation of the predictors with each other.
        num_rows: n.

    Returns:
        None where it is not defined: perfect correlations, or fewer than four rows.
    """
    from scipy.special import ndtr

    if num_rows < 4 or max(abs(first), abs(second)) >= 1.0:
        return None
    if between >= 1.0:
        return 1.0  # one and the same ranking
    square = (first**2 + second**2) / 2
    f = min(1.0, (1 - between) / (2 * (1 - square)))
    h = (1 - f * square) / (1 - square)
    z = (np.arctanh(first) - np.arctanh(second)) * np.sqrt((num_rows - 3) / (2 * (1 - between) * h))
    return float(2 * ndtr(-abs(z)))

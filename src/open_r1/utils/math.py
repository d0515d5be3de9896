"""How well predicted scores agree with mean opinion scores (MOS): SRCC, KRCC, PLCC, and PLCC and RMSE after a fit.

Pure functions of two equally long sequences of floats, used by `open_r1.evaluate` and by evaluation during training.
A measure that has no value (constant predictions, fewer than three rows, a fit that does not converge) is `None`,
never NaN and never a stand-in; `explain_undefined` and `Agreement.reasons` say why.

Rank correlations are computed on the raw predictions: a fit may turn an inverted scale round and would hide its sign.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


METRICS = ("srcc", "krcc", "plcc", "plcc_fitted", "rmse")
MIN_ROWS = 3  # two rows always correlate perfectly
MIN_FIT_ROWS = 5  # one more than the curve has parameters
MAX_FIT_EVALUATIONS = 10_000


@dataclass(frozen=True, kw_only=True)
class LogisticFit:
    """The curve y = (b1 - b2) / (1 + exp(-(x - b3) / b4)) + b2, or the reason why there is none.

    Example: `LogisticFit(params=(4.8, 1.1, 3.0, 0.5))` rises from 1.1 to 4.8 and is half way up at x = 3.
    """

    params: tuple[float, float, float, float] | None = None  # b1, b2, b3, b4
    reason: str | None = None  # set exactly where `params` is None

    def predict(self, pred_score: Sequence[float]) -> np.ndarray:
        """Maps raw predictions (n,) to the scale of the MOS (n,)."""
        if self.params is None:
            raise ValueError(f"there is no fitted curve: {self.reason}")
        return _evaluate_logistic(np.asarray(pred_score, dtype=float), *self.params)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """All measures for one set of predictions. Example: `values["srcc"]` is 0.71; `reasons` is empty."""

    values: dict[str, float | None]  # one entry per name in METRICS; None where undefined
    reasons: dict[str, str]  # metric -> why it has no value
    fit: LogisticFit


def explain_undefined(pred_score: Sequence[float], mos: Sequence[float]) -> str | None:
    """Says why predictions and MOS, (n,) each, cannot be correlated; None where they can.

    Raises:
        ValueError: the two differ in length.
    """
    pred_score, mos = np.asarray(pred_score, dtype=float), np.asarray(mos, dtype=float)
    if pred_score.shape != mos.shape or pred_score.ndim != 1:
        raise ValueError(f"predictions and MOS must be two equally long lists, not {pred_score.shape} and {mos.shape}")
    if len(mos) < MIN_ROWS:
        return f"{len(mos)} rows; at least {MIN_ROWS} are needed"
    for name, values in (("prediction", pred_score), ("MOS", mos)):
        num_bad = int(np.sum(~np.isfinite(values)))
        if num_bad:
            return f"{num_bad} {name} values are not finite numbers"
        if values.min() == values.max():
            return f"every {name} is {values[0]:g}"
    return None


def compute_srcc(pred_score: Sequence[float], mos: Sequence[float]) -> float | None:
    """Spearman's rank correlation in [-1, 1], ties at their mean rank; None where undefined."""
    from scipy.stats import rankdata

    if explain_undefined(pred_score, mos):
        return None
    return compute_plcc(rankdata(pred_score), rankdata(mos))


def compute_krcc(pred_score: Sequence[float], mos: Sequence[float]) -> float | None:
    """Kendall's tau-b in [-1, 1]; None where undefined."""
    from scipy.stats import kendalltau

    if explain_undefined(pred_score, mos):
        return None
    return float(kendalltau(pred_score, mos, method="asymptotic").statistic)  # the method concerns the p-value only


def compute_plcc(pred_score: Sequence[float], mos: Sequence[float]) -> float | None:
    """Pearson's linear correlation of the values as they are, in [-1, 1]; None where undefined."""
    if explain_undefined(pred_score, mos):
        return None
    a, b = (np.asarray(values, dtype=float) - np.mean(values) for values in (pred_score, mos))
    return float(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1.0, 1.0))


def compute_rmse(pred_score: Sequence[float], mos: Sequence[float]) -> float:
    """Root mean squared difference, in units of the MOS. Raw predictions go through `fit_logistic4` first."""
    return float(np.sqrt(np.mean((np.asarray(pred_score, dtype=float) - np.asarray(mos, dtype=float)) ** 2)))


def fit_logistic4(pred_score: Sequence[float], mos: Sequence[float], tolerance: float = 1.5e-8) -> LogisticFit:
    """Least-squares fit of the 4-parameter logistic curve from raw predictions (n,) to MOS (n,).

    The curve and the starting point [max(mos), min(mos), mean(pred), std(pred) / 4] are those of the video quality
    experts group (VQEG), which most IQA papers use. Levenberg-Marquardt, at most MAX_FIT_EVALUATIONS evaluations.

    Args:
        tolerance: relative change of the squared error, and of the parameters, below which the fit has converged.
            Predictions that relate linearly to the MOS leave the parameters ill determined, though not the curve:
            then a loose tolerance saves most of the time.
    """
    from scipy.optimize import leastsq

    reason = explain_undefined(pred_score, mos)
    if reason is None and len(mos) < MIN_FIT_ROWS:
        reason = f"{len(mos)} rows; a curve of 4 parameters needs at least {MIN_FIT_ROWS}"
    if reason is not None:
        return LogisticFit(reason=reason)
    x, y = np.asarray(pred_score, dtype=float), np.asarray(mos, dtype=float)
    start = (y.max(), y.min(), x.mean(), x.std() / 4)

    def compute_residuals(params: np.ndarray) -> np.ndarray:
        return _evaluate_logistic(x, *params) - y

    with np.errstate(all="ignore"):
        params, _, _, message, status = leastsq(
            compute_residuals, start, ftol=tolerance, xtol=tolerance, maxfev=MAX_FIT_EVALUATIONS, full_output=True
        )
    if status not in (1, 2, 3, 4):
        return LogisticFit(reason=f"fit failed: {' '.join(message.split())}")
    if not np.isfinite(_evaluate_logistic(x, *params)).all():
        return LogisticFit(reason="fit failed: the curve has no finite value for some predictions")
    return LogisticFit(params=tuple(float(value) for value in params))


def compute_agreement(pred_score: Sequence[float], mos: Sequence[float]) -> Agreement:
    """Computes every measure in METRICS for predictions (n,) and MOS (n,)."""
    values: dict[str, float | None] = {
        "srcc": compute_srcc(pred_score, mos),
        "krcc": compute_krcc(pred_score, mos),
        "plcc": compute_plcc(pred_score, mos),
    }
    fit = fit_logistic4(pred_score, mos)
    values |= compute_fitted_measures(fit, pred_score, mos)
    reason = explain_undefined(pred_score, mos) or fit.reason or "the fitted curve is constant"
    return Agreement(values=values, reasons={name: reason for name in METRICS if values[name] is None}, fit=fit)


def compute_fitted_measures(
    fit: LogisticFit, pred_score: Sequence[float], mos: Sequence[float]
) -> dict[str, float | None]:
    """The measures that are taken after the fit, `plcc_fitted` and `rmse`; None where there is no fit."""
    if fit.params is None:
        return {"plcc_fitted": None, "rmse": None}
    fitted = fit.predict(pred_score)
    return {"plcc_fitted": compute_plcc(fitted, mos), "rmse": compute_rmse(fitted, mos)}


def _evaluate_logistic(x: np.ndarray, b1: float, b2: float, b3: float, b4: float) -> np.ndarray:
    from scipy.special import expit

    return (b1 - b2) * expit((x - b3) / b4) + b2

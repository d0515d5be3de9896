"""How well predicted scores agree with mean opinion scores (MOS): SRCC, KRCC, PLCC, and PLCC and RMSE after a fit.

Pure functions of two equally long sequences of floats, used by `open_r1.evaluate` and by evaluation during training.
A measure that has no value (constant predictions, fewer than three rows, a fit that does not converge) is `None`,
never NaN and never a stand-in; `explain_undefined` and `Agreement.reasons` say why.

Rank correlations are computed on the raw predictions: a fit may turn an inverted scale round and would hide its sign.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


METRICS = ("srcc", "krcc", "plcc", "plcc_fitted", "rmse")  # the last two after the 4-parameter fit
METRICS_5 = ("plcc_fitted5", "rmse5")  # after the 5-parameter fit
FITTED = {4: ("plcc_fitted", "rmse"), 5: METRICS_5}
MIN_ROWS = 3  # two rows always correlate perfectly
MAX_FIT_EVALUATIONS = 10_000


@dataclass(frozen=True, kw_only=True)
class LogisticFit:
    """A fitted curve, or the reason why there is none.

    4 parameters: y = (b1 - b2) / (1 + exp(-(x - b3) / b4)) + b2.
    5 parameters: y = b1 (1/2 - 1 / (1 + exp(b2 (x - b3)))) + b4 x + b5.

    Example: `LogisticFit(params=(4.8, 1.1, 3.0, 0.5))` rises from 1.1 to 4.8 and is half way up at x = 3.
    """

    params: tuple[float, ...] | None = None  # b1, b2, …
    reason: str | None = None  # set exactly where `params` is None

    def predict(self, pred_score: Sequence[float]) -> np.ndarray:
        """Maps raw predictions (n,) to the scale of the MOS (n,)."""
        if self.params is None:
            raise ValueError(f"there is no fitted curve: {self.reason}")
        return _CURVES[len(self.params)](np.asarray(pred_score, dtype=float), *self.params)


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """All measures for one set of predictions. Example: `values["srcc"]` is 0.71; `reasons` is empty."""

    values: dict[str, float | None]  # one entry per name in METRICS (and METRICS_5, if asked); None where undefined
    reasons: dict[str, str]  # metric -> why it has no value
    fit: LogisticFit  # of 4 parameters
    fit5: LogisticFit | None = None  # where it was asked for


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
    reason = _explain_unfittable(pred_score, mos, num_params=4)
    if reason is not None:
        return LogisticFit(reason=reason)
    x, y = np.asarray(pred_score, dtype=float), np.asarray(mos, dtype=float)
    return _fit_curve(x, y, (y.max(), y.min(), x.mean(), x.std() / 4), tolerance)


def fit_logistic5(
    pred_score: Sequence[float],
    mos: Sequence[float],
    tolerance: float = 1.5e-8,
    start: tuple[float, ...] | None = None,
) -> LogisticFit:
    """Least-squares fit of the 5-parameter logistic curve, a logistic plus a line, from predictions (n,) to MOS (n,).

    The curve is that of Sheikh, Sabir and Bovik (2006), the starting point [10, 0, mean(pred), 0.1, 0.1] that of the
    evaluation script of DBCNN. Where the fit does not converge from there, it starts from the same point on
    predictions of mean 0 and deviation 1. There are local minima: papers that start elsewhere can differ slightly.

    Args:
        tolerance: as in `fit_logistic4`.
        start: other parameters to start from, such as those of a fit to nearly the same rows.
    """
    reason = _explain_unfittable(pred_score, mos, num_params=5)
    if reason is not None:
        return LogisticFit(reason=reason)
    x, y = np.asarray(pred_score, dtype=float), np.asarray(mos, dtype=float)
    fit = _fit_curve(x, y, start or (10.0, 0.0, x.mean(), 0.1, 0.1), tolerance)
    if fit.params is not None:
        return fit
    centre, spread = x.mean(), x.std()
    standard = _fit_curve((x - centre) / spread, y, (10.0, 0.0, 0.0, 0.1, 0.1), tolerance)
    if standard.params is None:
        return standard
    b1, b2, b3, b4, b5 = standard.params
    return LogisticFit(params=(b1, b2 / spread, centre + spread * b3, b4 / spread, b5 - b4 * centre / spread))


def _explain_unfittable(pred_score: Sequence[float], mos: Sequence[float], num_params: int) -> str | None:
    reason = explain_undefined(pred_score, mos)
    if reason is None and len(mos) <= num_params:
        return f"{len(mos)} rows; a curve of {num_params} parameters needs at least {num_params + 1}"
    return reason


def _fit_curve(x: np.ndarray, y: np.ndarray, start: tuple[float, ...], tolerance: float) -> LogisticFit:
    from scipy.optimize import leastsq

    curve = _CURVES[len(start)]
    with np.errstate(all="ignore"):
        params, _, _, message, status = leastsq(
            lambda params: curve(x, *params) - y,
            start,
            ftol=tolerance,
            xtol=tolerance,
            maxfev=MAX_FIT_EVALUATIONS,
            full_output=True,
        )
    if status not in (1, 2, 3, 4):
        return LogisticFit(reason=f"fit failed: {' '.join(message.split())}")
    if not np.isfinite(curve(x, *params)).all():
        return LogisticFit(reason="fit failed: the curve has no finite value for some predictions")
    return LogisticFit(params=tuple(float(value) for value in params))


def compute_agreement(pred_score: Sequence[float], mos: Sequence[float], *, with_fit5: bool = False) -> Agreement:
    """Computes every measure in METRICS for predictions (n,) and MOS (n,), with those in METRICS_5 if asked for."""
    values: dict[str, float | None] = {
        "srcc": compute_srcc(pred_score, mos),
        "krcc": compute_krcc(pred_score, mos),
        "plcc": compute_plcc(pred_score, mos),
    }
    undefined = explain_undefined(pred_score, mos)
    reasons = {name: undefined for name in values if values[name] is None}
    fits = {4: fit_logistic4(pred_score, mos)}
    if with_fit5:
        fits[5] = fit_logistic5(pred_score, mos)
    for num_params, fit in fits.items():
        for name, value in compute_fitted_measures(fit, pred_score, mos, num_params).items():
            values[name] = value
            if value is None:
                reasons[name] = undefined or fit.reason or "the fitted curve is constant"
    return Agreement(values=values, reasons=reasons, fit=fits[4], fit5=fits.get(5))


def compute_fitted_measures(
    fit: LogisticFit, pred_score: Sequence[float], mos: Sequence[float], num_params: int = 4
) -> dict[str, float | None]:
    """PLCC and RMSE after the fit, by their names in FITTED; None where there is no fit."""
    if fit.params is None:
        return dict.fromkeys(FITTED[num_params])
    fitted = fit.predict(pred_score)
    measures = compute_plcc(fitted, mos), compute_rmse(fitted, mos)
    return dict(zip(FITTED[num_params], measures, strict=True))


def _evaluate_logistic4(x: np.ndarray, b1: float, b2: float, b3: float, b4: float) -> np.ndarray:
    from scipy.special import expit

    return (b1 - b2) * expit((x - b3) / b4) + b2


def _evaluate_logistic5(x: np.ndarray, b1: float, b2: float, b3: float, b4: float, b5: float) -> np.ndarray:
    from scipy.special import expit

    return b1 * (0.5 - expit(-b2 * (x - b3))) + b4 * x + b5


_CURVES = {4: _evaluate_logistic4, 5: _evaluate_logistic5}

"""Scatter plot of predicted scores against MOS, with the fitted logistic curve and the SRCC in the title."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from open_r1.utils.math import LogisticFit
from open_r1.viz.tables import format_value
from open_r1.viz.theme import MUTED, SERIES, SURFACE, add_legend, build_figure, label_axes, save_figure


_FEW_VALUES = 25  # distinct predictions up to which points of one value are spread sideways


def save_scatter_plot(
    path: str | Path, pred_score: Sequence[float], mos: Sequence[float], report: Mapping[str, Any], fit: LogisticFit
) -> None:
    """Draws n predictions against n MOS into a PNG or PDF.

    Args:
        report: the evaluation, for title and caption.
        fit: its curve; where there is none the picture says so.
    """
    figure, (axes,) = build_figure(1, 1, panel_size=(6.4, 5.2))
    label_axes(axes, f"SRCC {format_value(report['srcc'], report['ci95']['srcc'])}", "predicted score", "MOS")
    size, alpha = (26, 0.55) if len(mos) <= 1000 else (10, 0.3)
    x = spread_stripes(pred_score)
    axes.scatter(x, mos, s=size, alpha=alpha, color=SERIES[0], edgecolors=SURFACE, linewidths=0.4, zorder=2)
    if fit.params is not None:
        grid = np.linspace(min(pred_score), max(pred_score), 300)
        axes.plot(
            grid,
            fit.predict(grid),
            color=SERIES[1],
            linewidth=2.2,
            label=f"{len(fit.params)}-parameter logistic fit",
            zorder=3,
        )
        add_legend(axes)
    caption = (
        f"n = {report['n']}   unparsed {report['n_unparsed']}   missing {report['n_missing']}\n"
        f"PLCC {format_value(report['plcc'])}, after the fit {format_value(report['plcc_fitted'])}   "
        f"RMSE after the fit {format_value(report['rmse'])}"
    )
    if not np.array_equal(x, pred_score):
        caption += f"\n{len(set(pred_score))} distinct predictions; points of one value are spread sideways"
    figure.supxlabel(caption, x=0.01, ha="left", color=MUTED, fontsize=9)
    save_figure(figure, path)


def spread_stripes(pred_score: Sequence[float]) -> np.ndarray:
    """Where to draw n predictions that take few values, so that points do not hide each other: (n,).

    Points of one value fill a band of 0.6 of the smallest distance between values, evenly and in a fixed order.
    """
    x = np.asarray(pred_score, dtype=float)
    values, indices = np.unique(x, return_inverse=True)
    if not 2 <= len(values) <= _FEW_VALUES:
        return x
    band = 0.6 * np.diff(values).min()
    spread = x.copy()
    for index in range(len(values)):
        rows = np.flatnonzero(indices == index)
        golden = (np.arange(len(rows)) * 0.6180339887498949) % 1.0  # low-discrepancy: even however many there are
        spread[rows] += band * (golden - 0.5) * (len(rows) > 1)
    return spread

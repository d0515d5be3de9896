"""Bars: SRCC by distortion and level, SRCC by data set, and how scores are distributed. PNG or PDF, by the suffix."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from open_r1.viz.report_tables import group_by_model
from open_r1.viz.theme import INK, MUTED, SERIES, add_legend, build_figure, label_axes, save_figure


_NUM_BINS = 30


def save_breakdown_plot(path: str | Path, breakdown: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Draws SRCC with its 95 % interval for each distortion and each level; a panel for either."""
    longest = max(len(rows) for rows in breakdown.values())
    figure, axes = build_figure(1, len(breakdown), panel_size=(5.4, 1.6 + 0.22 * longest))
    for panel, (name, rows) in zip(axes, breakdown.items(), strict=True):
        label_axes(panel, f"By {name}", "SRCC, 95 % intervals")
        _draw_bars(panel, rows, np.arange(len(rows)), 0.7, SERIES[0], is_horizontal=True)
        panel.set_yticks(range(len(rows)), [row["name"] for row in rows], fontsize=8)
        panel.set_ylim(len(rows) - 0.4, -0.6)  # the first on top
        panel.axvline(0, color=MUTED, linewidth=0.8)
    save_figure(figure, path)


def save_cross_dataset_plot(path: str | Path, reports: Sequence[Mapping[str, Any]]) -> None:
    """Draws SRCC with its 95 % interval: a group of bars per data set, a colour per model."""
    datasets = list(dict.fromkeys(report["dataset"] for report in reports))
    models = group_by_model(reports)
    figure, (panel,) = build_figure(1, 1, panel_size=(max(5.0, 1.3 * len(datasets) + 1.5), 3.8))
    label_axes(panel, "SRCC by data set, 95 % intervals", "", "SRCC")
    width = 0.8 / len(models)
    for index, (model, by_dataset) in enumerate(models.items()):
        places = [place for place, name in enumerate(datasets) if name in by_dataset]
        x = np.array(places) + (index - (len(models) - 1) / 2) * width
        rows = [by_dataset[datasets[place]] for place in places]
        _draw_bars(panel, rows, x, 0.9 * width, SERIES[index % len(SERIES)], label=model)
    panel.set_xticks(range(len(datasets)), datasets, fontsize=9)
    panel.axhline(0, color=MUTED, linewidth=0.8)
    add_legend(panel)
    save_figure(figure, path)


def _draw_bars(
    panel: Any,
    rows: Sequence[Mapping[str, Any]],
    places: np.ndarray,
    width: float,
    color: str,
    *,
    label: str | None = None,
    is_horizontal: bool = False,
) -> None:
    """Bars for rows with `srcc` and `ci95`; no bar where there is no value."""
    known = [index for index, row in enumerate(rows) if row["srcc"] is not None]
    values = np.array([rows[index]["srcc"] for index in known], dtype=float)
    bounds = [rows[index]["ci95"]["srcc"] or [rows[index]["srcc"]] * 2 for index in known]
    reach = np.abs(np.array(bounds, dtype=float).reshape(-1, 2).T - values)  # (2, known)
    style = {"fmt": "none", "ecolor": INK, "elinewidth": 1.0, "capsize": 2}
    if is_horizontal:
        panel.barh(places[known], values, width, color=color, label=label)
        panel.errorbar(values, places[known], xerr=reach, **style)
    else:
        panel.bar(places[known], values, width, color=color, label=label)
        panel.errorbar(places[known], values, yerr=reach, **style)


def save_histogram(path: str | Path, pred_score: Sequence[float], mos: Sequence[float]) -> None:
    """Draws how n predictions and n MOS are distributed, each on its own scale."""
    figure, axes = build_figure(1, 2, panel_size=(4.4, 3.1))
    for panel, title, values, color in zip(axes, ("Predictions", "MOS"), (pred_score, mos), SERIES[:2], strict=True):
        label_axes(panel, title, "score", "images")
        if len(values):
            panel.hist(values, bins=_NUM_BINS, color=color)
    save_figure(figure, path)

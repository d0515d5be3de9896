"""The charts of the report page, as Plotly figures in JSON: `{"title": …, "data": […], "layout": {…}}`."""

from collections.abc import Mapping, Sequence
from typing import Any

from open_r1.viz.curves import compute_running_mean, select_panels
from open_r1.viz.report_data import RunReport, StepEvaluation
from open_r1.viz.theme import SERIES


Chart = dict[str, Any]

_MAX_POINTS = 2000  # of a curve; more cannot be seen, and a page with them is slow
_DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_LAYOUT = {
    "margin": {"l": 52, "r": 12, "t": 8, "b": 40},
    "height": 290,
    "paper_bgcolor": "rgba(0,0,0,0)",
    "plot_bgcolor": "rgba(0,0,0,0)",
    "hovermode": "x unified",
    "legend": {"orientation": "h", "y": -0.3, "font": {"size": 11}},
}


def build_curve_charts(runs: Sequence[RunReport]) -> list[Chart]:
    """One chart per group of metrics, with the curves of all runs: a colour per run, or per metric where one run is
    shown alone. Pale: as measured; full: running mean over about an eighth of the run."""
    merged = {name: None for run in runs for name in run.series}
    charts = []
    for title, unit, labels in select_panels(merged):
        traces = []
        for r, run in enumerate(runs):
            for m, (name, label) in enumerate(labels.items()):
                if name in run.series:
                    color = SERIES[(m if len(runs) == 1 else r) % len(SERIES)]
                    dash = _DASHES[(0 if len(runs) == 1 else m) % len(_DASHES)]
                    text = label if len(runs) == 1 else f"{run.name}: {label}"
                    traces += _build_curve(*run.series[name], text, color, dash)
        charts.append(_build_chart(title, traces, "optimizer step", unit))
    return charts


def _build_curve(steps: Sequence[float], values: Sequence[float], label: str, color: str, dash: str) -> list[dict]:
    pairs = list(zip(steps, values, strict=True))
    pairs = pairs[:: max(1, -(-len(pairs) // _MAX_POINTS))]
    x, y = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    line = {"type": "scatter", "mode": "lines", "x": x, "y": y, "name": label}
    if len(y) < 20:
        return [line | {"mode": "lines+markers", "line": {"color": color, "dash": dash}}]
    raw = {"line": {"color": color, "width": 1}, "opacity": 0.3, "showlegend": False, "hoverinfo": "skip"}
    smooth = {"y": compute_running_mean(y, len(y) // 8), "line": {"color": color, "width": 2, "dash": dash}}
    return [line | raw, line | smooth]


def build_srcc_chart(runs: Sequence[RunReport]) -> list[Chart]:
    """SRCC of the validation rows over the steps, with bootstrap intervals; no chart where there was no evaluation."""
    keys = [(run, dataset) for run in runs for dataset in sorted({item.dataset for item in run.evaluations})]
    traces = []
    for index, (run, dataset) in enumerate(keys):
        items = [item for item in run.evaluations if item.dataset == dataset and item.srcc is not None]
        bounds = [item.interval or [item.srcc, item.srcc] for item in items]
        traces.append(
            {
                "type": "scatter",
                "mode": "lines+markers",
                "name": dataset if len(runs) == 1 else f"{run.name}: {dataset}",
                "x": [item.step for item in items],
                "y": [item.srcc for item in items],
                "line": {"color": SERIES[index % len(SERIES)]},
                "error_y": _build_error([item.srcc for item in items], bounds),
            }
        )
    return (
        [_build_chart("SRCC of the validation rows, 95 % intervals", traces, "optimizer step", "")] if traces else []
    )


def build_score_charts(title: str, pred_score: Sequence[float], mos: Sequence[float]) -> list[Chart]:
    """Scores against MOS with the fitted logistic curve, and how scores are distributed."""
    from open_r1.utils.math import compute_agreement

    agreement = compute_agreement(pred_score, mos)
    shown = ", ".join(
        f"{name.upper()} {agreement.values[name]:.3f}"
        for name in ("srcc", "plcc")
        if agreement.values[name] is not None
    )
    stride = max(1, -(-len(mos) // _MAX_POINTS))
    points = {
        "type": "scatter",
        "mode": "markers",
        "name": f"{len(mos)} images",
        "x": list(pred_score[::stride]),
        "y": list(mos[::stride]),
        "marker": {"color": SERIES[0], "size": 5, "opacity": 0.5},
    }
    traces = [points]
    if agreement.fit.params is not None:
        grid = _spread(min(pred_score), max(pred_score))
        curve = {"x": grid, "y": [float(value) for value in agreement.fit.predict(grid)]}
        traces.append(
            {"type": "scatter", "mode": "lines", "name": "logistic fit", "line": {"color": SERIES[1]}} | curve
        )
    scatter = _build_chart(f"{title}: {shown or 'no correlation'}", traces, "predicted score", "MOS")
    bars = [
        {"type": "histogram", "x": list(values), "name": name, "opacity": 0.6, "marker": {"color": color}}
        for name, values, color in (("predicted", pred_score, SERIES[0]), ("MOS", mos, SERIES[1]))
    ]
    histogram = _build_chart(f"{title}: distribution", bars, "score", "images")
    histogram["layout"] |= {"barmode": "overlay", "hovermode": "closest"}
    scatter["layout"] |= {"hovermode": "closest"}
    return [scatter, histogram]


def build_breakdown_charts(title: str, breakdown: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[Chart]:
    """SRCC of each distortion and each level with 95 % intervals, as in the report of an evaluation."""
    charts = []
    for name, all_rows in breakdown.items():
        rows = [row for row in all_rows if row["srcc"] is not None]
        values = [row["srcc"] for row in rows]
        bounds = [row["ci95"]["srcc"] or [row["srcc"]] * 2 for row in rows]
        bars = {
            "type": "bar",
            "name": "SRCC",
            "x": [row["name"] for row in rows],
            "y": values,
            "marker": {"color": SERIES[0]},
            "error_y": _build_error(values, bounds),
        }
        chart = _build_chart(f"{title}: SRCC by {name}, 95 % intervals", [bars], name, "")
        chart["layout"] |= {"hovermode": "closest"}
        chart["layout"]["xaxis"] |= {"type": "category"}
        charts.append(chart)
    return charts


def _build_error(values: Sequence[float], bounds: Sequence[Sequence[float]]) -> dict[str, Any]:
    pairs = list(zip(values, bounds, strict=True))
    return {
        "type": "data",
        "symmetric": False,
        "array": [high - value for value, (_, high) in pairs],
        "arrayminus": [value - low for value, (low, _) in pairs],
    }


def find_last_evaluations(runs: Sequence[RunReport]) -> list[tuple[str, StepEvaluation]]:
    """The last evaluation of every run and data set, with a title."""
    last: dict[str, StepEvaluation] = {}
    for run in runs:
        for item in run.evaluations:
            last[item.dataset if len(runs) == 1 else f"{run.name}: {item.dataset}"] = item
    return [(f"{title}, step {item.step}", item) for title, item in last.items()]


def _spread(low: float, high: float, num: int = 100) -> list[float]:
    return [low + (high - low) * index / (num - 1) for index in range(num)]


def _build_chart(title: str, traces: list[dict], x_title: str, y_title: str) -> Chart:
    axes = {
        "xaxis": {"title": {"text": x_title, "standoff": 4, "font": {"size": 12}}, "automargin": True},
        "yaxis": {"title": {"text": y_title, "font": {"size": 12}}},
        "showlegend": sum(trace.get("showlegend", True) for trace in traces) > 1,
    }
    return {"title": title, "data": traces, "layout": _LAYOUT | axes}

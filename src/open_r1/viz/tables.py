"""Markdown tables: one evaluation, several side by side, and before against after."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from open_r1.utils.comparison import Change


METRIC_NAMES = {
    "srcc": "SRCC",
    "krcc": "KRCC",
    "plcc": "PLCC",
    "plcc_fitted": "PLCC (fitted)",
    "rmse": "RMSE (fitted)",
    "plcc_fitted5": "PLCC (5-parameter fit)",
    "rmse5": "RMSE (5-parameter fit)",
}
_DASH = "—"


def build_markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded to be readable as plain text: the first column is text, the others are numbers."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in (header, *rows)]
    widths = [max(3, *(len(row[column]) for row in cells)) for column in range(len(header))]
    lines = ["| " + " | ".join(_align(row, widths)) + " |" for row in cells]
    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    lines.insert(1, "| " + " | ".join(rule) + " |")
    return "\n".join(lines) + "\n"


def _align(row: Sequence[str], widths: Sequence[int]) -> list[str]:
    first, *others = zip(row, widths, strict=True)
    return [first[0].ljust(first[1]), *(cell.rjust(width) for cell, width in others)]


def format_value(value: float | None, interval: Sequence[float] | None = None, sign: str = "-") -> str:
    """`0.712 [0.665, 0.751]`; a dash where there is no value. `sign="+"` marks gains too."""
    if value is None:
        return _DASH
    text = f"{value:{sign}.3f}"
    return text if interval is None else f"{text} [{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]"


def build_evaluation_table(
    report: Mapping[str, Any], reasons: Mapping[str, str] | None = None, caveats: Sequence[str] = ()
) -> str:
    """One evaluation: a row per metric with its interval, the counts, why there are dashes, and caveats."""
    rows = []
    for metric, name in METRIC_NAMES.items():
        if metric not in report:
            continue
        interval = report["ci95"][metric]
        bounds = _DASH if interval is None else f"[{interval[0]:.3f}, {interval[1]:.3f}]"
        rows.append([name, format_value(report[metric]), bounds])
    counts = f"n = {report['n']}, unparsed = {report['n_unparsed']}, missing = {report['n_missing']}\n"
    notes = [f"{METRIC_NAMES[metric]} has no value: {reason}" for metric, reason in (reasons or {}).items()]
    listed = "".join(f"- {note}\n" for note in (*notes, *caveats))
    table = build_markdown_table(["metric", "value", "95 % interval"], rows)
    return f"{table}\n{counts}" + (f"\n{listed}" if listed else "")


def build_task_table(report: Mapping[str, Any]) -> str:
    """The evaluation of a task: a row per metric, the counts, and notes."""
    rows = [[name, format_value(value)] for name, value in report["metrics"].items()]
    counts = ", ".join(f"{name} = {count}" for name, count in report["counts"].items())
    listed = "".join(f"- {note}\n" for note in report["notes"])
    return f"{build_markdown_table([report['task'], 'value'], rows)}\n{counts}\n" + (f"\n{listed}" if listed else "")


def build_side_by_side_table(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Several evaluations: a row for each name, SRCC and PLCC with their intervals."""
    rows = [
        [
            name,
            *(format_value(report[metric], report["ci95"][metric]) for metric in ("srcc", "plcc")),
            *(format_value(report[metric]) for metric in ("krcc", "plcc_fitted", "rmse")),
            *(str(report[count]) for count in ("n", "n_unparsed", "n_missing")),
        ]
        for name, report in reports.items()
    ]
    header = [METRIC_NAMES[metric] for metric in ("srcc", "plcc", "krcc", "plcc_fitted", "rmse")]
    return build_markdown_table(["predictions", *header, "n", "unparsed", "missing"], rows)


def build_before_after_table(
    rows: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any], "Change"]], metric: str = "srcc"
) -> str:
    """Before against after: a row for each name, values and difference with 95 % intervals, and what was counted.

    Args:
        rows: name -> (report before, report after, change over the images that both scored).
    """
    cells = []
    for name, (before, after, change) in rows.items():
        values = [format_value(report[metric], report["ci95"][metric]) for report in (before, after)]
        unparsed = f"{before['n_unparsed']} → {after['n_unparsed']}"
        cells.append([name, *values, format_value(change.difference, change.ci95, sign="+")])
        cells[-1] += [format_value(change.p_paired), format_value(change.p_meng), str(change.n), unparsed]
    header = [f"{METRIC_NAMES[metric]} [95 % interval]", "before", "after", "difference", "p", "p (Meng)", "n"]
    header.append("unparsed")
    return build_markdown_table(header, cells)

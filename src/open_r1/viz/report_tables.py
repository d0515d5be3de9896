"""The Markdown that `open_r1.evaluate` writes, made of nothing but the JSON of evaluations."""

from collections.abc import Mapping, Sequence
from typing import Any

from open_r1.viz.tables import build_evaluation_table, build_markdown_table, format_value


_MAX_TEXT = 160  # characters of a completion in a table
_MAX_WORST = 10  # rows in the table; the JSON has them all


def build_report_tables(report: Mapping[str, Any]) -> str:
    """One evaluation: measures, breakdown, worst cases, and how it was made."""
    parts = [
        f"# {report['model']} on {report['dataset']}",
        build_evaluation_table(report, report["reasons"], report["caveats"]),
    ]
    parts += [_build_breakdown(name, rows) for name, rows in report["breakdown"].items()]
    if report["worst"]:
        parts.append(_build_worst(report["worst"][:_MAX_WORST]))
    parts.append(_describe_protocol(report))
    return "\n\n".join(part.strip("\n") for part in parts) + "\n"


def _build_breakdown(name: str, rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        [row["name"], *(format_value(row[metric], row["ci95"][metric]) for metric in ("srcc", "plcc")), str(row["n"])]
        for row in rows
    ]
    return build_markdown_table([name, "SRCC", "PLCC", "n"], cells)


def _build_worst(rows: Sequence[Mapping[str, Any]]) -> str:
    cells = [
        [row["image"], f"{row['score']:g}", f"{row['mos']:g}", f"{row['rank_difference']:+.3f}", _shorten(row["text"])]
        for row in rows
    ]
    return build_markdown_table(["worst cases", "score", "MOS", "rank difference", "text"], cells)


def _shorten(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= _MAX_TEXT else line[: _MAX_TEXT - 1] + "…"


def _describe_protocol(report: Mapping[str, Any]) -> str:
    protocol, code = report["protocol"], report["code"]
    scoring = ", ".join(f"{name} {value}" for name, value in protocol["scoring"].items() if name != "checkpoint_id")
    changes = " with uncommitted changes" if code["is_dirty"] else ""
    return (
        f"SRCC, KRCC and PLCC of raw scores. Intervals: {protocol['intervals']}, {protocol['num_resamples']} "
        f"resamples of {protocol['resampled']}, seed {protocol['seed']}. Scores: {scoring or 'of another tool'}. "
        f"Code: {code['commit'] or 'unknown'}{changes}."
    )


def build_cross_dataset_table(reports: Sequence[Mapping[str, Any]]) -> str:
    """SRCC / PLCC: a row per model, a column per data set, then the plain average and the one weighted by size.

    An average is left out where a data set is missing or has no value: it would be that of other data.

    Raises:
        ValueError: two evaluations of one model on one data set.
    """
    datasets = list(dict.fromkeys(report["dataset"] for report in reports))
    rows = []
    for model, by_dataset in group_by_model(reports).items():
        cells = [_format_pair(by_dataset.get(name)) for name in datasets]
        found = [by_dataset[name] for name in datasets if name in by_dataset]
        is_whole = len(found) == len(datasets) and all(r[m] is not None for r in found for m in ("srcc", "plcc"))
        for weights in ([1] * len(found), [report["n"] for report in found]):
            cells.append(_format_pair(_average(found, weights) if is_whole else None))
        rows.append([model, *cells])
    return build_markdown_table(["SRCC / PLCC", *datasets, "average", "average by size"], rows)


def group_by_model(reports: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Mapping[str, Any]]]:
    """Model -> data set -> evaluation; ValueError where one has two."""
    grouped: dict[str, dict[str, Mapping[str, Any]]] = {}
    for report in reports:
        by_dataset = grouped.setdefault(report["model"], {})
        if report["dataset"] in by_dataset:
            raise ValueError(
                f"two evaluations of {report['model']} on {report['dataset']}: evaluate with --model_name to tell "
                "them apart"
            )
        by_dataset[report["dataset"]] = report
    return grouped


def _average(reports: Sequence[Mapping[str, Any]], weights: Sequence[int]) -> dict[str, float]:
    return {
        metric: sum(w * report[metric] for w, report in zip(weights, reports, strict=True)) / sum(weights)
        for metric in ("srcc", "plcc")
    }


def _format_pair(report: Mapping[str, Any] | None) -> str:
    if report is None:
        return format_value(None)
    return " / ".join(format_value(report[metric]) for metric in ("srcc", "plcc"))

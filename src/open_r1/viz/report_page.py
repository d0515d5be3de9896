"""Puts the report page together: one HTML file with its charts, rollouts and scripts inside, which loads nothing.

Text of models is untrusted. It lies in the page as compressed JSON, which no markup can break out of, and the page's
script shows it as text only. A content security policy forbids the page every connection but to whoever serves it.
"""

import base64
import gzip
import html
import json
from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from open_r1.viz.report_charts import (
    Chart,
    build_breakdown_charts,
    build_curve_charts,
    build_score_charts,
    build_srcc_chart,
    find_last_evaluations,
)
from open_r1.viz.report_data import RunReport, build_thumbnails


ScoredSet = tuple[str, Sequence[float], Sequence[float]]  # title, predicted scores, MOS


def build_page(
    runs: Sequence[RunReport],
    scored: Sequence[ScoredSet] = (),
    max_thumbnails: int = 0,
    is_watched: bool = False,
    breakdowns: Mapping[str, Any] | None = None,
) -> str:
    """The page of one or several runs.

    Args:
        runs: In the order of their colours.
        scored: Evaluations of `open_r1.evaluate`, shown beside those made during training.
        max_thumbnails: Pictures that are embedded, the most frequent ones.
        is_watched: Whether the page asks its server for changes.
        breakdowns: Of such evaluations, by title.
    """
    from plotly.offline import get_plotlyjs

    scored = [(title, item.pred_score, item.mos) for title, item in find_last_evaluations(runs)] + list(scored)
    charts = build_curve_charts(runs) + build_srcc_chart(runs)
    charts += [chart for one in scored for chart in build_score_charts(*one)]
    for title, breakdown in (breakdowns or {}).items():
        charts += build_breakdown_charts(title, breakdown)
    content = {
        "runs": [_describe_run(run) for run in runs],
        "config": _compare_configs(runs),
        "charts": charts,
        "groups": [group | {"run": index} for index, run in enumerate(runs) for group in run.groups],
        "thumbnails": build_thumbnails([group for run in runs for group in run.groups], max_thumbnails),
        "watched": is_watched,
    }
    assets = files("open_r1.viz") / "assets"
    parts = {
        "TITLE": html.escape(", ".join(run.name for run in runs)),
        "CONNECT": "'self'" if is_watched else "'none'",
        "STYLE": (assets / "report.css").read_text(encoding="utf-8"),
        "PLOTLY": get_plotlyjs(),
        "DATA": _pack(content),
        "SCRIPT": (assets / "report.js").read_text(encoding="utf-8"),
    }
    pieces = (assets / "report.html").read_text(encoding="utf-8").split("@@")
    return "".join(parts[piece] if index % 2 else piece for index, piece in enumerate(pieces))


def _pack(content: dict[str, Any]) -> str:
    """JSON, compressed, in letters that mean nothing to HTML."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"), allow_nan=False, default=str)
    return base64.b64encode(gzip.compress(text.encode("utf-8", "replace"), compresslevel=6, mtime=0)).decode()


def _describe_run(run: RunReport) -> dict[str, Any]:
    num_shown = sum(len(group["texts"]) for group in run.groups)
    return {"name": run.name, "facts": run.facts, "groups": run.num_groups, "shown": len(run.groups)} | {
        "completions": num_shown
    }


def _compare_configs(runs: Sequence[RunReport]) -> list[list[str | None]]:
    """One row per setting: its name, then the value in each run, None where it has none."""
    names = sorted({name for run in runs for name in run.config})
    return [[name, *(run.config.get(name) for run in runs)] for name in names]


__all__ = ["Chart", "ScoredSet", "build_page"]

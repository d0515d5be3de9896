"""The file of an evaluation: measures, breakdown and worst cases, with all that is needed to make it again.

Evaluation, Matches, EvaluationSources -> build_report -> eval.json, from which every table is made
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_r1.utils.breakdown import compute_breakdown, find_worst_cases
from open_r1.utils.evaluation import Evaluation, Matches
from open_r1.utils.provenance import describe_commit, hash_file, list_versions


@dataclass(frozen=True, kw_only=True)
class EvaluationSources:
    """What was evaluated, and how. Example: `EvaluationSources(predictions=Path("p.csv"), labels=Path("l.txt"))`."""

    predictions: Path
    labels: Path
    dataset: str | None = None  # name or file of a card
    model_name: str | None = None
    fit: str = "4"  # 4, 5 or both
    num_resamples: int = 1000
    seed: int = 0
    num_worst: int = 20


def build_report(evaluation: Evaluation, matches: Matches, sources: EvaluationSources) -> dict[str, Any]:
    """The measures of an evaluation, then what stands behind them."""
    settings = _load_settings(sources.predictions)
    fits = {"4": evaluation.fit} | ({} if evaluation.fit5 is None else {"5": evaluation.fit5})
    return {
        **evaluation.report,
        "dataset": name_dataset(sources),
        "model": sources.model_name or settings.get("model") or sources.predictions.stem,
        "fits": {name: {"params": fit.params, "reason": fit.reason} for name, fit in fits.items()},
        "reasons": evaluation.reasons,
        "caveats": evaluation.caveats,
        "breakdown": compute_breakdown(matches, sources.num_resamples, sources.seed),
        "worst": find_worst_cases(matches, sources.num_worst),
        "protocol": {
            "srcc_krcc_plcc": "raw scores",
            "fit": sources.fit,
            "intervals": "95 % percentile bootstrap",
            "resampled": "images" if matches.reference is None else "references",
            "num_resamples": sources.num_resamples,
            "seed": sources.seed,
            "scoring": settings,
        },
        "files": {str(path): hash_file(path) for path in (sources.predictions, sources.labels)},
        "code": describe_commit(),
        "versions": list_versions(),
    }


def name_dataset(sources: EvaluationSources) -> str:
    """The name on the card of the labels, or else their file's."""
    from open_r1.data.cards import load_card

    return load_card(sources.dataset).name if sources.dataset else sources.labels.stem


def _load_settings(predictions: Path) -> dict[str, Any]:
    """How `open_r1.score` drew the scores; nothing where another tool did."""
    path = predictions.with_name(predictions.name + ".meta.json")
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}

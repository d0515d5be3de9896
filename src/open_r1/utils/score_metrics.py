"""How well the scores of an evaluation during training agree with the MOS, data set by data set.

    rows of the validation data + the texts of each -> compute_score_metrics -> EvalReport
    names: KADID-10K/srcc  KADID-10K/plcc  KADID-10K/unparsed  KADID-10K/num, and srcc  plcc averaged over data sets

Scores are read and averaged as by `open_r1.score`, correlations are those of `open_r1.evaluate`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from open_r1.utils.math import compute_plcc, compute_srcc, explain_undefined
from open_r1.utils.scoring import build_prediction


_CORRELATIONS = {"srcc": compute_srcc, "plcc": compute_plcc}


@dataclass(frozen=True, kw_only=True)
class EvalReport:
    """What a task has to say about one evaluation.

    Every name that the task ever reports is either in `values` or in `reasons`.
    Example: `values={"KADID-10K/num": 80, …}`, `reasons={"KADID-10K/srcc": "every prediction is 3", …}`.
    """

    values: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)  # name -> why it has no value this time
    columns: dict[str, list[Any]] = field(default_factory=dict)  # one value per row, to be logged beside its texts


EvalMetrics = Callable[[list[dict[str, Any]], list[list[str]]], EvalReport]  # rows and the texts of each


def compute_score_metrics(rows: Sequence[dict[str, Any]], texts_per_row: Sequence[Sequence[str]]) -> EvalReport:
    """Correlations of scores and MOS per data set, and their plain averages over data sets.

    An image's score is the mean of those of its texts that have one; images without any are left out and counted.
    A data set whose labels cannot be correlated with anything reports its counts only, and no average waits for it.
    Where another one has no value this time, neither has the average, which would otherwise be that of other images.

    Args:
        rows: With `dataset_name` and `mos`.
        texts_per_row: One or several completions of each.
    """
    scores = [build_prediction("", texts).score for texts in texts_per_row]
    unmeasurable = explain_unmeasurable(rows)
    values: dict[str, float] = {}
    reasons: dict[str, str] = {}
    measured = []
    for dataset, members in _group_by_dataset(rows).items():
        parsed = [index for index in members if scores[index] is not None]
        values[f"{dataset}/num"] = len(members)
        values[f"{dataset}/unparsed"] = 1 - len(parsed) / len(members)
        if dataset in unmeasurable:
            continue
        measured.append(dataset)
        pair = [scores[index] for index in parsed], [rows[index]["mos"] for index in parsed]
        reason = explain_undefined(*pair)
        for name, compute in _CORRELATIONS.items():
            if reason is None:
                values[f"{dataset}/{name}"] = compute(*pair)
            else:
                reasons[f"{dataset}/{name}"] = reason
    for name in _CORRELATIONS if measured else ():
        missing = [dataset for dataset in measured if f"{dataset}/{name}" in reasons]
        if missing:
            reasons[name] = f"{', '.join(missing)} has none"
        else:
            values[name] = sum(values[f"{dataset}/{name}"] for dataset in measured) / len(measured)
    return EvalReport(values=values, reasons=reasons, columns={"pred_score": scores})


def explain_unmeasurable(rows: Iterable[dict[str, Any]]) -> dict[str, str]:
    """The data sets whose labels no prediction can be correlated with, and why: too few of them, or all the same."""
    rows = list(rows)
    reasons = {}
    for dataset, members in _group_by_dataset(rows).items():
        labels = [rows[index]["mos"] for index in members]
        reason = explain_undefined(range(len(labels)), labels)
        if reason is not None:
            reasons[dataset] = reason
    return reasons


def _group_by_dataset(rows: Iterable[dict[str, Any]]) -> dict[str, list[int]]:
    """Row numbers by data set, names in order."""
    members: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        members.setdefault(row["dataset_name"], []).append(index)
    return dict(sorted(members.items()))

"""Evaluates emotion recognition: WAR and UAR, per data set and fold.

A row is the columns of a data row (`solution`, `dataset_name`, `id`, and `fold` where there are folds) and `text`,
what the model wrote.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from open_r1.completions import extract_answer, get_answer_contract
from open_r1.utils.boxes import normalise_label
from open_r1.utils.emotions import get_labels, read_emotion
from open_r1.utils.task_reports import TaskReport


Row = Mapping[str, Any]

UNKNOWN = "unknown"  # an answer that names no emotion, several, or one that the label set has no class for


def compute_war(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Weighted average recall: the mean of the classes' recalls, weighted by their size, which is the accuracy."""
    return sum(first == second for first, second in zip(gold, predicted, strict=True)) / len(gold)


def compute_recalls(gold: Sequence[str], predicted: Sequence[str]) -> dict[str, float]:
    """Recall of each class that the labels have."""
    right = Counter(first for first, second in zip(gold, predicted, strict=True) if first == second)
    return {label: right[label] / count for label, count in sorted(Counter(gold).items())}


def compute_uar(gold: Sequence[str], predicted: Sequence[str]) -> float:
    """Unweighted average recall: the plain mean over the classes that the labels have.

    A class that is only predicted is no part of it, as in R1-Omni's evaluation; scikit-learn's macro recall counts it
    unless it is told which labels to take.
    """
    recalls = compute_recalls(gold, predicted).values()
    return sum(recalls) / len(recalls)


def evaluate_emotion(rows: Sequence[Row], *, question_template: str = "emotion") -> TaskReport:
    """WAR and UAR.

    `DATASET/war` and `DATASET/uar` are of all its rows, or, where rows have a `fold`, the plain means over folds, as
    the data sets' protocols ask for; `war` and `uar` are the plain means over data sets. `DATASET/recall/CLASS` is of
    all rows. Answers that name no emotion, several, or none of the classes are counted as unknown, and wrong.
    """
    contract = get_answer_contract(question_template)
    details = [_judge(row, contract.read_answer(row["text"])) for row in rows]
    scored = [detail for detail in details if detail["gold"] is not None]
    by_dataset: dict[str, list[dict[str, Any]]] = {}
    for detail in scored:
        by_dataset.setdefault(str(detail["dataset_name"]), []).append(detail)

    metrics: dict[str, float] = {}
    notes = [] if scored else ["no row has a label"]
    for dataset, own in sorted(by_dataset.items()):
        _name_unknown(own, get_labels(dataset) or ())
        folds = sorted({str(detail["fold"]) for detail in own if detail["fold"] is not None})
        if folds and any(detail["fold"] is None for detail in own):
            notes.append(f"{dataset}: rows without a fold are not in the means over {len(folds)} folds")
        parts = [[detail for detail in own if str(detail["fold"]) == fold] for fold in folds] or [own]
        for name, compute in (("war", compute_war), ("uar", compute_uar)):
            values = [compute(*_columns(part)) for part in parts]
            metrics[f"{dataset}/{name}"] = sum(values) / len(values)
            metrics |= {f"{dataset}/fold_{fold}/{name}": value for fold, value in zip(folds, values)}
        metrics |= {f"{dataset}/recall/{label}": value for label, value in compute_recalls(*_columns(own)).items()}
    for name in ("war", "uar") if by_dataset else ():
        metrics[name] = sum(metrics[f"{dataset}/{name}"] for dataset in by_dataset) / len(by_dataset)
    return TaskReport(
        task="emotion",
        metrics=metrics,
        counts={
            "rows": len(rows),
            "scored": len(scored),
            "unusable_labels": len(rows) - len(scored),
            "unknown": sum(detail["predicted"] == UNKNOWN for detail in scored),
        },
        details=details,
        notes=notes,
    )


def _judge(row: Row, answer: str | None) -> dict[str, Any]:
    """The class of the label and of the answer, None where there is none."""
    dataset = row.get("dataset_name")
    inside = extract_answer(row["solution"])
    label = row["solution"] if inside is None else inside
    gold = read_emotion(label, dataset)
    predicted = None if answer is None else read_emotion(answer, dataset)
    if gold is None and label.strip():  # a class of a data set of its own
        gold = normalise_label(label)
        predicted = predicted or (None if answer is None else normalise_label(answer))
    fold = row.get("fold")
    return {"id": row.get("id"), "dataset_name": dataset, "fold": fold, "gold": gold, "predicted": predicted}


def _name_unknown(details: list[dict[str, Any]], labels: Sequence[str]) -> None:
    """Puts what is no class into the bucket of the unknown; classes are the data set's, and those that rows have."""
    classes = {*labels, *(detail["gold"] for detail in details)}
    for detail in details:
        if detail["predicted"] not in classes:
            detail["predicted"] = UNKNOWN


def _columns(details: list[dict[str, Any]]) -> tuple[list[str], list[str]]:
    return [detail["gold"] for detail in details], [detail["predicted"] for detail in details]

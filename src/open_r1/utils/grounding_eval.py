"""Evaluates boxes and points over a data set: referring expressions, detection, user interfaces.

A row is the columns of a data row (`solution`, `id`, `dataset_name`, `image_size`, `input_size`) and `text`, what the
model wrote. Answers are read as the rewards of `open_r1.rewards.grounding` read them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from open_r1.completions import AnswerContract, extract_answer, get_answer_contract
from open_r1.json_text import find_object
from open_r1.utils.answers import clean_text
from open_r1.utils.box_pairs import BoxFormats, BoxPair, get_first, parse_label, read_pairs
from open_r1.utils.boxes import iou, is_inside, parse_point, rescale
from open_r1.utils.detection import ImageBoxes, compute_dataset_precision, drop_idle_labels, match_boxes
from open_r1.utils.task_reports import TaskReport


Row = Mapping[str, Any]

_TALLIED = ("gold", "predicted", "found")
REC_THRESHOLD = 0.5  # IoU above which a referred object is found; the custom of RefCOCO


def evaluate_rec(
    rows: Sequence[Row], *, formats: BoxFormats | None = None, question_template: str = "rec"
) -> TaskReport:
    """Accuracy at an IoU above 0.5, and the mean IoU, of the first box of each answer; over all rows and per data set.

    An answer without a box is wrong and has an IoU of 0. Rows whose label has no box are left out and counted.
    """
    overlaps = [
        None if not pair.gold else iou(pair.gold[0].box, pair.predicted[0].box) if pair.predicted else 0.0
        for pair in _read(rows, formats, get_answer_contract(question_template))
    ]
    scored = [(row, overlap) for row, overlap in zip(rows, overlaps, strict=True) if overlap is not None]
    values = {
        "accuracy": [(row, float(overlap > REC_THRESHOLD)) for row, overlap in scored],
        "mean_iou": scored,
    }
    return TaskReport(
        task="rec",
        metrics=_average_by_dataset(values),
        counts={"rows": len(rows), "scored": len(scored), "unusable_labels": len(rows) - len(scored)},
        details=[{**_identify(row), "iou": overlap} for row, overlap in zip(rows, overlaps, strict=True)],
        notes=[] if scored else ["no row has a label with a box"],
    )


def evaluate_od(
    rows: Sequence[Row], *, formats: BoxFormats | None = None, question_template: str = "od"
) -> TaskReport:
    """COCO's average precision over the data set (`map`, `ap50`, `ap75`); precision, recall, F1 at an IoU of 0.5.

    An answer that cannot be read has no boxes. Rows whose label cannot be read are left out and counted. Since boxes
    of a text have no confidence, average precision is that of boxes in the order in which they were written, row after
    row; precision, recall and F1 do not depend on it.
    """
    pairs = _read(rows, formats, get_answer_contract(question_template))
    is_usable = [pair.gold is not None for pair in pairs]
    scored = drop_idle_labels(
        [ImageBoxes(gold=pair.gold, predicted=pair.predicted or []) for pair in pairs if pair.gold is not None]
    )
    precision = compute_dataset_precision(scored)
    tallies = [
        {
            "gold": len(image.gold),
            "predicted": len(image.predicted),
            "found": len(match_boxes(image.gold, image.predicted)),
        }
        for image in scored
    ]
    num_gold, num_predicted, num_found = (sum(tally[name] for tally in tallies) for name in _TALLIED)
    remaining = iter(tallies)
    details = [{**_identify(row), **(next(remaining) if usable else {})} for row, usable in zip(rows, is_usable)]
    metrics = {} if precision is None else {name: getattr(precision, name) for name in ("map", "ap50", "ap75")}
    shares = {"precision": (num_found, num_predicted), "recall": (num_found, num_gold)}
    metrics |= {name: part / whole for name, (part, whole) in shares.items() if whole}
    if num_gold + num_predicted:
        metrics["f1"] = 2 * num_found / (num_gold + num_predicted)
    return TaskReport(
        task="od",
        metrics=metrics,
        counts={
            "rows": len(rows),
            "scored": len(scored),
            "unusable_labels": len(rows) - len(scored),
            "unreadable": sum(pair.gold is not None and pair.predicted is None for pair in pairs),
            "gold_boxes": num_gold,
            "predicted_boxes": num_predicted,
            "found_boxes": num_found,
        },
        details=details,
        notes=[] if precision is not None else ["no label has a box: there is no average precision"],
    )


def evaluate_gui(
    rows: Sequence[Row], *, formats: BoxFormats | None = None, question_template: str = "gui"
) -> TaskReport:
    """Share of rows that are right: the point lies in the labelled box, or the action is the labelled one.

    Where the label has a box, the first point of the answer, or the middle of its first box, must lie in it, and an
    `action` that the label states must be stated alike. Any other label must be met exactly, but for case, white space
    and a full stop at the end. Reported over all rows, over those with boxes (`point_accuracy`) and over the others
    (`action_accuracy`), and per data set.
    """
    formats, contract = formats or BoxFormats(), get_answer_contract(question_template)
    outcomes = [_judge_gui(row, formats, contract) for row in rows]
    scored = [(row, kind, right) for row, (kind, right) in zip(rows, outcomes, strict=True) if right is not None]
    values = {"accuracy": [(row, float(right)) for row, _, right in scored]}
    for kind in ("point", "action"):
        values[f"{kind}_accuracy"] = [(row, float(right)) for row, own, right in scored if own == kind]
    return TaskReport(
        task="gui",
        metrics=_average_by_dataset(values),
        counts={
            "rows": len(rows),
            "scored": len(scored),
            "unusable_labels": len(rows) - len(scored),
            "points": len(values["point_accuracy"]),
            "actions": len(values["action_accuracy"]),
        },
        details=[
            {**_identify(row), "kind": kind, "is_right": right}
            for row, (kind, right) in zip(rows, outcomes, strict=True)
        ],
        notes=[] if scored else ["no row has a label"],
    )


def _read(rows: Sequence[Row], formats: BoxFormats | None, contract: AnswerContract) -> list[BoxPair]:
    return read_pairs(
        [row["text"] for row in rows],
        [row["solution"] for row in rows],
        contract=contract,
        formats=formats or BoxFormats(),
        image_size=[row.get("image_size") or [] for row in rows],
        input_size=[row.get("input_size") or [] for row in rows],
    )


def _judge_gui(row: Row, formats: BoxFormats, contract: AnswerContract) -> tuple[str, bool | None]:
    """The kind of the row's label, and whether the answer meets it; None for a blank label."""
    inside = extract_answer(row["solution"])
    label = row["solution"] if inside is None else inside
    answer = contract.read_answer(row["text"])
    gold = parse_label(label)
    if not gold:
        cleaned = clean_text(label)
        return "action", bool(answer) and clean_text(answer) == cleaned if cleaned else None
    action = _read_action(label)
    point = None if answer is None else parse_point(answer)
    if point is None or (action is not None and _read_action(answer) != action):
        return "point", False
    sizes = (get_first([row.get(name) or []], 0) for name in ("image_size", "input_size"))
    gold_scale, (width, height) = formats.find_scales(*sizes)
    return "point", is_inside((point[0] / width, point[1] / height), rescale(gold[0].box, gold_scale))


def _read_action(text: str) -> str | None:
    action = (find_object(text) or {}).get("action")
    return clean_text(action) if isinstance(action, str) else None


def _identify(row: Row) -> dict[str, Any]:
    return {name: row.get(name) for name in ("id", "dataset_name", "solution", "text")}


def _average_by_dataset(values: dict[str, list[tuple[Row, float]]]) -> dict[str, float]:
    """The mean of each list over all rows, and over those of each data set where there are several of them."""
    metrics = {}
    for name, pairs in values.items():
        by_dataset: dict[str, list[float]] = {}
        for row, value in pairs:
            by_dataset.setdefault(str(row.get("dataset_name")), []).append(value)
        if pairs:
            metrics[name] = sum(value for _, value in pairs) / len(pairs)
        if len(by_dataset) > 1:
            metrics |= {f"{dataset}/{name}": sum(own) / len(own) for dataset, own in sorted(by_dataset.items())}
    return metrics

"""Evaluates a task: predictions and labels in, a `TaskReport` out. What `open_r1.evaluate --task` calls."""

import dataclasses
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open_r1.completions import AnswerContract, extract_answer, get_answer_contract
from open_r1.tasks import get_task
from open_r1.templates import EMOTION_QUESTION
from open_r1.utils.box_pairs import BoxFormats
from open_r1.utils.encoders import DEFAULT_SENTENCE_ENCODER
from open_r1.utils.nle_metrics import NleSettings
from open_r1.utils.step_matching import find_repeats
from open_r1.utils.task_predictions import Row, join_predictions, load_label_rows, load_records
from open_r1.utils.task_reports import TaskReport


@dataclass(frozen=True, kw_only=True)
class TaskOptions:
    """How predictions are read and measured; each evaluator looks at what concerns it."""

    question_template: str | None = None
    """Contract of the predictions; None: the task's own."""
    image_folder: str | None = None
    """Of the labels' pictures, where boxes are in the coordinates of another size."""
    formats: BoxFormats = BoxFormats()
    language: str | None = None
    """Of the answers; None: Vietnamese in `nle`, else English."""
    nle: NleSettings = field(default_factory=NleSettings)
    encoder: str = DEFAULT_SENTENCE_ENCODER
    threshold: float | None = None
    matching: str = "greedy"
    device: str = "auto"


def evaluate_task(
    task: str, predictions: str | Path, labels: str | Path | None, options: TaskOptions | None = None
) -> TaskReport:
    """The report of a task.

    Args:
        task: One of `EVALUATORS`.
        predictions: File or folder, see `task_predictions`.
        labels: Data file or folder; None in `nle` where the predictions have their references.
        options: How.

    Raises:
        ValueError: unknown task, or files that cannot be read or joined.
    """
    if task not in EVALUATORS:
        raise ValueError(f"unknown task {task!r}; known: {', '.join(EVALUATORS)}")
    options = options or TaskOptions()
    records = load_records(predictions)
    if not records:
        raise ValueError(f"{predictions}: there is no prediction")
    if task == "nle" and "predict" in records[0]:
        return _evaluate_nle_results(records, labels, options)
    if labels is None:
        raise ValueError(f"the task {task} needs labels")
    evaluator = EVALUATORS[task]
    contract = get_answer_contract(options.question_template or get_task(evaluator.task_type).question_template)
    question = EMOTION_QUESTION if task == "emotion" else None
    label_rows = load_label_rows(labels, image_folder=options.image_folder, default_question=question)
    joined = join_predictions(label_rows, records, contract)
    report = evaluator.evaluate(joined.rows, contract, options)
    notes = [*report.notes]
    if joined.num_missing:
        notes.append(
            f"{joined.num_missing} labels have no prediction and are left out: the figures are not of all rows"
        )
    if joined.num_extra:
        notes.append(f"{joined.num_extra} predictions have no label and are left out")
    counts = {**report.counts, "missing": joined.num_missing}
    return dataclasses.replace(report, task=task, counts=counts, notes=notes)


def evaluate_vqa(rows: list[Row], contract: AnswerContract, options: TaskOptions) -> TaskReport:
    """Accuracy of short answers, over all rows, per data set and per rule that decided."""
    from open_r1.utils.vqa_accuracy import AccuracyCalculator

    usable = [row for row in rows if _read_gold(row)]
    calculator = AccuracyCalculator(language=options.language or "en")
    results = [
        calculator.evaluate_single(
            row["problem"], contract.read_answer(row["text"]), _read_gold(row), row.get("options") or None
        )
        for row in usable
    ]
    metrics = {"accuracy": sum(result.is_correct for result in results) / len(results)} if results else {}
    by_group: dict[str, list[bool]] = defaultdict(list)
    for row, result in zip(usable, results, strict=True):
        by_group[f"{row.get('dataset_name')}/accuracy"].append(result.is_correct)
        by_group[f"rule/{result.match_type}/accuracy"].append(result.is_correct)
    metrics |= {name: sum(values) / len(values) for name, values in sorted(by_group.items())}
    types = Counter(result.match_type for result in results)
    return TaskReport(
        task="vqa",
        metrics=metrics,
        counts={
            "rows": len(rows),
            "scored": len(results),
            "correct": sum(result.is_correct for result in results),
            **{f"rule/{name}": count for name, count in sorted(types.items())},
        },
        details=[
            {"id": row["id"], "dataset_name": row.get("dataset_name"), **dataclasses.asdict(result)}
            for row, result in zip(usable, results, strict=True)
        ],
        notes=[] if results else ["no row has a gold answer"],
    )


def evaluate_reasoning(rows: list[Row], contract: AnswerContract, options: TaskOptions) -> TaskReport:
    """Match F1 of reasoning steps, with what it does not see: how many steps there are, and how many are repeated."""
    from open_r1.utils.reasoning_eval import MLLMReasoningEvaluator

    usable = [row for row in rows if row.get("reference_steps")]
    evaluator = MLLMReasoningEvaluator(options.encoder, options.threshold, options.device, options.matching)
    steps = [contract.read_steps(row["text"]) or [] for row in usable]
    results = [evaluator.evaluate_single(own, row["reference_steps"]) for own, row in zip(steps, usable, strict=True)]
    names = ("match_f1", "precision", "recall", "num_predicted_steps", "num_reference_steps")
    metrics = {name: sum(getattr(result, name) for result in results) / len(results) for name in names if results}
    num_steps = sum(map(len, steps))
    if num_steps:
        metrics["repeated_steps"] = sum(len(find_repeats(own)) for own in steps) / num_steps
    return TaskReport(
        task="reasoning",
        metrics=metrics,
        counts={
            "rows": len(rows),
            "scored": len(results),
            "without_reference": len(rows) - len(usable),
            "without_steps": sum(not own for own in steps),
        },
        details=[
            {"id": row["id"], "steps": own, **dataclasses.asdict(result)}
            for row, own, result in zip(usable, steps, results, strict=True)
        ],
        notes=[
            f"encoder: {options.encoder}, threshold {evaluator.similarity_threshold}, {options.matching} matching",
            "Match F1 takes statements on one topic for the same: negations and numbers hardly count",
        ],
    )


def _evaluate_rec(rows: list[Row], contract: AnswerContract, options: TaskOptions) -> TaskReport:
    from open_r1.utils.grounding_eval import evaluate_rec

    return evaluate_rec(_add_sizes(rows, options), formats=options.formats, question_template=contract.name)


def _evaluate_detection(rows: list[Row], contract: AnswerContract, options: TaskOptions) -> TaskReport:
    from open_r1.utils.grounding_eval import evaluate_od

    return evaluate_od(_add_sizes(rows, options), formats=options.formats, question_template=contract.name)


def _evaluate_gui(rows: list[Row], contract: AnswerContract, options: TaskOptions) -> TaskReport:
    from open_r1.utils.grounding_eval import evaluate_gui

    return evaluate_gui(_add_sizes(rows, options), formats=options.formats, question_template=contract.name)


def _evaluate_emotion(rows: list[Row], contract: AnswerContract, options: TaskOptions) -> TaskReport:
    from open_r1.utils.emotion_eval import evaluate_emotion

    return evaluate_emotion(rows, question_template=contract.name)


def _evaluate_nle(rows: list[Row], contract: AnswerContract, options: TaskOptions) -> TaskReport:
    from open_r1.utils.nle_eval import NleRow, evaluate_nle

    nle_rows = [
        NleRow(
            id=str(row["id"]),
            question=row["problem"],
            answer=_read_gold(row) or "",
            predicted=contract.read_answer(row["text"]) or "",
            explanations=row["explanations"] or list(filter(None, [contract.read_explanation(row["solution"])])),
            pred_explanation=contract.read_explanation(row["text"]) or "",
        )
        for row in rows
    ]
    return evaluate_nle(nle_rows, options.nle, options.language or "vi")


def _evaluate_nle_results(records: list[Row], labels: str | Path | None, options: TaskOptions) -> TaskReport:
    """The result files of vqa-nle, which are joined by picture and question."""
    from open_r1.utils.nle_eval import evaluate_nle, parse_nle_rows

    rows, num_missing = parse_nle_rows(records, [] if labels is None else load_records(labels))
    report = evaluate_nle(rows, options.nle, options.language or "vi")
    notes = [*report.notes, *([f"{num_missing} labels have no prediction and are left out"] if num_missing else [])]
    return dataclasses.replace(report, counts={**report.counts, "missing": num_missing}, notes=notes)


@dataclass(frozen=True, kw_only=True)
class Evaluator:
    """What measures a task, and the `--task_type` whose contract its predictions keep to."""

    task_type: str
    evaluate: Callable[[list[Row], AnswerContract, TaskOptions], TaskReport]


EVALUATORS = {
    "vqa": Evaluator(task_type="vqa", evaluate=evaluate_vqa),
    "nle": Evaluator(task_type="vivqa", evaluate=_evaluate_nle),
    "reasoning": Evaluator(task_type="vqa", evaluate=evaluate_reasoning),
    "rec": Evaluator(task_type="rec", evaluate=_evaluate_rec),
    "detection": Evaluator(task_type="od", evaluate=_evaluate_detection),
    "gui": Evaluator(task_type="gui", evaluate=_evaluate_gui),
    "emotion": Evaluator(task_type="emotion", evaluate=_evaluate_emotion),
}


def _read_gold(row: Row) -> str | None:
    inside = extract_answer(row["solution"])
    return (row["solution"] if inside is None else inside).strip() or None


def _add_sizes(rows: list[Row], options: TaskOptions) -> list[Row]:
    """Rows with the sizes of their pictures, where coordinates of labels and answers differ and pictures are named."""
    if options.image_folder is None or options.formats.answer == options.formats.label:
        return rows
    from open_r1.data.media import load_image

    sized: list[dict[str, Any]] = []
    for row in rows:
        sizes = row.get("image_size") or [load_image(path).size for path in row["image_path"]]
        sized.append({**row, "image_size": sizes})
    return sized

"""Evaluates answers with explanations (ViVQA-X): accuracy, and explanation metrics unfiltered, filtered and scaled.

Rows are those of vqa-nle's result files,

    {"image_name": "COCO_val2014_….jpg", "question": "…", "answer": "…", "predict": "…", "pred_explanation": "…"}

with `explanation`, the references, in the row or in the file of labels.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from open_r1.utils.answers import normalize_text, split_vietnamese_words
from open_r1.utils.nle_metrics import NleScorer, NleSettings
from open_r1.utils.task_reports import TaskReport
from open_r1.utils.text_tokens import tokenize_explanation


LANGUAGES = ("vi", "en")


@dataclass(frozen=True, kw_only=True)
class NleRow:
    """One answer. Example: `NleRow(question="…?", answer="hai", predicted="hai", explanations=["có hai"], …)`."""

    id: str
    question: str
    answer: str  # gold
    predicted: str
    explanations: list[str]  # references
    pred_explanation: str
    answer_type: str | None = None

    def is_right(self, language: str) -> bool:
        """Whether the answer is the gold one up to case, punctuation and the ways of writing a letter."""
        words = _split(self.predicted, language)
        return bool(words) and words == _split(self.answer, language)


def evaluate_nle(rows: Sequence[NleRow], settings: NleSettings | None = None, language: str = "vi") -> TaskReport:
    """Accuracy and F1 of answers, and explanation metrics in three versions.

    `unfiltered/…` is over all rows with references, `filtered/…` over those whose answer is right, `scaled/…` is
    unfiltered times accuracy. CIDEr runs from 0 to 10, the others to 1.

    Raises:
        ValueError: no row, or an unknown language.
    """
    if language not in LANGUAGES:
        raise ValueError(f"unknown language {language!r}; known: {', '.join(LANGUAGES)}")
    if not rows:
        raise ValueError("there is no row to evaluate")
    settings = settings or NleSettings()
    is_right = [row.is_right(language) for row in rows]
    accuracy = sum(is_right) / len(rows)
    metrics = {"accuracy": accuracy, "answer_f1": sum(_compute_f1(row, language) for row in rows) / len(rows)}
    metrics |= _average_by_type(rows, is_right)
    references = [[text for text in row.explanations if tokenize_explanation(text)] for row in rows]
    explained = [i for i, own in enumerate(references) if own]
    notes = _describe(settings, language)
    if explained:
        scorer = NleScorer([rows[i].pred_explanation for i in explained], [references[i] for i in explained], settings)
        found, more = _score_versions(scorer, [is_right[i] for i in explained], accuracy)
        metrics |= found
        notes += more
    else:
        notes.append("no row has a reference explanation: explanations are not measured")
    return TaskReport(
        task="nle",
        metrics=metrics,
        counts={
            "rows": len(rows),
            "correct": sum(is_right),
            "with_references": len(explained),
            "without_explanation": sum(not tokenize_explanation(row.pred_explanation) for row in rows),
        },
        details=[_detail(row, right) for row, right in zip(rows, is_right, strict=True)],
        notes=notes,
    )


def parse_nle_rows(
    predictions: Sequence[Mapping[str, Any]], labels: Sequence[Mapping[str, Any]] = ()
) -> tuple[list[NleRow], int]:
    """Rows of a result file, with references from them or from the labels of the same picture and question.

    Args:
        predictions: As above.
        labels: ViVQA-X entries: `image_name`, `question`, `answer`, `explanation`, `answer_type`.

    Returns:
        The rows, and how many labels have no prediction.

    Raises:
        ValueError: a row lacks a key, or has neither references nor a label.
    """
    by_question = {_identify(label): label for label in labels}
    rows = []
    for number, record in enumerate(predictions, start=1):
        missing = [key for key in ("image_name", "question", "predict", "pred_explanation") if key not in record]
        if missing:
            raise ValueError(f"row {number} of the predictions lacks {', '.join(missing)}")
        label = by_question.get(_identify(record), {})
        if labels and not label:
            raise ValueError(f"row {number} of the predictions has no label: {' / '.join(_identify(record))}")
        merged = {**label, **{key: value for key, value in record.items() if value is not None}}
        if "answer" not in merged:
            raise ValueError(f"row {number} of the predictions lacks answer, and so does its label")
        rows.append(
            NleRow(
                id=" / ".join(_identify(record)),
                question=str(merged["question"]),
                answer=str(merged["answer"]),
                predicted=str(merged.get("predict") or ""),
                explanations=_as_list(label.get("explanation") or merged.get("explanation")),
                pred_explanation=str(merged.get("pred_explanation") or ""),
                answer_type=merged.get("answer_type"),
            )
        )
    predicted = {_identify(record) for record in predictions}
    return rows, sum(key not in predicted for key in by_question)


def _score_versions(
    scorer: NleScorer, is_right: Sequence[bool], accuracy: float
) -> tuple[dict[str, float], list[str]]:
    unfiltered, reasons = scorer.score(range(len(is_right)))
    metrics = {f"unfiltered/{name}": value for name, value in unfiltered.items()}
    metrics |= {f"scaled/{name}": value * accuracy for name, value in unfiltered.items()}
    notes = [f"no {name}: {reason}" for name, reason in reasons.items()]
    right = [i for i, value in enumerate(is_right) if value]
    if not right:
        return metrics, [*notes, "no answer is right: nothing is left of the filtered metrics"]
    filtered, filtered_reasons = scorer.score(right)
    metrics |= {f"filtered/{name}": value for name, value in filtered.items()}
    notes += [f"no filtered {name}: {why}" for name, why in filtered_reasons.items() if name not in reasons]
    return metrics, notes


def _describe(settings: NleSettings, language: str) -> list[str]:
    opening = "left out of predictions and references" if settings.strip_opening else "kept"
    notes = [
        f"tokenizer: {settings.tokenizer} (figures of another are not comparable)",
        f'language: {language}; a leading "vì" or "because" is {opening}',
        "CIDEr (CIDEr-D, 0 to 10) weighs words by the references of the rows that are scored",
        "scaled is unfiltered times accuracy",
    ]
    if settings.bertscore_model is not None and "bertscore" in settings.metrics:
        notes.append(f"BERTScore: {settings.bertscore_model}, layer {settings.bertscore_layer or 'by default'}")
    english = [name.upper() for name in ("meteor", "spice") if name in settings.metrics]
    if language != "en" and english:
        notes.append(f"{' and '.join(english)} know English words only; on others they compare spellings")
    return notes


def _average_by_type(rows: Sequence[NleRow], is_right: Sequence[bool]) -> dict[str, float]:
    by_type: dict[str, list[bool]] = defaultdict(list)
    for row, right in zip(rows, is_right, strict=True):
        if row.answer_type:
            by_type[row.answer_type].append(right)
    return {f"{name}/accuracy": sum(values) / len(values) for name, values in sorted(by_type.items())}


def _compute_f1(row: NleRow, language: str) -> float:
    predicted, gold = Counter(_split(row.predicted, language)), Counter(_split(row.answer, language))
    num_common = (predicted & gold).total()
    return 2 * num_common / (predicted.total() + gold.total()) if num_common else 0.0


def _split(answer: str, language: str) -> list[str]:
    return split_vietnamese_words(answer if language == "vi" else normalize_text(answer, language))


def _detail(row: NleRow, is_right: bool) -> dict[str, Any]:
    return {
        "id": row.id,
        "answer": row.answer,
        "predicted": row.predicted,
        "is_right": is_right,
        "pred_explanation": row.pred_explanation,
    }


def _identify(record: Mapping[str, Any]) -> tuple[str, str]:
    name = str(record.get("image_name", "")).replace("\\", "/").rpartition("/")[2]
    return name, " ".join(split_vietnamese_words(str(record.get("question", ""))))


def _as_list(value: Any) -> list[str]:
    return [] if value is None else [str(text) for text in ([value] if isinstance(value, str) else value)]

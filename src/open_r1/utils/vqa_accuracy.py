"""Whether a short answer to a question about a picture is right: yes/no, choices, dates, numbers, text.

    calculator = AccuracyCalculator()
    calculator.evaluate_single("How many dogs?", "two", "2").is_correct

The rules are tried in that order; the first that can read both answers decides, and text comes last. An answer is
right or wrong: there is no credit for being near, for containing the right answer, or for saying nothing. Used by the
reward `vqa_accuracy` and by evaluation. Follows the accuracy calculator of "mllm_evaluator" (waybarrios/VLM-R1), with
its wide tolerances, its searches for substrings and its letters inside words taken out.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from open_r1.utils.answers import MAX_CHARACTERS, find_options, normalize_text, read_choice, read_yes_no
from open_r1.utils.quantities import agree, read_date, read_quantity


Grader = Callable[[str, str, str], float | None]
"""(question, predicted answer, gold answer) -> how sure it is that the answer is right, 0 to 1; None: no verdict."""

_GRADED_RIGHT = 0.5


@dataclass(frozen=True, kw_only=True)
class AccuracyResult:
    """The verdict on one answer. Example: "Two" against "2" is correct, its `match_type` is "numeric"."""

    is_correct: bool
    predicted_answer: str
    ground_truth_answer: str
    normalized_prediction: str
    normalized_ground_truth: str
    match_type: str
    """Rule that decided: empty, yes_no, choice, date, numeric, exact, llm, ungraded (no verdict), or none matched."""
    confidence: float = 1.0
    """How sure the verdict is, 0 to 1; below 1 from a grader only."""


@dataclass(frozen=True, kw_only=True)
class TypeStatistics:
    """The answers that one rule decided. Example: `TypeStatistics(count=4, correct=3, accuracy=0.75, ...)`."""

    count: int
    correct: int
    accuracy: float
    avg_confidence: float


@dataclass(frozen=True, kw_only=True)
class DatasetAccuracy:
    """The verdicts on a data set."""

    overall_accuracy: float  # share of right answers
    weighted_accuracy: float  # the same, each right answer counted with its confidence
    total_samples: int
    correct_samples: int
    type_statistics: dict[str, TypeStatistics] = field(default_factory=dict)  # by match_type
    detailed_results: list[AccuracyResult] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class AccuracyCalculator:
    """The rules, with their parameters.

    >>> calculator = AccuracyCalculator()
    >>> [calculator.evaluate_single("", *pair).match_type for pair in (("yes", "true"), ("3/4", "0.75"), ("", "cat"))]
    ['yes_no', 'numeric', 'empty']
    """

    numeric_relative_tolerance: float = 1e-2
    """Of the gold number; not for counts, years, prices and identifiers (`quantities.agree`)."""
    numeric_absolute_tolerance: float = 0.0
    """The same as an amount; the larger one holds."""
    language: str = "en"
    """Of the answers: whose articles do not count."""
    grader: Grader | None = None
    """Asked where no rule found the answer right as text; a language model, perhaps."""

    def evaluate_single(
        self,
        question: str,
        predicted_answer: str | None,
        ground_truth_answer: str,
        options: Sequence[str] | None = None,
    ) -> AccuracyResult:
        """The verdict on one answer.

        Args:
            question: Searched for options where `options` are not given, and shown to the grader.
            predicted_answer: The answer alone; None or blank is wrong.
            ground_truth_answer: The gold answer.
            options: Texts of the choices, in the order of their letters.

        Raises:
            ValueError: the gold answer is blank.
        """
        gold, predicted = ground_truth_answer.strip(), (predicted_answer or "").strip()
        if not gold:
            raise ValueError("the gold answer is blank: leave the row out")
        options = list(options or find_options(question))
        normalized = [normalize_text(text[:MAX_CHARACTERS], self.language) for text in (predicted, gold)]
        match_type, is_correct, confidence = self._decide(question, predicted, gold, options)
        return AccuracyResult(
            is_correct=is_correct,
            predicted_answer=predicted,
            ground_truth_answer=gold,
            normalized_prediction=normalized[0],
            normalized_ground_truth=normalized[1],
            match_type=match_type,
            confidence=confidence,
        )

    def evaluate_dataset(
        self,
        questions: Sequence[str],
        predicted_answers: Sequence[str | None],
        ground_truth_answers: Sequence[str],
        options: Sequence[Sequence[str] | None] | None = None,
    ) -> DatasetAccuracy:
        """The verdicts on equally long lists, and their summary.

        Raises:
            ValueError: lists of different length, none at all, or a blank gold answer.
        """
        rows = zip(questions, predicted_answers, ground_truth_answers, options or [None] * len(questions), strict=True)
        results = [self.evaluate_single(*row) for row in rows]
        if not results:
            raise ValueError("there is no answer to evaluate")
        by_type = defaultdict(list)
        for result in results:
            by_type[result.match_type].append(result)
        num_correct = sum(result.is_correct for result in results)
        return DatasetAccuracy(
            overall_accuracy=num_correct / len(results),
            weighted_accuracy=sum(result.confidence for result in results if result.is_correct) / len(results),
            total_samples=len(results),
            correct_samples=num_correct,
            type_statistics={name: _summarize(group) for name, group in sorted(by_type.items())},
            detailed_results=results,
        )

    def _decide(self, question: str, predicted: str, gold: str, options: list[str]) -> tuple[str, bool, float]:
        """Rule, verdict and its confidence."""
        letter = read_choice(gold, options) if options or len(gold.strip("().[]")) == 1 else None
        gold_text = options[ord(letter) - ord("A")] if letter and options else gold  # a letter stands for its text
        if not predicted:
            return "empty", False, 1.0
        if len(predicted) > max(MAX_CHARACTERS, 2 * len(gold_text)):
            return "none", False, 1.0
        verdict = self._decide_by_kind(predicted, gold_text, options, letter)
        if verdict is not None:
            return *verdict, 1.0
        if normalize_text(predicted, self.language) in {
            normalize_text(text, self.language) for text in (gold, gold_text)
        }:
            return "exact", True, 1.0
        if self.grader is None:
            return "none", False, 1.0
        grade = self.grader(question, predicted, gold_text)
        if grade is None:
            return "ungraded", False, 0.0
        return "llm", grade >= _GRADED_RIGHT, max(grade, 1 - grade)

    def _decide_by_kind(
        self, predicted: str, gold: str, options: list[str], gold_letter: str | None
    ) -> tuple[str, bool] | None:
        """Rule and verdict where both answers are of a kind that decides; None otherwise."""
        gold_polarity = read_yes_no(gold) if normalize_text(gold) in ("yes", "no", "true", "false") else None
        if gold_polarity is not None and (polarity := read_yes_no(predicted)) is not None:
            return "yes_no", polarity == gold_polarity
        if gold_letter is not None and (letter := read_choice(predicted, options)) is not None:
            return "choice", letter == gold_letter
        gold_date, date = read_date(gold), read_date(predicted)
        if gold_date is not None and date is not None:
            return "date", date == gold_date
        gold_quantity, quantity = read_quantity(gold), read_quantity(predicted)
        if gold_quantity is None or quantity is None:
            return None
        tolerances = self.numeric_relative_tolerance, self.numeric_absolute_tolerance
        if agree(quantity, gold_quantity, *tolerances):
            return "numeric", True
        differ_in_unit_alone = agree(replace(quantity, unit=gold_quantity.unit), gold_quantity, *tolerances)
        return None if differ_in_unit_alone else ("numeric", False)


def _summarize(results: list[AccuracyResult]) -> TypeStatistics:
    num_correct = sum(result.is_correct for result in results)
    return TypeStatistics(
        count=len(results),
        correct=num_correct,
        accuracy=num_correct / len(results),
        avg_confidence=sum(result.confidence for result in results) / len(results),
    )

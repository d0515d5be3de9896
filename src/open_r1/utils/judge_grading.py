"""Lets a judge decide what rules leave open, for functions that ask a grader about one answer at a time.

A grader is `grader(question, answer, reference) -> float | None`. Asked one by one, a judge would take a round trip
for each answer; so the function runs twice, first to find out what it would ask, then with all the answers to that.
"""

from collections.abc import Callable
from typing import TypeVar

from open_r1.utils.judge_client import JudgeQuestion, JudgeSettings, Verdict, get_judge


Grader = Callable[[str, str, str], float | None]
T = TypeVar("T")


def grade_together(judge: JudgeSettings, evaluate: Callable[[Grader], T]) -> tuple[T, list[Verdict]]:
    """Runs a function that depends on a grader, and gives it the verdicts of a judge.

    Args:
        judge: Which judge.
        evaluate: Takes a grader. It must ask the same questions however they are answered.

    Returns:
        What it gives, and the verdicts for the answers that it asked about.
    """
    questions: list[JudgeQuestion] = []

    def note(question: str, answer: str, reference: str) -> float | None:
        questions.append(JudgeQuestion(question=question, reference=reference, answer=answer, form="correct"))
        return None

    result = evaluate(note)
    if not questions:
        return result, []
    verdicts = get_judge(judge).ask(questions)
    scores = {question: verdict.score for question, verdict in zip(questions, verdicts, strict=True)}

    def look_up(question: str, answer: str, reference: str) -> float | None:
        return scores[JudgeQuestion(question=question, reference=reference, answer=answer, form="correct")]

    return evaluate(look_up), verdicts

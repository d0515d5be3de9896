"""Judge reward: a language model behind a server says whether an answer means what the reference means.

Scope: one completion. Transport, cache and prompt are those of `open_r1.utils.judge_client`.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from open_r1.completions import extract_answer, get_answer_contract
from open_r1.utils.judge_client import JudgeQuestion, JudgeSettings, get_judge, log_outcomes
from open_r1.utils.judge_grading import grade_together


async def llm_judge_reward(
    prompts: list[Any],
    completions: list[list[dict[str, str]]],
    completion_ids: list[list[int]] | None = None,
    *,
    judge: JudgeSettings | None = None,
    question_template: str = "default",
    **columns: Any,
) -> list[float | None]:
    """What a language model thinks of the answer, given question and reference: 0 is wrong, 1 says the same.

    The judge gets the text of the question, the reference answer and the completion's answer, no picture and no
    thinking, and is told that the answer is data ([judge.md](judge.md)). A completion without an answer earns 0 and is
    not asked about; a row without a reference abstains. So does a completion that the judge did not answer for, or
    answered for with anything but a score from 0 to 1: no score is made up, and training goes on. Logs, per call and
    device, how many completions were `judge/answered`, `judge/cached` (known from before, or equal to another one),
    `judge/failed` and `judge/unreadable`.

    Range: 0 to 1.
    Scope: completion.
    Needs: column `solution`; `--judge_model` and its server; extra `judge`.
    Source: the method `llm` of VLM-R1 and the LLM grader of waybarrios/VLM-R1, which ask one completion at a time and
        fall back on string equality.

    >>> import asyncio
    >>> judge = JudgeSettings(base_url="http://localhost:11434/v1", model="qwen2.5:7b")
    >>> completions = [[{"role": "assistant", "content": "<think>whiskers</think><answer>a kitten</answer>"}]]
    >>> columns = {"problem": ["What animal is this?"], "solution": ["<answer>a young cat</answer>"]}
    >>> asyncio.run(llm_judge_reward([None], completions, judge=judge, **columns))  # doctest: +SKIP
    [1.0]

    Args:
        prompts: Not read.
        completions: B conversations of one assistant message.
        completion_ids: Not read.
        judge: Which judge, and how patiently it is asked.
        question_template: Contract that the answers are read by.
        columns: `solution`; `problem`, where the question shall be known to the judge; `log_metric`.

    Raises:
        ValueError: no judge is named.
    """
    if judge is None:
        raise ValueError("llm_judge has no judge: name one with --judge_model and --judge_base_url.")
    contract = get_answer_contract(question_template)
    problems = columns.get("problem") or [""] * len(completions)
    rewards: list[float | None] = []
    questions = {}
    for i, (completion, solution) in enumerate(zip(completions, columns["solution"], strict=True)):
        answer, reference = contract.read_answer(completion[-1]["content"]), _read_reference(solution)
        rewards.append(None if reference is None else 0.0)
        if answer is not None and reference is not None:
            questions[i] = JudgeQuestion(question=problems[i] or "", reference=reference, answer=answer)
    verdicts = await get_judge(judge).ask_async(list(questions.values()))
    for i, verdict in zip(questions, verdicts, strict=True):
        rewards[i] = verdict.score
    log_outcomes(verdicts, columns.get("log_metric", _ignore))
    return rewards


llm_judge_reward.abstains_on_timeout = True


def add_grader(func: Callable[..., Any], judge: JudgeSettings) -> Callable[..., Any]:
    """The reward function with a judge for what its rules leave open; as it is where it has no option `answer_grader`.

    The judge is asked about all such answers of a round at once. An answer without a verdict abstains. Logs what
    `llm_judge_reward` logs.
    """
    if "answer_grader" not in inspect.signature(func).parameters:
        return func

    @functools.wraps(func)
    def graded_reward(*args: Any, log_metric: Callable[[str, float], None] = _ignore, **columns: Any) -> Any:
        rewards, verdicts = grade_together(
            judge, lambda grader: func(*args, **columns, log_metric=_ignore, answer_grader=grader)
        )
        log_outcomes(verdicts, log_metric)
        return rewards

    graded_reward.runs_in, graded_reward.abstains_on_timeout = "thread", True
    return graded_reward


def _read_reference(solution: str | None) -> str | None:
    """The answer inside the tags of a row's solution, or all of it; None where it is blank."""
    text = solution or ""
    inside = extract_answer(text)
    return (text if inside is None else inside).strip() or None


def _ignore(name: str, value: float) -> None:
    """Where nobody logs."""

"""Accuracy rewards: an answer compared with the row's gold answer. One function per way of comparing.

Everywhere: the answer is read by the run's answer contract, the gold answer is the text between the tags of
`solution`, or all of it where it has none. A completion without an answer, or with a blank one, earns the floor; a row
without a gold answer, or with one that the method cannot read, abstains. Which of them judges a row can be said row by
row: `method_accuracy` (`method.py`).
"""

from collections.abc import Callable, Sequence
from typing import Any

from open_r1.completions import extract_answer, get_answer_contract
from open_r1.utils.answer_grading import compare_expressions, compare_free_text, grade_vietnamese
from open_r1.utils.answers import clean_text, find_options, read_choice, read_yes_no
from open_r1.utils.vqa_accuracy import AccuracyCalculator, Grader


Completions = list[list[dict[str, str]]]
Compare = Callable[[str, str, Sequence[str]], float | None]  # answer, gold, options -> reward


def default_accuracy_reward(
    prompts: list[Any],
    completions: Completions,
    completion_ids: list[list[int]] | None = None,
    *,
    question_template: str = "default",
    **columns: Any,
) -> list[float | None]:
    """How right an answer of any kind is: mathematics and numbers, a letter of multiple choice, or free text.

    The first of these that fits the gold answer decides: the same text, 1; a number or an expression, 1 where it is
    equal (math-verify, units must not contradict each other) and else 0; a single letter, 1 where the answer chooses
    it and else 0; other text, the share of characters that both have in common in order, `2 M / (len a + len b)`, and
    0 where the two texts name different numbers. So numbers earn nothing for looking alike.

    Range: 0 to 1.
    Scope: completion.
    Needs: column `solution`; extra `vqa`.
    Source: VLM-R1, `default` accuracy; math-verify; the indel ratio of the library Levenshtein.

    >>> texts = ["<answer>12.0 m</answer>", "<answer>13 m</answer>", "12 m"]
    >>> completions = [[{"role": "assistant", "content": text}] for text in texts]
    >>> default_accuracy_reward([None] * 3, completions, solution=["<answer> 12 m </answer>"] * 3)
    [1.0, 0.0, 0.0]
    """
    return _compare_rows(completions, columns, question_template, compare_free_text)


def math_accuracy_reward(
    prompts: list[Any],
    completions: Completions,
    completion_ids: list[list[int]] | None = None,
    *,
    question_template: str = "default",
    **columns: Any,
) -> list[float | None]:
    """1 for an answer that equals the gold answer as mathematics, else 0.

    Numbers with units are compared as they are, anything else by math-verify, in a process of its own with limits of
    length, time and memory. Prose around an expression, and answers over 200 characters, are no expression.

    Range: 0 or 1.
    Scope: completion.
    Needs: column `solution`; extra `vqa`.
    Source: VLM-R1, `math`; math-verify.

    >>> texts = ["<answer>0.5</answer>", "<answer>1/3</answer>"]
    >>> completions = [[{"role": "assistant", "content": text}] for text in texts]
    >>> math_accuracy_reward([None] * 2, completions, solution=["<answer> 1/2 </answer>"] * 2)
    [1.0, 0.0]
    """
    return _compare_rows(completions, columns, question_template, compare_expressions)


def mcq_accuracy_reward(
    prompts: list[Any],
    completions: Completions,
    completion_ids: list[list[int]] | None = None,
    *,
    question_template: str = "default",
    **columns: Any,
) -> list[float | None]:
    """1 for an answer that chooses the gold option, else 0.

    Answer and gold answer may each be the letter, as "B", "(b)", "B) two dogs" or "the answer is B", or the text of
    the option where the options are known: from the column `options`, else from lines such as "A) cat" of `problem`.
    An answer that names two letters, or a letter with the text of another option, chooses none. No letter is read out
    of a word or an article. A gold answer that is no option abstains.

    Range: 0 or 1.
    Scope: completion.
    Needs: column `solution`; `options` and `problem` where there are.
    Source: VLM-R1, `mcq`.

    >>> texts = ["<answer>B) blue</answer>", "<answer>blue</answer>", "<answer>A or B</answer>"]
    >>> completions = [[{"role": "assistant", "content": text}] for text in texts]
    >>> columns = {"solution": ["<answer> B </answer>"] * 3, "options": [["red", "blue"]] * 3}
    >>> mcq_accuracy_reward([None] * 3, completions, **columns)
    [1.0, 1.0, 0.0]
    """
    return _compare_rows(completions, columns, question_template, _compare_choices)


def yes_no_accuracy_reward(
    prompts: list[Any],
    completions: Completions,
    completion_ids: list[list[int]] | None = None,
    *,
    question_template: str = "default",
    **columns: Any,
) -> list[float | None]:
    """1 for the gold yes or no, else 0.

    True, correct and affirmative are yes, false, incorrect and negative are no, "not" turns them round. Words match as
    words, so that "nothing" is no "no"; an answer that says both says neither. A gold answer that is neither abstains.

    Range: 0 or 1.
    Scope: completion.
    Needs: column `solution`.
    Source: VLM-R1, `yes_no`.

    >>> texts = ["<answer>No, two cats.</answer>", "<answer>nothing</answer>"]
    >>> completions = [[{"role": "assistant", "content": text}] for text in texts]
    >>> yes_no_accuracy_reward([None] * 2, completions, solution=["<answer> no </answer>"] * 2)
    [1.0, 0.0]
    """
    return _compare_rows(completions, columns, question_template, _compare_yes_no)


def all_match_reward(
    prompts: list[Any],
    completions: Completions,
    completion_ids: list[list[int]] | None = None,
    *,
    question_template: str = "default",
    **columns: Any,
) -> list[float | None]:
    """1 for the very text of the gold answer, else 0; but for case, white space and a final full stop.

    Range: 0 or 1.
    Scope: completion.
    Needs: column `solution`.
    Source: VLM-R1, `all_match`.

    >>> texts = ["<answer>\\nOpen the menu.</answer>", "<answer>open menu</answer>"]
    >>> completions = [[{"role": "assistant", "content": text}] for text in texts]
    >>> all_match_reward([None] * 2, completions, solution=["<answer> open the menu </answer>"] * 2)
    [1.0, 0.0]
    """
    return _compare_rows(
        completions, columns, question_template, lambda answer, gold, _: float(clean_text(answer) == clean_text(gold))
    )


def vivqa_accuracy_reward(
    prompts: list[Any],
    completions: Completions,
    completion_ids: list[list[int]] | None = None,
    *,
    question_template: str = "vivqa",
    **columns: Any,
) -> list[float | None]:
    """3 for the gold answer, 1.5 for at least half of its words, else 0; for Vietnamese short answers.

    Compared without case, punctuation and the place of a tone within its syllable, whether the text is composed or not
    (NFC, NFD). The words of the gold answer count once each. For 1.5, the words in common must also be a third of the
    answer's, so that a list of guesses earns nothing, and both answers must be negated or neither: "không có" earns
    nothing for "có", while "không phải" for "không" earns 1.5.

    Range: 0 to 3, as 0, 1.5 or 3.
    Scope: completion.
    Needs: column `solution`.
    Source: the outcome reward of vqa-nle (ViVQA-X), with the conditions on 1.5 added.

    >>> texts = ["<answer>Con mèo.</answer>", "<answer>mèo đen</answer>", "<answer>không phải mèo</answer>"]
    >>> completions = [[{"role": "assistant", "content": text}] for text in texts]
    >>> vivqa_accuracy_reward([None] * 3, completions, solution=["<answer>con mèo</answer>"] * 3)
    [3.0, 1.5, 0.0]
    """
    return _compare_rows(
        completions, columns, question_template, lambda answer, gold, _: grade_vietnamese(answer, gold)
    )


def vqa_accuracy_reward(
    prompts: list[Any],
    completions: Completions,
    completion_ids: list[list[int]] | None = None,
    *,
    question_template: str = "vqa",
    numeric_relative_tolerance: float = 1e-2,
    numeric_absolute_tolerance: float = 0.0,
    answer_language: str = "en",
    answer_grader: Grader | None = None,
    **columns: Any,
) -> list[float | None]:
    """1 for a right short answer to a question about a picture, else 0; no credit between.

    By kind of the gold answer, as `open_r1.utils.vqa_accuracy` says: yes or no; a choice, by letter or by text; a
    date; a number, with unit, thousands separators, as a fraction or in words; else the same text without case,
    punctuation and a leading article. The tolerance is for measured and fractional numbers and those from 10,000 on,
    never for counts, years and prices.

    Range: 0 or 1.
    Scope: completion.
    Needs: column `solution`; `options` and `problem` where there are choices.
    Source: the accuracy calculator of mllm_evaluator (waybarrios/VLM-R1), with its defects mended.

    >>> answers = ['"two"', '"2 dogs"', '"3"', '""']
    >>> texts = [f'{{"reasoning_steps": ["a dog", "a dog"], "answer": {answer}}}' for answer in answers]
    >>> completions = [[{"role": "assistant", "content": text}] for text in texts]
    >>> vqa_accuracy_reward([None] * 4, completions, solution=["<answer> 2 </answer>"] * 4)
    [1.0, 1.0, 0.0, 0.0]

    Args:
        prompts: Not read.
        completions: B conversations of one assistant message.
        completion_ids: Not read.
        question_template: Contract that the answers are read by.
        numeric_relative_tolerance: Share of the gold number.
        numeric_absolute_tolerance: The same as an amount; the larger one holds.
        answer_language: Whose articles do not count.
        answer_grader: Asked about text that is not the same; what it calls wrong earns 0, no verdict abstains.
        columns: `solution`; `options`, `problem`.
    """
    calculator = AccuracyCalculator(
        numeric_relative_tolerance=numeric_relative_tolerance,
        numeric_absolute_tolerance=numeric_absolute_tolerance,
        language=answer_language,
        grader=answer_grader,
    )
    contract = get_answer_contract(question_template)
    count = len(completions)
    problems, options = columns.get("problem") or [""] * count, columns.get("options") or [None] * count
    rewards = []
    for completion, solution, problem, choices in zip(
        completions, columns["solution"], problems, options, strict=True
    ):
        gold = read_gold(solution)
        if gold is None:
            rewards.append(None)
            continue
        result = calculator.evaluate_single(
            problem or "", contract.read_answer(completion[-1]["content"]), gold, choices
        )
        rewards.append(None if result.match_type == "ungraded" else float(result.is_correct))
    return rewards


math_accuracy_reward.runs_in = "process"
default_accuracy_reward.runs_in = "process"


def read_gold(solution: str | None) -> str | None:
    """The gold answer of a row: the text between its answer tags, or all of it; None where it is blank."""
    text = solution or ""
    inside = extract_answer(text)
    return (text if inside is None else inside).strip() or None


def _compare_rows(
    completions: Completions, columns: dict[str, Any], question_template: str, compare: Compare
) -> list[float | None]:
    """What `compare` gives each answer; 0 where there is none, None where there is no gold answer."""
    contract = get_answer_contract(question_template)
    count = len(completions)
    problems, options = columns.get("problem") or [""] * count, columns.get("options") or [None] * count
    rewards = []
    for completion, solution, problem, choices in zip(
        completions, columns["solution"], problems, options, strict=True
    ):
        gold, answer = read_gold(solution), contract.read_answer(completion[-1]["content"])
        reward = None if gold is None else compare(answer or "", gold, choices or find_options(problem or ""))
        rewards.append(0.0 if reward is not None and answer is None else reward)
    return rewards


def _compare_choices(answer: str, gold: str, options: Sequence[str]) -> float | None:
    letter = read_choice(gold, options)
    return None if letter is None else float(read_choice(answer, options) == letter)


def _compare_yes_no(answer: str, gold: str, options: Sequence[str]) -> float | None:
    polarity = read_yes_no(gold)
    return None if polarity is None else float(read_yes_no(answer) == polarity)

"""Shaping rewards of how much is written: `length` by tokens and correctness, `repetition` by repeated text."""

import inspect
import json
import math
from collections.abc import Awaitable, Callable, Sequence
from typing import Any


def length_reward(
    prompts: list[Any],
    completions: list[list[dict[str, str]]],
    completion_ids: list[list[int]] | None = None,
    *,
    accuracy_func: Callable[..., list[float | None]] | None = None,
    length_correct_from: float = 0.7,
    length_horizon: int = 1024,
    length_correct: Sequence[float] = (1.0, 0.5),
    length_wrong: Sequence[float] = (0.0, -0.5),
    **columns: Any,
) -> Any:
    """A value that glides with the length, on half a cosine for right answers and on another for wrong ones.

    `long + (short - long) * (1 + cos(pi * min(tokens / horizon, 1))) / 2`, so that beyond the horizon nothing changes.
    An answer is right where the task's accuracy reward gives it at least `length_correct_from`; that reward is the
    option `accuracy_func`, which `build_reward_funcs` sets to what `accuracy` stands for in the task, with all its
    options (`--length_accuracy` names another). It is called here once more. Where it abstains, so does this reward.
    With the defaults, those of VLM-R1, short answers earn more, right or wrong; the paper lets wrong answers gain by
    length (`--length_wrong -1 0`).

    Range: -0.5 to 1, or what the options say.
    Scope: completion.
    Needs: the number of tokens; an accuracy reward.
    Source: "Demystifying Long Chain-of-Thought Reasoning in LLMs", arXiv 2502.03373, cosine reward; VLM-R1, `cosine`.

    >>> def is_right(prompts, completions, completion_ids=None, **columns):
    ...     return columns["right"]
    >>> ids, options = [[0] * 512, [0] * 4096, [0] * 512], {"accuracy_func": is_right}
    >>> [round(reward, 2) for reward in length_reward([], [[]] * 3, ids, right=[1.0, 1.0, 0.0], **options)]
    [0.75, 0.5, -0.25]

    Args:
        prompts: For `accuracy_func`, as everything else.
        completions: Likewise.
        completion_ids: Tokens of each completion.
        accuracy_func: The reward that says what is right.
        length_correct_from: The least reward of a right answer.
        length_horizon: Tokens after which the value stays.
        length_correct: The value of a right answer of no length, and of one at the horizon.
        length_wrong: The same of a wrong answer.
        columns: For `accuracy_func`.

    Returns:
        One value per completion; awaitable where those of `accuracy_func` are.
    """
    if completion_ids is None:
        raise ValueError("length_reward counts tokens: it needs completion_ids.")
    if accuracy_func is None:
        raise ValueError("length_reward needs an accuracy reward to tell right from wrong: name one in accuracy_func.")
    shares = [min(len(ids) / length_horizon, 1.0) for ids in completion_ids]
    curves = [[_glide(*ends, share) for share in shares] for ends in (length_correct, length_wrong)]
    accuracies = accuracy_func(prompts, completions, completion_ids, **columns)
    if inspect.isawaitable(accuracies):
        return _choose_later(accuracies, length_correct_from, *curves)
    return _choose(accuracies, length_correct_from, *curves)


def repetition_reward(
    prompts: list[Any],
    completions: list[list[dict[str, str]]],
    completion_ids: list[list[int]] | None = None,
    *,
    repetition_ngram: int = 6,
    **columns: Any,
) -> list[float]:
    """Minus the share of repeated n-grams: `unique / total - 1`.

    Where the text has a code fence with a JSON list, the n-grams are its items, alone; else they are runs of
    `repetition_ngram` words of the whole completion, in lower case. A text too short for any repeats nothing.

    Range: -1 to 0.
    Scope: completion.
    Source: VLM-R1, its reward `repetition`; the penalty of arXiv 2502.03373, appendix.

    >>> texts = ["a b c d e f g", "no no no no no no no no no no no"]
    >>> completions = [[{"role": "assistant", "content": text}] for text in texts]
    >>> [round(reward, 2) for reward in repetition_reward([], completions)]
    [0.0, -0.83]
    """
    if repetition_ngram < 1:
        raise ValueError(f"--repetition_ngram must be at least 1, not {repetition_ngram}.")
    return [_score_repetition(completion[-1]["content"], repetition_ngram) for completion in completions]


def choose_length_accuracy(funcs: list[Callable[..., Any]], find_accuracy: Callable[[], Callable[..., Any]]) -> Any:
    """The reward that tells right from wrong for `length`; None where `length` is not among the functions.

    Raises:
        ValueError: it is `length` itself.
    """
    if length_reward not in funcs:
        return None
    accuracy = find_accuracy()
    if accuracy is length_reward:
        raise ValueError("the reward `length` cannot tell right from wrong: name another with --length_accuracy.")
    return accuracy


def follow_accuracy(funcs: list[Callable[..., Any]], accuracy: Callable[..., Any]) -> list[Callable[..., Any]]:
    """The functions, of which `length` runs where the accuracy reward that it calls asks to run."""
    for func in funcs:
        if func.__name__ == length_reward.__name__ and hasattr(accuracy, "runs_in"):
            func.runs_in = accuracy.runs_in
    return funcs


async def _choose_later(accuracies: Awaitable[list[float | None]], *others: Any) -> list[float | None]:
    return _choose(await accuracies, *others)


def _choose(
    accuracies: Sequence[float | None], least: float, if_right: list[float], if_wrong: list[float]
) -> list[float | None]:
    return [
        None if accuracy is None else right if accuracy >= least else wrong
        for accuracy, right, wrong in zip(accuracies, if_right, if_wrong, strict=True)
    ]


def _glide(short: float, long: float, share: float) -> float:
    return long + (short - long) * (1 + math.cos(math.pi * share)) / 2


def _score_repetition(text: str, size: int) -> float:
    items = _read_list(text)
    if items:
        units, size = items, 1
    else:
        units = text.lower().split()
    total = len(units) - size + 1
    if total < 1:
        return 0.0
    return len({tuple(units[start : start + size]) for start in range(total)}) / total - 1


def _read_list(text: str) -> list[str]:
    """The items of the JSON list in the last code fence, as text; none where there is no such list."""
    parts = text.rsplit("```", 2)
    if len(parts) < 3:
        return []
    inside = parts[1].strip()
    try:
        value = json.loads(inside[4:] if inside[:4].lower() == "json" else inside)
        return [json.dumps(item, sort_keys=True) for item in value] if isinstance(value, list) else []
    except (ValueError, RecursionError):
        return []

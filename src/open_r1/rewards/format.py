"""Format rewards: 1.0 for a completion that keeps to the answer contract, 0.0 for any other.

Scope: one completion. What counts as well formed is said once, by the contracts of `open_r1.completions`.
"""

from typing import Any

from open_r1.completions import AnswerContract, get_answer_contract


def format_reward(
    prompts: list[Any],
    completions: list[list[dict[str, str]]],
    completion_ids: list[list[int]] | None = None,
    **columns: Any,
) -> list[float]:
    """1.0 for one thinking section, then one answer that is not blank, and nothing else; else 0.0.

    >>> texts = ["<think>sharp</think> <answer>4.5</answer>", "<answer>4.5</answer>"]
    >>> format_reward(prompts=[None] * 2, completions=[[{"role": "assistant", "content": text}] for text in texts])
    [1.0, 0.0]
    """
    return _score_format(completions, get_answer_contract("default"))


def nothink_format_reward(
    prompts: list[Any],
    completions: list[list[dict[str, str]]],
    completion_ids: list[list[int]] | None = None,
    **columns: Any,
) -> list[float]:
    """1.0 for one answer that is not blank, and nothing else; else 0.0.

    >>> texts = ["<answer>4.5</answer>", "<think>sharp</think> <answer>4.5</answer>"]
    >>> nothink_format_reward(prompts=[None] * 2, completions=[[{"role": "assistant", "content": t}] for t in texts])
    [1.0, 0.0]
    """
    return _score_format(completions, get_answer_contract("scoring_no_think"))


def _score_format(completions: list[list[dict[str, str]]], contract: AnswerContract) -> list[float]:
    return [float(contract.is_well_formed(completion[-1]["content"])) for completion in completions]

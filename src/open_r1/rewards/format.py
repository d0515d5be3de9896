"""Format rewards: whether a completion keeps to the answer contract.

What counts as well formed is said once, by the contracts of `open_r1.completions`.
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

    White space around the sections does not count.

    Range: 0 or 1.
    Scope: completion.
    Source: VisualQuality-R1 and VLM-R1, `format`, with blank and repeated answers ruled out.

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

    Range: 0 or 1.
    Scope: completion.

    >>> texts = ["<answer>4.5</answer>", "<think>sharp</think> <answer>4.5</answer>"]
    >>> nothink_format_reward(prompts=[None] * 2, completions=[[{"role": "assistant", "content": t}] for t in texts])
    [1.0, 0.0]
    """
    return _score_format(completions, get_answer_contract("scoring_no_think"))


def rec_format_reward(
    prompts: list[Any],
    completions: list[list[dict[str, str]]],
    completion_ids: list[list[int]] | None = None,
    **columns: Any,
) -> list[float]:
    """1.0 for thinking, then an answer with exactly one box of four numbers, and nothing else; else 0.0.

    The box is a list [x1, y1, x2, y2], bare or inside JSON. Whether it is the right one is for `iou` to say.

    Range: 0 or 1.
    Scope: completion.
    Source: VLM-R1, `format_reward_rec`, with or without braces, and decimals allowed.

    >>> texts = [f"<think>left</think> <answer>{box}</answer>" for box in ('{"bbox_2d": [1, 2, 3, 4]}', "[1, 2, 3]")]
    >>> rec_format_reward(prompts=[None] * 2, completions=[[{"role": "assistant", "content": t}] for t in texts])
    [1.0, 0.0]
    """
    return _score_format(completions, get_answer_contract("rec"))


def json_steps_format_reward(
    prompts: list[Any],
    completions: list[list[dict[str, str]]],
    completion_ids: list[list[int]] | None = None,
    **columns: Any,
) -> list[float]:
    """1.0 for one JSON object with `reasoning_steps` and `answer`, in a code fence or not, and nothing else; else 0.0.

    The steps are a list, not empty, of texts that are not blank; the answer is such a text, or a number. Keys in any
    order, braces inside texts and other keys are fine; a key twice is not.

    Range: 0 or 1.
    Scope: completion.
    Source: waybarrios/VLM-R1, format of the task `vqa`, by a JSON parser in place of a pattern.

    >>> texts = ['{"answer": 2, "reasoning_steps": ["a dog", "a cat"]}', '{"reasoning_steps": [], "answer": ""}']
    >>> json_steps_format_reward(prompts=[], completions=[[{"role": "assistant", "content": t}] for t in texts])
    [1.0, 0.0]
    """
    return _score_format(completions, get_answer_contract("vqa"))


def vivqa_format_reward(
    prompts: list[Any],
    completions: list[list[dict[str, str]]],
    completion_ids: list[list[int]] | None = None,
    **columns: Any,
) -> list[float]:
    """A third for each right section of thinking, answer and explanation; 1.0 for all three and nothing else.

    A section is right where its tags are written once, it holds text (the thinking may be blank) and no other tag, and
    it stands behind the earlier sections. With text around or between the three it is two thirds at most.

    Range: 0 to 1, in thirds.
    Scope: completion.
    Source: the format reward of vqa-nle (ViVQA-X), bounded, and with tags without their partner worth nothing.

    >>> full = "<think>a</think><answer>b</answer><explain>c</explain>"
    >>> texts = [full, f"{full} so", "<think>a</think><answer>b</answer>", "<explain>" * 30]
    >>> vivqa_format_reward(prompts=[], completions=[[{"role": "assistant", "content": text}] for text in texts])
    [1.0, 0.6666666666666666, 0.6666666666666666, 0.0]
    """
    contract = get_answer_contract("vivqa")
    num_sections = len(contract.sections)
    texts = [completion[-1]["content"] for completion in completions]
    return [
        1.0 if contract.is_well_formed(text) else min(contract.count_sections(text), num_sections - 1) / num_sections
        for text in texts
    ]


def _score_format(completions: list[list[dict[str, str]]], contract: AnswerContract) -> list[float]:
    return [float(contract.is_well_formed(completion[-1]["content"])) for completion in completions]

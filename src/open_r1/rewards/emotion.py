"""Reward of emotion recognition: the answer names the labelled emotion, and no other."""

from typing import Any

from open_r1.completions import extract_answer, get_answer_contract
from open_r1.utils.boxes import normalise_label
from open_r1.utils.emotions import read_emotion


def emotion_reward(
    prompts: list[Any],
    completions: list[list[dict[str, str]]],
    completion_ids: list[list[int]] | None = None,
    *,
    question_template: str = "emotion",
    **columns: Any,
) -> list[float | None]:
    """1.0 where the answer names the labelled emotion and no other, else 0.0.

    Words of the same emotion are equal ("happy", "joy"); which words stand for which label of MAFW, DFEW and RAVDESS
    is listed in `open_r1.utils.emotions`, by `dataset_name`. An answer that names several emotions, denies one, or
    says anything else beside it earns 0. A label that is none of the known emotions is compared as text; a blank
    one abstains. Reads no `image` or `video` column, so that rows with either, or with both, are rewarded alike.

    Range: 0 or 1.
    Scope: completion.
    Needs: columns `solution`, `dataset_name`.
    Source: R1-Omni (equality of the answer); class names of MAFW, DFEW, RAVDESS.

    >>> texts = ["<answer>Happy</answer>", "<answer>happy or sad</answer>", "happy"]
    >>> completions = [[{"role": "assistant", "content": text}] for text in texts]
    >>> emotion_reward([], completions, solution=["<answer> happiness </answer>"] * 3, dataset_name=["MAFW"] * 3)
    [1.0, 0.0, 0.0]
    """
    contract = get_answer_contract(question_template)
    datasets = columns.get("dataset_name") or [None] * len(completions)
    return [
        score_emotion(contract.read_answer(completion[-1]["content"]), label, dataset)
        for completion, label, dataset in zip(completions, columns["solution"], datasets, strict=True)
    ]


def score_emotion(answer: str | None, label: str, dataset_name: str | None = None) -> float | None:
    """1.0 or 0.0 for one answer, None for a blank label."""
    inside = extract_answer(label)
    label = label if inside is None else inside
    if not label.strip():
        return None
    if answer is None:
        return 0.0
    gold = read_emotion(label, dataset_name)
    if gold is None:
        return float(normalise_label(answer) == normalise_label(label))
    return float(read_emotion(answer, dataset_name) == gold)

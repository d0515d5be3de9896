"""Reasoning reward: the steps of a completion say what the reference steps say.

Scope: one completion. The counting is that of `utils.step_matching`, which the evaluator shares.
"""

from typing import TYPE_CHECKING, Any

from open_r1.completions import JsonContract, get_answer_contract


if TYPE_CHECKING:
    import numpy as np


def reasoning_reward(
    prompts: list[Any],
    completions: list[list[dict[str, str]]],
    completion_ids: list[list[int]] | None = None,
    *,
    question_template: str = "vqa",
    reasoning_encoder: str = "all-MiniLM-L6-v2",
    reasoning_threshold: float | None = None,
    reasoning_matching: str = "greedy",
    reward_device: str = "cpu",
    **columns: Any,
) -> list[float | None]:
    """Match F1 of the steps in the JSON answer and the reference steps.

    Cosines of sentence vectors; pairs strictly above the threshold of the encoder are matched one to one, the most
    similar first. Precision is matched over predicted steps, recall matched over reference steps, the reward their
    harmonic mean. A step that repeats an earlier one up to case and punctuation matches nothing, but counts as
    predicted. No readable step earns 0; a row without reference steps abstains.

    Range: 0 to 1.
    Scope: completion.
    Needs: column `reference_steps`; extra `vqa`.
    Source: Match F1 of `mllm_evaluator` in waybarrios/VLM-R1, where repeated steps may match; thresholds from there.

    >>> text = '{"reasoning_steps": ["Two dogs run on grass"], "answer": "2"}'
    >>> reasoning_reward(
    ...     prompts=[None], completions=[[{"role": "assistant", "content": text}]],
    ...     reference_steps=[["Two dogs are running on the grass", "The sky is blue"]],
    ... )  # doctest: +SKIP
    [0.6666666666666666]

    Args:
        prompts: Not read.
        completions: Answers with steps.
        completion_ids: Not read.
        question_template: Contract of the completions.
        reasoning_encoder: Folder or hub name of the sentence encoder.
        reasoning_threshold: Cosine above which two steps match; None: the encoder's own.
        reasoning_matching: "greedy", as published, or "maximum": as many pairs as there can be.
        reward_device: Where the encoder runs.
        columns: `reference_steps`.

    Raises:
        ValueError: the contract of the completions has no steps.
    """
    from open_r1.utils.step_matching import get_threshold

    contract = get_answer_contract(question_template)
    if not isinstance(contract, JsonContract):
        raise ValueError(f"answers by --question_template {question_template} have no reasoning steps: take vqa")
    predictions = [contract.read_steps(completion[-1]["content"]) or [] for completion in completions]
    references = [_drop_blank(steps) for steps in columns["reference_steps"]]
    threshold = get_threshold(reasoning_encoder) if reasoning_threshold is None else reasoning_threshold
    vectors = _encode_steps(predictions, references, reasoning_encoder, reward_device)
    log_metric = columns.get("log_metric", _ignore)
    log_metric("reasoning/num_steps", sum(map(len, predictions)) / max(1, len(predictions)))
    return [
        _score(predicted, reference, vectors, threshold, reasoning_matching) if reference else None
        for predicted, reference in zip(predictions, references, strict=True)
    ]


def _encode_steps(
    predictions: list[list[str]], references: list[list[str]], encoder: str, device: str
) -> dict[str, "np.ndarray"]:
    """The vector of each distinct step that is compared with another."""
    from open_r1.utils.encoders import load_sentence_encoder

    compared = [
        [*predicted, *reference] for predicted, reference in zip(predictions, references) if predicted and reference
    ]
    steps = list(dict.fromkeys(step for steps in compared for step in steps))
    return dict(zip(steps, load_sentence_encoder(encoder, device).encode(steps), strict=True)) if steps else {}


def _score(
    predicted: list[str], reference: list[str], vectors: dict[str, "np.ndarray"], threshold: float, matching: str
) -> float:
    import numpy as np

    from open_r1.utils.step_matching import find_repeats, score_steps

    if not predicted:
        return 0.0
    left, right = (np.stack([vectors[step] for step in steps]) for steps in (predicted, reference))
    similarity = left @ right.T  # (P, R)
    similarity[find_repeats(predicted)] = -np.inf
    return score_steps(similarity, threshold, matching).match_f1


def _drop_blank(steps: list[str] | None) -> list[str]:
    return [step for step in steps or [] if step and step.strip()]


def _ignore(name: str, value: float) -> None:
    pass

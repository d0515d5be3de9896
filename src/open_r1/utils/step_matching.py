"""Match F1: how many predicted reasoning steps say what a reference step says. Pure functions of similarities.

Definition of the `mllm_evaluator` of waybarrios/VLM-R1: cosines of sentence vectors, pairs above a threshold, matched
one to one. The reward (`rewards/reasoning.py`) and the evaluator (`utils/reasoning_eval.py`) both count by this.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


MATCHINGS = ("greedy", "maximum")
DEFAULT_THRESHOLD = 0.45
THRESHOLDS = {  # of the encoder that the cosines come from: cosines of two encoders are on two scales
    "all-MiniLM-L6-v2": 0.45,
    "all-MiniLM-L12-v2": 0.47,
    "all-mpnet-base-v2": 0.48,
    "all-distilroberta-v1": 0.50,
    "paraphrase-multilingual-MiniLM-L12-v2": 0.43,
    "paraphrase-multilingual-mpnet-base-v2": 0.45,
}


@dataclass(frozen=True, kw_only=True)
class EvaluationMetrics:
    """One prediction against its reference. Example: `EvaluationMetrics(match_f1=0.5, precision=0.5, …)`."""

    match_f1: float
    precision: float
    recall: float
    num_predicted_steps: int
    num_reference_steps: int
    num_matched_predictions: int
    num_matched_references: int
    avg_similarity: float  # over all pairs
    max_similarity: float
    threshold_used: float


def get_threshold(encoder: str) -> float:
    """The similarity that counts as a match, for an encoder given by name, hub name or folder.

    >>> get_threshold("sentence-transformers/all-mpnet-base-v2"), get_threshold("my/encoder")
    (0.48, 0.45)
    """
    return THRESHOLDS.get(encoder.replace("\\", "/").rstrip("/").rpartition("/")[2], DEFAULT_THRESHOLD)


def match_steps(similarity: np.ndarray, threshold: float, matching: str = "greedy") -> list[tuple[int, int]]:
    """Pairs (predicted, reference) of steps whose similarity is strictly above the threshold, one to one.

    "greedy" takes the most similar pair that is left, of equal ones that with the greater indices. "maximum" finds as
    many pairs as there can be, and of those choices the most similar: greedy may miss some.

    >>> similarity = np.array([[0.9, 0.8], [0.7, 0.0]])
    >>> match_steps(similarity, 0.5), match_steps(similarity, 0.5, "maximum")
    ([(0, 0)], [(0, 1), (1, 0)])

    Args:
        similarity: (P, R) of predicted and reference steps.
        threshold: A similarity equal to it is no match.
        matching: One of `MATCHINGS`.

    Raises:
        ValueError: another matching.
    """
    if matching not in MATCHINGS:
        raise ValueError(f"matching is {matching!r}; known: {', '.join(MATCHINGS)}")
    return _match_greedily(similarity, threshold) if matching == "greedy" else _match_most(similarity, threshold)


def score_steps(similarity: np.ndarray, threshold: float, matching: str = "greedy") -> EvaluationMetrics:
    """Match F1 and what it is made of; zeros where no step was predicted.

    Raises:
        ValueError: there is no reference step, or no such matching.
    """
    num_predicted, num_reference = similarity.shape
    if num_reference == 0:
        raise ValueError("Reference steps cannot be empty")
    num_matched = len(match_steps(similarity, threshold, matching))
    precision = num_matched / num_predicted if num_predicted else 0.0
    recall = num_matched / num_reference
    return EvaluationMetrics(
        match_f1=2 * precision * recall / (precision + recall) if num_matched else 0.0,
        precision=precision,
        recall=recall,
        num_predicted_steps=num_predicted,
        num_reference_steps=num_reference,
        num_matched_predictions=num_matched,
        num_matched_references=num_matched,
        avg_similarity=float(similarity.mean()) if num_predicted else 0.0,
        max_similarity=float(similarity.max()) if num_predicted else 0.0,
        threshold_used=threshold,
    )


def find_repeats(steps: Sequence[str]) -> list[int]:
    """Indices of steps that say, up to case, space and punctuation, what an earlier one said.

    >>> find_repeats(["Two dogs run.", "two  dogs run", "One cat."])
    [1]
    """
    seen: set[str] = set()
    repeats = []
    for index, step in enumerate(steps):
        words = "".join(char if char.isalnum() else " " for char in step.casefold()).split()
        key = " ".join(words)
        if key in seen:
            repeats.append(index)
        seen.add(key)
    return repeats


def _match_greedily(similarity: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    rows, columns = np.nonzero(similarity > threshold)
    candidates = sorted(zip(similarity[rows, columns].tolist(), rows.tolist(), columns.tolist()), reverse=True)
    pairs: list[tuple[int, int]] = []
    free_rows, free_columns = set(rows.tolist()), set(columns.tolist())
    for _, row, column in candidates:
        if row in free_rows and column in free_columns:
            pairs.append((row, column))
            free_rows.remove(row)
            free_columns.remove(column)
    return pairs


def _match_most(similarity: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    from scipy.optimize import linear_sum_assignment

    is_allowed = similarity > threshold
    gain = np.where(is_allowed, 2.0 * min(similarity.shape) + similarity, 0.0)  # one pair more outweighs any cosines
    rows, columns = linear_sum_assignment(gain, maximize=True)
    return [(int(row), int(column)) for row, column in zip(rows, columns) if is_allowed[row, column]]

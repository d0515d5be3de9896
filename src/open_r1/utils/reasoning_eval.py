"""Evaluates reasoning steps against reference steps by Match F1: one prediction, a data set, a summary.

    evaluator = MLLMReasoningEvaluator()
    results = evaluator.evaluate_dataset({7: {"reasoning_steps": […], "answer": "B"}}, {7: {"reference_steps": […]}})
    evaluator.save_results(results, "steps.csv")

The interface is that of the `mllm_evaluator` of waybarrios/VLM-R1, the definition that of `utils/step_matching.py`.
"""

import dataclasses
import logging
import os
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from open_r1.utils.encoders import DEFAULT_SENTENCE_ENCODER, load_sentence_encoder
from open_r1.utils.step_matching import EvaluationMetrics, get_threshold, score_steps


if TYPE_CHECKING:
    import pandas as pd

__all__ = ["EvaluationMetrics", "MLLMReasoningEvaluator"]

logger = logging.getLogger(__name__)

_MAX_SHOWN = 10


class MLLMReasoningEvaluator:
    """Match F1 by a sentence encoder.

    Args:
        model_name: Folder or hub name of the encoder.
        similarity_threshold: Cosine above which two steps match. None: the encoder's (`step_matching.THRESHOLDS`).
        device: "cpu", "cuda", …; None or "auto": a GPU where there is one.
        matching: "greedy", as published, or "maximum".
    """

    def __init__(
        self,
        model_name: str = DEFAULT_SENTENCE_ENCODER,
        similarity_threshold: float | None = None,
        device: str | None = None,
        matching: str = "greedy",
    ):
        self.model_name = model_name
        self.similarity_threshold = get_threshold(model_name) if similarity_threshold is None else similarity_threshold
        self.matching = matching
        self.encoder = load_sentence_encoder(model_name, device or "auto")

    def evaluate_single(self, predicted_steps: Sequence[str], reference_steps: Sequence[str]) -> EvaluationMetrics:
        """One prediction against its reference.

        Raises:
            ValueError: there is no reference step.
        """
        if not reference_steps:
            raise ValueError("Reference steps cannot be empty")
        similarity = np.zeros((len(predicted_steps), len(reference_steps)))
        if predicted_steps:
            vectors = self.encoder.encode([*predicted_steps, *reference_steps])
            similarity = vectors[: len(predicted_steps)] @ vectors[len(predicted_steps) :].T  # (P, R)
        return score_steps(similarity, self.similarity_threshold, self.matching)

    def evaluate_dataset(
        self, predictions: Mapping[Hashable, Mapping[str, Any]], ground_truth: Mapping[Hashable, Mapping[str, Any]]
    ) -> "pd.DataFrame":
        """A row per sample that both sides have, in the order of the ground truth; others are logged and left out.

        Args:
            predictions: id -> {"reasoning_steps": [...], "answer": "..."}.
            ground_truth: id -> {"reference_steps": [...]}.

        Raises:
            ValueError: a sample without reference steps, by its id.
        """
        import pandas as pd

        _warn_of_strays("prediction", [key for key in ground_truth if key not in predictions])
        _warn_of_strays("ground truth", [key for key in predictions if key not in ground_truth])
        records = []
        for key, truth in ground_truth.items():
            if key not in predictions:
                continue
            if not truth["reference_steps"]:
                raise ValueError(f"sample {key!r}: Reference steps cannot be empty")
            metrics = self.evaluate_single(predictions[key]["reasoning_steps"], truth["reference_steps"])
            answer = predictions[key].get("answer", "")
            records.append({"sample_idx": key, "answer": answer, **dataclasses.asdict(metrics)})
        names = [field.name for field in dataclasses.fields(EvaluationMetrics)]
        return pd.DataFrame(records, columns=["sample_idx", "answer", *names])

    def generate_summary(self, results: "pd.DataFrame") -> dict[str, Any]:
        """Averages and quantiles of what `evaluate_dataset` returned; empty where that has no row."""
        if results.empty:
            return {}
        scores = results["match_f1"]
        return {
            "total_samples": len(results),
            "model_name": self.model_name,
            "similarity_threshold": self.similarity_threshold,
            "avg_match_f1": float(scores.mean()),
            "std_match_f1": float(scores.std()) if len(results) > 1 else 0.0,
            "median_match_f1": float(scores.median()),
            "avg_precision": float(results["precision"].mean()),
            "avg_recall": float(results["recall"].mean()),
            "top_10_percent_threshold": float(scores.quantile(0.9)),
            "bottom_10_percent_threshold": float(scores.quantile(0.1)),
        }

    def save_results(self, results: "pd.DataFrame", output_path: str | os.PathLike) -> None:
        """Writes the rows as CSV."""
        Path(output_path).parent.mkdir(parents=True, exist_ok=True)
        results.to_csv(output_path, index=False, lineterminator="\n")


def _warn_of_strays(side: str, keys: list[Hashable]) -> None:
    if keys:
        shown = ", ".join(map(str, keys[:_MAX_SHOWN]))
        logger.warning("%d samples have no %s and are left out: %s", len(keys), side, shown)

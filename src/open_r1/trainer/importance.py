"""Correction for completions that were drawn by another engine than the one that computes the loss.

An inference engine (other kernels, other precision) gives the same token a slightly different probability. Weighing
each token's loss by trainer / engine makes the gradient one of the trainer's policy again; bounds keep it from being
carried by a few tokens. Modes are those of TRL's `vllm_importance_sampling_mode`.
"""

import math
from dataclasses import dataclass

import torch


IMPORTANCE_MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")


@dataclass(frozen=True, kw_only=True)
class ImportanceCorrection:
    """Weights of the policy loss, and how far the two engines lie apart."""

    ratio: torch.Tensor  # (B, C), or (B, 1) for the sequence modes
    metrics: dict[str, float]  # TRL's names, over this device's completion tokens; NaN where there is none


def compute_importance_ratio(
    trainer_logps: torch.Tensor,
    engine_logps: torch.Tensor,
    completion_mask: torch.Tensor,
    *,
    mode: str = "sequence_mask",
    clip_min: float | None = None,
    clip_max: float | None = 3.0,
) -> ImportanceCorrection:
    """exp(trainer - engine) per token or, summed up, per completion; out of bounds it is truncated, or set to zero.

    Args:
        trainer_logps: (B, C) under the policy that generated, computed by the trainer.
        engine_logps: (B, C) reported by the engine. NaN, where it had none: no correction of that token.
        completion_mask: (B, C).
        mode: One of IMPORTANCE_MODES.
        clip_min: Lower bound of the ratio; None: no bound.
        clip_max: Upper bound; None: no bound.
    """
    if mode not in IMPORTANCE_MODES:
        raise ValueError(f"mode must be one of {', '.join(IMPORTANCE_MODES)}, not {mode!r}.")
    level, constraint = mode.split("_")
    difference = torch.where(completion_mask, trainer_logps - engine_logps, 0.0)  # (B, C)
    log_ratio = difference.nan_to_num(nan=0.0)
    if level == "sequence":
        log_ratio = log_ratio.sum(dim=1, keepdim=True)
    low = -math.inf if clip_min is None else clip_min
    high = math.inf if clip_max is None else clip_max
    ratio = log_ratio.exp()
    if constraint == "truncate":
        ratio = ratio.clamp(low, high)
    else:
        ratio = torch.where((ratio < low) | (ratio > high), 0.0, ratio)
    distances = difference[completion_mask & ~difference.isnan()].abs()
    ratios = ratio.flatten() if level == "sequence" else ratio[completion_mask]
    return ImportanceCorrection(
        ratio=ratio,
        metrics={
            "sampling/sampling_logp_difference/mean": distances.mean().item(),
            "sampling/sampling_logp_difference/max": distances.max().item() if distances.numel() else math.nan,
            "sampling/importance_sampling_ratio/min": ratios.min().item() if ratios.numel() else math.nan,
            "sampling/importance_sampling_ratio/mean": ratios.mean().item(),
            "sampling/importance_sampling_ratio/max": ratios.max().item() if ratios.numel() else math.nan,
        },
    )

"""Correction for completions that were drawn by another engine than the one that computes the loss.

An inference engine (other kernels, other precision) gives the same token a slightly different probability. Weighing
each token's loss by trainer / engine makes the gradient one of the trainer's policy again; bounds keep it from being
carried by a few tokens (truncated importance sampling: Yao et al., "Your Efficient RL Framework Secretly Brings You
Off-Policy RL Training", 2025). Modes are those of TRL's `vllm_importance_sampling_mode`.
"""

import math
from dataclasses import dataclass

import torch

from open_r1.trainer.distributions import Distribution


IMPORTANCE_MODES = ("token_truncate", "token_mask", "sequence_truncate", "sequence_mask")
AGREEMENT = 1e-3  # a completion of which no ratio is farther from one is left alone: that is rounding in float32
UNKNOWN_LOGP = 1.0  # where the engine told none: finite, and the logarithm of no probability

_DIFFERENCE = "sampling/sampling_logp_difference"
_RATIO = "sampling/importance_sampling_ratio"
_KL = "sampling/kl"
_OUT_OF_BOUNDS = {"truncate": "truncated", "mask": "masked"}  # share of ratios, by what is done with them


@dataclass(frozen=True, kw_only=True)
class ImportanceSettings:
    """What is done about the mismatch of two engines.

    Raises:
        ValueError: there is no such mode.
    """

    is_enabled: bool = True  # False: it is measured only
    mode: str = "sequence_mask"
    clip_min: float | None = None  # None: no bound
    clip_max: float | None = 3.0

    def __post_init__(self):
        if self.mode not in IMPORTANCE_MODES:
            raise ValueError(f"mode must be one of {', '.join(IMPORTANCE_MODES)}, not {self.mode!r}.")


@dataclass(frozen=True, kw_only=True)
class ImportanceCorrection:
    """Weights of the policy loss, and how far the two engines lie apart."""

    ratio: torch.Tensor  # (B, C), or (B, 1) for the sequence modes, within the bounds or zero
    is_applied: torch.Tensor  # (B, 1) whether the completion is weighed with it
    metrics: dict[str, torch.Tensor]  # each (2,): a sum, and the number of values in it
    distributions: dict[str, Distribution]  # TRL's names before /min, /mean and /max

    @property
    def weights(self) -> torch.Tensor | None:
        """The ratio where it is applied, else one; None where it is applied to no completion."""
        if not self.is_applied.any():
            return None
        return torch.where(self.is_applied, self.ratio, 1.0)


def pad_engine_logps(
    per_token_logps: list[list[float]], token_ids: list[list[int]], device: torch.device
) -> torch.Tensor:
    """An engine's log-probabilities (B, C) of completions, UNKNOWN_LOGP where it has none and behind the end.

    Args:
        per_token_logps: B lists; values that are not finite count as not known.
        token_ids: B completions.
        device: Of the result.

    Raises:
        ValueError: a completion has another number of tokens than of log-probabilities.
    """
    padded = torch.full((len(token_ids), max(1, *(len(row) for row in token_ids))), UNKNOWN_LOGP)
    for i, (logps, ids) in enumerate(zip(per_token_logps, token_ids, strict=True)):
        if len(logps) != len(ids):
            raise ValueError(
                f"The generator told {len(logps)} log-probabilities of a completion of {len(ids)} tokens."
            )
        padded[i, : len(logps)] = torch.tensor(logps)
    return padded.nan_to_num(nan=UNKNOWN_LOGP, posinf=UNKNOWN_LOGP, neginf=UNKNOWN_LOGP).to(device)


def compute_importance_ratio(
    trainer_logps: torch.Tensor,
    engine_logps: torch.Tensor,
    completion_mask: torch.Tensor,
    settings: ImportanceSettings,
) -> ImportanceCorrection:
    """exp(trainer - engine) per token or, summed up, per completion; out of bounds it is truncated, or set to zero.

    No gradient flows through it. It depends on each completion by itself, so cutting a batch changes nothing.

    Args:
        trainer_logps: (B, C) under the policy that generated, computed by the trainer.
        engine_logps: (B, C) reported by the engine; UNKNOWN_LOGP, or not finite: no correction of that token.
        completion_mask: (B, C) of the tokens that are learnt from.
        settings: Level, bounds, and whether it is applied.
    """
    level, constraint = settings.mode.split("_")
    difference = (trainer_logps - engine_logps).detach()  # (B, C)
    is_known = completion_mask & difference.isfinite() & (engine_logps != UNKNOWN_LOGP)
    log_ratio = torch.where(is_known, difference, 0.0)
    is_counted, has_tokens = completion_mask, completion_mask.any(dim=1, keepdim=True)
    if level == "sequence":
        log_ratio, is_counted = log_ratio.sum(dim=1, keepdim=True), has_tokens  # (B, 1)
    low = -math.inf if settings.clip_min is None else settings.clip_min
    high = math.inf if settings.clip_max is None else settings.clip_max
    unbounded = log_ratio.exp()
    is_outside = (unbounded < low) | (unbounded > high)
    ratio = unbounded.clamp(low, high) if constraint == "truncate" else unbounded.masked_fill(is_outside, 0.0)
    is_applied = ((unbounded - 1).abs() > AGREEMENT).any(dim=1, keepdim=True) & settings.is_enabled
    known = difference[is_known]
    return ImportanceCorrection(
        ratio=ratio,
        is_applied=is_applied,
        metrics={
            f"{_KL}/k1": _sum_and_count(-known),
            f"{_KL}/k3": _sum_and_count(known.expm1() - known),
            f"{_RATIO}/{_OUT_OF_BOUNDS[constraint]}": _sum_and_count(is_outside[is_counted]),
            f"{_RATIO}/applied": _sum_and_count(is_applied[has_tokens]),
        },
        distributions={
            _DIFFERENCE: Distribution.count(known.abs()),
            _RATIO: Distribution.count(ratio[is_counted], is_ratio=True),
        },
    )


def _sum_and_count(values: torch.Tensor) -> torch.Tensor:
    """(2,), in float32."""
    return torch.stack([values.sum(dtype=torch.float32), torch.tensor(float(values.numel()), device=values.device)])

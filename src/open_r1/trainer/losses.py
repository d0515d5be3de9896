"""The policy-gradient losses of the GRPO family, as pure functions of tensors.

A micro-batch may be cut into several packed rows that are back-propagated one after the other, so nothing is
normalised by what one call sees. The weight of every token is known before the forward pass (`compute_token_weights`),
the loss is a weighted sum, and metrics are sums with their counts: all add up over any split of the completions.
Formulas, sources and what is refused with what: docs/algorithms.md.
"""

from dataclasses import dataclass, field

import torch

from open_r1.trainer.distributions import Distribution
from open_r1.trainer.loss_settings import LossSettings


@dataclass(frozen=True, kw_only=True)
class LossInputs:
    """What the loss of some completions needs besides the policy's forward pass. Rows may be cut, columns trimmed.

    Example: of a micro-batch of two completions with 3 and 1 tokens under `grpo`, `token_weights` are
    [[1/6, 1/6, 1/6], [1/2, 0, 0]].
    """

    completion_mask: torch.Tensor  # (B, C)
    advantages: torch.Tensor  # (B,)
    token_weights: torch.Tensor  # (B, C), `compute_token_weights` of the whole micro-batch
    old_per_token_logps: torch.Tensor | None = None  # (B, C); None: the policy has not moved, the ratio is one
    ref_per_token_logps: torch.Tensor | None = None  # (B, C); needed where beta is not zero
    importance_ratio: torch.Tensor | None = None  # (B, C) or (B, 1), see `importance.py`; None: one
    entropy_mask: torch.Tensor | None = None  # (B, C); needed where top_entropy_quantile is below one
    entropy_weights: torch.Tensor | None = None  # (B, C); needed where entropy_coef is not zero


@dataclass(frozen=True, kw_only=True)
class LossOutput:
    """The loss and what is worth logging of it. Every value adds up over the parts of a micro-batch."""

    loss: torch.Tensor  # (), before the division by gradient accumulation, which transformers' Trainer does
    policy_loss: torch.Tensor  # (), detached, the loss without the entropy bonus
    metrics: dict[str, torch.Tensor]  # TRL's names; each (2,), detached: a sum, and the number of values in it
    distributions: dict[str, Distribution] = field(default_factory=dict)  # those that are worth more than a mean


def mask_truncated(completion_mask: torch.Tensor, is_truncated: torch.Tensor) -> torch.Tensor:
    """The mask (B, C) without the tokens of completions (B,) that were cut off (DAPO, arXiv 2503.14476, Sec. 3.4)."""
    return completion_mask & ~is_truncated[:, None]


def compute_token_weights(
    loss_type: str,
    completion_mask: torch.Tensor,
    *,
    max_completion_length: int,
    tokens_per_micro_batch: float | None = None,
) -> torch.Tensor:
    """How much each token's loss counts in the loss of a micro-batch, before the division by gradient accumulation.

        grpo, sapo    1 / (B |o_b|)                     every completion counts the same
        bnpo          1 / sum_b |o_b|                   every token of the micro-batch does
        dr_grpo       1 / (B max_completion_length)     every token of all micro-batches does
        dapo, cispo   1 / tokens_per_micro_batch        every token of all micro-batches does

    Args:
        loss_type: One of LOSS_TYPES.
        completion_mask: (B, C) of the whole micro-batch of one device.
        max_completion_length: The constant of `dr_grpo`.
        tokens_per_micro_batch: Completion tokens per micro-batch and device: the mean over the whole round and all
            ranks. Needed by `dapo` and `cispo`.

    Returns:
        (B, C), zero where the mask is.
    """
    mask = completion_mask.float()
    if loss_type in ("grpo", "sapo"):
        return mask / mask.sum(dim=1, keepdim=True).clamp(min=1) / max(len(mask), 1)
    if loss_type == "bnpo":
        return mask / mask.sum().clamp(min=1)
    if loss_type == "dr_grpo":
        return mask / (max(len(mask), 1) * max_completion_length)
    if loss_type in ("dapo", "cispo"):
        if tokens_per_micro_batch is None:
            raise ValueError(f"loss_type {loss_type} needs tokens_per_micro_batch.")
        return mask / max(float(tokens_per_micro_batch), 1.0)
    raise ValueError(f"No token weights are known for loss_type {loss_type!r}.")


def compute_kl(per_token_logps: torch.Tensor, ref_per_token_logps: torch.Tensor, estimator: str) -> torch.Tensor:
    """Per-token estimate of KL(policy || reference) from samples of the policy, with d = ref - policy.

        k1   -d               unbiased; by itself its gradient, that of the log-probability, is zero on average
        k2   d^2 / 2          biased value, on-policy the gradient of the KL
        k3   exp(d) - d - 1   unbiased, never negative (DeepSeekMath, arXiv 2402.03300, Eq. 4)

    Source: J. Schulman, "Approximating KL Divergence", 2020.
    """
    difference = ref_per_token_logps - per_token_logps  # (B, C)
    if estimator == "k1":
        return -difference
    if estimator == "k2":
        return difference.square() / 2
    if estimator == "k3":
        return difference.exp() - difference - 1
    raise ValueError(f"kl_estimator must be k1, k2 or k3, not {estimator!r}.")


def compute_ratio(
    per_token_logps: torch.Tensor, old_per_token_logps: torch.Tensor | None, completion_mask: torch.Tensor, level: str
) -> torch.Tensor:
    """Probability ratio of the policy to the one that generated, with gradient even where it is one.

    Args:
        per_token_logps: (B, C).
        old_per_token_logps: (B, C); None: the same policy.
        completion_mask: (B, C).
        level: `token`, or `sequence` for the geometric mean over a completion's tokens (GSPO, arXiv 2507.18071).

    Returns:
        (B, C), or (B, 1) for `sequence`.
    """
    old = per_token_logps.detach() if old_per_token_logps is None else old_per_token_logps
    log_ratio = per_token_logps - old  # (B, C)
    if level == "token":
        return log_ratio.exp()
    if level == "sequence":
        lengths = completion_mask.sum(dim=1, keepdim=True).clamp(min=1)
        return ((log_ratio * completion_mask).sum(dim=1, keepdim=True) / lengths).exp()
    raise ValueError(f"importance_sampling_level must be token or sequence, not {level!r}.")


def compute_surrogate(
    per_token_logps: torch.Tensor, ratio: torch.Tensor, advantages: torch.Tensor, settings: LossSettings
) -> torch.Tensor:
    """The loss whose gradient raises good tokens and lowers bad ones, before any weighting.

        clipped   -min(min(r, delta) A, clip(r, 1 - epsilon_low, 1 + epsilon_high) A)
        cispo     -sg(min(r, epsilon_high)) A log pi
        sapo      -(4 / t) sigmoid(t (r - 1)) A, with t by the sign of A

    Args:
        per_token_logps: (B, C), with gradient.
        ratio: (B, C) or (B, 1), with gradient.
        advantages: (B, 1).
        settings: Which, and its bounds.

    Returns:
        (B, C), or (B, 1) where nothing differs between the tokens of a completion.
    """
    if settings.loss_type == "cispo":
        return -ratio.clamp(max=settings.epsilon_high).detach() * advantages * per_token_logps
    if settings.loss_type == "sapo":
        positive = torch.full_like(advantages, settings.sapo_temperature_pos)
        negative = torch.full_like(advantages, settings.sapo_temperature_neg)
        temperature = torch.where(advantages > 0, positive, negative)  # (B, 1)
        return -(4 / temperature) * torch.sigmoid(temperature * (ratio - 1)) * advantages
    clipped = ratio.clamp(1 - settings.epsilon_low, 1 + settings.epsilon_high)
    capped = ratio if settings.delta is None else ratio.clamp(max=settings.delta)
    return -torch.min(capped * advantages, clipped * advantages)


def compute_policy_loss(
    per_token_logps: torch.Tensor, entropies: torch.Tensor, inputs: LossInputs, settings: LossSettings
) -> LossOutput:
    """The loss of a micro-batch, or of some of its completions, whose losses then add up to that of the micro-batch.

    Args:
        per_token_logps: (B, C) under the policy, with gradient.
        entropies: (B, C) of the policy's distributions; with gradient where `entropy_coef` is not zero.
        inputs: All else about these completions.
        settings: The algorithm.
    """
    _check_inputs(per_token_logps, entropies, inputs, settings)
    mask, advantages = inputs.completion_mask, inputs.advantages[:, None]
    ratio = compute_ratio(per_token_logps, inputs.old_per_token_logps, mask, settings.importance_sampling_level)
    per_token_loss = compute_surrogate(per_token_logps, ratio, advantages, settings)
    for factor in (inputs.entropy_mask, inputs.importance_ratio):
        if factor is not None:
            per_token_loss = per_token_loss * factor
    metrics = {"entropy": _sum_and_count(entropies, mask)} | _count_clipped(ratio, advantages, mask, settings)
    if settings.beta:
        per_token_kl = compute_kl(per_token_logps, inputs.ref_per_token_logps, settings.kl_estimator)
        if settings.use_bias_correction_kl:
            per_token_kl = per_token_kl * ratio
        per_token_loss = per_token_loss + settings.beta * per_token_kl
        metrics["kl"] = _sum_and_count(per_token_kl, mask)
    policy_loss = (per_token_loss * inputs.token_weights).sum()
    loss = policy_loss
    if settings.entropy_coef:
        loss = loss - settings.entropy_coef * (entropies * inputs.entropy_weights).sum()
    return LossOutput(loss=loss, policy_loss=policy_loss.detach(), metrics=metrics)


def _check_inputs(
    per_token_logps: torch.Tensor, entropies: torch.Tensor, inputs: LossInputs, settings: LossSettings
) -> None:
    """Refuses to compute a loss that lacks a term for want of its tensor."""
    needed = {
        "ref_per_token_logps": settings.beta != 0,
        "entropy_mask": settings.top_entropy_quantile < 1,
        "entropy_weights": settings.entropy_coef != 0,
    }
    missing = [name for name, is_needed in needed.items() if is_needed and getattr(inputs, name) is None]
    if missing:
        raise ValueError(f"The loss settings need {', '.join(missing)}.")
    if settings.entropy_coef and per_token_logps.requires_grad and not entropies.requires_grad:
        raise ValueError("entropy_coef is not zero, but the entropies carry no gradient.")


def _count_clipped(
    ratio: torch.Tensor, advantages: torch.Tensor, mask: torch.Tensor, settings: LossSettings
) -> dict[str, torch.Tensor]:
    """Tokens (or completions, where the ratio is theirs) that clipping acted on."""
    if settings.loss_type == "sapo":
        return {}
    if settings.loss_type == "cispo":
        is_capped = (ratio > settings.epsilon_high) & (advantages > 0)
        return {"cispo_clip_ratio": _sum_and_count(is_capped, mask)}
    low = _sum_and_count((ratio < 1 - settings.epsilon_low) & (advantages < 0), mask)
    high = _sum_and_count((ratio > 1 + settings.epsilon_high) & (advantages > 0), mask)
    region = torch.stack([low[0] + high[0], low[1]])
    return {"clip_ratio/low_mean": low, "clip_ratio/high_mean": high, "clip_ratio/region_mean": region}


def _sum_and_count(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Sum and number (2,) of (B, C) values over tokens, or of (B, 1) values over completions; in float32 at least."""
    values = values.detach()
    if values.shape != mask.shape:
        mask = torch.ones_like(values, dtype=torch.bool)
    total = torch.where(mask, values, 0).sum(dtype=torch.promote_types(values.dtype, torch.float32))
    return torch.stack([total, mask.sum().to(total.dtype)])

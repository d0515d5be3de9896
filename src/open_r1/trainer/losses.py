"""The clipped policy-gradient loss of GRPO with a k3 KL term, as a pure function of tensors."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class LossOutput:
    """The loss and what is worth logging of it; all scalars but the loss are detached."""

    loss: torch.Tensor  # ()
    mean_kl: torch.Tensor | None  # (), mean over completion tokens; None without a reference
    clip_low: torch.Tensor  # (), share of tokens whose ratio was clipped from below (negative advantage)
    clip_high: torch.Tensor  # (), the same from above (positive advantage)


def masked_mean(values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Mean of (B, C) values at masked positions; zero where there is none."""
    return (values * mask).sum() / mask.sum().clamp(min=1)


def compute_k3_kl(per_token_logps: torch.Tensor, ref_per_token_logps: torch.Tensor) -> torch.Tensor:
    """Schulman's k3 estimator of KL(policy || reference) per token, exp(d) - d - 1 with d = ref - policy."""
    difference = ref_per_token_logps - per_token_logps
    return difference.exp() - difference - 1


def compute_grpo_loss(
    per_token_logps: torch.Tensor,
    completion_mask: torch.Tensor,
    advantages: torch.Tensor,
    *,
    old_per_token_logps: torch.Tensor | None = None,
    ref_per_token_logps: torch.Tensor | None = None,
    beta: float = 0.0,
    epsilon_low: float = 0.2,
    epsilon_high: float = 0.2,
) -> LossOutput:
    """min(ratio A, clip(ratio) A) per token, averaged over each completion's tokens, then over completions.

    DeepSeekMath (arXiv 2402.03300), Eq. 3; asymmetric clipping from DAPO (arXiv 2503.14476).

    Args:
        per_token_logps: (B, C) log-probabilities under the policy, with gradient.
        completion_mask: (B, C).
        advantages: (B,).
        old_per_token_logps: (B, C) under the policy that generated; None: the same policy, so the ratio is one.
        ref_per_token_logps: (B, C) under the reference; needed where `beta` is not zero.
        beta: Weight of the KL term.
        epsilon_low: The ratio is clipped below 1 - epsilon_low.
        epsilon_high: And above 1 + epsilon_high.
    """
    old = per_token_logps.detach() if old_per_token_logps is None else old_per_token_logps
    ratio = (per_token_logps - old).exp()  # (B, C)
    clipped = ratio.clamp(1 - epsilon_low, 1 + epsilon_high)
    per_token_advantages = advantages[:, None]
    per_token_loss = -torch.min(ratio * per_token_advantages, clipped * per_token_advantages)
    mean_kl = None
    if beta:
        per_token_kl = compute_k3_kl(per_token_logps, ref_per_token_logps)
        per_token_loss = per_token_loss + beta * per_token_kl
        mean_kl = masked_mean(per_token_kl.detach(), completion_mask)
    per_completion = (per_token_loss * completion_mask).sum(dim=1) / completion_mask.sum(dim=1).clamp(min=1)  # (B,)
    is_low = (ratio < 1 - epsilon_low) & (per_token_advantages < 0)
    is_high = (ratio > 1 + epsilon_high) & (per_token_advantages > 0)
    return LossOutput(
        loss=per_completion.mean(),
        mean_kl=mean_kl,
        clip_low=masked_mean(is_low.float(), completion_mask),
        clip_high=masked_mean(is_high.float(), completion_mask),
    )

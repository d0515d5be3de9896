"""Entropy of the policy in the loss: which tokens are uncertain enough to learn from, and the weights of a bonus."""

import math

import torch


def compute_entropy_threshold(entropies: torch.Tensor, top_entropy_quantile: float) -> torch.Tensor:
    """The lowest entropy among the most uncertain tokens ("Beyond the 80/20 Rule", arXiv 2506.01939).

    The tokens at or above it are those at or above the linearly interpolated quantile 1 - top_entropy_quantile, which
    lies between the same two values.

    Args:
        entropies: (T,) of all tokens to choose among: the micro-batch's, of all ranks.
        top_entropy_quantile: Share of the tokens that are kept, in (0, 1]. The paper takes 0.2.

    Returns:
        (), infinite where there is no token.
    """
    num_tokens = entropies.numel()
    if num_tokens == 0:
        return entropies.new_tensor(math.inf)
    position = (1 - top_entropy_quantile) * (num_tokens - 1)
    rank = math.ceil(position - 1e-6)  # rounding errors do not push a whole position up
    return entropies.detach().flatten().kthvalue(rank + 1).values


def mask_high_entropy_tokens(
    entropies: torch.Tensor, completion_mask: torch.Tensor, threshold: torch.Tensor
) -> torch.Tensor:
    """Completion tokens (B, C) whose entropy (B, C) is at or above the threshold ()."""
    return (entropies.detach() >= threshold) & completion_mask


def compute_entropy_weights(completion_mask: torch.Tensor, entropy_mask: torch.Tensor | None = None) -> torch.Tensor:
    """Weights (B, C) with which the entropies of a micro-batch sum up to their mean, over masked tokens only.

    Args:
        completion_mask: (B, C) of the whole micro-batch.
        entropy_mask: (B, C); the bonus then acts on the tokens that the policy term acts on.
    """
    mask = (completion_mask if entropy_mask is None else completion_mask & entropy_mask).float()
    return mask / mask.sum().clamp(min=1)

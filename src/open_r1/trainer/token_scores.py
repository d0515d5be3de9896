"""Log-probability and entropy of tokens from their logits, with two matrices of logits alive at most, not five.

z = logits / temperature,   p = softmax(z),   log p_t = z_t - logsumexp(z),   H = logsumexp(z) - sum_v p_v z_v

d log p_t / d z_v = [v = t] - p_v,            d H / d z_v = -p_v (log p_v + H)
"""

from collections.abc import Callable

import torch


class _TokenScores(torch.autograd.Function):
    """(T, V) logits, (T,) targets -> (T,) log-probabilities, (T,) entropies; differentiated as written above."""

    @staticmethod
    def forward(ctx, logits: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        log_normaliser = logits.logsumexp(dim=-1)  # (T,)
        logps = logits.gather(-1, targets[:, None])[:, 0] - log_normaliser
        probabilities = (logits - log_normaliser[:, None]).exp_()  # (T, V)
        entropies = log_normaliser - torch.bmm(probabilities[:, None], logits[:, :, None])[:, 0, 0]
        ctx.save_for_backward(logits, targets, log_normaliser, entropies)
        ctx.set_materialize_grads(False)
        return logps, entropies

    @staticmethod
    def backward(
        ctx, logps_gradient: torch.Tensor | None, entropies_gradient: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, None]:
        logits, targets, log_normaliser, entropies = ctx.saved_tensors
        if logps_gradient is None and entropies_gradient is None:
            return None, None
        gradient = (logits - log_normaliser[:, None]).exp_()  # (T, V), p
        if entropies_gradient is None:
            gradient.mul_(-logps_gradient[:, None])
        else:
            factor = logits - (log_normaliser - entropies)[:, None]  # log p + H
            factor.mul_(entropies_gradient[:, None])
            if logps_gradient is not None:
                factor.add_(logps_gradient[:, None])
            gradient.mul_(factor.neg_())
        if logps_gradient is not None:
            gradient.scatter_add_(-1, targets[:, None], logps_gradient[:, None])
        return gradient, None


def score_tokens(
    head: Callable[[torch.Tensor], torch.Tensor],
    hidden: torch.Tensor,
    targets: torch.Tensor,
    temperature: float = 1.0,
    entropy_gradient: bool = False,
) -> torch.Tensor:
    """Log-probability of each target and entropy of its distribution, in float32 (float64 stays).

    Args:
        head: Maps hidden states (T, H) to logits (T, V).
        hidden: (T, H).
        targets: (T,) token ids.
        temperature: Logits are divided by it, as they were when sampling.
        entropy_gradient: Whether the entropy is differentiable.

    Returns:
        (T, 2): log-probability, entropy in nats.
    """
    logits = head(hidden)  # (T, V)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    if temperature != 1.0:
        logits = logits / temperature
    logps, entropies = _TokenScores.apply(logits, targets)
    return torch.stack([logps, entropies if entropy_gradient else entropies.detach()], dim=-1)

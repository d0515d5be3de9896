"""From rewards per function to advantages per completion, as pure functions of tensors."""

import torch


# Rewards of a group that lie this close together count as equal: their advantage is exactly zero.
EQUAL_REWARDS_TOLERANCE = 1e-6
# Added to the standard deviation, as the released code of VisualQuality-R1 and VLM-R1 does (the papers have none).
STD_EPSILON = 1e-4


def combine_rewards(rewards_per_func: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Weighted sum over the reward functions that gave a value.

    Args:
        rewards_per_func: (B, F), NaN where a function abstained.
        weights: (F,).

    Returns:
        (B,), NaN where every function abstained.
    """
    present = ~rewards_per_func.isnan()
    total = torch.where(present, rewards_per_func * weights, 0.0).sum(dim=1)
    return torch.where(present.any(dim=1), total, float("nan"))


def compute_advantages(
    rewards: torch.Tensor, num_generations: int, scale_rewards: str = "group"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Group-relative advantages, (r - mean) / (std + 1e-4) with the unbiased std (DeepSeekMath, arXiv 2402.03300).

    Args:
        rewards: (B,), group-major; NaN counts as absent: it has advantage zero and enters no mean.
        num_generations: G.
        scale_rewards: `group` divides by the group's standard deviation, `batch` by that of all rewards, `none` not.

    Returns:
        Advantages (B,) and, per group, whether its rewards are all equal (N,).
    """
    groups = rewards.view(-1, num_generations)
    present = ~groups.isnan()
    count = present.sum(dim=1, keepdim=True)
    values = groups.nan_to_num(0.0)
    mean = values.sum(dim=1, keepdim=True) / count.clamp(min=1)
    deviation = torch.where(present, values - mean, 0.0)
    is_constant = deviation.abs().amax(dim=1) <= EQUAL_REWARDS_TOLERANCE
    if scale_rewards == "group":
        variance = deviation.square().sum(dim=1, keepdim=True) / (count - 1).clamp(min=1)
        advantages = deviation / (variance.sqrt() + STD_EPSILON)
    elif scale_rewards == "batch":
        valid = rewards[~rewards.isnan()]
        spread = valid.std() if valid.numel() > 1 else valid.new_zeros(())
        advantages = deviation / (spread + STD_EPSILON)
    elif scale_rewards == "none":
        advantages = deviation
    else:
        raise ValueError(f"scale_rewards must be group, batch or none, not {scale_rewards!r}.")
    return torch.where(is_constant[:, None], 0.0, advantages).flatten(), is_constant

"""From rewards per function to advantages per completion, as pure functions of tensors.

Everything here sees the rewards of all ranks. A reward that is NaN is absent (the function abstained): it enters no
sum, mean or deviation, and a completion without any reward has advantage zero.
"""

from dataclasses import dataclass

import torch


# Rewards of a group that lie this close together count as equal: their advantage is exactly zero.
EQUAL_REWARDS_TOLERANCE = 1e-6
# Added to the standard deviation, as the released code of VisualQuality-R1 and VLM-R1 does (the papers have none).
STD_EPSILON = 1e-4

# Advantage estimators, and what each divides by where `scale_rewards` is not given.
DEFAULT_SCALE = {"grpo": "group", "rloo": "none", "reinforce_plus_plus": "batch"}
SCALES = ("group", "batch", "none")
AGGREGATIONS = ("sum_then_normalize", "normalize_then_sum")


@dataclass(frozen=True, kw_only=True)
class AdvantageSettings:
    """How rewards become advantages.

    Raises:
        ValueError: an unknown value, or a combination in which one would be ignored.
    """

    advantage_estimator: str = "grpo"
    scale_rewards: str = "group"
    multi_objective_aggregation: str = "sum_then_normalize"

    def __post_init__(self):
        choices = {
            "advantage_estimator": DEFAULT_SCALE,
            "scale_rewards": SCALES,
            "multi_objective_aggregation": AGGREGATIONS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                *others, last = known
                raise ValueError(f"{name} must be {', '.join(others)} or {last}, not {getattr(self, name)!r}.")
        estimator, scale, aggregation = self.advantage_estimator, self.scale_rewards, self.multi_objective_aggregation
        if estimator != "grpo" and scale != DEFAULT_SCALE[estimator]:
            raise ValueError(
                f"scale_rewards {scale} would be ignored by advantage_estimator {estimator}, which is defined with "
                f"{DEFAULT_SCALE[estimator]!r}: leave it out."
            )
        if aggregation == "normalize_then_sum" and estimator != "grpo":
            raise ValueError(
                f"multi_objective_aggregation normalize_then_sum has a scaling of its own and does not go with "
                f"advantage_estimator {estimator}: take sum_then_normalize, or advantage_estimator grpo."
            )
        if aggregation == "normalize_then_sum" and scale != "group":
            raise ValueError(
                f"scale_rewards {scale} would be ignored by multi_objective_aggregation normalize_then_sum, which "
                "scales by the group, then by the batch: leave it out."
            )


@dataclass(frozen=True, kw_only=True)
class Advantages:
    """What the loss and the logs need, of all ranks' completions."""

    advantages: torch.Tensor  # (B,) zero where there is no reward
    rewards: torch.Tensor  # (B,) weighted sum of the rewards as they are; NaN where there is none
    is_constant: torch.Tensor  # (N,) groups without anything to learn from: their advantages are exactly zero


def estimate_advantages(
    rewards_per_func: torch.Tensor, weights: torch.Tensor, num_generations: int, settings: AdvantageSettings
) -> Advantages:
    """Advantages relative to the completions of the same prompt.

        grpo, group    (r - mean_group) / (std_group + 1e-4)          DeepSeekMath, arXiv 2402.03300, Sec. 4.1.2
        grpo, batch    (r - mean_group) / (std of all r + 1e-4)
        grpo, none     r - mean_group                                 Dr. GRPO, arXiv 2503.20783
        rloo           r - mean of the group's others                 arXiv 2402.14740
        reinforce_plus_plus
                       d = r - mean_group;  d / (std of all d + 1e-4) arXiv 2501.03262, the variant with a baseline
        normalize_then_sum
                       s = sum_f w_f (r_f - mean_group) / (std_group + 1e-4);  s / (std of all s + 1e-4)
                                                                      GDPO, arXiv 2601.05242

    Standard deviations are unbiased. The mean that the last two subtract over the batch is zero by construction.

    Args:
        rewards_per_func: (B, F) of all ranks, group-major, NaN where a function abstained.
        weights: (F,).
        num_generations: G.
        settings: Which of these.
    """
    rewards = scores = combine_rewards(rewards_per_func, weights)  # (B,)
    if settings.multi_objective_aggregation == "normalize_then_sum":
        normalised = [_scale_by_group(column.view(-1, num_generations)) for column in rewards_per_func.T]
        scores = combine_rewards(torch.stack([column.flatten() for column in normalised], dim=1), weights)
    groups = scores.view(-1, num_generations)  # (N, G)
    deviation, count = _center(groups)
    if settings.advantage_estimator == "rloo":
        advantages = deviation * count / (count - 1).clamp(min=1)
    elif settings.advantage_estimator == "reinforce_plus_plus":
        advantages = deviation / (_std(deviation[~groups.isnan()]) + STD_EPSILON)
    elif settings.scale_rewards == "batch" or settings.multi_objective_aggregation == "normalize_then_sum":
        advantages = deviation / (_std(scores[~scores.isnan()]) + STD_EPSILON)
    elif settings.scale_rewards == "group":
        advantages = _scale_by_group(groups).nan_to_num(0.0)
    else:
        advantages = deviation
    is_constant = _is_constant(deviation)  # (N,)
    advantages = torch.where(is_constant[:, None], 0.0, advantages).flatten()
    return Advantages(advantages=advantages, rewards=rewards, is_constant=is_constant)


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


def _center(groups: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Deviations (N, G) from the mean of the group, zero where absent, and how many are present (N, 1)."""
    present = ~groups.isnan()
    count = present.sum(dim=1, keepdim=True)
    mean = groups.nan_to_num(0.0).sum(dim=1, keepdim=True) / count.clamp(min=1)
    return torch.where(present, groups - mean, 0.0), count


def _scale_by_group(groups: torch.Tensor) -> torch.Tensor:
    """Deviations (N, G) over the group's standard deviation; zero in groups of equal values, NaN where absent."""
    deviation, count = _center(groups)
    variance = deviation.square().sum(dim=1, keepdim=True) / (count - 1).clamp(min=1)
    scaled = deviation / (variance.sqrt() + STD_EPSILON)
    scaled = torch.where(_is_constant(deviation)[:, None], 0.0, scaled)
    return torch.where(groups.isnan(), groups, scaled)


def _is_constant(deviation: torch.Tensor) -> torch.Tensor:
    return deviation.abs().amax(dim=1) <= EQUAL_REWARDS_TOLERANCE


def _std(values: torch.Tensor) -> torch.Tensor:
    """Unbiased standard deviation (), zero of fewer than two values."""
    return values.std() if values.numel() > 1 else values.new_zeros(())

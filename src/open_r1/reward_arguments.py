"""Options of the rewards, as `grpo_jsonl` and `grpo_rec` take them.

A field whose name is that of a reward's keyword-only parameter sets it (`open_r1.rewards.build_reward_funcs`).
"""

from dataclasses import dataclass, field, fields
from typing import Any


def _doc(text: str, default=None, **kwargs):
    return field(default=default, metadata={"help": text, **kwargs})


@dataclass
class RewardArguments:
    """Which rewards, and how they are meant."""

    reward_funcs: list[str] = field(
        default_factory=lambda: ["accuracy", "format"],
        metadata={"help": "Rewards by registry name or as path/to/file.py:function."},
    )
    ranking_reward: str = _doc(
        "Ranking reward: fidelity, or an ablation of the paper.",
        "fidelity",
        choices=["fidelity", "binary", "probability_average"],
    )
    ranking_scope: str = _doc(
        "Compare with the images of the global batch, or of this device alone.", "global", choices=["global", "device"]
    )
    ranking_variance: str = _doc(
        "Variance of the scores in the ranking probability: of each group, or fixed at 1.",
        "adaptive",
        choices=["adaptive", "fixed"],
    )
    overlong_cache: int | None = _doc(
        "Tokens before max_completion_length in which the reward `overlong` falls from 0 to -1. Default: a fifth."
    )

    def __post_init__(self):
        if isinstance(self.reward_funcs, str):
            self.reward_funcs = [self.reward_funcs]
        if self.overlong_cache is not None and "overlong" not in self.reward_funcs:
            raise ValueError("--overlong_cache belongs to the reward `overlong`: add it to --reward_funcs.")

    @property
    def reward_options(self) -> dict[str, Any]:
        """What is set on the reward functions, by name."""
        names = [item.name for item in fields(RewardArguments) if item.name not in _NOT_OF_A_REWARD]
        return {name: getattr(self, name) for name in names}


_NOT_OF_A_REWARD = ("reward_funcs", "overlong_cache")  # the second is resolved by the limit of completions

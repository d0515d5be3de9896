"""The completions of a round before they become tensors, and the exchange of groups for others (dynamic sampling)."""

from dataclasses import dataclass
from typing import Any

import torch

from open_r1.trainer.batch import PromptGroup
from open_r1.vlm_modules.vlm_module import EncodedPrompt


@dataclass(kw_only=True)
class Rollout:
    """N groups of this device as they were generated and rewarded."""

    groups: list[PromptGroup]  # N
    prompts: list[EncodedPrompt]  # N, as the model took them
    texts: list[str]  # B
    token_ids: list[list[int]]  # B
    finish_reasons: list[str]  # B
    engine_per_token_logps: list[list[float]] | None = None  # B, as `Completions` has them; None: not told
    rewards_per_func: torch.Tensor | None = None  # (B, F) on the CPU, NaN where a function abstained
    advantages: torch.Tensor | None = None  # (B,) on the CPU

    @property
    def num_generations(self) -> int:
        return len(self.texts) // len(self.groups)

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [group.row for group in self.groups]

    @property
    def is_truncated(self) -> torch.Tensor:
        """(B,) whether a completion reached the limit before an end token."""
        return torch.tensor([reason == "length" for reason in self.finish_reasons])

    def members(self, n: int) -> slice:
        """The completions of group n."""
        return slice(n * self.num_generations, (n + 1) * self.num_generations)

    def exchange(self, n: int, other: "Rollout", m: int) -> None:
        """Puts group m of another rollout in the place of group n; rewards and advantages are then to be computed."""
        for name in ("groups", "prompts"):
            getattr(self, name)[n] = getattr(other, name)[m]
        told = () if self.engine_per_token_logps is None else ("engine_per_token_logps",)
        for name in ("texts", "token_ids", "finish_reasons", *told):
            getattr(self, name)[self.members(n)] = getattr(other, name)[other.members(m)]
        self.rewards_per_func = self.advantages = None

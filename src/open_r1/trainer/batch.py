"""The record that flows through a training round, and the shape legend of the repo.

Shape legend, used in comments everywhere:

    N   groups (prompts) on this device          P   tokens of a prompt
    G   generations per group                    C   tokens of a completion, the longest of a batch
    B   completions, N * G, group-major:         L   packed length, sum of P plus sum of C
        row n * G + g                            V   vocabulary
    F   reward functions
"""

from dataclasses import dataclass, replace
from typing import Any

import torch

from open_r1.vlm_modules.vlm_module import EncodedPrompt


@dataclass(frozen=True, kw_only=True)
class PromptGroup:
    """A dataset row with its prompt encoded: what the data loader yields, N of them per round and device."""

    prompt: EncodedPrompt
    row: dict[str, Any]  # the dataset's columns, for rewards and logs


@dataclass(frozen=True, kw_only=True)
class RolloutBatch:
    """N groups with G completions each, and what is known of them when the loss is computed.

    Example: two images with six completions of at most 40 tokens have `prompts` of length 2, `completion_ids` (12, 40)
    and `advantages` (12,).
    """

    prompts: list[EncodedPrompt]  # N, positions set
    completion_ids: torch.Tensor  # (B, C) padded on the right
    completion_mask: torch.Tensor  # (B, C) True at real tokens, the ending one included
    advantages: torch.Tensor | None = None  # (B,)
    old_per_token_logps: torch.Tensor | None = None  # (B, C); None: the policy has not moved since generation
    ref_per_token_logps: torch.Tensor | None = None  # (B, C); None: no KL term

    def __post_init__(self):
        if self.completion_ids.shape[0] % len(self.prompts):
            raise ValueError(f"{len(self.completion_ids)} completions do not divide into {len(self.prompts)} groups.")

    @property
    def num_generations(self) -> int:
        return self.completion_ids.shape[0] // len(self.prompts)

    def select(self, groups: list[int]) -> "RolloutBatch":
        """The batch of these groups alone, in this order, completions trimmed to their longest."""
        size = self.num_generations
        rows = torch.tensor([group * size + g for group in groups for g in range(size)])
        rows = rows.to(self.completion_ids.device)
        width = int(self.completion_mask[rows].sum(dim=1).max())
        per_token = ("completion_ids", "completion_mask", "old_per_token_logps", "ref_per_token_logps")
        trimmed = {name: getattr(self, name) for name in per_token}
        return replace(
            self,
            prompts=[self.prompts[group] for group in groups],
            advantages=None if self.advantages is None else self.advantages[rows],
            **{name: None if tensor is None else tensor[rows, :width] for name, tensor in trimmed.items()},
        )


def pad_completions(
    token_ids: list[list[int]], pad_token_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Completions as `completion_ids` (B, C) and `completion_mask` (B, C), padded on the right."""
    width = max(len(row) for row in token_ids)
    ids = torch.full((len(token_ids), width), pad_token_id, dtype=torch.long)
    mask = torch.zeros((len(token_ids), width), dtype=torch.bool)
    for i, row in enumerate(token_ids):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = True
    return ids.to(device), mask.to(device)

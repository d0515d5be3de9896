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
    index: int | None = None  # of the row in the dataset


@dataclass(frozen=True, kw_only=True)
class RolloutBatch:
    """N groups with G completions each, and what is known of them when the loss is computed.

    Example: two images with six completions of at most 40 tokens have `prompts` of length 2, `completion_ids` (12, 40)
    and `advantages` (12,).
    """

    prompts: list[EncodedPrompt]  # N, positions set
    completion_ids: torch.Tensor  # (B, C) padded on the right
    completion_mask: torch.Tensor  # (B, C) True at tokens to learn from, the ending one included
    advantages: torch.Tensor | None = None  # (B,)
    old_per_token_logps: torch.Tensor | None = None  # (B, C); None: the policy has not moved since generation
    ref_per_token_logps: torch.Tensor | None = None  # (B, C); None: no KL term
    engine_per_token_logps: torch.Tensor | None = None  # (B, C) of the engine that generated; None: it told none
    token_weights: torch.Tensor | None = None  # (B, C) share of each token in the loss of its micro-batch
    entropy_weights: torch.Tensor | None = None  # (B, C) share of each token in the mean entropy of its micro-batch
    row_index: torch.Tensor | None = None  # (B,) where each completion stood before the batch was cut

    def __post_init__(self):
        if self.completion_ids.shape[0] % len(self.prompts):
            raise ValueError(f"{len(self.completion_ids)} completions do not divide into {len(self.prompts)} groups.")

    @property
    def num_generations(self) -> int:
        return self.completion_ids.shape[0] // len(self.prompts)

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The fields that hold one row per completion, (B,) or (B, C), where they are set."""
        return {name: value for name, value in vars(self).items() if isinstance(value, torch.Tensor)}

    def select(self, groups: list[int]) -> "RolloutBatch":
        """The batch of these groups alone, in this order, completions trimmed to their longest."""
        size = self.num_generations
        rows = [group * size + g for group in groups for g in range(size)]
        return self._take([self.prompts[group] for group in groups], rows)

    def select_completions(self, group: int, start: int, stop: int) -> "RolloutBatch":
        """One group with its completions `start` to `stop` - 1 only."""
        first = group * self.num_generations
        return self._take([self.prompts[group]], list(range(first + start, first + stop)))

    def _take(self, prompts: list[EncodedPrompt], rows: list[int]) -> "RolloutBatch":
        index = torch.tensor(rows, device=self.completion_ids.device)
        width = max(1, int(self.completion_mask[index].sum(dim=1).max()))
        taken = {name: tensor[index] for name, tensor in self.tensors.items()}
        trimmed = {name: tensor[:, :width] if tensor.ndim == 2 else tensor for name, tensor in taken.items()}
        return replace(self, prompts=prompts, **trimmed)


def pad_completions(
    token_ids: list[list[int]], pad_token_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Completions as `completion_ids` (B, C) and `completion_mask` (B, C), padded on the right."""
    width = max(1, *(len(row) for row in token_ids))
    ids = torch.full((len(token_ids), width), pad_token_id, dtype=torch.long)
    mask = torch.zeros((len(token_ids), width), dtype=torch.bool)
    for i, row in enumerate(token_ids):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = True
    return ids.to(device), mask.to(device)

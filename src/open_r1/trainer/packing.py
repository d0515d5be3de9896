"""Lays N groups out in one padding-free row, so that each prompt and each image is computed once, not G times.

    row  =  [ p_0 | p_1 | ... | s_00 | s_01 | ... | s_10 | ... ]        T = sum (P_n - 1) + sum C_b   tokens

`p_n` is prompt n without its last token. `s_b` is what completion b is predicted from: the last token of its prompt,
then the completion without its own last token; so every position of a segment has exactly one target, and the tail of
the row, kept by `logits_to_keep`, holds all of them in the order of the completion mask. Attention:

              p_0        s_00       s_01                 p_0 is causal in itself; s_00 and s_01 see p_0 and
    p_0       causal                                     themselves; no group sees another. Every token stands at the
    s_00      all        causal                          position it has in a row of its own, so the numbers are those
    s_01      all                   causal               of the replicated layout (`logps.py`), to rounding.

The idea of a shared prompt in the training pass: Prefix Grouper (arXiv 2506.05433). Here no modelling code changes:
the layout travels to the attention function (`attention.py`) as a keyword argument of the model's forward.
"""

from dataclasses import dataclass, replace

import torch

from open_r1.trainer.batch import RolloutBatch
from open_r1.vlm_modules.vlm_module import EncodedPrompt


@dataclass(frozen=True, kw_only=True)
class VarlenSegments:
    """The same row for kernels that take ragged segments of queries and keys: N prompts, then B completions.

    The queries of a completion are its segment; its keys are its prompt's, then its own.
    """

    key_index: torch.Tensor  # (K,) positions in the row, segment by segment
    query_starts: torch.Tensor  # (N + B + 1,) int32
    key_starts: torch.Tensor  # (N + B + 1,) int32
    longest_query: int
    longest_key: int


@dataclass(frozen=True, kw_only=True)
class PackedLayout:
    """Where groups stand in a row of T tokens, as rectangular indices into it; padding points at token 0."""

    prompt_index: torch.Tensor  # (N, P')  P' = longest prompt - 1
    prompt_mask: torch.Tensor  # (N, P') True at real tokens
    segment_index: torch.Tensor  # (B, C)
    segment_mask: torch.Tensor  # (B, C)
    varlen: VarlenSegments | None = None  # where a kernel for ragged segments shall be used

    @property
    def num_generations(self) -> int:
        return self.segment_index.shape[0] // self.prompt_index.shape[0]


def _index_ragged(mask: torch.Tensor, start: int) -> torch.Tensor:
    """Numbers the True entries of a mask in reading order from `start`; False entries get 0."""
    return torch.where(mask, mask.flatten().cumsum(0).view(mask.shape) - 1 + start, 0)


def build_layout(prompts: list[EncodedPrompt], completion_mask: torch.Tensor, varlen: bool = False) -> PackedLayout:
    """The layout of N prompts and their completions.

    Args:
        prompts: N prompts of at least two tokens.
        completion_mask: (B, C), group-major.
        varlen: Whether to add ragged segments.
    """
    device = completion_mask.device
    lengths = torch.tensor([prompt.num_tokens - 1 for prompt in prompts], device=device)  # (N,)
    prompt_mask = torch.arange(int(lengths.max()), device=device) < lengths[:, None]
    layout = PackedLayout(
        prompt_index=_index_ragged(prompt_mask, 0),
        prompt_mask=prompt_mask,
        segment_index=_index_ragged(completion_mask, int(lengths.sum())),
        segment_mask=completion_mask,
    )
    return replace(layout, varlen=build_varlen_segments(layout)) if varlen else layout


def build_varlen_segments(layout: PackedLayout) -> VarlenSegments:
    """Ragged segments of a layout."""
    size = layout.num_generations
    seen_index = torch.cat([layout.prompt_index.repeat_interleave(size, dim=0), layout.segment_index], dim=1)
    seen_mask = torch.cat([layout.prompt_mask.repeat_interleave(size, dim=0), layout.segment_mask], dim=1)  # (B, P'+C)
    num_queries = torch.cat([layout.prompt_mask.sum(dim=1), layout.segment_mask.sum(dim=1)])  # (N + B,)
    num_keys = torch.cat([layout.prompt_mask.sum(dim=1), seen_mask.sum(dim=1)])
    return VarlenSegments(
        key_index=torch.cat([layout.prompt_index[layout.prompt_mask], seen_index[seen_mask]]),
        query_starts=torch.nn.functional.pad(num_queries.cumsum(0), (1, 0)).int(),
        key_starts=torch.nn.functional.pad(num_keys.cumsum(0), (1, 0)).int(),
        longest_query=int(num_queries.max()),
        longest_key=int(num_keys.max()),
    )


def build_packed_inputs(batch: RolloutBatch, varlen: bool = False) -> dict[str, torch.Tensor | PackedLayout | int]:
    """Model inputs as one row, media left out: `input_ids` (1, T), `position_ids` (1, T) or (3, 1, T), and layout."""
    ids, mask = batch.completion_ids, batch.completion_mask
    owners = [prompt for prompt in batch.prompts for _ in range(batch.num_generations)]  # B
    last_ids = torch.stack([prompt.input_ids[-1] for prompt in owners])
    segment_ids = torch.cat([last_ids[:, None], ids[:, :-1]], dim=1)[mask]

    last_positions = torch.stack([prompt.position_ids[..., -1] for prompt in owners], dim=-1)  # (B,) or (3, B)
    first_positions = torch.stack([prompt.position_ids.max() + 1 for prompt in owners])  # (B,)
    later = first_positions[:, None] + torch.arange(ids.shape[1] - 1, device=ids.device)  # (B, C - 1)
    later = later.expand(*last_positions.shape[:-1], -1, -1)
    segment_positions = torch.cat([last_positions[..., None], later], dim=-1)[..., mask]

    positions = torch.cat([prompt.position_ids[..., :-1] for prompt in batch.prompts] + [segment_positions], dim=-1)
    input_ids = torch.cat([prompt.input_ids[:-1] for prompt in batch.prompts] + [segment_ids])
    return {
        "input_ids": input_ids[None],
        "position_ids": positions.unsqueeze(-2),
        # Four dimensions: transformers passes such a mask on as it is. The attention function does not look at it.
        "attention_mask": torch.ones(1, 1, 1, 1, dtype=torch.bool, device=ids.device),
        "packed_layout": build_layout(batch.prompts, mask, varlen),
        "logits_to_keep": segment_ids.shape[0],
    }

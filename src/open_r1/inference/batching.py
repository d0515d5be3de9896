"""Rectangular model inputs out of unpadded prompts: the one place where prompts are padded.

Prompts are padded on the left, so that every row's next token is at the same column:

    prompt 0   . . a b c |
    prompt 1   d e f g h |
"""

from collections.abc import Iterable

import torch

from open_r1.vlm_modules.vlm_module import EncodedMedia, EncodedPrompt


def pad_left(rows: list[torch.Tensor], padding_value: int) -> torch.Tensor:
    """Stacks tensors of shape (..., P_n) into one of shape (..., N, P), filled on the left up to P = max P_n."""
    longest = max(row.shape[-1] for row in rows)
    padded = [torch.nn.functional.pad(row, (longest - row.shape[-1], 0), value=padding_value) for row in rows]
    return torch.stack(padded, dim=-2)


def collate_prompts(prompts: list[EncodedPrompt], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Model inputs per token of N prompts: `input_ids`, `attention_mask` (N, P), `position_ids` (N, P) or (3, N, P),
    and what else the family has. Positions of padding are zero."""
    inputs = {
        "input_ids": pad_left([prompt.input_ids for prompt in prompts], pad_token_id),
        "attention_mask": pad_left([torch.ones_like(prompt.input_ids) for prompt in prompts], 0),
        "position_ids": pad_left([prompt.position_ids for prompt in prompts], 0),
    }
    for name in sorted({name for prompt in prompts for name in prompt.token_inputs}):
        inputs[name] = pad_left([prompt.token_inputs[name] for prompt in prompts], 0)
    return inputs


def list_media(prompts: Iterable[EncodedPrompt]) -> list[EncodedMedia]:
    """Images and videos of a batch, in order of appearance; one that several prompts show is there several times."""
    return [item for prompt in prompts for item in prompt.media]

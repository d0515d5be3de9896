"""Log-probabilities of completion tokens, without ever building a (B, L, V) tensor.

The model's own forward is called, so that wrappers (DDP, DeepSpeed, FSDP, PEFT) do their work, but for its duration
the output head computes something smaller than logits: it keeps the hidden states of completion tokens only and
returns, chunk by chunk, each token's log-probability and entropy. Where there are several, a chunk's logits are
recomputed in the backward pass instead of being kept.

    hidden (B, C + 1, H)  --select-->  (T, H)  --chunks of head + log-softmax-->  (T, 2)  --scatter-->  (B, C)

Two layouts give the same numbers: `packed`, where a group shares its prompt and its images (`packing.py`), and
`replicated`, its slow twin, where each completion is a row of its own behind a copy of its prompt.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch.utils.checkpoint import checkpoint

from open_r1.inference.batching import collate_prompts, list_media
from open_r1.trainer.batch import RolloutBatch
from open_r1.trainer.packing import build_packed_inputs
from open_r1.trainer.token_scores import score_tokens
from open_r1.vlm_modules.vlm_module import EncodedPrompt, VLMBaseModule


# Tokens whose logits exist at the same time: 512 x 152k x 4 bytes is 0.3 GB, and twice that in the backward pass.
DEFAULT_CHUNK_SIZE = 512


@dataclass(frozen=True, kw_only=True)
class TokenScores:
    """Per completion token, zero where the mask is False."""

    per_token_logps: torch.Tensor  # (B, C)
    entropies: torch.Tensor  # (B, C), in nats, without gradient


@contextlib.contextmanager
def scoring_head(
    head: torch.nn.Module,
    select: Callable[[torch.Tensor], torch.Tensor],
    targets: torch.Tensor,
    score_part: Callable[..., torch.Tensor],
    chunk_size: int,
) -> Iterator[None]:
    """Makes the output head return scores (T, 2) in place of logits.

    Args:
        head: The model's output embedding (`get_output_embeddings()`).
        select: Picks out of the hidden states that the head is given those (T, H) that predict a completion token.
        targets: (T,) these tokens.
        score_part: `score_tokens` with its settings: of head, hidden states and targets.
        chunk_size: Tokens whose logits exist at the same time.
    """
    replaced = head.__dict__.get("forward")  # an instance's own forward, where another library has set one
    original_forward = head.forward

    def forward(hidden: torch.Tensor) -> torch.Tensor:
        chunks = list(zip(select(hidden).split(chunk_size), targets.split(chunk_size), strict=True))
        if len(chunks) == 1:  # its logits are the first that the backward pass needs: nothing is gained by a new start
            return score_part(original_forward, *chunks[0])
        scores = [checkpoint(score_part, original_forward, *chunk, use_reentrant=False) for chunk in chunks]
        return torch.cat(scores)

    head.forward = forward
    try:
        yield
    finally:
        if replaced is None:
            del head.forward  # the class's method is visible again
        else:
            head.forward = replaced


def build_replicated_inputs(
    replicas: list[EncodedPrompt], completion_ids: torch.Tensor, completion_mask: torch.Tensor, pad_token_id: int
) -> dict[str, torch.Tensor]:
    """Model inputs with one row per completion, media left out: its prompt, padded on the left, then the completion.

    Positions of completion tokens go on at the prompt's maximum + 1, on all axes.

    Returns:
        `input_ids`, `attention_mask` (B, P + C), `position_ids` (B, P + C) or (3, B, P + C), per-token extras.
    """
    width = completion_ids.shape[1]
    token_inputs = collate_prompts(replicas, pad_token_id)
    first = torch.stack([prompt.position_ids.max() + 1 for prompt in replicas])  # (B,)
    positions = first[:, None] + torch.arange(width, device=first.device)  # (B, C)
    prompt_positions = token_inputs.pop("position_ids")
    inputs = {
        "input_ids": torch.cat([token_inputs.pop("input_ids"), completion_ids], dim=1),
        "attention_mask": torch.cat([token_inputs.pop("attention_mask"), completion_mask.long()], dim=1),
        "position_ids": torch.cat([prompt_positions, positions.expand(*prompt_positions.shape[:-1], -1)], dim=-1),
    }
    for name, tensor in token_inputs.items():
        inputs[name] = torch.nn.functional.pad(tensor, (0, width))
    return inputs


@dataclass(frozen=True, kw_only=True)
class LogpsScorer:
    """Scores completions; the one place that knows how they are laid out for a forward pass."""

    vlm_module: VLMBaseModule
    pad_token_id: int  # fills replicated rows
    is_packed: bool  # one row for all groups (the model must have `attention.enable_packing`), or one per completion
    is_varlen: bool = False  # the packed row goes through a kernel for ragged segments
    temperature: float = 1.0  # as in sampling
    chunk_size: int = DEFAULT_CHUNK_SIZE  # completion tokens whose logits exist at the same time
    has_entropy_gradient: bool = False

    def score(self, model: torch.nn.Module, head: torch.nn.Module, batch: RolloutBatch) -> TokenScores:
        """Log-probabilities and entropies of a batch.

        Args:
            model: The model to call, wrapped or not.
            head: The bare model's output embedding.
            batch: N groups of G completions.
        """
        ids, mask = batch.completion_ids, batch.completion_mask
        num_tokens = int(mask.sum())
        if self.is_packed:  # keeps one hidden state per completion token, in the order of the mask
            inputs = build_packed_inputs(batch, self.is_varlen)
            media = list_media(batch.prompts)
        else:  # the hidden state before each completion token predicts it: columns P - 1 to P + C - 2, and one to drop
            replicas = [prompt for prompt in batch.prompts for _ in range(batch.num_generations)]  # B
            inputs = build_replicated_inputs(replicas, ids, mask, self.pad_token_id)
            inputs["logits_to_keep"] = ids.shape[1] + 1
            media = list_media(replicas)
        inputs |= self.vlm_module.build_media_inputs(media, ids.device)

        def select(hidden: torch.Tensor) -> torch.Tensor:
            return hidden[0, hidden.shape[1] - num_tokens :] if self.is_packed else hidden[:, :-1][mask]

        score_part = partial(score_tokens, temperature=self.temperature, entropy_gradient=self.has_entropy_gradient)
        with scoring_head(head, select, ids[mask], score_part, self.chunk_size):
            scores = model(**inputs, use_cache=False).logits  # (T, 2)
        zeros = torch.zeros(ids.shape, dtype=scores.dtype, device=scores.device)
        entropies = scores[:, 1] if self.has_entropy_gradient else scores[:, 1].detach()
        return TokenScores(
            per_token_logps=zeros.masked_scatter(mask, scores[:, 0]),
            entropies=zeros.masked_scatter(mask, entropies),
        )

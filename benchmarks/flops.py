"""Floating-point operations of a GRPO step on a Qwen2.5-VL, by its sizes: what is executed, recomputation left out.

One multiplication with its addition counts two. Linear layers: 2 per weight and token. Attention: 4 per head
dimension and pair of query and key, causal pairs only. The backward pass costs twice the forward pass.
"""

from dataclasses import dataclass

from shapes import Shape
from workload import Workload


PATCHES_PER_WINDOW = 64  # of the tower's windowed layers
PATCH_INPUTS = 3 * 2 * 14 * 14  # two frames of a patch of 14 by 14 pixels


@dataclass(frozen=True, kw_only=True)
class StepFlops:
    """Of a reference pass and of a loss with its backward pass."""

    language: float
    vision: float

    @property
    def total(self) -> float:
        return self.language + self.vision


def count_image_flops(shape: Shape, patches: int) -> float:
    """One picture through the vision tower and its projector."""
    vision, width = shape.vision, shape.vision["hidden_size"]
    per_patch = vision["depth"] * (4 * width**2 + 3 * width * vision["intermediate_size"]) + PATCH_INPUTS * width
    merged = (4 * width) ** 2 + 4 * width * shape.text["hidden_size"]
    num_full = len(vision["fullatt_block_indexes"])
    pairs = patches * (num_full * patches + (vision["depth"] - num_full) * min(PATCHES_PER_WINDOW, patches))
    return 2 * patches * per_patch + 2 * patches / 4 * merged + 4 * width * pairs


def count_language_flops(shape: Shape, tokens: float, pairs: float, scored: float) -> float:
    """One forward pass of the decoder.

    Args:
        shape: The model.
        tokens: Through the layers.
        pairs: Of query and key that attend.
        scored: Tokens that reach the output head.
    """
    text = shape.text
    width, heads = text["hidden_size"], text["num_attention_heads"]
    head_dim = width // heads
    attention = 2 * width * head_dim * (heads + text["num_key_value_heads"])
    weights = text["num_hidden_layers"] * (attention + 3 * width * text["intermediate_size"])
    per_pair = 4 * heads * head_dim * text["num_hidden_layers"]
    return 2 * weights * tokens + per_pair * pairs + 2 * width * shape.vocab_size * scored


def count_step_flops(
    shape: Shape, workload: Workload, prompt_tokens: int, *, is_packed: bool, reuses_vision: bool, trains_tower: bool
) -> StepFlops:
    """A step of one layout.

    Args:
        shape: The model.
        workload: Groups and lengths.
        prompt_tokens: P.
        is_packed: Each prompt once per group, instead of once per completion.
        reuses_vision: Each picture once per step, instead of once per pass and row.
        trains_tower: Whether the vision tower has a backward pass.
    """
    lengths, groups = workload.build_lengths(), workload.num_groups
    scored = groups * sum(lengths)
    if is_packed:
        tokens = groups * prompt_tokens + scored
        pairs = groups * (prompt_tokens**2 / 2 + sum(c * prompt_tokens + c**2 / 2 for c in lengths))
    else:  # rows are padded to the longest
        row = prompt_tokens + max(lengths)
        tokens, pairs = groups * len(lengths) * row, groups * len(lengths) * row**2 / 2
    forward = count_language_flops(shape, tokens, pairs, scored)
    rows = groups if is_packed else groups * len(lengths)
    image = count_image_flops(shape, workload.patches_per_image)
    passes = 4 if trains_tower else 2
    vision = groups * image if reuses_vision else rows * passes * image
    return StepFlops(language=4 * forward, vision=vision)

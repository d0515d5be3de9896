"""Cuts a batch of groups into packed rows of bounded length: `--max_packed_tokens` bounds the memory of a pass.

Whole groups share a row while they fit. A group that is too long by itself is cut between completions, and each piece
computes the prompt again, so cutting costs time and changes no number:

    groups of 900, 400, 300 and 200 tokens, at most 1000   ->   [900] [400 300 200]
    a group with a prompt of 600 and 4 completions of 200  ->   [600 + 200 + 200] [600 + 200 + 200]
"""

import logging

from open_r1.trainer.batch import RolloutBatch


logger = logging.getLogger(__name__)


def count_row_tokens(batch: RolloutBatch) -> list[int]:
    """Tokens that each group of a batch takes in a packed row, N values."""
    completions = batch.completion_mask.sum(dim=1).view(len(batch.prompts), -1).sum(dim=1).tolist()
    return [prompt.num_tokens - 1 + tokens for prompt, tokens in zip(batch.prompts, completions)]


def split_into_rows(batch: RolloutBatch, max_tokens: int | None) -> list[RolloutBatch]:
    """Parts of a batch, each to be packed into one row of at most `max_tokens` tokens (None: no bound).

    A single completion behind a prompt that is longer than that stays in one piece, with a warning.
    """
    tokens = count_row_tokens(batch)
    if max_tokens is None or sum(tokens) <= max_tokens:
        return [batch]
    rows = pack_balanced({n: size for n, size in enumerate(tokens) if size <= max_tokens}, max_tokens)
    parts = [batch.select(row) for row in rows]
    for group in (n for n, size in enumerate(tokens) if size > max_tokens):
        parts += _cut_group(batch, group, max_tokens)
    return parts


def pack_balanced(sizes: dict[int, int], capacity: int) -> list[list[int]]:
    """Puts items into as few bins as first-fit decreasing finds, then evens out how full they are.

    Args:
        sizes: Item to size, none above the capacity.
        capacity: Of a bin.

    Returns:
        Items of each bin, in rising order.
    """
    order = sorted(sizes, key=lambda item: (-sizes[item], item))
    num_bins = len(_fill(order, sizes, capacity, num_bins=None))
    return [sorted(items) for items in _fill(order, sizes, capacity, num_bins)]


def _fill(order: list[int], sizes: dict[int, int], capacity: int, num_bins: int | None) -> list[list[int]]:
    """First fit where the number of bins is open; else into the emptiest of them, first fit where that fails."""
    bins: list[list[int]] = [[] for _ in range(num_bins or 0)]
    loads = [0] * len(bins)
    for item in order:
        fitting = [i for i, load in enumerate(loads) if load + sizes[item] <= capacity]
        if not fitting:
            if num_bins is not None:
                return _fill(order, sizes, capacity, num_bins=None)
            fitting = [len(bins)]
            bins.append([])
            loads.append(0)
        chosen = fitting[0] if num_bins is None else min(fitting, key=lambda i: loads[i])
        bins[chosen].append(item)
        loads[chosen] += sizes[item]
    return bins


def _cut_group(batch: RolloutBatch, group: int, max_tokens: int) -> list[RolloutBatch]:
    """Consecutive completions of a group behind its prompt, as many as fit."""
    size = batch.num_generations
    lengths = batch.completion_mask[group * size : (group + 1) * size].sum(dim=1).tolist()
    room = max_tokens - (batch.prompts[group].num_tokens - 1)
    if max(lengths) > room:
        logger.warning(
            "A prompt of %d tokens with a completion of %d exceeds --max_packed_tokens %d and stays in one piece.",
            batch.prompts[group].num_tokens, max(lengths), max_tokens,
        )  # fmt: skip
    cuts, used = [0], 0
    for g, length in enumerate(lengths):
        if used and used + length > room:
            cuts.append(g)
            used = 0
        used += length
    return [batch.select_completions(group, start, stop) for start, stop in zip(cuts, [*cuts[1:], size])]

"""Rows of bounded length: nothing is lost, nothing is too long, and groups are cut only where they must be."""

import pytest
import torch

from open_r1.trainer.batch import RolloutBatch
from open_r1.trainer.splitting import count_row_tokens, pack_balanced, split_into_rows
from open_r1.vlm_modules.vlm_module import EncodedPrompt


def build_batch(prompt_lengths: list[int], completion_lengths: list[int]) -> RolloutBatch:
    """Token ids number the completions, so that a row can be recognised wherever it goes."""
    lengths = torch.tensor(completion_lengths)
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    rows = torch.arange(len(lengths))
    return RolloutBatch(
        prompts=[EncodedPrompt(input_ids=torch.arange(length)) for length in prompt_lengths],
        completion_ids=rows[:, None] * mask,
        completion_mask=mask,
        advantages=rows.float(),
        row_index=rows,
    )


def test_tokens_of_a_group_are_its_prompt_but_one_and_its_completions():
    assert count_row_tokens(build_batch([5, 8], [1, 2, 3, 4])) == [4 + 3, 7 + 7]


def test_without_a_bound_or_within_it_the_batch_stays_whole():
    batch = build_batch([5, 8], [1, 2, 3, 4])
    assert split_into_rows(batch, None) == [batch]
    assert split_into_rows(batch, 21) == [batch]


@pytest.mark.parametrize("max_tokens", [9, 12, 14, 20])
def test_every_completion_is_in_exactly_one_row_behind_its_own_prompt(max_tokens):
    batch = build_batch([5, 8, 3], [1, 2, 3, 4, 0, 2])
    parts = split_into_rows(batch, max_tokens)
    assert all(sum(count_row_tokens(part)) <= max_tokens for part in parts[:-1]) or max_tokens < 11
    rows = torch.cat([part.row_index for part in parts])
    assert sorted(rows.tolist()) == list(range(6))
    for part in parts:
        for n, prompt in enumerate(part.prompts):
            members = part.row_index[n * part.num_generations : (n + 1) * part.num_generations]
            assert all(batch.prompts[row // 2] is prompt for row in members.tolist())
        assert torch.equal(part.advantages, part.row_index.float())
        assert part.completion_mask.shape[1] == max(1, int(part.completion_mask.sum(dim=1).max()))


def test_a_group_is_cut_only_if_it_does_not_fit_by_itself():
    batch = build_batch([11, 11], [5, 5, 1, 1])  # rows of 20 and of 12 tokens
    assert [part.row_index.tolist() for part in split_into_rows(batch, 20)] == [[0, 1], [2, 3]]
    assert [part.row_index.tolist() for part in split_into_rows(batch, 15)] == [[2, 3], [0], [1]]


def test_a_completion_that_is_too_long_by_itself_stays_in_one_piece_and_is_warned_of(caplog):
    parts = split_into_rows(build_batch([11], [9, 2]), 15)
    assert [part.row_index.tolist() for part in parts] == [[0], [1]]
    assert "exceeds --max_packed_tokens 15" in caplog.text


def test_bins_are_few_and_evenly_full():
    bins = pack_balanced({0: 6, 1: 5, 2: 4, 3: 3, 4: 2}, capacity=10)
    assert sorted(item for items in bins for item in items) == [0, 1, 2, 3, 4]
    sizes = {0: 6, 1: 5, 2: 4, 3: 3, 4: 2}
    assert sorted(sum(sizes[item] for item in items) for items in bins) == [10, 10]
    assert pack_balanced({0: 4, 1: 1, 2: 1, 3: 4}, capacity=8) == [[0, 1], [2, 3]]


def test_evening_out_never_costs_a_bin_or_the_bound():
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        sizes = dict(enumerate(torch.randint(1, 50, (12,), generator=generator).tolist()))
        bins = pack_balanced(sizes, capacity=60)
        loads = [sum(sizes[item] for item in items) for items in bins]
        assert max(loads) <= 60 and sorted(item for items in bins for item in items) == list(range(12))
        assert len(bins) <= 2 * -(-sum(sizes.values()) // 60)

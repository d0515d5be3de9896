"""Which prompts are worked on: every row in every epoch, no copies, no prompt on two devices."""

import pytest
import torch

from open_r1.trainer.samplers import RepeatRandomSampler


def read(num_rows: int, epoch: int = 0, **kwargs) -> list[list[int]]:
    sampler = RepeatRandomSampler(num_rows, **kwargs)
    sampler.set_epoch(epoch)
    batches = list(sampler)
    assert len(batches) == len(sampler)
    return batches


def test_a_round_is_yielded_once_and_followed_by_empty_micro_steps():
    batches = read(8, prompts_per_round=4, steps_per_round=3)
    assert [len(batch) for batch in batches] == [4, 0, 0, 4, 0, 0]


def test_every_row_is_visited_once_per_epoch():
    batches = read(12, prompts_per_round=3)
    assert sorted(index for batch in batches for index in batch) == list(range(12))


def test_the_tail_is_not_lost_but_filled_up_from_the_beginning():
    batches = read(10, prompts_per_round=4, shuffle=False)
    assert batches == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 0, 1]]


def test_data_smaller_than_a_round_is_repeated_to_fill_it():
    assert read(2, prompts_per_round=5, shuffle=False) == [[0, 1, 0, 1, 0]]


def test_devices_share_an_order_and_never_a_prompt():
    ranks = [read(24, prompts_per_round=3, rank=rank, world_size=4, seed=5) for rank in range(4)]
    assert len({len(batches) for batches in ranks}) == 1
    for round_of_all in zip(*ranks):
        indices = [index for batch in round_of_all for index in batch]
        assert len(set(indices)) == 12
    assert sorted(index for batches in ranks for batch in batches for index in batch) == list(range(24))


def test_the_order_depends_on_seed_and_epoch_alone():
    settings = {"prompts_per_round": 20, "seed": 3}
    assert read(20, **settings) == read(20, **settings)
    assert read(20, **settings) != read(20, epoch=1, **settings)
    assert read(20, **settings) != read(20, prompts_per_round=20, seed=4)


def test_no_rows_are_an_error():
    with pytest.raises(ValueError, match="no row"):
        RepeatRandomSampler(0, prompts_per_round=1)


def test_an_order_is_the_permutation_that_its_seed_and_epoch_give():
    order = torch.randperm(10, generator=torch.Generator().manual_seed(42 + 1)).tolist()
    ranks = [read(10, epoch=1, prompts_per_round=3, rank=rank, world_size=2, seed=42) for rank in range(2)]
    assert ranks == [[order[:3], order[6:9]], [order[3:6], [order[9], *order[:2]]]]

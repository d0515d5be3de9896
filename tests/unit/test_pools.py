"""Rounds of several data sets: every row covered, devices of one data set, no prompt on two devices, exact lengths."""

import random
from collections import Counter, defaultdict
from dataclasses import replace

import pytest
import torch

from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.pools import RowPools, build_pools, find_prefixes
from open_r1.trainer.sampler_options import SamplerOptions
from open_r1.trainer.samplers import RepeatRandomSampler


CASES = range(60)


def make_pools(sizes, **settings) -> RowPools:
    """Data sets of these sizes, their rows scattered over the file."""
    order = list(range(sum(sizes)))
    random.Random(0).shuffle(order)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    return RowPools(rows=[sorted(order[a : a + n]) for a, n in zip(starts, sizes)], **settings)


def draw_case(seed: int) -> tuple[list[int], int, int]:
    """Sizes of data sets, prompts per device, devices."""
    rng = random.Random(seed)
    sizes = [rng.choice([1, 2, 7, 40, 133, 500]) + rng.randrange(5) for _ in range(rng.randint(1, 6))]
    return sizes, rng.randint(1, 9), rng.randint(1, 8)


def read_epoch(pools: RowPools, block_size: int, num_devices: int, epoch: int = 0, seed: int = 3) -> list:
    """Rounds of an epoch, each with the rows of every device, as the devices' own samplers yield them."""
    num_rows = sum(map(len, pools.rows))
    by_rank = []
    for rank in range(num_devices):
        sampler = RepeatRandomSampler(
            num_rows, prompts_per_round=block_size, rank=rank, world_size=num_devices, seed=seed, pools=pools
        )
        sampler.set_epoch(epoch)
        by_rank.append(list(sampler))
        assert len(by_rank[-1]) == len(sampler)
    assert len({len(rounds) for rounds in by_rank}) == 1
    return list(zip(*by_rank))


def count_rows(rounds) -> Counter:
    return Counter(row for blocks in rounds for block in blocks for row in block)


def find_pool(pools: RowPools) -> dict[int, int]:
    return {row: pool for pool, rows in enumerate(pools.rows) for row in rows}


@pytest.mark.parametrize("seed", CASES)
def test_by_size_every_row_comes_once_and_repeats_are_few(seed):
    sizes, block_size, num_devices = draw_case(seed)
    pools = make_pools(sizes)
    counts = count_rows(read_epoch(pools, block_size, num_devices))
    assert set(counts) == set(range(sum(sizes)))
    num_repeats = sum(counts.values()) - sum(sizes)
    sampler = RepeatRandomSampler(sum(sizes), prompts_per_round=block_size, world_size=num_devices, pools=pools)
    assert num_repeats == sampler.num_repeats
    assert num_repeats <= len(sizes) * (block_size - 1) + (num_devices - 1) * block_size


@pytest.mark.parametrize("seed", CASES)
@pytest.mark.parametrize("weighting", ["size", "uniform"])
def test_a_device_has_one_data_set_in_a_round(seed, weighting):
    sizes, block_size, num_devices = draw_case(seed)
    pools = make_pools(sizes, weighting=weighting)
    pool_of = find_pool(pools)
    for blocks in read_epoch(pools, block_size, num_devices):
        assert all(len(block) == block_size for block in blocks)
        assert all(len({pool_of[row] for row in block}) == 1 for block in blocks)


@pytest.mark.parametrize("seed", CASES)
@pytest.mark.parametrize("settings", [{}, {"weighting": "uniform"}, {"weighting": "uniform", "is_homogeneous": False}])
def test_no_prompt_is_on_two_devices_unless_its_data_set_is_smaller_than_its_share_of_the_round(seed, settings):
    sizes, block_size, num_devices = draw_case(seed)
    pools = make_pools(sizes, **settings)
    pool_of = find_pool(pools)
    for blocks in read_epoch(pools, block_size, num_devices):
        rows = [row for block in blocks for row in block]
        share = Counter(pool_of[row] for row in rows)
        distinct = Counter(pool_of[row] for row in set(rows))
        assert all(distinct[pool] == min(share[pool], sizes[pool]) for pool in share)


@pytest.mark.parametrize("seed", CASES)
@pytest.mark.parametrize("is_homogeneous", [True, False])
def test_uniform_shares_are_equal_and_every_row_of_every_data_set_comes(seed, is_homogeneous):
    sizes, block_size, num_devices = draw_case(seed)
    pools = make_pools(sizes, weighting="uniform", is_homogeneous=is_homogeneous)
    pool_of = find_pool(pools)
    counts = count_rows(read_epoch(pools, block_size, num_devices))
    assert set(counts) == set(range(sum(sizes)))
    prompts = Counter()
    for row, count in counts.items():
        prompts[pool_of[row]] += count
    assert max(prompts.values()) - min(prompts.values()) <= num_devices * block_size  # the last round's filling
    for pool, rows in enumerate(pools.rows):
        own = [counts[row] for row in rows]
        if sizes[pool] >= num_devices * block_size:
            assert max(own) - min(own) <= 1, "a row comes twice more often than another of its data set"


@pytest.mark.parametrize("settings", [{}, {"weighting": "uniform"}, {"weighting": "uniform", "is_homogeneous": False}])
def test_the_order_is_a_function_of_seed_and_epoch(settings):
    pools = make_pools([40, 90], **settings)
    first = read_epoch(pools, 4, 2)
    assert first == read_epoch(pools, 4, 2)
    assert first != read_epoch(pools, 4, 2, epoch=1)
    assert first != read_epoch(pools, 4, 2, seed=4)


def test_the_order_of_data_sets_is_another_one_in_every_epoch():
    pools = make_pools([64, 64, 64])
    pool_of = find_pool(pools)
    orders = {tuple(pool_of[blocks[0][0]] for blocks in read_epoch(pools, 8, 1, epoch=epoch)) for epoch in range(10)}
    assert len(orders) == 10


def test_global_random_numbers_are_left_alone():
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    read_epoch(make_pools([40, 90]), 4, 2)
    assert torch.rand(1) == expected


# Prefixes.


def make_kadid(num_references: int, num_versions: int, name: str = "KADID-10K") -> list[dict]:
    return [
        {"dataset_name": name, "image_path": [f"images/I{reference:02d}_{version:02d}_01.png"]}
        for version in range(num_versions)
        for reference in range(num_references)
    ]


def make_options(**settings) -> SamplerOptions:
    return replace(SamplerOptions(sampling="dataset_homogeneous", group_by_prefix=True), **settings)


@pytest.mark.parametrize("weighting", ["size", "uniform"])
@pytest.mark.parametrize("num_versions, block_size", [(25, 8), (24, 8), (7, 3), (3, 8)])
def test_versions_of_one_reference_come_together(num_versions, block_size, weighting):
    dataset = make_kadid(12, num_versions) + make_kadid(5, num_versions, name="TID2013")
    pools = build_pools(dataset, make_options(dataset_weighting=weighting, prefix_pattern=r"^(I\d+)_"))
    rounds = read_epoch(pools, block_size, 2)
    assert set(count_rows(rounds)) == set(range(len(dataset)))
    num_pure = Counter()
    for block in (block for blocks in rounds for block in blocks):
        assert len({dataset[row]["dataset_name"] for row in block}) == 1
        if len({pools.prefixes[row] for row in block}) == 1:
            num_pure[dataset[block[0]]["dataset_name"]] += 1
    assert num_pure["KADID-10K"] >= 12 * (num_versions // block_size)
    assert num_pure["TID2013"] >= 5 * (num_versions // block_size)


def test_the_prefix_of_a_known_data_set_is_that_of_its_card():
    dataset = make_kadid(2, 2)
    assert find_prefixes(dataset, None) == {
        0: "KADID-10K/i00", 1: "KADID-10K/i01", 2: "KADID-10K/i00", 3: "KADID-10K/i01",
    }  # fmt: skip


def test_rows_of_a_data_set_without_references_are_loose():
    dataset = make_kadid(2, 8) + [{"dataset_name": "KONIQ-10K", "image_path": [f"{i}.jpg"]} for i in range(8)]
    pools = build_pools(dataset, make_options())
    assert len(pools.prefixes) == 16
    assert set(count_rows(read_epoch(pools, 4, 1))) == set(range(24))


def test_data_without_any_prefix_is_refused():
    with pytest.raises(ValueError, match="no image of NOISE has a name with a known prefix"):
        build_pools([{"dataset_name": "NOISE", "image_path": ["1.png"]}], make_options())


# Options.


def test_by_default_and_with_one_data_set_an_epoch_is_one_permutation():
    dataset = make_kadid(4, 4)
    assert build_pools(dataset, SamplerOptions()) is None
    assert build_pools(dataset, SamplerOptions(sampling="dataset_homogeneous")) is None
    assert build_pools(dataset + make_kadid(1, 1, "B"), SamplerOptions()) is None


def test_pools_are_the_data_sets():
    dataset = [{"dataset_name": name} for name in "ABABB"]
    pools = build_pools(dataset, SamplerOptions(sampling="dataset_homogeneous"))
    assert pools == RowPools(rows=[[0, 2], [1, 3, 4]])
    assert pools.get_companions(3) == [1, 3, 4]
    mixed = build_pools(dataset, SamplerOptions(dataset_weighting="uniform"))
    assert mixed.get_companions(3) == [0, 1, 2, 3, 4]


def test_rows_without_a_data_set_name_are_refused():
    with pytest.raises(ValueError, match="dataset_name"):
        build_pools([{"id": 1}], SamplerOptions(sampling="dataset_homogeneous"))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"group_by_prefix": True}, "add --sampling dataset_homogeneous"),
        ({"prefix_pattern": "^(I)_"}, "does nothing without --group_by_prefix"),
        ({"sampling": "dataset_homogeneous", "group_by_prefix": True, "prefix_pattern": "I"}, "one group"),
        ({"sampling": "dataset_homogeneous", "group_by_prefix": True, "prefix_pattern": "("}, "no regular expression"),
        ({"sampling": "dataset_homogeneous", "train_sampling_strategy": "sequential"}, "keeps the order"),
        ({"sampling": "both"}, "take mixed or"),
        ({"dataset_weighting": "none"}, "take size or"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        GRPOConfig(output_dir=str(tmp_path), use_cpu=True, **options)


def test_versions_stay_together_more_often_than_by_chance():
    dataset = make_kadid(30, 25)
    together = defaultdict(int)
    for name, options in {"grouped": make_options(), "plain": None}.items():
        pools = build_pools(dataset, options) if options else make_pools([750])
        prefixes = find_prefixes(dataset, None)
        for blocks in read_epoch(pools, 8, 4):
            together[name] += sum(len({prefixes[row] for row in block}) == 1 for block in blocks)
    assert together["plain"] == 0
    assert together["grouped"] >= 90  # 25 // 8 blocks of each of 30 references

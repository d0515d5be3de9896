"""Which prompts a device works on, round by round.

A round generates for `prompts_per_round` prompts on each of W devices, and is then consumed in `steps_per_round`
micro-steps. The sampler yields one list per micro-step: the prompts of the round at the first, nothing at the others,
since the trainer already holds the round's groups. Two devices, three prompts each, four micro-steps, ten rows:

    device 0   [7 2 9] [] [] []   [0 3 6] [] [] []
    device 1   [4 8 1] [] [] []   [5 7 2] [] [] []
                                      ^^^ the tail is filled up from the beginning of the same order

With pools of rows (`pools.py`) all prompts of a device's round are of one data set, or data sets have equal shares.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from open_r1.trainer.batch import PromptGroup
from open_r1.trainer.pools import RowPools


def draw_in_order(num_rows: int, start: int, count: int, seed: int) -> list[int]:
    """Entries `start` to `start + count` - 1 of an endless stream of rows: one random permutation after another."""
    drawn: list[int] = []
    while len(drawn) < count:
        number, position = divmod(start + len(drawn), num_rows)
        generator = torch.Generator().manual_seed(seed + 2**32 + number)  # not the orders of the epochs
        order = torch.randperm(num_rows, generator=generator)
        drawn += order[position : position + count - len(drawn)].tolist()
    return drawn


class RepeatRandomSampler(Sampler[list[int]]):
    """A batch sampler of prompts, never of copies of them; every row of the data is visited in every epoch.

    Args:
        num_rows: Rows of the data set.
        prompts_per_round: Prompts per device and round.
        steps_per_round: Micro-steps that consume a round (steps per generation times iterations).
        rank: This device.
        world_size: Number of devices, W.
        seed: Of the order, which is another one in each epoch and the same on all devices.
        shuffle: False keeps the order of the data.
        pools: Which rows may share a device's round, and how often each pool's turn comes. None: an epoch is one
            permutation of all rows, cut into rounds.
    """

    def __init__(
        self,
        num_rows: int,
        *,
        prompts_per_round: int,
        steps_per_round: int = 1,
        rank: int = 0,
        world_size: int = 1,
        seed: int = 0,
        shuffle: bool = True,
        pools: RowPools | None = None,
    ):
        if num_rows < 1:
            raise ValueError("There is no row to sample from.")
        self.num_rows = num_rows
        self.prompts_per_round = prompts_per_round
        self.steps_per_round = steps_per_round
        self.rank = rank
        self.world_size = world_size
        self.seed = seed
        self.shuffle = shuffle
        self.pools = pools
        self.epoch = 0

    @property
    def num_rounds(self) -> int:
        if self.pools is not None:
            return self.pools.count_rounds(self.prompts_per_round, self.world_size)
        return -(-self.num_rows // (self.prompts_per_round * self.world_size))

    @property
    def num_repeats(self) -> int:
        """Prompts of an epoch, all devices together, that the epoch has had before."""
        return self.num_rounds * self.prompts_per_round * self.world_size - self.num_rows

    def __len__(self) -> int:
        return self.num_rounds * self.steps_per_round

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        if self.pools is None:
            rounds = self._cut_permutation(generator)
        else:
            dealt = self.pools.deal(self.prompts_per_round, self.world_size, generator)
            rounds = (blocks[self.rank] for blocks in dealt)
        for block in rounds:
            yield block
            for _ in range(self.steps_per_round - 1):
                yield []

    def _cut_permutation(self, generator: torch.Generator) -> Iterator[list[int]]:
        order = list(range(self.num_rows))
        if self.shuffle:
            order = torch.randperm(self.num_rows, generator=generator).tolist()
        for round_index in range(self.num_rounds):
            start = (round_index * self.world_size + self.rank) * self.prompts_per_round
            yield [order[i % self.num_rows] for i in range(start, start + self.prompts_per_round)]


@dataclass(frozen=True)
class IndexedRows(Dataset):
    """Rows together with their place in the data set, by which a round can be found again: `(index, row)`."""

    rows: Any

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, dict[str, Any]]:
        return index, self.rows[index]


@dataclass(frozen=True)
class IndexedCollator:
    """Encodes rows with another collator and writes their places into the groups."""

    collator: Callable[[list[dict[str, Any]]], list[PromptGroup]]

    def __call__(self, items: list[tuple[int, dict[str, Any]]]) -> list[PromptGroup]:
        groups = self.collator([row for _, row in items])
        return [replace(group, index=index) for (index, _), group in zip(items, groups, strict=True)]


class RoundLoader(DataLoader):
    """A data loader of encoded groups that draws none of the global random numbers (each iterator draws a seed for its
    workers) and whose batch sampler learns the epoch (transformers only asks loaders that have `set_epoch`).

    Args:
        dataset: Rows.
        batch_sampler: Indices of each micro-step.
        collate_fn: From rows to groups.
        settings: Of torch's `DataLoader`.
    """

    def __init__(self, dataset: Any, batch_sampler: RepeatRandomSampler, collate_fn: Callable, **settings: Any):
        super().__init__(
            IndexedRows(dataset),
            batch_sampler=batch_sampler,
            collate_fn=IndexedCollator(collate_fn),
            generator=torch.Generator(),
            **settings,
        )

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)

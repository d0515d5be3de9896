"""Which prompts a device works on, round by round.

A round generates for `prompts_per_round` prompts on each of W devices, and is then consumed in `steps_per_round`
micro-steps. The sampler yields one list per micro-step: the prompts of the round at the first, nothing at the others,
since the trainer already holds the round's groups. Two devices, three prompts each, four micro-steps, ten rows:

    device 0   [7 2 9] [] [] []   [0 3 6] [] [] []
    device 1   [4 8 1] [] [] []   [5 7 2] [] [] []
                                      ^^^ the tail is filled up from the beginning of the same order
"""

from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Sampler


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
        self.epoch = 0

    @property
    def num_rounds(self) -> int:
        return -(-self.num_rows // (self.prompts_per_round * self.world_size))

    def __len__(self) -> int:
        return self.num_rounds * self.steps_per_round

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        order = list(range(self.num_rows))
        if self.shuffle:
            generator = torch.Generator().manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.num_rows, generator=generator).tolist()
        for round_index in range(self.num_rounds):
            start = (round_index * self.world_size + self.rank) * self.prompts_per_round
            yield [order[i % self.num_rows] for i in range(start, start + self.prompts_per_round)]
            for _ in range(self.steps_per_round - 1):
                yield []


class RoundLoader(DataLoader):
    """A data loader whose batch sampler learns the epoch (transformers only asks loaders that have `set_epoch`)."""

    def set_epoch(self, epoch: int) -> None:
        self.batch_sampler.set_epoch(epoch)

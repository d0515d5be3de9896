"""Several processes that share a list of independent work, as scoring does: who does which part, and who comes last.

torchrun starts them; they exchange nothing but when they are ready.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from open_r1.trainer.distributed import connect, is_one_of_many


_PATIENCE_S = 7 * 24 * 3600  # torchrun ends all processes where one fails, so none waits for the dead


@dataclass(frozen=True, kw_only=True)
class Ranks:
    """This process among W. Example: the second of two on a machine is `Ranks(rank=1, world_size=2, local_rank=1)`."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def choose_device(self, device: str) -> str:
        """`auto` is a GPU of its own for each of several processes; any other choice stays."""
        if device == "auto" and self.world_size > 1 and torch.cuda.is_available():
            return f"cuda:{self.local_rank % torch.cuda.device_count()}"
        return device

    def wait(self) -> None:
        """Returns when all processes have come here."""
        if self.world_size > 1:
            torch.distributed.barrier()

    def sum(self, number: int) -> int:
        """The sum over all processes."""
        if self.world_size == 1:
            return number
        total = torch.tensor(number)
        torch.distributed.all_reduce(total)
        return int(total)

    @contextmanager
    def first_goes_ahead(self) -> Iterator[None]:
        """The first process runs the body, then the others do."""
        if not self.is_first:
            self.wait()
        yield
        if self.is_first:
            self.wait()


@contextmanager
def join_ranks() -> Iterator[Ranks]:
    """Connects the processes that torchrun started, over gloo; alone where it started none."""
    if not is_one_of_many():
        yield Ranks()
        return
    connect("gloo", _PATIENCE_S)
    group = torch.distributed
    try:
        yield Ranks(
            rank=group.get_rank(),
            world_size=group.get_world_size(),
            local_rank=int(os.environ.get("LOCAL_RANK", "0")),
        )
    finally:
        group.destroy_process_group()

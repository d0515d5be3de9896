"""Rounds out of several data sets: which rows may share a device's round, and how often each data set's turn comes.

A pool holds the rows of one data set. Its turns and those of the other pools are shuffled, and the rows of each turn
are drawn from the pool, pass after pass, each in a new order. Two devices, two prompts each, five rows of A, two of B:

    homogeneous, by size      device 0   a3 a0     b1 b0        every row once; one of A is drawn twice, since the
                              device 1   a4 a1     a2 a3        blocks of A do not come out even

No row stands twice in a round while its pool has others. All of it is a function of the generator, so every device
computes the same rounds and takes its own part.
"""

import re
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

import torch

from open_r1.data.cards import list_cards
from open_r1.data.columns import read_column
from open_r1.trainer.sampler_options import SamplerOptions


@dataclass(frozen=True, kw_only=True)
class RowPools:
    """The rows of each data set.

    Example: five rows of A and two of B are `RowPools(rows=[[0, 1, 2, 3, 4], [5, 6]])`.
    """

    rows: list[list[int]]
    is_homogeneous: bool = True  # a turn fills a device's round, with rows of one pool; else it is one prompt
    weighting: str = "size"  # turns of a pool: size, as many as its rows take; uniform, as many as the largest takes
    prefixes: dict[int, str] = field(default_factory=dict)  # row -> what its image is a version of, where it is known

    def count_turns(self, block_size: int) -> list[int]:
        """Turns of each pool in an epoch, before the last round is filled up."""
        size = block_size if self.is_homogeneous else 1
        turns = [-(-len(rows) // size) for rows in self.rows]
        return turns if self.weighting == "size" else [max(turns)] * len(turns)

    def count_rounds(self, block_size: int, num_devices: int) -> int:
        """Rounds of an epoch.

        Args:
            block_size: Prompts per device and round.
            num_devices: W.
        """
        return -(-sum(self.count_turns(block_size)) // self._turns_per_round(block_size, num_devices))

    def deal(self, block_size: int, num_devices: int, generator: torch.Generator) -> Iterator[list[list[int]]]:
        """The rounds of an epoch: rows (W, block_size) of all devices."""
        size = block_size if self.is_homogeneous else 1
        streams = [_Stream(len(rows), self._order_rows(rows, size, generator)) for rows in self.rows]
        turns = [pool for pool, count in enumerate(self.count_turns(block_size)) for _ in range(count)]
        turns = _shuffle(turns, generator)
        turns_per_round = self._turns_per_round(block_size, num_devices)
        for start in range(0, len(turns), turns_per_round):
            of_round = self._fill_up(turns[start : start + turns_per_round], turns_per_round, size)
            for stream in streams:
                stream.start_round()
            rows = [row for pool in of_round for row in streams[pool].draw(size)]
            yield [rows[i : i + block_size] for i in range(0, len(rows), block_size)]

    def get_companions(self, row: int) -> list[int]:
        """The rows that may take the place of this one: its pool where devices are homogeneous, else all."""
        if not self.is_homogeneous:
            return sorted(row for rows in self.rows for row in rows)
        return next(rows for rows in self.rows if row in rows)

    def _turns_per_round(self, block_size: int, num_devices: int) -> int:
        return num_devices if self.is_homogeneous else num_devices * block_size

    def _fill_up(self, turns: list[int], count: int, size: int) -> list[int]:
        """More turns for a round that lacks some, of the pool that has most rows left beside it."""
        turns = list(turns)
        taken = Counter(turns)
        while len(turns) < count:
            pool = max(range(len(self.rows)), key=lambda pool: len(self.rows[pool]) - taken[pool] * size)
            taken[pool] += 1
            turns.append(pool)
        return turns

    def _order_rows(self, rows: list[int], size: int, generator: torch.Generator) -> Callable[[], list[int]]:
        """Makes the order of a pass over a pool."""
        if self.prefixes:
            return lambda: _order_by_prefix(rows, self.prefixes, size, generator)
        return lambda: _shuffle(rows, generator)


class _Stream:
    """Draws the rows of a pool, pass after pass, none twice in a round while there are others.

    Blocks come from the front of a pass, so that rows which its order puts together stay together; what a block lacks
    at the end of a pass, or because the round has a row already, comes from the back.
    """

    def __init__(self, num_rows: int, order_rows: Callable[[], list[int]]):
        self.num_rows = num_rows
        self.order_rows = order_rows
        self.waiting: deque[int] = deque()
        self.taken: set[int] = set()

    def start_round(self) -> None:
        self.taken = set()

    def draw(self, size: int) -> list[int]:
        if not self.waiting:
            self.waiting = deque(self.order_rows())
        front = [self.waiting.popleft() for _ in range(min(size, len(self.waiting)))]
        block, held_back = [], []
        for row in front:
            (held_back if row in self.taken else block).append(row)
            self.taken.add(row)
        while len(block) < size:
            if len(self.taken) == self.num_rows:  # the round asks for more rows than there are
                self.taken = set()
            if not self.waiting:
                self.waiting, held_back = deque(held_back or self.order_rows()), []
            row = self.waiting.pop()
            (held_back if row in self.taken else block).append(row)
            self.taken.add(row)
        self.waiting.extend(held_back)
        return block


def _shuffle(values: Sequence[Any], generator: torch.Generator) -> list[Any]:
    return [values[i] for i in torch.randperm(len(values), generator=generator).tolist()]


def _order_by_prefix(rows: list[int], prefixes: dict[int, str], size: int, generator: torch.Generator) -> list[int]:
    """Blocks of `size` rows of one prefix, then shuffled; what is left of several prefixes shares blocks."""
    by_prefix = defaultdict(list)
    for row in _shuffle(rows, generator):
        by_prefix[prefixes.get(row)].append(row)
    loose = by_prefix.pop(None, [])
    blocks, left = [], []
    for members in by_prefix.values():
        num_full = len(members) // size
        blocks += [members[i * size : (i + 1) * size] for i in range(num_full)]
        left += members[num_full * size :]
    left += loose
    num_full = len(left) // size
    blocks += [left[i * size : (i + 1) * size] for i in range(num_full)]
    return [row for block in _shuffle(blocks, generator) for row in block] + left[num_full * size :]


def build_pools(dataset: Any, options: SamplerOptions) -> RowPools | None:
    """The pools of a data set's rows; None where an epoch is one permutation of them.

    Args:
        dataset: Rows with `dataset_name` and, for prefixes, `image_path`.
        options: How rows are dealt.

    Raises:
        ValueError: there is no `dataset_name`, or no image with a prefix.
    """
    is_plain = options.sampling == "mixed" and options.dataset_weighting == "size"
    if is_plain:
        return None
    by_name = defaultdict(list)
    for row, name in enumerate(_read_column(dataset, "dataset_name", "--sampling and --dataset_weighting")):
        by_name[name].append(row)
    prefixes = find_prefixes(dataset, options.prefix_pattern) if options.group_by_prefix else {}
    if len(by_name) == 1 and not prefixes:
        return None
    return RowPools(
        rows=list(by_name.values()),
        is_homogeneous=options.sampling == "dataset_homogeneous",
        weighting=options.dataset_weighting,
        prefixes=prefixes,
    )


def find_prefixes(dataset: Any, pattern: str | None) -> dict[int, str]:
    """What the first image of each row is a version of, by its file name; rows where that is not known are left out.

    Args:
        dataset: Rows with `dataset_name` and `image_path`.
        pattern: Its group 1 is the prefix. None: that of the data set's card.

    Raises:
        ValueError: no row has a prefix.
    """
    patterns = {card.name.casefold(): card.reference_pattern for card in list_cards()} if pattern is None else {}
    prefixes = {}
    option = "--group_by_prefix"
    names = _read_column(dataset, "dataset_name", option)
    for row, (name, paths) in enumerate(zip(names, _read_column(dataset, "image_path", option), strict=True)):
        own = pattern or patterns.get(str(name).casefold())
        found = re.search(own, PurePath(paths[0]).name) if own and paths else None
        if found:
            prefixes[row] = f"{name}/{found.group(1).casefold()}"
    if not prefixes:
        known = ", ".join(sorted(set(map(str, names))))
        raise ValueError(
            f"--group_by_prefix: no image of {known} has a name with a known prefix: "
            "say where it stands with --prefix_pattern, ^(I\\d+)_ for I04_01_03.png."
        )
    return prefixes


def _read_column(dataset: Any, name: str, option: str) -> list[Any]:
    if hasattr(dataset, "column_names"):
        has_column, read = name in dataset.column_names, lambda: list(read_column(dataset, name))
    else:
        rows: Iterable[dict[str, Any]] = [dataset[i] for i in range(len(dataset))]
        has_column, read = all(name in row for row in rows), lambda: [row[name] for row in rows]
    if not has_column:
        raise ValueError(f"{option} needs the column {name}, which the training data has not.")
    return read()

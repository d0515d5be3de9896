"""Divides data into training, validation and test parts, reproducibly, and keeps a record of how.

    references -> split_by_reference(seed) -> {reference: "train" | "val" | "test"} -> SplitManifest (JSON)

Versions of one reference image must lie in one part, or a model is tested on pictures it was trained on. The order of
the input, the hash seed of the interpreter and the number of rows per reference have no influence.
"""

import json
import os
import random
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING

from open_r1.data.columns import read_column


if TYPE_CHECKING:
    from datasets import Dataset

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, kw_only=True)
class SplitManifest:
    """How a data set was split. Example: `splits={"train": ["I01.png"], "val": ["I02.png"], "test": []}`."""

    dataset_name: str
    unit: str  # what was split: "reference", or "image" where the data set has no references
    splits: dict[str, list[str]]  # the names of these by part
    seed: int | None  # None: the split was given
    ratios: list[float] | None
    num_rows: dict[str, int] = field(default_factory=dict)  # by part
    label_files: dict[str, str] = field(default_factory=dict)  # file name -> SHA-256
    raw_range: list[float] | None = None  # lowest and highest label of the files, which became the ends of 1 to 5
    direction: str = "mos"  # of the files' labels; "dmos": lower is better

    def __post_init__(self):
        if self.unit not in ("reference", "image"):
            raise ValueError(f"the unit is reference or image, not {self.unit!r}")
        if set(self.splits) != set(SPLITS):
            raise ValueError(f"a split has the parts {', '.join(SPLITS)}, not {', '.join(self.splits)}")
        _check_disjoint(self.splits)

    @property
    def split_of(self) -> dict[str, str]:
        """The part of each reference, by its `get_group_key`."""
        return {get_group_key(name): split for split in SPLITS for name in self.splits[split]}


def get_group_key(name: str) -> str:
    """What a reference's name is compared by: its letters in any case, since some releases mix `I25` and `i25`."""
    return name.casefold()


def split_by_reference(
    references: Iterable[str], ratios: Sequence[float] = (0.6, 0.2, 0.2), seed: int = 42
) -> dict[str, str]:
    """Assigns each distinct reference to "train", "val" or "test".

    The sorted references are shuffled by `seed` and cut at `round(n * ratio)`: 81 references give 49, 16 and 16.

    Raises:
        ValueError: ratios that are no shares of 1, or too few references to give every wanted part one.
    """
    if len(ratios) != len(SPLITS) or min(ratios) < 0 or abs(sum(ratios) - 1) > 1e-6:
        raise ValueError(f"the ratios of {', '.join(SPLITS)} must not be negative and add up to 1, not {list(ratios)}")
    order = sorted(set(references))
    random.Random(seed).shuffle(order)
    ends = [round(len(order) * ratios[0])]
    ends.append(ends[0] + round(len(order) * ratios[1]) if ratios[2] > 0 else len(order))
    parts = dict(zip(SPLITS, (order[: ends[0]], order[ends[0] : ends[1]], order[ends[1] :]), strict=True))
    empty = [split for split, ratio in zip(SPLITS, ratios, strict=True) if ratio > 0 and not parts[split]]
    if empty:
        raise ValueError(f"{len(order)} references are too few for {list(ratios)}: nothing is left for {empty[0]}")
    return {reference: split for split in SPLITS for reference in parts[split]}


def write_manifest(path: str | os.PathLike, manifest: SplitManifest) -> None:
    Path(path).write_text(json.dumps(asdict(manifest), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_manifest(path: str | os.PathLike) -> SplitManifest:
    """Reads what `write_manifest` wrote; ValueError where the file is something else."""
    names = [item.name for item in fields(SplitManifest)]
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not set(content) <= set(names):
            raise ValueError(f"its keys must be {', '.join(names)}")
        return SplitManifest(**content)
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a split manifest: {error}") from error


def group_by_shared_images(image_paths: Iterable[Sequence[str]]) -> list[list[int]]:
    """Row numbers in groups that are connected by images, in the order of their first rows.

    >>> group_by_shared_images([["a.png"], ["b.png"], ["b.png", "a.png"], []])
    [[0, 1, 2], [3]]
    """
    parents: list[int] = []

    def find(row: int) -> int:
        while parents[row] != row:
            parents[row] = parents[parents[row]]
            row = parents[row]
        return row

    first_row: dict[str, int] = {}
    for row, paths in enumerate(image_paths):
        parents.append(row)
        for path in map(os.path.normpath, paths):
            root, other = find(row), find(first_row.setdefault(path, row))
            parents[max(root, other)] = min(root, other)
    groups: dict[int, list[int]] = defaultdict(list)
    for row in range(len(parents)):
        groups[find(row)].append(row)
    return list(groups.values())


def split_train_validation(dataset: "Dataset", ratio: float, seed: int) -> "tuple[Dataset, Dataset]":
    """Holds out about `ratio` of the rows, drawn by `seed`; rows that share an image or a video stay on one side.

    It knows files, not what they show: for a split by reference image use `datasets/make_data.py`.

    Raises:
        ValueError: the ratio is not between 0 and 1, or one side would be empty.
    """
    if not 0 < ratio < 1:
        raise ValueError(f"the validation ratio must lie between 0 and 1, not {ratio}")
    groups = group_by_shared_images(read_media(dataset))
    random.Random(seed).shuffle(groups)
    target = max(1, round(ratio * len(dataset)))
    validation: list[int] = []
    for group in groups:
        if len(validation) + len(group) <= target:
            validation += group
    if not validation or len(validation) == len(dataset):
        raise ValueError(
            f"cannot hold out {ratio:g} of {len(dataset)} rows: there are {len(groups)} groups of rows without an "
            "image in common, and neither side may be empty"
        )
    held_out = set(validation)
    train = [index for index in range(len(dataset)) if index not in held_out]
    return dataset.select(train), dataset.select(sorted(validation))


def read_media(dataset: "Dataset") -> Iterator[list[str]]:
    """Images and videos of each row."""
    columns = [read_column(dataset, name) for name in ("image_path", "video_path") if name in dataset.column_names]
    for paths in zip(*columns, strict=True):
        yield [path for of_kind in paths for path in of_kind]


def _check_disjoint(splits: dict[str, list[str]]) -> None:
    seen: dict[str, str] = {}
    for split, references in splits.items():
        for reference in references:
            if seen.setdefault(get_group_key(reference), split) != split:
                raise ValueError(f"{reference} is in both {seen[get_group_key(reference)]} and {split}")

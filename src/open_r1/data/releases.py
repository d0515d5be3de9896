"""Finds the label files and the images of an unpacked official release, by what the data set's card says of it.

    card, --root -> find_release -> Release -> load_release -> records -> place_images -> names relative to the root

Releases are unpacked in different ways, so label files are looked for in the root and up to two folders below, and an
image that is not where the card says is found by its name, in any case of its letters.
"""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePath

from open_r1.data.cards import DatasetCard
from open_r1.data.mos import MosRecord, load_labels
from open_r1.data.splits import SPLITS


_LEVELS = ("", "*/", "*/*/")  # how far below the root a release may lie


@dataclass(frozen=True, kw_only=True)
class Release:
    """An unpacked release. Example: `label_files=[root / "kadid10k/dmos.csv"]`, `folder=root / "kadid10k"`."""

    label_files: list[Path]
    folder: Path


def find_release(card: DatasetCard, root: Path) -> Release:
    """Finds the label files of a release below `root`.

    Raises:
        ValueError: there are none, or several with equal claims; the message says what was looked for.
    """
    for pattern in card.labels:
        files = find_files(root, pattern)
        if files:
            return Release(label_files=files, folder=files[0].parents[len(PurePath(pattern).parts) - 1])
    known = " or ".join(card.labels) or "none that the card knows"
    raise ValueError(
        f"{root}: no label file of {card.name} there or up to two folders below; looked for {known}. "
        "Name it with --labels"
    )


def find_files(root: Path, pattern: str) -> list[Path]:
    """The files of a pattern in the root, or else one or two folders below; ValueError where folders compete."""
    for level in _LEVELS:
        files = sorted(path for path in root.glob(level + pattern) if path.is_file())
        if len(files) > 1 and (len({path.parent for path in files}) > 1 or "*" not in pattern):
            raise ValueError(f"{root}: which {pattern}? There are {files[0]} and {files[-1]}; name one with --labels")
        if files:
            return files
    return []


def find_image_folder(card: DatasetCard | None, release: Release, root: Path) -> Path:
    """The folder of the images: one of those that the card names, next to the labels or above them, up to the root."""
    if card is None:
        return root
    parents = [folder for folder in (release.folder, *release.folder.parents) if folder.is_relative_to(root)]
    named = [parent / name for name in card.images for parent in parents]
    return next((folder for folder in named if folder.is_dir()), release.folder)


def place_images(records: Sequence[MosRecord], folder: Path, root: Path) -> tuple[list[MosRecord], list[str]]:
    """The records with images named relative to `root`, and the images that are not there.

    An image that is not at its name's place in `folder` may lie elsewhere in it under the same file name, in any case
    of its letters, if only one does. A missing one keeps the name that it should have.
    """
    existing, by_name = set(), defaultdict(list)
    for base, _, names in os.walk(folder):
        for name in names:
            path = Path(base, name).relative_to(folder).as_posix()
            existing.add(path)
            by_name[name.casefold()].append(path)
    placed, missing = [], []
    for record in records:
        name = PurePath(record.image).as_posix()
        alike = by_name.get(PurePath(name).name.casefold(), [])
        if name not in existing and len(alike) == 1:
            name = alike[0]
        image = (folder.relative_to(root) / name).as_posix()
        placed.append(replace(record, image=image))
        if name not in existing:
            missing.append(image)
    return placed, missing


def load_official_split(records: Sequence[MosRecord], card: DatasetCard, root: Path | None) -> list[str]:
    """The part of each record by the official split: from the labels, or from the card's files below `root`.

    Raises:
        ValueError: an image has none, or two.
    """
    files = [path for pattern in card.official_split for path in find_files(root, pattern)] if root is not None else []
    part_of = {}
    for other in (record for path in files for record in load_labels(path, card=card)):
        if other.part is not None and part_of.setdefault(other.image, other.part) != other.part:
            raise ValueError(f"{other.image} is in both {part_of[other.image]} and {other.part}")
    parts = [record.part or part_of.get(record.image) for record in records]
    lost = [record.image for record, part in zip(records, parts, strict=True) if part not in SPLITS]
    if lost:
        known = f"they are in {' and '.join(card.official_split)}" if card.official_split else "the card names no file"
        raise ValueError(
            f"{card.name}: {len(lost)} images, the first is {lost[0]}, have no part in the official split; {known}"
        )
    return parts

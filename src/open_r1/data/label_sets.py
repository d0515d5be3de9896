"""All labels of one data set, checked: from its label files to records that can be split. Used by make_data.py."""

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from open_r1.data.cards import DatasetCard
from open_r1.data.mos import HIGHEST_MOS, LOWEST_MOS, TOLERANCE, MosRecord, load_labels
from open_r1.data.splits import SPLITS, get_group_key


logger = logging.getLogger(__name__)


def load_label_files(
    paths: Sequence[str | Path], card: DatasetCard | None, columns: str | None = None, direction: str = "mos"
) -> list[MosRecord]:
    """The records of all files, without those that the card excludes.

    Raises:
        ValueError: an image is in two files, or `load_labels` refuses one.
    """
    records: list[MosRecord] = []
    for path in paths:
        records += load_labels(path, columns=columns, card=card, direction=direction)
        _check_hash(path, card)
    repeated = [image for image, count in Counter(record.image for record in records).items() if count > 1]
    if repeated:
        raise ValueError(f"{len(repeated)} images are labelled in more than one file, the first is {repeated[0]}")
    kept = [record for record in records if card is None or not card.is_excluded(record.image)]
    if len(kept) < len(records):
        logger.info("left out %d images that the card of %s excludes", len(records) - len(kept), card.name)
    if card is not None and card.num_items not in (None, len(kept)):
        logger.warning(
            "%d labels, the card of %s has %d: a part of the data is normalised by its own range, not by that of the "
            "whole", len(kept), card.name, card.num_items,
        )  # fmt: skip
    return kept


def load_split_files(paths: Sequence[str | Path], card: DatasetCard | None, columns: str | None) -> list[MosRecord]:
    """The records of three files, of train, val and test, which are used as they are; each with its part.

    Raises:
        ValueError: a label is not normalised.
    """
    records: list[MosRecord] = []
    for split, path in zip(SPLITS, paths, strict=True):
        of_file = load_labels(path, columns=columns, card=card)
        _check_hash(path, card)
        for record in of_file:
            if not LOWEST_MOS - TOLERANCE <= record.mos <= HIGHEST_MOS + TOLERANCE:
                raise ValueError(
                    f"{path}: the MOS {record.mos:g} of {record.image} lies outside 1 to 5; split files are used as "
                    "they are and must be normalised. For raw labels use --labels"
                )
        records += [replace(record, part=split) for record in of_file]
    return records


def compute_hash(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal digits."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def get_unit(records: Sequence[MosRecord], card: DatasetCard | None) -> str:
    """What is split: "reference" where all records have one, "image" where none has; ValueError in between."""
    has_reference = [record.reference is not None for record in records]
    if all(has_reference):
        return "reference"
    if any(has_reference) or (card is not None and card.kind == "fr"):
        image = records[has_reference.index(False)].image
        raise ValueError(f"{image} has no reference image; a split that tears versions of one image apart is refused")
    return "image"


def get_name(record: MosRecord) -> str:
    """What must stay in one part."""
    return record.image if record.reference is None else record.reference


def list_names(records: Sequence[MosRecord]) -> list[str]:
    """The distinct names of references (or images), one spelling each, sorted."""
    spellings = {get_group_key(name): name for name in sorted(map(get_name, records), reverse=True)}
    return sorted(spellings.values())


def _check_hash(path: str | Path, card: DatasetCard | None) -> None:
    """Warns where a file has the name, but not the content of one that the card describes."""
    layout = card.find_layout(Path(path).name) if card is not None else None
    if layout is not None and layout.sha256 not in (None, compute_hash(path)):
        logger.warning("%s differs from the file that the card of %s describes (SHA-256)", path, card.name)

"""Label files of image quality data sets: from any known layout to records on a higher-is-better scale.

    file -> tables.read_table -> layouts.read_label_table -> [MosRecord] -> normalise_records

Used by `datasets/make_data.py` (with a card or named columns) and by evaluation, which may infer the layout where the
file leaves no doubt.
"""

import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from open_r1.data.cards import DatasetCard, LabelLayout
from open_r1.data.jsonl import read_jsonl
from open_r1.data.layouts import is_number, read_label_table
from open_r1.data.reading import read_lines
from open_r1.data.schema import BadDataError, BadRow, parse_number


LOWEST_MOS, HIGHEST_MOS = 1.0, 5.0
TOLERANCE = 1e-6  # of labels at the ends of a range, for the rounding of whoever scaled them
_PARTS = {"train": "train", "training": "train", "val": "val", "validation": "val", "test": "test"}
_PARTS |= {"false": "train", "true": "val"}  # FLIVE's is_valid


@dataclass(frozen=True, kw_only=True)
class MosRecord:
    """The label of one image. Example: `MosRecord(image="I01_01_01.png", mos=4.57, reference="I01.png")`."""

    image: str  # as the label file has it, or as the card says that it is called
    mos: float  # higher is better; DMOS is flipped within the range of its card, or negated where there is none
    reference: str | None = None  # of which the image is a version
    mos_std: float | None = None  # standard deviation of the ratings, in the units of `mos`
    num_ratings: int | None = None
    mos_raw: float | None = None  # the label as the file has it, where `mos` is flipped or normalised
    distortion: str | None = None  # kind of the distortion
    level: str | None = None  # of the distortion
    part: str | None = None  # "train", "val" or "test" of the official split, where the file says it


def load_labels(
    path: str | os.PathLike, columns: str | None = None, card: DatasetCard | None = None, direction: str = "mos"
) -> list[MosRecord]:
    """Reads a label file: JSONL of our format, MOS text, CSV, or a spreadsheet or MATLAB file that a card knows.

    Args:
        path: the file.
        columns: roles of the columns in order, such as "ref dis mos std"; see `cards.ROLES`.
        card: knows the layouts of the data set's label files. Without either the layout is inferred: from a header
            that a card knows, or from what the columns hold, and refused where that leaves a choice. A header of
            roles ("ref dis mos") always speaks for itself.
        direction: of the labels, with `columns`: "mos", or "dmos" where lower is better. A card knows it itself.

    Raises:
        BadDataError: rows that cannot be used, as `file:line: reason`.
        ValueError: no layout, or a file that cannot be read at all.
    """
    path = Path(path)
    if path.suffix == ".jsonl":
        return _load_jsonl_labels(path)
    table = read_label_table(path, columns, card, direction)
    records, bad_rows = [], []
    for row in table.rows:
        try:
            record = _parse_cells(table.get_cells(row), table.layout, card)
        except ValueError as error:
            bad_rows.append(BadRow(str(path), row.line, str(error)))
            continue
        if record is not None:
            records.append((row.line, record))
    return _refuse_bad_rows(path, records, bad_rows)


def normalise_mos(values: Sequence[float]) -> list[float]:
    """`values` scaled linearly so that the lowest becomes 1 and the highest 5.

    Raises:
        ValueError: they are all the same.
    """
    lowest, highest = min(values), max(values)
    if lowest == highest:
        raise ValueError(f"all {len(values)} labels are {lowest:g}: there is no range to normalise by")
    span = HIGHEST_MOS - LOWEST_MOS
    return [(value - lowest) / (highest - lowest) * span + LOWEST_MOS for value in values]


def normalise_records(records: Sequence[MosRecord]) -> list[MosRecord]:
    """The records with `mos` on the scale of 1 to 5, by `normalise_mos`, and `mos_std` in the same units.

    `mos_raw` keeps what the file has.
    """
    values = [record.mos for record in records]
    scaled = normalise_mos(values)
    factor = (HIGHEST_MOS - LOWEST_MOS) / (max(values) - min(values))
    return [
        replace(
            record,
            mos=mos,
            mos_std=None if record.mos_std is None else record.mos_std * factor,
            mos_raw=get_raw_mos(record),
        )
        for record, mos in zip(records, scaled, strict=True)
    ]


def get_raw_mos(record: MosRecord) -> float:
    """The label as the file has it."""
    return record.mos if record.mos_raw is None else record.mos_raw


def _load_jsonl_labels(path: Path) -> list[MosRecord]:
    if not path.is_file():
        raise ValueError(f"the label file {path} does not exist")
    rows, bad_rows = read_jsonl(path, require_mos=True)
    kinds = _read_kinds(path, {line for line, _ in rows})
    records = []
    for line, row in rows:
        if len(row.images) != 1:
            bad_rows.append(BadRow(str(path), line, f"a label has one image, not {len(row.images)}"))
        distortion, level = kinds[line]
        record = MosRecord(
            image=row.images[0], mos=row.mos, reference=row.reference, distortion=distortion, level=level
        )
        records.append((line, record))
    return _refuse_bad_rows(path, records, bad_rows)


def _read_kinds(path: Path, usable: set[int]) -> dict[int, tuple[str | None, str | None]]:
    """The values of `distortion` and `level` in the usable lines of a JSONL file, as texts."""
    kinds = {}
    for number, line in read_lines(path):
        if number in usable:
            row = json.loads(line)
            kinds[number] = tuple(None if row.get(key) is None else str(row[key]) for key in ("distortion", "level"))
    return kinds


def _parse_cells(cell_of: Mapping[str, str], layout: LabelLayout, card: DatasetCard | None) -> MosRecord | None:
    """The record of a row; None where the row is to be skipped."""
    if "skip" in cell_of and parse_number(cell_of["skip"]) != 0:
        return None
    image = _name_image(cell_of, layout)
    if not image or is_number(image):
        raise ValueError(f"the image name is {image!r}; a file name is expected")
    if cell_of.get("ref") == "":
        raise ValueError("the reference is empty")
    values = dict(_parse_numbers(cell_of))
    mos = values["mos"]
    low, high = layout.mos_range or (-math.inf, math.inf)
    if not low - TOLERANCE <= mos <= high + TOLERANCE:
        raise ValueError(f"the MOS {mos:g} lies outside {low:g} to {high:g}: labels of another release?")
    part = layout.part
    if "set" in cell_of:
        part = _PARTS.get(cell_of["set"].casefold())
        if part is None:
            raise ValueError(f"the set is {cell_of['set']!r}; known: {', '.join(_PARTS)}")
    is_flipped = layout.direction == "dmos"
    return MosRecord(
        image=image,
        mos=sum(layout.mos_range or (0.0, 0.0)) - mos if is_flipped else mos,
        reference=cell_of.get("ref") or (card.get_reference(image) if card is not None else None),
        mos_std=math.sqrt(values["var"]) if "var" in values else values.get("std"),
        num_ratings=int(values["num"]) if "num" in values else None,
        mos_raw=mos if is_flipped else None,
        distortion=cell_of.get("type") or None,
        level=cell_of.get("level") or None,
        part=part,
    )


def _name_image(cell_of: Mapping[str, str], layout: LabelLayout) -> str:
    template = layout.image
    if template is None:
        return cell_of["dis"]
    if isinstance(template, Mapping):
        if cell_of["type"] not in template:
            raise ValueError(f"the type is {cell_of['type']!r}; known: {', '.join(template)}")
        template = template[cell_of["type"]]
    return template.format_map(cell_of)


def _parse_numbers(cell_of: dict[str, str]) -> Iterator[tuple[str, float]]:
    for role in ("mos", "std", "var", "num"):
        if role not in cell_of:
            continue
        try:
            value = parse_number(cell_of[role])
        except ValueError as error:
            raise ValueError(f"the {role} {error}") from error
        if role != "mos" and value < 0:
            raise ValueError(f"the {role} {value:g} is negative")
        yield role, value


def _refuse_bad_rows(
    path: Path, records: Sequence[tuple[int, MosRecord]], bad_rows: Sequence[BadRow]
) -> list[MosRecord]:
    """The records; BadDataError where there are bad rows, or an image has two labels."""
    first_line: dict[str, int] = {}
    problems = list(bad_rows)
    for line, record in records:
        if first_line.setdefault(record.image, line) != line:
            reason = f"{record.image} is labelled in line {first_line[record.image]} already"
            problems.append(BadRow(str(path), line, reason))
    if problems:
        raise BadDataError(sorted(problems, key=lambda bad: bad.line))
    return [record for _, record in records]

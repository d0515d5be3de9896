"""Label files of image quality data sets: from any known layout to records on a higher-is-better scale.

    file -> tables.read_table -> layout (columns given, dataset card, or inferred) -> [MosRecord] -> normalise_records

Used by `datasets/make_data.py` (with a card or named columns) and by evaluation, which may infer the layout where the
file leaves no doubt. A layout is never guessed: where there is doubt, the message says what to add.
"""

import math
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from open_r1.data.cards import ROLES, DatasetCard, LabelLayout, list_cards
from open_r1.data.jsonl import read_jsonl
from open_r1.data.media import IMAGE_SUFFIXES
from open_r1.data.schema import BadDataError, BadRow, parse_number
from open_r1.data.tables import TableRow, read_table


LOWEST_MOS, HIGHEST_MOS = 1.0, 5.0
TOLERANCE = 1e-6  # of labels at the ends of a range, for the rounding of whoever scaled them
_HINT = (
    'name the columns in order, as in "ref dis mos std" (also possible: var, num, and - for one that is not used), '
    "by --columns where the command has it or else as the first line of the file"
)


@dataclass(frozen=True, kw_only=True)
class MosRecord:
    """The label of one image. Example: `MosRecord(image="I01_01_01.png", mos=4.57, reference="I01.png")`."""

    image: str  # as the label file has it
    mos: float  # higher is better; DMOS is flipped within the range of its card, or negated where there is none
    reference: str | None = None  # of which the image is a version
    mos_std: float | None = None  # standard deviation of the ratings, in the units of `mos`
    num_ratings: int | None = None


def load_labels(
    path: str | os.PathLike, columns: str | None = None, card: DatasetCard | None = None, direction: str = "mos"
) -> list[MosRecord]:
    """Reads a label file: JSONL of our format, MOS text, or CSV.

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
    rows = read_table(path)
    header = None if any(map(_is_number, rows[0].cells)) else rows[0].cells
    body = rows if header is None else rows[1:]
    if not body:
        raise ValueError(f"{path}: there is nothing below the header")
    if columns is not None:
        layout = LabelLayout(columns=tuple(columns.split()), direction=direction)
    elif header is not None and set(header) <= set(ROLES):
        layout = LabelLayout(columns=header)
    elif card is not None:
        layout = _find_layout(path, header, card)
    else:
        layout = _infer_layout(path, header, body)
    records = _parse_rows(path, body, layout, card)
    if layout.direction == "mos":
        return records
    low, high = layout.mos_range or (0.0, 0.0)
    return [replace(record, mos=low + high - record.mos) for record in records]


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
    """The records with `mos` on the scale of 1 to 5, by `normalise_mos`, and `mos_std` in the same units."""
    values = [record.mos for record in records]
    scaled = normalise_mos(values)
    factor = (HIGHEST_MOS - LOWEST_MOS) / (max(values) - min(values))
    return [
        replace(record, mos=mos, mos_std=None if record.mos_std is None else record.mos_std * factor)
        for record, mos in zip(records, scaled, strict=True)
    ]


def _load_jsonl_labels(path: Path) -> list[MosRecord]:
    if not path.is_file():
        raise ValueError(f"the label file {path} does not exist")
    rows, bad_rows = read_jsonl(path, require_mos=True)
    records = []
    for line, row in rows:
        if len(row.images) != 1:
            bad_rows.append(BadRow(str(path), line, f"a label has one image, not {len(row.images)}"))
        records.append((line, MosRecord(image=row.images[0], mos=row.mos, reference=row.reference)))
    return _refuse_bad_rows(path, records, bad_rows)


def _find_layout(path: Path, header: tuple[str, ...] | None, card: DatasetCard) -> LabelLayout:
    layout = card.find_layout(path.name, header)
    if layout is None:
        what = f"the header {','.join(header)!r}" if header else f"files named {path.name!r}"
        raise ValueError(f"{path}: the card of {card.name} knows no layout of {what}; {_HINT}")
    return layout


def _infer_layout(path: Path, header: tuple[str, ...] | None, rows: Sequence[TableRow]) -> LabelLayout:
    if header is not None:
        known = [layout for card in list_cards() for layout in card.layouts if layout.header == header]
        if not known:
            raise ValueError(f"{path}:1: the header {','.join(header)!r} is not known; {_HINT}")
        return known[0]
    width = Counter(len(row.cells) for row in rows).most_common(1)[0][0]
    cells = [row.cells for row in rows if len(row.cells) == width]
    kinds = "".join(_find_kind([row[column] for row in cells]) for column in range(width))
    columns = {"nf": "dis mos", "fn": "mos dis", "nff": "dis mos std"}.get(kinds)
    if kinds in ("nnf", "nnff"):
        num_first, num_second = (len({row[column] for row in cells}) for column in (0, 1))
        if num_first < num_second:  # several images have one reference, never the reverse
            columns = "ref dis mos std" if kinds == "nnff" else "ref dis mos"
        elif num_first > num_second and kinds == "nnf":
            columns = "dis ref mos"
    if columns is None:
        names = {"n": "image name", "f": "number", "?": "neither"}
        found = ", ".join(names[kind] for kind in kinds)
        raise ValueError(f"{path}: columns that hold ({found}) can be read in more than one way or in none; {_HINT}")
    return LabelLayout(columns=tuple(columns.split()))


def _find_kind(cells: Sequence[str]) -> str:
    """What most cells of a column are: "f" numbers, "n" names of image files, "?" neither."""
    if sum(map(_is_number, cells)) * 2 > len(cells):
        return "f"
    return "n" if sum(cell.lower().endswith(IMAGE_SUFFIXES) for cell in cells) * 2 > len(cells) else "?"


def _is_number(text: str) -> bool:
    try:
        parse_number(text)
    except ValueError:
        return False
    return True


def _parse_rows(
    path: Path, rows: Sequence[TableRow], layout: LabelLayout, card: DatasetCard | None
) -> list[MosRecord]:
    records, bad_rows = [], []
    for row in rows:
        try:
            records.append((row.line, _parse_cells(row.cells, layout, card)))
        except ValueError as error:
            bad_rows.append(BadRow(str(path), row.line, str(error)))
    return _refuse_bad_rows(path, records, bad_rows)


def _parse_cells(cells: Sequence[str], layout: LabelLayout, card: DatasetCard | None) -> MosRecord:
    if len(cells) != len(layout.columns):
        raise ValueError(
            f"{len(cells)} columns where {' '.join(layout.columns)!r} has {len(layout.columns)} "
            "(a name with spaces must be in double quotes)"
        )
    cell_of = dict(zip(layout.columns, cells, strict=True))
    image = cell_of["dis"]
    if not image or _is_number(image):
        raise ValueError(f"the image name is {image!r}; a file name is expected")
    if cell_of.get("ref") == "":
        raise ValueError("the reference is empty")
    values = dict(_parse_numbers(cell_of))
    low, high = layout.mos_range or (-math.inf, math.inf)
    if not low - TOLERANCE <= values["mos"] <= high + TOLERANCE:
        raise ValueError(f"the MOS {values['mos']:g} lies outside {low:g} to {high:g}: labels of another release?")
    std = math.sqrt(values["var"]) if "var" in values else values.get("std")
    reference = cell_of.get("ref") or (card.get_reference(image) if card is not None else None)
    num_ratings = int(values["num"]) if "num" in values else None
    return MosRecord(image=image, mos=values["mos"], reference=reference, mos_std=std, num_ratings=num_ratings)


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

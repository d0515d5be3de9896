"""Which columns of a label file hold what: named by the caller, known from a card, or inferred. Used by `mos.py`.

A layout is never guessed: where there is doubt, the message says what to add.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from open_r1.data.cards import ROLES, DatasetCard, LabelLayout, list_cards
from open_r1.data.media import IMAGE_SUFFIXES
from open_r1.data.schema import parse_number
from open_r1.data.tables import TableRow, read_table


_HEADER_ROWS = 10  # a header stands in one of the first rows
_HINT = (
    'name the columns in order, as in "ref dis mos std" (also possible: var, num, and - for one that is not used), '
    "by --columns where the command has it or else as the first line of the file"
)


@dataclass(frozen=True, kw_only=True)
class LabelTable:
    """The rows of a label file that hold labels, and what their cells are."""

    rows: list[TableRow]
    layout: LabelLayout
    header: tuple[str, ...] | None  # None: the layout's columns are all of them, in order

    def get_cells(self, row: TableRow) -> dict[str, str]:
        """The cells of a row by role; ValueError where it has too many or too few."""
        roles, width = self.layout.columns, len(self.header or self.layout.columns)
        if len(row.cells) != width:
            raise ValueError(
                f"{len(row.cells)} columns where {' '.join(self.header or roles)!r} has {width} "
                "(a name with spaces must be in double quotes)"
            )
        if self.header is None:
            return dict(zip(roles, row.cells, strict=True))
        where = dict(zip(self.header, row.cells, strict=True))
        return {role: where[name] for role, name in zip(roles, self.layout.header, strict=True)}


def read_label_table(path: Path, columns: str | None, card: DatasetCard | None, direction: str) -> LabelTable:
    """Reads a label file that is no JSONL and finds its layout; arguments as those of `mos.load_labels`."""
    layouts = _list_layouts(columns, card)
    rows = read_table(path, {layout.sheet for layout in layouts if layout.sheet is not None})
    header, body = None, rows
    if not any(map(is_number, rows[0].cells)):
        header, body = rows[0].cells, rows[1:]
    if columns is not None:
        layout, header = LabelLayout(columns=tuple(columns.split()), direction=direction), None
    elif header is not None and set(header) <= set(ROLES):
        layout, header = LabelLayout(columns=header), None
    else:
        for start, row in enumerate(rows[:_HEADER_ROWS], start=1):
            for layout in layouts:
                if layout.header is not None and layout.is_of(path.name, row.cells):
                    return _check(path, LabelTable(rows=rows[start:], layout=layout, header=row.cells))
        layout = _find_layout(path, header, card) if card is not None else _infer_layout(path, header, body)
    return _check(path, LabelTable(rows=body, layout=layout, header=header))


def is_number(text: str) -> bool:
    try:
        parse_number(text)
    except ValueError:
        return False
    return True


def _list_layouts(columns: str | None, card: DatasetCard | None) -> list[LabelLayout]:
    """The layouts that come into question."""
    if columns is not None:
        return []
    return [layout for card in ([card] if card is not None else list_cards()) for layout in card.layouts]


def _check(path: Path, table: LabelTable) -> LabelTable:
    if not table.rows:
        raise ValueError(f"{path}: there is nothing below the header")
    return table


def _find_layout(path: Path, header: tuple[str, ...] | None, card: DatasetCard) -> LabelLayout:
    layout = card.find_layout(path.name, header)
    if layout is None:
        what = f"the header {','.join(header)!r}" if header else f"files named {path.name!r}"
        raise ValueError(f"{path}: the card of {card.name} knows no layout of {what}; {_HINT}")
    return layout


def _infer_layout(path: Path, header: tuple[str, ...] | None, rows: Sequence[TableRow]) -> LabelLayout:
    if header is not None:
        raise ValueError(f"{path}:1: the header {','.join(header)!r} is not known; {_HINT}")
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
    if sum(map(is_number, cells)) * 2 > len(cells):
        return "f"
    return "n" if sum(cell.lower().endswith(IMAGE_SUFFIXES) for cell in cells) * 2 > len(cells) else "?"

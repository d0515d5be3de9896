"""Reads label files as rows of text cells with their line numbers; what the cells mean is decided in `mos.py`.

Text: `.csv` is separated by commas and `.tsv` by tabs, with quoting. Any other file is separated by commas where every
line has one, and else by white space of any width. Names with spaces or commas in them are written in double quotes,
with a quote inside doubled; `quote_name` does that. Spreadsheets (`.xlsx`, `.xls`) and MATLAB files (`matlab.py`)
become the same rows.
"""

import csv
import os
import re
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_r1.data.matlab import read_mat_table
from open_r1.data.schema import BadDataError, BadRow
from open_r1.utils.extras import require


_QUOTED = r'"((?:[^"]|"")*)"'
_TOKEN = re.compile(_QUOTED + r"(?=\s|$)|(\S+)")
_SPECIAL = re.compile(r'[\s,"]')
_SPREADSHEETS = (".xlsx", ".xls")


@dataclass(frozen=True)
class TableRow:
    """Cells of one line. Example: `TableRow(3, ("I01.png", "I01_01_03.png", "2.67"))`."""

    line: int  # from 1
    cells: tuple[str, ...]


def quote_name(name: str) -> str:
    """`name` as one cell of a file that is separated by white space."""
    return '"' + name.replace('"', '""') + '"' if _SPECIAL.search(name) else name


def read_table(path: str | os.PathLike, sheets: Collection[str] = ()) -> list[TableRow]:
    """The rows of a label file that are not blank.

    Args:
        path: the file.
        sheets: the names by which a sheet of a spreadsheet is preferred to the first.

    Raises:
        BadDataError: a row that cannot be taken apart.
        ImportError: the library for spreadsheets is not installed; the message has the command.
        ValueError: the file does not exist, is not what its suffix says, is not UTF-8, or has no rows.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"the label file {path} does not exist")
    if path.suffix.lower() in _SPREADSHEETS:
        rows = _read_sheet(path, sheets)
    elif path.suffix.lower() == ".mat":
        rows = [TableRow(number, cells) for number, cells in enumerate(read_mat_table(path))]
    else:
        rows = _read_text(path)
    if not rows:
        raise ValueError(f"{path}: the file is empty")
    return rows


def _read_text(path: Path) -> list[TableRow]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 (byte {error.start + 1})") from error
    lines = text.split("\n")
    delimiter = _find_delimiter(path.suffix.lower(), [line for line in lines if line.strip()])
    rows, bad_rows = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            rows.append(TableRow(number, _split_line(line.rstrip("\r"), delimiter)))
        except ValueError as error:
            bad_rows.append(BadRow(str(path), number, str(error)))
    if bad_rows:
        raise BadDataError(bad_rows)
    return rows


def _read_sheet(path: Path, sheets: Collection[str]) -> list[TableRow]:
    """The rows of one sheet, all of one width."""
    calamine = require("python_calamine", "labels")
    try:
        workbook = calamine.CalamineWorkbook.from_path(path)
        name = next((name for name in workbook.sheet_names if name in sheets), workbook.sheet_names[0])
        table = workbook.get_sheet_by_name(name).to_python(skip_empty_area=False)
    except calamine.CalamineError as error:
        raise ValueError(f"{path}: not a spreadsheet that can be read: {error}") from error
    rows = [TableRow(number, tuple(map(_format_cell, cells))) for number, cells in enumerate(table, start=1)]
    return [row for row in rows if any(row.cells)]


def _format_cell(value: Any) -> str:
    """The text of a cell; spreadsheets store the number 12 as 12.0."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value).strip()


def _find_delimiter(suffix: str, lines: list[str]) -> str | None:
    """The delimiter; None is white space."""
    if suffix == ".tsv":
        return "\t"
    if suffix == ".csv" or all("," in re.sub(_QUOTED, "", line) for line in lines):
        return ","
    return None


def _split_line(line: str, delimiter: str | None) -> tuple[str, ...]:
    if "\0" in line:
        raise ValueError("there is a NUL byte in it: is this a text file?")
    if delimiter is None:
        return tuple(quoted.replace('""', '"') or plain for quoted, plain in _TOKEN.findall(line))
    try:
        (cells,) = csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True)
    except csv.Error as error:
        raise ValueError(str(error)) from error
    return tuple(cell.strip() for cell in cells)

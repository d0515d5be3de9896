"""The prediction file that `open_r1.score` writes and `open_r1.evaluate` reads: one row per image or video; CSV, JSONL
or Parquet.

    path,score,text,error
    images/a.png,3.5,<think>sharp</think><answer>3.5</answer>,
    images/b.png,,<think>sharp</think>,unparsed
    images/c.png,,,cannot identify image file

With several samples per image there are two more columns: `score` is the mean of the parsed samples, `score_std` their
sample standard deviation (empty below two), `num_parsed` their number, and `text` is a JSON list of all the texts.

`description` is there where one was asked for. How the file comes about: `prediction_writer.py`.
"""

import contextlib
import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_r1.data.schema import BadDataError, BadRow, parse_number


UNPARSED = "unparsed"
COLUMNS = ("path", "score", "text", "error")
SAMPLE_COLUMNS = ("score_std", "num_parsed")
SUFFIXES = (".csv", ".jsonl", ".parquet")
ENCODING_ERRORS = "surrogateescape"  # file names need not be valid UTF-8


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One row. Example: `Prediction(path="a.png", score=3.5, text="<answer>3.5</answer>")`."""

    path: str
    score: float | None = None  # finite, or None where there is none; never a stand-in
    text: str | list[str] = ""  # what the model wrote; a list where several samples were drawn
    error: str = ""  # empty, "unparsed", or why the image could not be scored at all
    score_std: float | None = None
    num_parsed: int | None = None  # set where several samples were drawn
    description: str | None = None  # set where one was asked for

    @property
    def texts(self) -> list[str]:
        """All that the model wrote, one text per sample; empty where it was not asked."""
        if isinstance(self.text, list):
            return self.text
        return [self.text] if self.error in ("", UNPARSED) else []

    @property
    def std(self) -> float | None:
        """Sample standard deviation of the scores; None below two."""
        return self.score_std

    @property
    def is_unparsed(self) -> bool:
        """The model answered and no score could be read. False where there is no answer, as for a broken image."""
        return self.score is None and self.error in ("", UNPARSED)


def check_suffix(path: Path) -> None:
    """ValueError unless the name says which of the formats is meant."""
    if path.suffix not in SUFFIXES:
        raise ValueError(f"{path}: the name of a prediction file must end in {' or '.join(SUFFIXES)}")


def load_predictions(path: str | Path) -> list[Prediction]:
    """Reads a prediction file. Only `path` and `score` are required, so files of other tools can be read too.

    Raises:
        ValueError: wrong suffix, or no such columns.
        BadDataError: rows with a score that is not a number, or a path that occurs twice.
    """
    path = Path(path)
    check_suffix(path)
    if path.suffix == ".parquet":
        rows = _read_parquet_rows(path)
    else:
        with open(path, encoding="utf-8-sig", errors=ENCODING_ERRORS, newline="") as file, _long_csv_fields():
            rows = list(_read_jsonl_rows(file, path) if path.suffix == ".jsonl" else _read_csv_rows(file, path))
    predictions, bad_rows, first_lines = [], [], {}
    for line, row in rows:
        try:
            prediction = _parse_row(row)
            if prediction.path in first_lines:
                raise ValueError(f"{prediction.path} is already in line {first_lines[prediction.path]}")
        except ValueError as error:
            bad_rows.append(BadRow(str(path), line, str(error)))
            continue
        first_lines[prediction.path] = line
        predictions.append(prediction)
    if bad_rows:
        raise BadDataError(bad_rows)
    return predictions


@contextlib.contextmanager
def _long_csv_fields() -> Iterator[None]:
    """Lifts the csv module's limit of 128 KiB a field, which many long samples of one image exceed."""
    limit = csv.field_size_limit(2**31 - 1)
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def _read_csv_rows(file: io.TextIOBase, path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    reader = csv.DictReader(file)
    missing = [name for name in ("path", "score") if name not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(f"{path}:1: the header lacks {' and '.join(missing)}; it is {reader.fieldnames}")
    line = reader.line_num + 1
    try:
        for row in reader:
            if None in row or None in row.values():
                raise ValueError(f"{path}:{line}: the row has not the {len(reader.fieldnames)} columns of the header")
            yield line, row
            line = reader.line_num + 1  # a quoted text may span lines
    except csv.Error as error:
        raise ValueError(f"{path}:{line}: {error}") from error


def _read_jsonl_rows(file: io.TextIOBase, path: Path) -> Iterable[tuple[int, dict[str, Any]]]:
    for line, text in enumerate(file, start=1):
        if not text.strip():
            continue
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"{path}:{line}: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{line}: a row must be a JSON object")
        yield line, row


def _read_parquet_rows(path: Path) -> list[tuple[int, dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path, partitioning=None)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{path}: not a Parquet file, or a part of one: {error}") from error
    missing = [name for name in ("path", "score") if name not in table.column_names]
    if missing:
        raise ValueError(f"{path}: there is no column {' and '.join(missing)}; there are {table.column_names}")
    return list(enumerate(table.to_pylist(), start=1))


def _parse_row(row: dict[str, Any]) -> Prediction:
    if not row.get("path"):
        raise ValueError("there is no path")
    if "score" not in row:
        raise ValueError("there is no score; one that could not be had is written as null")
    numbers = {name: _parse_optional(name, row.get(name)) for name in ("score", *SAMPLE_COLUMNS)}
    return Prediction(
        path=str(row["path"]),
        score=numbers["score"],
        text=row.get("text") or "",
        error=str(row.get("error") or ""),
        score_std=numbers["score_std"],
        num_parsed=None if numbers["num_parsed"] is None else int(numbers["num_parsed"]),
        description=None if row.get("description") is None else str(row["description"]),
    )


def _parse_optional(name: str, value: Any) -> float | None:
    """A number, or None for an empty value and for NaN, which other tools write for "none"."""
    if value is None or value == "" or str(value).strip().lower() in ("nan", "none"):
        return None
    try:
        return parse_number(value)
    except ValueError as error:
        raise ValueError(f"the {name} {error}") from error

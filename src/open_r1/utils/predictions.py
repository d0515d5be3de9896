"""The prediction file that `open_r1.score` writes and `open_r1.evaluate` reads: one row per image, CSV or JSONL.

    path,score,text,error
    images/a.png,3.5,<think>sharp</think><answer>3.5</answer>,
    images/b.png,,<think>sharp</think>,unparsed
    images/c.png,,,cannot identify image file

With several samples per image there are two more columns: `score` is the mean of the parsed samples, `score_std` their
sample standard deviation (empty below two), `num_parsed` their number, and `text` is a JSON list of all the texts.

Rows are appended as they are scored. `PredictionWriter` takes up a file that a killed run left behind: it drops a torn
last row and keeps the rest, provided that the settings noted in `FILE.meta.json` are the same.
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
_SUFFIXES = (".csv", ".jsonl")
_ERRORS = "surrogateescape"  # file names need not be valid UTF-8


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """One row. Example: `Prediction(path="a.png", score=3.5, text="<answer>3.5</answer>")`."""

    path: str
    score: float | None = None  # finite, or None where there is none; never a stand-in
    text: str | list[str] = ""  # what the model wrote; a list where several samples were drawn
    error: str = ""  # empty, "unparsed", or why the image could not be scored at all
    score_std: float | None = None
    num_parsed: int | None = None  # set where several samples were drawn

    @property
    def is_unparsed(self) -> bool:
        """The model answered and no score could be read. False where there is no answer, as for a broken image."""
        return self.score is None and self.error in ("", UNPARSED)


def check_suffix(path: Path) -> None:
    """ValueError unless the name says which of the two formats is meant."""
    if path.suffix not in _SUFFIXES:
        raise ValueError(f"{path}: the name of a prediction file must end in {' or '.join(_SUFFIXES)}")


def load_predictions(path: str | Path) -> list[Prediction]:
    """Reads a prediction file. Only `path` and `score` are required, so files of other tools can be read too.

    Raises:
        ValueError: wrong suffix, or no such columns.
        BadDataError: rows with a score that is not a number, or a path that occurs twice.
    """
    path = Path(path)
    check_suffix(path)
    with open(path, encoding="utf-8-sig", errors=_ERRORS, newline="") as file, _long_csv_fields():
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
    )


def _parse_optional(name: str, value: Any) -> float | None:
    """A number, or None for an empty value and for NaN, which other tools write for "none"."""
    if value is None or value == "" or str(value).strip().lower() in ("nan", "none"):
        return None
    try:
        return parse_number(value)
    except ValueError as error:
        raise ValueError(f"the {name} {error}") from error


class PredictionWriter:
    """Appends predictions to a file, after those that an interrupted run with the same settings left there.

    Args:
        path: `.csv` or `.jsonl`; its folder is created.
        settings: all that the scores depend on; JSON values. Kept beside the file in `FILE.meta.json`.
        has_samples: whether rows have the columns for several samples per image.
        overwrite: start anew even where the file exists.

    Raises:
        ValueError: the file exists, and was written with other settings or with unknown ones.
    """

    def __init__(self, path: str | Path, settings: dict[str, Any], *, has_samples: bool, overwrite: bool = False):
        self.path = Path(path)
        check_suffix(self.path)
        self.columns = COLUMNS + (SAMPLE_COLUMNS if has_samples else ())
        self.kept: list[Prediction] = []
        meta_path = self.path.with_name(self.path.name + ".meta.json")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if not overwrite and self.path.exists() and self.path.stat().st_size:
            _check_settings(self.path, meta_path, settings)
            _drop_torn_row(self.path)
            self.kept = load_predictions(self.path) if self.path.stat().st_size else []
        else:
            self.path.write_bytes(b"")
            meta_path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        self._file = open(self.path, "a", encoding="utf-8", errors=_ERRORS, newline="")  # noqa: SIM115
        if self.path.suffix == ".csv" and not self.path.stat().st_size:
            self._file.write(",".join(self.columns) + "\n")

    def write(self, predictions: Iterable[Prediction]) -> None:
        """Appends rows and hands them to the operating system, so that a killed process loses no finished row."""
        self._file.write("".join(self._format(prediction) for prediction in predictions))
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "PredictionWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _format(self, prediction: Prediction) -> str:
        values = {name: getattr(prediction, name) for name in self.columns}
        if self.path.suffix == ".jsonl":
            return json.dumps(values, ensure_ascii=False) + "\n"
        if isinstance(values["text"], list):
            values["text"] = json.dumps(values["text"], ensure_ascii=False)
        # The csv module does not quote a lone carriage return, which its reader then takes for the end of a row.
        values["text"] = values["text"].replace("\r\n", "\n").replace("\r", "\n")
        buffer = io.StringIO()
        csv.writer(buffer, lineterminator="\n").writerow(values.values())
        return buffer.getvalue()


def _check_settings(path: Path, meta_path: Path, settings: dict[str, Any]) -> None:
    remedy = "use --overwrite to start anew, or another --output"
    if not meta_path.exists():
        raise ValueError(f"{path} exists and {meta_path.name}, which says how it was made, does not: {remedy}")
    written = json.loads(meta_path.read_text(encoding="utf-8"))
    differing = [name for name in sorted({*written, *settings}) if written.get(name) != settings.get(name)]
    if differing:
        details = "; ".join(f"{name}: {written.get(name)!r} then, {settings.get(name)!r} now" for name in differing)
        raise ValueError(f"{path} was written with other settings ({details}): {remedy}")


def _drop_torn_row(path: Path) -> None:
    """Cuts the file after its last complete row: at the last line end that no quoted text encloses."""
    content = path.read_bytes()
    end = content.rfind(b"\n") + 1
    while path.suffix == ".csv" and content.count(b'"', 0, end) % 2:
        end = content.rfind(b"\n", 0, end - 1) + 1
    if end < len(content):
        with open(path, "r+b") as file:
            file.truncate(end)

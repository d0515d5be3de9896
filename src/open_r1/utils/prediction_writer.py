"""How a prediction file comes about, so that a run may be killed at any time and go on where it stopped.

    batches as they are scored  ->  OUT.parts/0.jsonl, 1.jsonl, …    a journal for each process
    at the end                  ->  OUT                              all rows in the order of the inputs, in one move

A journal loses at most the batch that was being written. `OUT.meta.json` notes all that the scores depend on.
"""

import csv
import dataclasses
import io
import json
import os
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from open_r1.utils.predictions import (
    COLUMNS,
    ENCODING_ERRORS,
    SAMPLE_COLUMNS,
    Prediction,
    check_suffix,
    load_predictions,
)


class PredictionWriter:
    """Takes predictions, after those that an interrupted run with the same settings left there.

    Args:
        path: `.csv`, `.jsonl` or `.parquet`; its folder is created.
        settings: All that the scores depend on; JSON values.
        has_samples: Whether rows have the columns for several samples per image.
        has_description: Whether rows have the column `description`.
        overwrite: Start anew even where the file exists.
        process_index: Which of several processes this is. The first must have built its writer before the others do.

    Raises:
        ValueError: the file exists, and was written with other settings or with unknown ones.
    """

    def __init__(
        self,
        path: str | Path,
        settings: dict[str, Any],
        *,
        has_samples: bool,
        has_description: bool = False,
        overwrite: bool = False,
        process_index: int = 0,
    ):
        self.path = Path(path)
        check_suffix(self.path)
        self.columns = COLUMNS + (SAMPLE_COLUMNS if has_samples else ())
        self.columns += ("description",) if has_description else ()
        self._parts = self.path.with_name(self.path.name + ".parts")
        if process_index == 0:
            self._prepare(settings, overwrite)
        self.kept = self._load_all()
        journal = self._parts / f"{process_index}.jsonl"
        if journal.exists():
            _drop_torn_row(journal)
        self._file = open(journal, "a", encoding="utf-8", errors=ENCODING_ERRORS, newline="")  # noqa: SIM115

    def check_names(self, paths: Sequence[str]) -> None:
        """ValueError where the file could not hold a name: Parquet knows UTF-8 only."""
        if self.path.suffix == ".parquet":
            bad = [path for path in paths if not path.isascii() and path.encode("utf-8", "replace").decode() != path]
            if bad:
                raise ValueError(f"{bad[0]!r} is no UTF-8, and Parquet takes no other names: use .csv or .jsonl")

    def write(self, predictions: Iterable[Prediction]) -> None:
        """Appends rows and hands them to the operating system, so that a killed process loses no finished row."""
        rows = [json.dumps(dataclasses.asdict(row), ensure_ascii=False) + "\n" for row in predictions]
        self._file.write("".join(rows))
        self._file.flush()

    def finish(self, paths: Sequence[str] = ()) -> list[Prediction]:
        """Writes the file out of what all processes have written, and removes the journals.

        Args:
            paths: The order of the rows. Rows of other paths, which an earlier run with more inputs left, come first.

        Returns:
            The rows of `paths`.
        """
        self.close()
        rows = {row.path: row for row in self._load_all()}
        chosen = [rows.pop(path) for path in paths]
        new = self.path.with_name(self.path.name + ".new")
        with open(new, "wb") as file:
            file.write(_format_rows([*rows.values(), *chosen], self.columns, self.path.suffix))
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, self.path)
        shutil.rmtree(self._parts)
        return chosen

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> "PredictionWriter":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _prepare(self, settings: dict[str, Any], overwrite: bool) -> None:
        meta_path = self.path.with_name(self.path.name + ".meta.json")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        has_output = self.path.exists() and self.path.stat().st_size > 0
        if not overwrite and (has_output or self._parts.exists()):
            _check_settings(self.path, meta_path, settings)
            if has_output and self.path.suffix != ".parquet":
                _drop_torn_row(self.path)
        else:
            self.path.unlink(missing_ok=True)
            shutil.rmtree(self._parts, ignore_errors=True)
            meta_path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        self._parts.mkdir(exist_ok=True)

    def _load_all(self) -> list[Prediction]:
        """Every row once: those of the file, then those of the journals, of which a torn last row is left out."""
        rows: dict[str, Prediction] = {}
        if self.path.exists() and self.path.stat().st_size:
            rows |= {row.path: row for row in load_predictions(self.path)}
        for journal in sorted(self._parts.glob("*.jsonl"), key=lambda file: int(file.stem)):
            lines = journal.read_bytes().split(b"\n")[:-1]
            records = [Prediction(**json.loads(line.decode("utf-8", ENCODING_ERRORS))) for line in lines]
            rows |= {row.path: row for row in records}
        return list(rows.values())


def _format_rows(rows: Sequence[Prediction], columns: Sequence[str], suffix: str) -> bytes:
    """The whole file."""
    if suffix == ".parquet":
        return _format_parquet(rows, columns)
    if suffix == ".jsonl":
        records = ({name: getattr(row, name) for name in columns} for row in rows)
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    else:
        buffer = io.StringIO()
        writer = csv.writer(buffer, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([_format_cell(getattr(row, name)) for name in columns] for row in rows)
        text = buffer.getvalue()
    return text.encode("utf-8", ENCODING_ERRORS)


def _format_cell(value: Any) -> Any:
    if isinstance(value, list):
        value = json.dumps(value, ensure_ascii=False)
    # The csv module does not quote a lone carriage return, which its reader then takes for the end of a row.
    return value.replace("\r\n", "\n").replace("\r", "\n") if isinstance(value, str) else value


def _format_parquet(rows: Sequence[Prediction], columns: Sequence[str]) -> bytes:
    """Texts are lists where several samples were drawn."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    has_samples = "num_parsed" in columns
    types = dict.fromkeys(columns, pa.string()) | {"score": pa.float64()}
    if has_samples:
        types |= {"text": pa.list_(pa.string()), "score_std": pa.float64(), "num_parsed": pa.int64()}
    records = [{name: getattr(row, name) for name in columns} for row in rows]
    for record, row in zip(records, rows):
        record["text"] = row.texts if has_samples else row.text
    table = pa.Table.from_pylist(records, schema=pa.schema(types.items()))
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
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

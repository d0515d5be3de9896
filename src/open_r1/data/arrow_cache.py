"""Stores the rows of large files as Arrow tables on disk, so that a run maps them into memory and never holds them.

    key   what was read (contents, not times), how, and by which code: KEY.json, the report
    state of the files that rows name: KEY-STATE.arrow; where it has changed, rows are read and checked anew

Several processes may load the same rows at once: each writes under a name of its own and renames, and what they write
is the same.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_r1.data.schema import BadRow


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features

# What makes a row out of a record; a table made by other code is not taken.
_CODE = ("schema.py", "records.py", "columns.py", "reading.py", "subsets.py", "hub_reader.py")
_CODE += ("../completions.py", "../templates.py")


@dataclass(kw_only=True)
class StoredRows:
    """What is told of a stored table. Example: `num_rows=998`, `bad_rows=[2 of them]`, `bad_files=["a.png"]`."""

    arrow: str  # name of the file
    num_rows: int
    state: str = ""
    bad_rows: list[BadRow] = field(default_factory=list)
    bad_files: list[str] = field(default_factory=list)  # files that rows name and that cannot be used


class ArrowCache:
    """One folder of stored tables.

    Args:
        folder: Made where it is missing.
    """

    def __init__(self, folder: str | os.PathLike):
        self.folder = Path(folder)

    def read(self, key: str) -> "StoredRows | None":
        """The report of a table, or None where there is none that can be used."""
        try:
            content = json.loads((self.folder / f"{key}.json").read_text(encoding="utf-8"))
            content["bad_rows"] = [BadRow(**bad) for bad in content["bad_rows"]]
            report = StoredRows(**content)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return report if (self.folder / report.arrow).is_file() else None

    def load(self, report: StoredRows) -> "Dataset":
        """The rows, mapped into memory."""
        from datasets import Dataset

        return Dataset.from_file(str(self.folder / report.arrow))

    @contextmanager
    def write(self, features: "Features") -> Iterator["TableWriter"]:
        """A writer whose file disappears again unless `TableWriter.commit` is called.

        Raises:
            ValueError: the folder cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            writer = TableWriter(self.folder, features)
        except OSError as error:
            raise ValueError(
                f"--arrow_cache_dir {self.folder} cannot be written: {error}; name another one"
            ) from error
        try:
            yield writer
        finally:
            writer.close()


class TableWriter:
    """Writes tables one after the other into a file of its own."""

    def __init__(self, folder: Path, features: "Features"):
        from datasets.arrow_writer import ArrowWriter

        self._folder = folder
        self._path = folder / f"{uuid.uuid4().hex}.tmp"
        self._writer = ArrowWriter(features=features, path=str(self._path))
        self._is_open = True
        self.num_rows = 0

    def write(self, table: "pa.Table") -> None:
        self._writer.write_table(table)
        self.num_rows += table.num_rows

    def commit(self, key: str, report: StoredRows) -> None:
        """Gives file and report their names, the report last."""
        self._writer.finalize()
        self._is_open = False
        os.replace(self._path, self._folder / report.arrow)
        text = json.dumps(asdict(report), ensure_ascii=False)
        temporary = self._folder / f"{uuid.uuid4().hex}.tmp"
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, self._folder / f"{key}.json")

    def close(self) -> None:
        if self._is_open:
            self._writer.stream.close()
            self._is_open = False
        self._path.unlink(missing_ok=True)


def get_default_folder() -> Path:
    """Beside what Hugging Face's `datasets` stores."""
    import datasets

    return Path(datasets.config.HF_DATASETS_CACHE) / "open_r1"


def compute_key(parts: Iterable[Any]) -> str:
    """A digest of these values and of the code that reads rows."""
    digest = hashlib.blake2b(_hash_code(), digest_size=16)
    digest.update(json.dumps(list(parts), default=repr, sort_keys=True).encode())
    return digest.hexdigest()


@cache
def _hash_code() -> bytes:
    folder = Path(__file__).parent
    digest = hashlib.blake2b(digest_size=16)
    for name in _CODE:
        digest.update((folder / name).read_bytes())
    return digest.digest()

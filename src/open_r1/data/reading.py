"""Reads rows out of files, chunk by chunk, with what is wrong in them; the part between a file and a table.

RowSource -> read_entries -> records -> RowReader.read_tables -> pyarrow.Table, and bad rows with file and line
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_r1.completions import AnswerContract
from open_r1.data.columns import PlacedRow, build_features, build_table, join_folder
from open_r1.data.file_check import VERIFY_CHOICES, FileChecker
from open_r1.data.records import decode_line, parse_record, parse_row
from open_r1.data.schema import BadRow, Row, RowRules
from open_r1.data.sources import RowSource


if TYPE_CHECKING:
    import pyarrow as pa

_CHUNK = 1_000  # rows; the garbage collector is slow on more


@dataclass(frozen=True, kw_only=True)
class LoadOptions:
    """How rows are read, whatever they come from."""

    contract: AnswerContract  # renders the question of each row
    rules: RowRules = RowRules()
    on_bad_data: str = "error"  # or "skip": leave bad rows out and log how many
    verify_images: str = "decode"  # each distinct image once; or whether it "exists"; or "none"
    video_audio: bool = False  # whether the sound of videos is looked at, too
    arrow_cache_dir: str | None = None  # None: large files only, beside the cache of `datasets`

    def __post_init__(self):
        for name, choices in (("on_bad_data", ("error", "skip")), ("verify_images", VERIFY_CHOICES)):
            if getattr(self, name) not in choices:
                raise ValueError(f"{name} must be {' or '.join(choices)}, not {getattr(self, name)!r}")


def read_jsonl(file: str | os.PathLike, *, require_mos: bool) -> tuple[list[tuple[int, Row]], list[BadRow]]:
    """The usable rows of a JSONL file with their line numbers, and the bad ones. Blank lines do not count.

    Raises:
        ValueError: there is no line in the file.
    """
    rows: list[tuple[int, Row]] = []
    bad_rows: list[BadRow] = []
    for number, line in read_lines(file):
        try:
            rows.append((number, parse_row(line, RowRules(require_mos=require_mos))))
        except ValueError as error:
            bad_rows.append(BadRow(str(file), number, str(error)))
    return rows, bad_rows


def read_lines(file: str | os.PathLike) -> Iterator[tuple[int, bytes]]:
    """The lines of a file with something in them, undecoded, with their numbers.

    Raises:
        ValueError: there is none.
    """
    is_empty = True
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if line.strip():
                is_empty = False
                yield number, line
    if is_empty:
        raise ValueError(f"{file}: the file is empty")


def read_entries(source: RowSource) -> Iterator[tuple[int, Any]]:
    """What the file has for each row that is taken: a line, undecoded, or an entry of a JSON list, and its number.

    Raises:
        ValueError: there is none, or the file is no JSON list.
    """
    if source.file.lower().endswith(".json"):
        entries: Iterable[tuple[int, Any]] = list(enumerate(_read_list(source.file), start=1))
        num_entries = len(entries)
    elif source.sampling.kind == "all":
        yield from read_lines(source.file)
        return
    else:
        entries = read_lines(source.file)
        num_entries = sum(1 for _ in read_lines(source.file))
    chosen = source.sampling.choose(num_entries)
    yield from (entry for position, entry in enumerate(entries) if position in chosen)


def _read_list(file: str) -> list[Any]:
    content = Path(file).read_bytes().removeprefix(b"\xef\xbb\xbf")
    try:
        entries = decode_line(content)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from error
    if not isinstance(entries, list) or not entries:
        hint = "; a file of one object per line must be called .jsonl" if isinstance(entries, dict) else ""
        raise ValueError(f"{file}: a .json file must hold a list of rows{hint}")
    return entries


class RowReader:
    """Turns files into tables and collects what cannot be used.

    After `read_tables` has come to its end, `bad_rows` are in order of files and lines, `bad_files` are what rows name
    and cannot be used, and `state` is that of all files that were checked.

    Args:
        sources: The files, in the order of the rows.
        options: How to read.
    """

    def __init__(self, sources: Sequence[RowSource], options: LoadOptions):
        self.sources = sources
        self.options = options
        self.name = ", ".join(source.file for source in sources)
        self.num_usable = 0
        self.bad_rows: list[BadRow] = []
        self.bad_files: list[str] = []
        self.state = ""

    def read_tables(self) -> "Iterator[pa.Table]":
        """Tables of usable rows, in order; none any more once a bad row has been found that must not be skipped."""
        features = build_features()
        with FileChecker(self.options.verify_images, self.options.video_audio) as checker:
            for source in self.sources:
                placed = self._place_rows(source)
                while chunk := list(islice(placed, _CHUNK)):
                    rows = self._keep_usable(chunk, checker)
                    self.num_usable += len(rows)
                    if rows and not (self.bad_rows and self.options.on_bad_data == "error"):
                        yield build_table(rows, self.options.contract, features)
            self.state = checker.compute_state()
            self.bad_files = list(checker.reasons)
        order = {source.file: index for index, source in enumerate(self.sources)}
        self.bad_rows.sort(key=lambda bad: (order[bad.file], bad.line))

    def _place_rows(self, source: RowSource) -> Iterator[PlacedRow]:
        for number, entry in read_entries(source):
            try:
                row = (parse_row if isinstance(entry, bytes) else parse_record)(entry, self.options.rules)
            except ValueError as error:
                self.bad_rows.append(BadRow(source.file, number, str(error)))
                continue
            yield PlacedRow(
                row=row,
                file=source.file,
                line=number,
                image_path=join_folder(source.image_root, row.images),
                video_path=join_folder(source.image_root, row.videos),
                dataset_name=source.dataset_name,
                reward_method=source.reward_method,
            )

    def _keep_usable(self, rows: Sequence[PlacedRow], checker: FileChecker) -> list[PlacedRow]:
        """The rows whose files can be used; each of the others becomes a bad row."""
        if checker.verify == "none":
            return list(rows)
        checker.check_images(path for placed in rows for path in placed.image_path)
        checker.check_videos(path for placed in rows for path in placed.video_path)
        if not checker.reasons:
            return list(rows)
        usable = []
        for placed in rows:
            files = [("image", path) for path in placed.image_path] + [("video", path) for path in placed.video_path]
            reasons = [f"{kind} {path}: {checker.reasons[path]}" for kind, path in files if path in checker.reasons]
            if reasons:
                self.bad_rows.append(BadRow(placed.file, placed.line, "; ".join(reasons)))
            else:
                usable.append(placed)
        return usable

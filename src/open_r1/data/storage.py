"""Where tables of rows end up: in memory, or stored on disk and mapped into it; and what is said of bad rows.

reader.read_tables() -> load_tables -> datasets.Dataset
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from open_r1.data.arrow_cache import ArrowCache, StoredRows, compute_key, get_default_folder
from open_r1.data.columns import build_features, read_column
from open_r1.data.file_check import compute_state
from open_r1.data.reading import LoadOptions
from open_r1.data.schema import BadDataError, BadRow, describe_bad_rows


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

logger = logging.getLogger(__name__)

_SKIP_HINT = "Correct them, or leave them out with --on_bad_data skip."


class TableReader(Protocol):
    """What reads rows; all but name and options is known once `read_tables` has come to its end."""

    name: str  # of what is read, for messages
    options: LoadOptions
    num_usable: int
    bad_rows: list[BadRow]
    bad_files: list[str]
    state: str

    def read_tables(self) -> "Iterator[pa.Table]": ...


def load_tables(
    reader: TableReader, *, is_large: bool, describe: Callable[[], list[Any]]
) -> "tuple[Dataset, list[BadRow]]":
    """Reads rows, or maps what an earlier run has stored of them.

    Args:
        reader: Gives the tables.
        is_large: Whether they are stored where no folder is named for it.
        describe: What they depend on beside the options; contents, not times.

    Returns:
        The rows, and those that were left out.

    Raises:
        BadDataError: rows that cannot be used and must not be left out.
        ValueError: no usable row.
    """
    options = reader.options
    if options.arrow_cache_dir is None and not is_large:
        return _load_in_memory(reader), reader.bad_rows
    cache = ArrowCache(options.arrow_cache_dir or get_default_folder())
    key = compute_key([_describe_options(options), *describe()])
    report = cache.read(key)
    if report is None or report.state != _compute_state(cache.load(report), report, options):
        report = _store(cache, key, reader)
    else:
        _report_bad_rows(reader.name, report.bad_rows, report.num_rows, options)
    return cache.load(report), report.bad_rows


def _load_in_memory(reader: TableReader) -> "Dataset":
    import pyarrow as pa
    from datasets import Dataset, DatasetInfo

    tables = list(reader.read_tables())
    _report_bad_rows(reader.name, reader.bad_rows, reader.num_usable, reader.options)
    return Dataset(pa.concat_tables(tables).combine_chunks(), info=DatasetInfo(features=build_features()))


def _store(cache: ArrowCache, key: str, reader: TableReader) -> StoredRows:
    """Reads rows into a table on disk."""
    with cache.write(build_features()) as writer:
        for table in reader.read_tables():
            writer.write(table)
        _report_bad_rows(reader.name, reader.bad_rows, reader.num_usable, reader.options)
        report = StoredRows(
            arrow=f"{key}-{reader.state}.arrow",
            num_rows=reader.num_usable,
            state=reader.state,
            bad_rows=reader.bad_rows,
            bad_files=reader.bad_files,
        )
        writer.commit(key, report)
    return report


def _compute_state(dataset: "Dataset", report: StoredRows, options: LoadOptions) -> str:
    """The state of all files that stored rows and those left out name."""
    paths = set(report.bad_files)
    if options.verify_images != "none":
        for name in ("image_path", "video_path"):
            paths.update(path for paths_of_row in read_column(dataset, name) for path in paths_of_row)
    return compute_state(paths)


def _describe_options(options: LoadOptions) -> list[Any]:
    """What of the options the stored rows depend on."""
    rules = options.rules
    return [
        [options.contract.name, options.contract.template, options.on_bad_data, options.verify_images],
        [rules.require_mos, rules.default_question, sorted(rules.reward_methods or []), options.video_audio],
    ]


def _report_bad_rows(name: str, bad_rows: Sequence[BadRow], num_usable: int, options: LoadOptions) -> None:
    """Says which rows cannot be used: an error, or a warning where they are left out and others remain."""
    if bad_rows and options.on_bad_data == "error":
        raise BadDataError(bad_rows, _SKIP_HINT)
    if not num_usable:
        raise ValueError(f"no usable row is left in {name}.\n{describe_bad_rows(bad_rows)}")
    if bad_rows:
        logger.warning(
            "left out %d of %d rows. %s", len(bad_rows), len(bad_rows) + num_usable, describe_bad_rows(bad_rows)
        )

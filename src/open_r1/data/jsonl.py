"""From JSONL and JSON files to the rows that training reads; the first thing every run does.

    lines -> reading.RowReader (parse, check files) -> tables -> in memory, or stored and mapped -> datasets.Dataset

Nothing starts on bad data: all bad rows of all files are reported together, or left out on request. What small files
give stays in memory; large ones go to disk and are mapped into it (`arrow_cache.py`).
"""

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from open_r1.completions import AnswerContract
from open_r1.data.arrow_cache import ArrowCache, StoredRows, compute_key, get_default_folder
from open_r1.data.columns import build_features, read_column
from open_r1.data.file_check import compute_state
from open_r1.data.paths import split_paths
from open_r1.data.reading import LoadOptions, RowReader, read_jsonl
from open_r1.data.schema import BadDataError, BadRow, RowRules, describe_bad_rows
from open_r1.data.sources import FileOptions, RowSource, resolve_sources
from open_r1.data.splits import split_train_validation
from open_r1.utils.provenance import hash_file


if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load_jsonl_dataset", "load_sources", "read_jsonl", "split_paths", "split_train_validation"]

logger = logging.getLogger(__name__)

_IN_MEMORY_BYTES = 32 * 2**20  # of files; larger ones are stored as Arrow tables
_SKIP_HINT = "Correct them, or leave them out with --on_bad_data skip."


def load_jsonl_dataset(
    data_file_paths: Sequence[str],
    image_folders: Sequence[str],
    *,
    contract: AnswerContract,
    require_mos: bool,
    dataset_name: str | None = None,
    on_bad_data: str = "error",
    verify_images: str = "decode",
) -> "Dataset":
    """Loads and checks JSONL files; `load_sources` with the options that most callers need.

    Args:
        data_file_paths: the files, in the order of the rows.
        image_folders: one per file; image names are relative to it.
        contract: renders the question of each row.
        require_mos: whether every row must have an image and a number as its answer.
        dataset_name: of rows that carry none. Default: the name of their file.
        on_bad_data: "error" or "skip".
        verify_images: "decode", "exists" or "none".
    """
    options = LoadOptions(
        contract=contract,
        rules=RowRules(require_mos=require_mos),
        on_bad_data=on_bad_data,
        verify_images=verify_images,
    )
    return load_sources(
        resolve_sources(data_file_paths, image_folders, FileOptions(dataset_name=dataset_name)), options
    )


def load_sources(sources: Sequence[RowSource], options: LoadOptions) -> "Dataset":
    """Loads and checks files.

    Returns:
        The columns of `columns.build_features`, rows in order.

    Raises:
        BadDataError: rows that cannot be used, every one named with file, line and reason.
        ValueError: no row in a file, or none left.
    """
    size = sum(os.path.getsize(source.file) for source in sources)
    if options.arrow_cache_dir is None and size < _IN_MEMORY_BYTES:
        return _load_in_memory(sources, options)
    cache = ArrowCache(options.arrow_cache_dir or get_default_folder())
    key = compute_key([_describe_options(options), *((hash_file(source.file), source) for source in sources)])
    report = cache.read(key)
    if report is None or report.state != _compute_state(cache.load(report), report, options):
        report = _store(cache, key, sources, options)
    else:
        report_bad_rows(report.bad_rows, report.num_rows, sources, options)
    return cache.load(report)


def _load_in_memory(sources: Sequence[RowSource], options: LoadOptions) -> "Dataset":
    import pyarrow as pa
    from datasets import Dataset, DatasetInfo

    reader = RowReader(options)
    tables = list(reader.read_tables(sources))
    report_bad_rows(reader.bad_rows, sum(table.num_rows for table in tables), sources, options)
    return Dataset(pa.concat_tables(tables).combine_chunks(), info=DatasetInfo(features=build_features()))


def _store(cache: ArrowCache, key: str, sources: Sequence[RowSource], options: LoadOptions) -> StoredRows:
    """Reads the files into a table on disk."""
    reader = RowReader(options)
    with cache.write(build_features()) as writer:
        for table in reader.read_tables(sources):
            writer.write(table)
        report_bad_rows(reader.bad_rows, writer.num_rows, sources, options)
        report = StoredRows(
            arrow=f"{key}-{reader.state}.arrow",
            num_rows=writer.num_rows,
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
    methods = sorted(rules.reward_methods or [])
    return [
        [options.contract.name, options.contract.template, options.on_bad_data, options.verify_images],
        [rules.require_mos, rules.default_question, methods],
    ]


def report_bad_rows(
    bad_rows: Sequence[BadRow], num_usable: int, sources: Sequence[RowSource], options: LoadOptions
) -> None:
    """Says which rows cannot be used: an error, or a warning where they are left out and others remain."""
    if bad_rows and options.on_bad_data == "error":
        raise BadDataError(bad_rows, _SKIP_HINT)
    files = ", ".join(source.file for source in sources)
    if not num_usable:
        raise ValueError(f"no usable row is left in {files}.\n{describe_bad_rows(bad_rows)}")
    if bad_rows:
        logger.warning(
            "left out %d of %d rows. %s", len(bad_rows), len(bad_rows) + num_usable, describe_bad_rows(bad_rows)
        )

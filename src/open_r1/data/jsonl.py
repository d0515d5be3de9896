"""From JSONL and JSON files to the rows that training reads; the first thing every run does.

    lines -> reading.RowReader (parse, check files) -> tables -> in memory, or stored and mapped -> datasets.Dataset

Nothing starts on bad data: all bad rows of all files are reported together, or left out on request. What small files
give stays in memory; large ones go to disk and are mapped into it (`arrow_cache.py`).
"""

import os
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from open_r1.completions import AnswerContract
from open_r1.data.paths import split_paths
from open_r1.data.reading import LoadOptions, RowReader, read_jsonl
from open_r1.data.schema import RowRules
from open_r1.data.sources import FileOptions, RowSource, resolve_sources
from open_r1.data.splits import split_train_validation
from open_r1.data.storage import load_tables
from open_r1.utils.provenance import hash_file


if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load_jsonl_dataset", "load_sources", "read_jsonl", "split_paths", "split_train_validation"]

_LARGE = 32 * 2**20  # bytes of all files together


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
    dataset, _ = load_tables(
        RowReader(sources, options),
        is_large=size >= _LARGE,
        describe=lambda: [(hash_file(source.file), asdict(source)) for source in sources],
    )
    return dataset

"""Data sets of Hugging Face, from disk or the hub: the same columns as from files, and the pictures as they lie.

    load_from_disk, load_dataset -> texts become rows (records.parse_record) --+
                                 -> pictures stay bytes in the mapped file ----+-> one data set, column `image`

No picture is decoded but to check it; `media.load_row_images` opens those of a row.
"""

import os
from typing import TYPE_CHECKING, Any

from open_r1.data.hub_reader import HubReader, HubSource, find_pictures
from open_r1.data.reading import LoadOptions
from open_r1.data.storage import load_tables


if TYPE_CHECKING:
    from datasets import Dataset

_LARGE = 50_000  # rows


def load_huggingface_rows(source: HubSource, options: LoadOptions) -> "Dataset":
    """Loads and checks a data set of Hugging Face.

    Returns:
        The columns of `columns.build_features`, and `image` where pictures lie in the data set: {"bytes", "path"}, or
        a list of them. `image_path` names them by folder and row, `vqa_dataset#12`.

    Raises:
        BadDataError: rows that cannot be used, named by data set and row, counted from 0.
        ValueError: there is no such data set or split, or it has no column of questions or answers.
    """
    dataset, pictures = find_pictures(open_dataset(source))
    reader = HubReader(dataset, pictures, source, options)
    rows, bad_rows = load_tables(
        reader,
        is_large=len(dataset) >= _LARGE,
        describe=lambda: [source.name, source.split, source.image_root, source.reward_method, *_identify(dataset)],
    )
    if pictures is not None:
        rows = _join_pictures(rows, dataset, pictures)
    if bad_rows:
        left_out = {bad.line for bad in bad_rows}
        rows = rows.select([index for index in range(len(rows)) if index not in left_out])
    return rows


def open_dataset(source: HubSource) -> "Dataset":
    """The split of the data set, mapped into memory; ValueError where there is none."""
    import datasets

    try:
        if os.path.isdir(source.name):
            found = datasets.load_from_disk(source.name)
        else:
            found = datasets.load_dataset(source.name, source.config)
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        raise ValueError(
            f"--dataset_name {source.name}: neither a folder that save_to_disk wrote nor a data set that can be "
            f"loaded from the hub (without a network, only what its cache has): {error}"
        ) from error
    if isinstance(found, datasets.DatasetDict):
        if source.split not in found:
            raise ValueError(
                f"{source.name} has no split {source.split!r}: take one of {', '.join(found)} "
                "(--dataset_train_split, --dataset_test_split)"
            )
        found = found[source.split]
    if not len(found):
        raise ValueError(f"{source.name}: there is no row")
    return found


def _join_pictures(rows: "Dataset", dataset: "Dataset", column: str) -> "Dataset":
    """The rows with the pictures beside them, which stay where they are."""
    import datasets

    pictures = dataset.select_columns([column])
    if column != "image":
        pictures = pictures.rename_column(column, "image")
    return datasets.concatenate_datasets([rows, pictures], axis=1)


def _identify(dataset: "Dataset") -> list[Any]:
    """What tells a data set from another one at the same place."""
    files = [file["filename"] for file in dataset.cache_files]
    return [dataset._fingerprint, len(dataset), [(file, os.stat(file).st_mtime_ns) for file in files]]

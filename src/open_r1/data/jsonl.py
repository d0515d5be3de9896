"""From JSONL files and image folders to the rows that training reads; the first thing every run does.

    lines -> schema.parse_row -> every image checked once -> datasets.Dataset (images as paths, opened later)

Nothing starts on bad data: all bad rows of all files are reported together, or left out on request.
"""

import logging
import os
import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_r1.completions import AnswerContract
from open_r1.data.media import check_image
from open_r1.data.paths import split_paths
from open_r1.data.schema import BadDataError, BadRow, JsonlRow, describe_bad_rows, parse_row
from open_r1.data.splits import group_by_shared_images


if TYPE_CHECKING:
    from datasets import Dataset

__all__ = ["load_jsonl_dataset", "read_jsonl", "split_paths", "split_train_validation"]

logger = logging.getLogger(__name__)

_MAX_THREADS = 8
_PROGRESS_BAR_AFTER = 3.0  # seconds
_SKIP_HINT = "Correct them, or leave them out with --on_bad_data skip."


@dataclass(frozen=True, kw_only=True)
class _PlacedRow:
    """A row and where it stands."""

    row: JsonlRow
    file: str
    line: int
    image_path: list[str]
    dataset_name: str


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
    """Loads and checks JSONL files.

    Args:
        data_file_paths: the files, in the order of the rows.
        image_folders: one per file; image names are relative to it.
        contract: renders the question of each row.
        require_mos: whether every row must have an image and a number as its answer.
        dataset_name: of rows that carry none. Default: the name of their file.
        on_bad_data: "error", or "skip" to leave bad rows out and log how many.
        verify_images: "decode" each distinct image once, which finds truncated ones, or look whether it "exists".

    Returns:
        Columns id, dataset_name, image_path (list), problem, solution, mos (None where it is no number), prompt (one
        user message: the images, then the rendered question) and source ("file.jsonl:12").

    Raises:
        BadDataError: rows that cannot be used, every one named with file, line and reason.
        ValueError: files and folders that do not match in number or do not exist; no row in a file, or none left.
    """
    _check_choice("on_bad_data", on_bad_data, ("error", "skip"))
    _check_choice("verify_images", verify_images, ("decode", "exists"))
    _check_paths(data_file_paths, image_folders)
    default_names = [dataset_name] * len(data_file_paths) if dataset_name else _name_files(data_file_paths)
    placed_rows: list[_PlacedRow] = []
    bad_rows: list[BadRow] = []
    for file, folder, default_name in zip(data_file_paths, image_folders, default_names, strict=True):
        rows, bad_lines = read_jsonl(file, require_mos=require_mos)
        bad_rows += bad_lines
        for line, row in rows:
            image_path = [os.path.join(folder, name) for name in row.images]
            name = row.dataset_name or default_name
            placed_rows.append(_PlacedRow(row=row, file=file, line=line, image_path=image_path, dataset_name=name))
    usable_rows = _drop_rows_with_bad_images(placed_rows, verify_images, bad_rows)
    if bad_rows:
        order = {file: index for index, file in enumerate(data_file_paths)}
        bad_rows.sort(key=lambda bad: (order[bad.file], bad.line))
        if on_bad_data == "error":
            raise BadDataError(bad_rows, _SKIP_HINT)
        logger.warning(
            "left out %d of %d rows. %s", len(bad_rows), len(bad_rows) + len(usable_rows), describe_bad_rows(bad_rows)
        )
    if not usable_rows:
        raise ValueError(f"no usable row is left in {', '.join(data_file_paths)}.\n{describe_bad_rows(bad_rows)}")
    return _build_dataset(usable_rows, contract)


def read_jsonl(file: str | os.PathLike, *, require_mos: bool) -> tuple[list[tuple[int, JsonlRow]], list[BadRow]]:
    """The usable rows of a file with their line numbers, and the bad ones. Blank lines do not count.

    Raises:
        ValueError: there is no line in the file.
    """
    rows: list[tuple[int, JsonlRow]] = []
    bad_rows: list[BadRow] = []
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            if not line.strip():
                continue
            try:
                rows.append((number, parse_row(line, require_mos=require_mos)))
            except ValueError as error:
                bad_rows.append(BadRow(str(file), number, str(error)))
    if not rows and not bad_rows:
        raise ValueError(f"{file}: the file is empty")
    return rows, bad_rows


def _check_choice(option: str, value: str, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"{option} must be {' or '.join(choices)}, not {value!r}")


def _check_paths(files: Sequence[str], folders: Sequence[str]) -> None:
    if not files:
        raise ValueError("no data file was named")
    if len(files) != len(folders):
        raise ValueError(
            f"there are {len(files)} data files and {len(folders)} image folders; each file needs the folder of its "
            f"images: {', '.join(files)} against {', '.join(folders) or 'none'}"
        )
    repeated = [file for file, count in Counter(map(os.path.abspath, files)).items() if count > 1]
    problems = [f"the data file {file} is named twice" for file in repeated]
    problems += [f"the data file {file} does not exist" for file in files if not os.path.isfile(file)]
    problems += [f"the image folder {folder} does not exist" for folder in folders if not os.path.isdir(folder)]
    if problems:
        raise ValueError("; ".join(problems))


def _name_files(files: Sequence[str]) -> list[str]:
    """A data set name for each file: its stem, with as much of the path before it as tells the files apart.

    Images of two data sets must never be compared with each other, so two files named train.jsonl must not share one.
    """
    paths = [Path(os.path.abspath(file)).with_suffix("") for file in files]
    depth = 1
    while True:
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            return names
        depth += 1


def _drop_rows_with_bad_images(rows: list[_PlacedRow], verify: str, bad_rows: list[BadRow]) -> list[_PlacedRow]:
    """The rows whose images can be read; for the others one entry each is added to `bad_rows`."""
    paths = list(dict.fromkeys(path for row in rows for path in row.image_path))
    reasons = _check_images(paths) if verify == "decode" else map(_check_exists, paths)
    reason_of = {path: reason for path, reason in zip(paths, reasons, strict=True) if reason is not None}
    usable_rows = []
    for row in rows:
        reasons = [f"image {path}: {reason_of[path]}" for path in row.image_path if path in reason_of]
        if reasons:
            bad_rows.append(BadRow(row.file, row.line, "; ".join(reasons)))
        else:
            usable_rows.append(row)
    return usable_rows


def _check_images(paths: Sequence[str]) -> list[str | None]:
    from tqdm import tqdm

    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        reasons = pool.map(check_image, paths)
        return list(tqdm(reasons, total=len(paths), desc="checking images", unit="img", delay=_PROGRESS_BAR_AFTER))


def _check_exists(path: str) -> str | None:
    return None if os.path.isfile(path) else "no such file"


def _build_dataset(rows: Iterable[_PlacedRow], contract: AnswerContract) -> "Dataset":
    from datasets import Dataset, Features, List, Value

    text = Value("string")
    message = {"role": text, "content": List({"type": text, "text": text})}
    features = dict.fromkeys(("id", "dataset_name", "problem", "solution", "source"), text)
    features |= {"image_path": List(text), "mos": Value("float64"), "prompt": List(message)}
    columns: dict[str, list[Any]] = defaultdict(list)
    for placed in rows:
        row = placed.row
        content = [{"type": "image", "text": None}] * len(placed.image_path)
        content.append({"type": "text", "text": contract.render(row.problem)})
        columns["id"].append(row.id if row.id is not None else str(placed.line))
        columns["dataset_name"].append(placed.dataset_name)
        columns["image_path"].append(placed.image_path)
        columns["problem"].append(row.problem)
        columns["solution"].append(row.solution)
        columns["mos"].append(row.mos)
        columns["prompt"].append([{"role": "user", "content": content}])
        columns["source"].append(f"{placed.file}:{placed.line}")
    return Dataset.from_dict(dict(columns), features=Features({name: features[name] for name in columns}))


def split_train_validation(dataset: "Dataset", ratio: float, seed: int) -> "tuple[Dataset, Dataset]":
    """Holds out about `ratio` of the rows, drawn by `seed`; rows that share an image stay on one side.

    It knows images, not what they show: for a split by reference image use `datasets/make_data.py`.

    Raises:
        ValueError: the ratio is not between 0 and 1, or one side would be empty.
    """
    if not 0 < ratio < 1:
        raise ValueError(f"the validation ratio must lie between 0 and 1, not {ratio}")
    groups = group_by_shared_images(dataset["image_path"])
    random.Random(seed).shuffle(groups)
    target = max(1, round(ratio * len(dataset)))
    validation: list[int] = []
    for group in groups:
        if len(validation) + len(group) <= target:
            validation += group
    if not validation or len(validation) == len(dataset):
        raise ValueError(
            f"cannot hold out {ratio:g} of {len(dataset)} rows: there are {len(groups)} groups of rows without an "
            "image in common, and neither side may be empty"
        )
    held_out = set(validation)
    train = [index for index in range(len(dataset)) if index not in held_out]
    return dataset.select(train), dataset.select(sorted(validation))

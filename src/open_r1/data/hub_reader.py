"""Reads the rows of a Hugging Face data set: texts become rows, pictures are counted or checked where they lie."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from open_r1.data.columns import PlacedRow, build_features, build_table, join_folder
from open_r1.data.file_check import FileChecker, count_threads
from open_r1.data.media import check_image
from open_r1.data.reading import LoadOptions
from open_r1.data.records import parse_record
from open_r1.data.schema import BadRow, Row


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset

_PICTURE_COLUMNS = ("image", "images")
_TEXT_COLUMNS = (
    *("id", "dataset_name", "source", "question", "problem", "answer", "solution", "conversations", "reference"),
    *("choices", "options", "reference_steps", "explanation", "explanations", "accu_reward_method", "video"),
)
_CHUNK = 1_000  # rows
_PICTURES_AT_ONCE = 64  # rows whose pictures are in memory while they are checked


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """A data set of Hugging Face. Example: `HubSource(name="vqa_dataset")`, a folder that save_to_disk wrote."""

    name: str  # a folder, or a data set of the hub
    split: str = "train"
    config: str | None = None
    image_root: str | None = None  # of images and videos that the data set names as texts
    reward_method: str | None = None  # of rows that have none of their own


def find_pictures(dataset: "Dataset") -> "tuple[Dataset, str | None]":
    """The data set with its pictures left undecoded, and the column that they are in; None where it has none."""
    from datasets import Image, List

    for name in _PICTURE_COLUMNS:
        feature = dataset.features.get(name)
        if isinstance(feature, Image):
            return dataset.cast_column(name, Image(decode=False)), name
        inner = getattr(feature, "feature", feature[0] if isinstance(feature, list) else None)
        if isinstance(inner, Image):
            return dataset.cast_column(name, List(Image(decode=False))), name
    return dataset, None


class HubReader:
    """Turns the texts of a data set into tables; see `storage.TableReader`.

    A row that cannot be used becomes an empty one, so that rows and pictures stay side by side.

    Args:
        dataset: With its pictures undecoded.
        pictures: The column that they are in.
        source: Where it comes from.
        options: How to read.
    """

    def __init__(self, dataset: "Dataset", pictures: str | None, source: HubSource, options: LoadOptions):
        self.dataset = dataset
        self.pictures = pictures
        self.source = source
        self.options = options
        self.name = source.name
        self.num_usable = 0
        self.bad_rows: list[BadRow] = []
        self.bad_files: list[str] = []
        self.state = ""
        self._default_name = os.path.basename(os.path.normpath(source.name))

    def read_tables(self) -> "Iterator[pa.Table]":
        features = build_features()
        texts = self.dataset.select_columns(self._list_text_columns())
        checker = FileChecker(self.options.verify_images, self.options.video_audio)
        with checker, ThreadPoolExecutor(count_threads()) as pool:
            for start in range(0, len(texts), _CHUNK):
                columns = texts[start : start + _CHUNK]
                reasons = self._check_pictures(start, start + _CHUNK, pool)
                records = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
                rows = [
                    self._place_row(start + i, record, of_row, checker)
                    for i, (record, of_row) in enumerate(zip(records, reasons, strict=True))
                ]
                yield build_table(rows, self.options.contract, features)
            self.state = checker.compute_state()
            self.bad_files = list(checker.reasons)

    def _list_text_columns(self) -> list[str]:
        """The columns that rows are made of; ValueError where there is no question, or videos are not named."""
        from datasets import Video

        if isinstance(self.dataset.features.get("video"), Video):
            raise ValueError(
                f"{self.name}: its column video holds the videos themselves; store names of files as text"
            )
        names = [name for name in _TEXT_COLUMNS if name in self.dataset.column_names]
        names += [name for name in _PICTURE_COLUMNS if name in self.dataset.column_names and self.pictures is None]
        if not {"question", "problem", "conversations"} & set(names):
            raise ValueError(
                f"{self.name} has the columns {', '.join(self.dataset.column_names)}: it needs question (or problem) "
                "and answer (or solution), or conversations"
            )
        return names

    def _check_pictures(self, start: int, stop: int, pool: ThreadPoolExecutor) -> list[list[str | None]]:
        """For each picture of each of these rows why it cannot be used, or None."""
        rows = range(start, min(stop, len(self.dataset)))
        if self.pictures is None:
            return [[] for _ in rows]
        if self.options.verify_images != "decode":
            table = self.dataset.with_format("arrow")[rows.start : rows.stop]
            return [[None] * count for count in _count_pictures(table.column(self.pictures))]
        reasons = []
        pictures = self.dataset.select_columns([self.pictures])
        for first in range(rows.start, rows.stop, _PICTURES_AT_ONCE):
            values = pictures[first : min(first + _PICTURES_AT_ONCE, rows.stop)][self.pictures]
            lists = [[] if value is None else [value] if isinstance(value, dict) else value for value in values]
            found = pool.map(check_image, [picture for of_row in lists for picture in of_row])
            reasons += [[next(found) for _ in of_row] for of_row in lists]
        return reasons

    def _place_row(
        self, number: int, record: dict[str, Any], pictures: Sequence[str | None], checker: FileChecker
    ) -> PlacedRow:
        """A row, empty where it cannot be used; `pictures` has for each picture why it cannot be, or None."""
        record = {key: value for key, value in record.items() if value is not None}
        dataset_name = str(record.pop("source", None) or self._default_name)
        if self.pictures is None and "images" in record:
            record["image"] = record.pop("images")
        names = [f"{self.name}#{number}" + (f".{i}" if len(pictures) > 1 else "") for i in range(len(pictures))]
        if names:
            record["image"] = names
        row, reason = _parse(record, self.options)
        root = self.source.image_root or ""
        image_path = names or join_folder(root, row.images)
        video_path = join_folder(root, row.videos)
        checker.check_images([] if names else image_path)
        checker.check_videos(video_path)
        reasons = [reason] if reason else []
        reasons += [f"image: {why}" for why in pictures if why is not None]
        reasons += [f"{path}: {checker.reasons[path]}" for path in image_path + video_path if path in checker.reasons]
        if reasons:
            self.bad_rows.append(BadRow(self.name, number, "; ".join(reasons)))
        else:
            self.num_usable += 1
        return PlacedRow(
            row=row,
            file=self.name,
            line=number,
            image_path=image_path,
            video_path=video_path,
            dataset_name=dataset_name,
            reward_method=self.source.reward_method,
        )


def _parse(record: dict[str, Any], options: LoadOptions) -> tuple[Row, str]:
    """The row and "", or an empty row and what is wrong with it."""
    try:
        return parse_record(record, options.rules), ""
    except ValueError as error:
        return Row(problem="", solution=""), str(error)


def _count_pictures(column: "pa.ChunkedArray") -> list[int]:
    """How many pictures each row has, without reading them."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if pa.types.is_struct(column.type):
        return [int(is_there) for is_there in pc.is_valid(column).to_pylist()]
    return pc.fill_null(pc.list_value_length(column), 0).to_pylist()

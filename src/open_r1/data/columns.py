"""The columns that training reads, the same for every source of data, and how rows become them.

[PlacedRow] -> build_table -> pyarrow.Table -> datasets.Dataset -> read_column (a whole column, batch by batch)
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from open_r1.completions import AnswerContract
from open_r1.data.schema import Row


if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset, Features

TEXT_COLUMNS = ("id", "dataset_name", "problem", "solution", "source", "reference", "accu_reward_method")
LIST_COLUMNS = ("image_path", "video_path", "options", "reference_steps", "explanations")
_BATCH_SIZE = 10_000


@dataclass(frozen=True, kw_only=True, slots=True)
class PlacedRow:
    """A row, where it stands, and what its source fills in where it says nothing itself."""

    row: Row
    file: str
    line: int  # from 1
    image_path: list[str]
    video_path: list[str]
    dataset_name: str
    reward_method: str | None = None


def build_features() -> "Features":
    """The types of all columns: texts, lists of texts, `mos` (a number) and `prompt` (one user message)."""
    from datasets import Features, List, Value

    text = Value("string")
    message = {"role": text, "content": List({"type": text, "text": text})}
    columns = dict.fromkeys(TEXT_COLUMNS, text) | {name: List(text) for name in LIST_COLUMNS}
    return Features(columns | {"mos": Value("float64"), "prompt": List(message)})


def build_table(rows: Sequence[PlacedRow], contract: AnswerContract, features: "Features") -> "pa.Table":
    """Rows as a table.

    Args:
        rows: In order.
        contract: Renders the question of each.
        features: Those of `build_features`.
    """
    import pyarrow as pa

    own = [placed.row for placed in rows]
    columns: dict[str, list[Any]] = {
        "id": [placed.row.id or str(placed.line) for placed in rows],
        "dataset_name": [placed.row.dataset_name or placed.dataset_name for placed in rows],
        "source": [f"{placed.file}:{placed.line}" for placed in rows],
        "accu_reward_method": [placed.row.accu_reward_method or placed.reward_method for placed in rows],
        "image_path": [placed.image_path for placed in rows],
        "video_path": [placed.video_path for placed in rows],
        "prompt": [
            build_prompt(contract.render(placed.row.problem), len(placed.image_path), len(placed.video_path))
            for placed in rows
        ],
    }
    schema = features.arrow_schema
    arrays = [
        pa.array(columns.get(field.name) or [getattr(row, field.name) for row in own], field.type) for field in schema
    ]
    return pa.Table.from_arrays(arrays, schema=schema)


def build_prompt(text: str, num_images: int = 1, num_videos: int = 0) -> list[dict[str, Any]]:
    """One user message: the images, the videos, then a rendered text."""
    media = [{"type": "image", "text": None}] * num_images + [{"type": "video", "text": None}] * num_videos
    return [{"role": "user", "content": [*media, {"type": "text", "text": text}]}]


def read_column(dataset: "Dataset", name: str) -> Iterator[Any]:
    """The values of a column in order, a batch of rows at a time and no other column with them."""
    for batch in dataset.with_format("arrow").select_columns([name]).iter(_BATCH_SIZE):
        yield from batch.column(name).to_pylist()


def join_folder(folder: str, names: Sequence[str]) -> list[str]:
    """Names of files below a folder; absolute names stay."""
    return [os.path.join(folder, name) for name in names]

"""Tables of completions for trackers, which transformers gives the metrics: TensorBoard, Weights & Biases, trackio.

VLMGRPOTrainer._log_round -> CompletionTableCallback.take(records) -> on_log -> the trackers of --report_to
"""

import html
import importlib
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from open_r1.viz.tables import build_markdown_table


if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

    from open_r1.trainer.rollout_log import GroupRecord

logger = logging.getLogger(__name__)

TABLE_NAME = "completions"
_IMAGE_SIZE = 256  # pixels of the longer side
_WITH_TABLES = ("wandb", "trackio")  # trackers whose module has `Table`, `Image` and `log`


class CompletionTableCallback(TrainerCallback):
    """Sends completions of the last round with each line of training metrics, whole groups first.

    Put it after the trackers' own callbacks, which open the run.

    Args:
        num_completions: In one table.
        list_callbacks: All callbacks of the trainer, among them that of TensorBoard.
    """

    def __init__(self, num_completions: int, list_callbacks: Callable[[], Sequence[TrainerCallback]]):
        self.num_completions = num_completions
        self.list_callbacks = list_callbacks
        self.records: list[GroupRecord] = []

    def take(self, records: "list[GroupRecord]") -> None:
        """Keeps the groups of a round, in the place of those before."""
        self.records = records

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not state.is_world_process_zero or not self.records or "loss" not in (logs or {}):
            return
        rows = list_rows(self.records, self.num_completions)
        images = {index: load_thumbnail(self.records[index].row) for index in dict.fromkeys(g for g, _ in rows)}
        for name in _WITH_TABLES:
            if name in args.report_to:
                _send_table(importlib.import_module(name), name, rows, images, state.global_step)
        writers = [getattr(callback, "tb_writer", None) for callback in self.list_callbacks()]
        for writer in filter(None, writers):
            _write_tensorboard(writer, rows, images, state.global_step)
        self.records = []


def list_rows(records: "Sequence[GroupRecord]", limit: int) -> list[tuple[int, dict[str, Any]]]:
    """The first completions of a round, up to a limit: the index of the group, and what a table says of it."""
    rows = []
    for index, record in enumerate(records):
        for place, text in enumerate(record.completions):
            rewards = {name: values[place] for name, values in record.rewards.items()}
            row = {"step": record.step, "prompt": record.row.get("problem") or "", "completion": text, **rewards}
            ending = {"advantage": record.advantages[place], "finish_reason": record.finish_reasons[place]}
            rows.append((index, row | ending))
    return rows[:limit]


def load_thumbnail(row: dict[str, Any]) -> "Image.Image | None":
    """The first image of a row, made small; None where it has none."""
    from open_r1.data.media import BadImageError, list_image_sources, load_image

    sources = list_image_sources(row) if row.get("image") or row.get("image_path") else []
    if not sources:
        return None
    try:
        image = load_image(sources[0])
    except BadImageError as error:
        logger.warning("no image in the table of completions: %s", error)
        return None
    image = image.convert("RGB")
    image.thumbnail((_IMAGE_SIZE, _IMAGE_SIZE))
    return image


def _send_table(
    tracker: Any, name: str, rows: Sequence[tuple[int, dict[str, Any]]], images: dict[int, Any], step: int
) -> None:
    """Weights & Biases and trackio: one table, each row with its image."""
    shown = {index: tracker.Image(image) for index, image in images.items() if image is not None}
    columns = [*rows[0][1], *(["image"] if shown else [])]
    data = [[*row.values(), *([shown.get(index)] if shown else [])] for index, row in rows]
    if name == "wandb":
        tracker.log({TABLE_NAME: tracker.Table(columns=columns, data=data), "train/global_step": step})
        return
    import pandas as pd

    tracker.log({TABLE_NAME: tracker.Table(dataframe=pd.DataFrame(data, columns=columns))}, step=step)


def _write_tensorboard(
    writer: Any, rows: Sequence[tuple[int, dict[str, Any]]], images: dict[int, Any], step: int
) -> None:
    """A text with the table, and the image of each group beside it."""
    cells = [[str(group), *(_escape(value) for value in row.values())] for group, row in rows]
    writer.add_text(TABLE_NAME, build_markdown_table(["group", *rows[0][1]], cells), step)
    for group, image in images.items():
        if image is not None:
            writer.add_image(f"{TABLE_NAME}/group_{group}", _to_array(image), step, dataformats="HWC")
    writer.flush()


def _escape(value: Any) -> str:
    """A cell of a Markdown table in which tags are text and lines stay lines."""
    if isinstance(value, float):
        return f"{value:.4g}"
    return "" if value is None else html.escape(str(value)).replace("\n", "<br>")


def _to_array(image: "Image.Image") -> "np.ndarray":
    import numpy as np

    return np.asarray(image)

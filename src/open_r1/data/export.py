"""Writes labelled images as training rows (JSONL) and as label files; used by `datasets/make_data.py`."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from open_r1.completions import IQA_QUESTION
from open_r1.data.mos import MosRecord, load_labels
from open_r1.data.tables import quote_name


def build_row(row_id: int, record: MosRecord, dataset_name: str) -> dict[str, Any]:
    """A row of the training file; see datasets/README.md."""
    conversations = [{"from": "human", "value": IQA_QUESTION}, {"from": "gpt", "value": record.mos}]
    row = {"id": row_id, "dataset_name": dataset_name, "image": [record.image], "conversations": conversations}
    extras = {"reference": record.reference}
    if record.mos_raw is not None:  # normalised here, and the deviation with it
        extras |= {"mos_raw": record.mos_raw, "mos_std": record.mos_std}
    return row | {key: value for key, value in extras.items() if value is not None}


def write_jsonl(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_labels(path: Path, records: Sequence[MosRecord]) -> None:
    """Writes a label file: reference, image, MOS and standard deviation, as far as there are any.

    It has no header, as the files of other projects have none, unless its columns would not be recognised without.
    """
    roles = {"ref": "reference", "dis": "image", "mos": "mos", "std": "mos_std"}
    used = {role: key for role, key in roles.items() if all(getattr(rec, key) is not None for rec in records)}
    table = [[getattr(record, key) for key in used.values()] for record in records]
    lines = [" ".join(quote_name(cell) if isinstance(cell, str) else repr(cell) for cell in row) for row in table]
    for header in ([], [" ".join(used)]):
        path.write_text("".join(line + "\n" for line in header + lines), encoding="utf-8")
        with contextlib.suppress(ValueError):
            if [[getattr(record, key) for key in used.values()] for record in load_labels(path)] == table:
                return
    raise ValueError(f"{path}: the names of these images cannot be written as a label file")

"""Reads what a model wrote for the rows of a task, and joins it with the rows' labels by id.

Predictions are a JSONL file, a JSON list, a JSON object of id -> record, a folder of `ID.json` files, or validation
rollouts of a run (`rollouts/eval_rank0.jsonl`, or the folder with all ranks' files). A record has `text`, the
completion, or the parts of one (`answer`, `reasoning_steps`, `pred_explanation`).
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from open_r1.completions import AnswerContract, get_answer_contract


if TYPE_CHECKING:
    from datasets import Dataset

Row = dict[str, Any]

_ID_KEYS = ("id", "sample_idx", "idx")
_TEXT_KEYS = ("text", "completion", "response")
_ANSWER_KEYS = ("predict", "prediction", "predicted_answer", "answer")
_KEPT_KEYS = ("image_size", "input_size", "fold", "dataset_name")  # of a prediction, where its label has none
_ROLLOUT_FILES = "eval_rank*.jsonl"
_LABEL_COLUMNS = (
    *("id", "dataset_name", "problem", "solution", "options", "reference_steps", "explanations", "image_path"),
    "source",
)


@dataclass(frozen=True, kw_only=True)
class JoinedRows:
    """Labels with what was written for them."""

    rows: list[Row]  # columns of the label, and `text`
    num_missing: int  # labels without a prediction
    num_extra: int  # predictions without a label


def load_records(path: str | Path) -> list[Row]:
    """The records of a predictions file or folder, in order; those of a mapping or a folder get their key as `id`.

    Raises:
        ValueError: nothing there, or nothing that can be read.
    """
    path = Path(path)
    if path.is_dir():
        rollouts = sorted(path.glob(_ROLLOUT_FILES))
        if rollouts:
            return [record for file in rollouts for record in _read_lines(file)]
        files = sorted(file for file in path.glob("*.json") if file.stem != "inference_summary")
        if not files:
            raise ValueError(f"{path}: the folder has no ID.json file, and no {_ROLLOUT_FILES}")
        return [{"id": file.stem, **_check_record(_read_json(file), str(file))} for file in files]
    if path.suffix == ".jsonl":
        return list(_read_lines(path))
    content = _read_json(path)
    if isinstance(content, dict):
        return [{"id": key, **_check_record(value, f"{path}: {key}")} for key, value in content.items()]
    if not isinstance(content, list):
        raise ValueError(f"{path}: neither a list of records nor an object of them")
    return [_check_record(value, f"{path}: record {number}") for number, value in enumerate(content, start=1)]


def load_label_rows(
    path: str | Path, *, image_folder: str | None = None, default_question: str | None = None
) -> list[Row]:
    """The rows of a data file (JSONL, JSON list) or of a folder that `save_to_disk` wrote, pictures left alone.

    The `fold` of a row in a file is kept beside the columns.

    Args:
        path: File or folder.
        image_folder: Of the pictures that rows name.
        default_question: Of rows that ask none.

    Raises:
        BadDataError: rows that cannot be used.
        ValueError: no such file, or a file of another kind.
    """
    dataset = _load_dataset(path, image_folder, default_question)
    kept = dataset.select_columns([name for name in _LABEL_COLUMNS if name in dataset.column_names])
    folds = _read_folds(str(path)) if Path(path).is_file() else {}
    return [dict(row) | folds.get(row["source"], {}) for row in kept]


def join_predictions(
    labels: Sequence[Row], records: Sequence[Mapping[str, Any]], contract: AnswerContract
) -> JoinedRows:
    """Labels with the completion of the record that has their id; of several, the last, by `step` where there is one.

    Raises:
        ValueError: a record without an id or without a text, or no id in common.
    """
    texts: dict[str, tuple[str, Mapping[str, Any]]] = {}
    for number, record in enumerate(sorted(records, key=_get_step), start=1):
        key = _find_id(record)
        if key is None:
            raise ValueError(
                f"prediction {number} has no id: give it the `id` of its label, or the line number of that"
            )
        texts[key] = (_read_text(record, contract, key), record)
    known = {str(label["id"]) for label in labels}
    if len(known) < len(labels):
        raise ValueError("labels share an id: give each row of the label file an `id` of its own")
    if not known & texts.keys():
        raise ValueError(
            f"no prediction has the id of a label; predictions: {_show(texts)}; labels: {_show(sorted(known))}"
        )
    rows = []
    for label in labels:
        if str(label["id"]) not in texts:
            continue
        text, record = texts[str(label["id"])]
        extra = {name: record[name] for name in _KEPT_KEYS if record.get(name) is not None}
        rows.append({**extra, **label, "text": text})
    return JoinedRows(rows=rows, num_missing=len(labels) - len(rows), num_extra=len(texts.keys() - known))


def _read_folds(path: str) -> dict[str, Row]:
    """`fold` of each row that has one, as text, by where it stands ("test.jsonl:12")."""
    from open_r1.data.reading import read_entries
    from open_r1.data.records import decode_line
    from open_r1.data.sources import RowSource

    folds = {}
    for number, entry in read_entries(RowSource(file=path, image_root="", dataset_name="")):
        record = decode_line(entry) if isinstance(entry, bytes) else entry
        if isinstance(record, dict) and record.get("fold") is not None:
            folds[f"{path}:{number}"] = {"fold": str(record["fold"])}
    return folds


def _load_dataset(path: str | Path, image_folder: str | None, default_question: str | None) -> "Dataset":
    from open_r1.data.hub_reader import HubSource
    from open_r1.data.huggingface import load_huggingface_rows
    from open_r1.data.jsonl import load_sources
    from open_r1.data.reading import LoadOptions
    from open_r1.data.schema import RowRules
    from open_r1.data.sources import FileOptions, resolve_sources

    rules = RowRules(default_question=default_question)
    options = LoadOptions(contract=get_answer_contract("default"), rules=rules, verify_images="none")
    if Path(path).is_dir():
        return load_huggingface_rows(HubSource(name=str(path)), options)
    return load_sources(resolve_sources([str(path)], [], FileOptions(image_root=image_folder or ".")), options)


def _read_lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(path.read_text(encoding="utf-8-sig").split("\n"), start=1):
        if line.strip():
            yield _check_record(_decode(line, f"{path}:{number}"), f"{path}:{number}")


def _read_json(path: Path) -> Any:
    return _decode(path.read_text(encoding="utf-8-sig"), str(path))


def _decode(text: str, place: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{place}: not JSON: {error}") from error


def _check_record(value: Any, place: str) -> Row:
    if not isinstance(value, dict):
        raise ValueError(f"{place}: a prediction must be an object, not a {type(value).__name__}")
    return value


def _get_step(record: Mapping[str, Any]) -> float:
    step = record.get("step")
    return step if isinstance(step, int | float) else 0


def _find_id(record: Mapping[str, Any]) -> str | None:
    row = record.get("row")
    sources = (record, row) if isinstance(row, Mapping) else (record,)
    return next((str(own[key]) for own in sources for key in _ID_KEYS if own.get(key) is not None), None)


def _read_text(record: Mapping[str, Any], contract: AnswerContract, key: str) -> str:
    """The completion of a record: its text, the first of its completions, or one composed of its parts."""
    for name in _TEXT_KEYS:
        if isinstance(record.get(name), str):
            return record[name]
    completions = record.get("completions")
    if isinstance(completions, list) and completions:
        return str(completions[0])
    parts = [record[name] for name in _ANSWER_KEYS if name in record]
    if not parts and "reasoning_steps" not in record:
        raise ValueError(f"prediction {key!r} has no text: neither {', '.join(_TEXT_KEYS)} nor an answer")
    steps = record.get("reasoning_steps") or ()
    return contract.compose(
        answer="" if not parts or parts[0] is None else str(parts[0]),
        explain=str(record.get("pred_explanation") or ""),
        steps=[str(step) for step in steps] if isinstance(steps, list) else (),
    )


def _show(keys: Any, limit: int = 5) -> str:
    shown = list(keys)[: limit + 1]
    return ", ".join(shown[:limit]) + (" …" if len(shown) > limit else "")

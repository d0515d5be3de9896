"""What a JSONL row must be, and how rows that are not are reported. Used by `jsonl.py` and `mos.py`.

    {"id": 1, "dataset_name": "KADID-10K", "image": ["I01_01_01.png"], "conversations": [
        {"from": "human", "value": "You are doing the image quality assessment task. ..."},
        {"from": "gpt", "value": 4.63}]}                          (one line in the file)

Rows are untrusted: everything wrong with one is said at once, and all bad rows of all files in one message.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from open_r1.completions import extract_answer, wrap_answer


MAX_SHOWN = 20
_IMAGE_TOKEN = "<image>"


@dataclass(frozen=True)
class BadRow:
    """A row that cannot be used. Example: `BadRow("a.jsonl", 2, "no conversations")`."""

    file: str
    line: int  # from 1
    reason: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.reason}"


class BadDataError(ValueError):
    """Rows that cannot be used, all of them; the message shows the first 20 as `file:line: reason` and counts them."""

    def __init__(self, bad_rows: Sequence[BadRow], remedy: str = ""):
        super().__init__("\n".join(filter(None, [describe_bad_rows(bad_rows), remedy])))
        self.bad_rows = list(bad_rows)


def describe_bad_rows(bad_rows: Sequence[BadRow]) -> str:
    """How many there are, and the first 20."""
    count = len(bad_rows)
    lines = [f"{count} row{'s'[: count != 1]} cannot be used:", *map(str, bad_rows[:MAX_SHOWN])]
    if count > MAX_SHOWN:
        lines.append(f"... and {count - MAX_SHOWN} more")
    return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class JsonlRow:
    """One usable row, as its file has it: no folder is put before image names, no default filled in."""

    problem: str  # the question, without `<image>`
    solution: str  # "<answer> 4.63 </answer>", or the row's own text where that has answer tags
    images: tuple[str, ...] = ()
    mos: float | None = None  # the answer as a number, where it is one
    id: str | None = None
    dataset_name: str | None = None
    reference: str | None = None  # what the image is a version of; optional key of the row


def parse_number(value: Any) -> float:
    """A finite number or its text; ValueError for anything else, also for true, NaN, `1_000` and `4,5`."""
    is_candidate = isinstance(value, int | float | str) and not isinstance(value, bool)
    if not is_candidate or "_" in str(value):
        raise ValueError(f"{_shorten(value)} is not a number")
    try:
        number = float(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{_shorten(value)} is not a number") from error
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not finite")
    return number


def parse_row(line: bytes, *, require_mos: bool) -> JsonlRow:
    """Reads one line of a JSONL file.

    Args:
        line: the line, undecoded.
        require_mos: whether the row must have an image and a number as its answer.

    Raises:
        ValueError: all that is wrong with the row.
    """
    record = _decode(line)
    problems: list[str] = []
    images = _parse_images(record.get("image"), require_mos, problems)
    question, answer = _parse_conversations(record, problems)
    if _IMAGE_TOKEN in question and record.get("image") is None:
        problems.append(f"the question has {_IMAGE_TOKEN}, the row has no image")
    mos = _parse_mos(answer, require_mos, problems)
    names = {key: _parse_name(record, key, problems) for key in ("id", "dataset_name", "reference")}
    if problems:
        raise ValueError("; ".join(problems))
    text = answer if isinstance(answer, str) else str(answer)
    return JsonlRow(
        problem=question.replace(_IMAGE_TOKEN, "").strip(),
        solution=wrap_answer(text.strip()) if extract_answer(text) is None else text,
        images=images,
        mos=mos,
        **names,
    )


def _decode(line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start + 1} of the line)") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} (character {error.pos + 1})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets nested as deep
        raise ValueError(f"not JSON that can be read: {error}") from error
    if not isinstance(record, dict):
        raise ValueError(f"a row must be a JSON object, not a {type(record).__name__}")
    return record


def _is_text(value: Any) -> bool:
    """A string with something in it, and none of the halves of surrogate pairs that JSON allows."""
    return isinstance(value, str) and bool(value.strip()) and not any("\ud800" <= char <= "\udfff" for char in value)


def _parse_images(value: Any, is_required: bool, problems: list[str]) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(names, list) or not all(map(_is_text, names)):
        problems.append(f"the image must be a file name or a list of them, not {_shorten(value)}")
        return ()
    if is_required and not names:
        problems.append("no image")
    return tuple(names)


def _parse_conversations(record: dict[str, Any], problems: list[str]) -> tuple[str, Any]:
    """The first human text and the first gpt value."""
    turns = record.get("conversations")
    if "conversations" not in record:
        problems.append("no conversations")
        return "", None
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        problems.append(f"conversations must be a list of objects, not {_shorten(turns)}")
        return "", None
    values: dict[str, Any] = {}
    for turn in turns:
        if isinstance(turn.get("from"), str):
            values.setdefault(turn["from"], turn.get("value"))
    for speaker in ("human", "gpt"):
        if speaker not in values:
            problems.append(f"conversations have no {speaker!r} turn")
        elif values[speaker] is None:
            problems.append(f"the {speaker!r} turn has no value")
    question, answer = values.get("human", ""), values.get("gpt")
    if not (_is_text(question) and question.replace(_IMAGE_TOKEN, "").strip()):
        if values.get("human") is not None:
            problems.append(f"the human value must be a text, not {_shorten(question)}")
        question = ""
    return question, answer


def _parse_mos(answer: Any, is_required: bool, problems: list[str]) -> float | None:
    if answer is None:
        return None
    if isinstance(answer, list | dict) or (isinstance(answer, str) and not _is_text(answer)):
        problems.append(f"the gpt value must be a number or a text, not {_shorten(answer)}")
        return None
    inside = extract_answer(answer) if isinstance(answer, str) else None
    try:
        return parse_number(answer if inside is None else inside)
    except ValueError as error:
        if is_required:
            problems.append(f"the MOS (gpt value) {error}")
        return None


def _parse_name(record: dict[str, Any], key: str, problems: list[str]) -> str | None:
    value = record.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not (isinstance(value, int | float) or _is_text(value)):
        problems.append(f"the {key} must be a text or a number, not {_shorten(value)}")
        return None
    return str(value)


def _shorten(value: Any, limit: int = 60) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."

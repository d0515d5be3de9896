"""What one row of data is, and how rows that are not are reported. Every loader of this package gives these.

file, Hugging Face data set -> records.parse_record -> Row -> columns.build_table -> the columns of training
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


MAX_SHOWN = 20


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


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One usable row, as its file has it: no folder is put before names of files, no default filled in."""

    problem: str  # the question without place holders of media, its options below it
    solution: str  # "<answer> 4.63 </answer>", or the row's own text where that has answer tags
    images: tuple[str, ...] = ()
    videos: tuple[str, ...] = ()
    mos: float | None = None  # the answer as a number, where it is one
    id: str | None = None
    dataset_name: str | None = None
    reference: str | None = None  # what the image is a version of
    accu_reward_method: str | None = None  # how an answer to this row is judged
    options: tuple[str, ...] = ()  # texts of the choices, A first
    reference_steps: tuple[str, ...] = ()  # reasoning that leads to the answer
    explanations: tuple[str, ...] = ()  # all references of an explanation


@dataclass(frozen=True, kw_only=True)
class RowRules:
    """What a row must have beside a question and an answer."""

    require_mos: bool = False  # an image, and a number as its answer
    default_question: str | None = None  # of rows that ask none
    reward_methods: frozenset[str] | None = None  # values that `accu_reward_method` may have; None: any


def parse_number(value: Any) -> float:
    """A finite number or its text; ValueError for anything else, also for true, NaN, `1_000` and `4,5`."""
    is_candidate = isinstance(value, int | float | str) and not isinstance(value, bool)
    if not is_candidate or "_" in str(value):
        raise ValueError(f"{shorten(value)} is not a number")
    try:
        number = float(value)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{shorten(value)} is not a number") from error
    if not math.isfinite(number):
        raise ValueError(f"{value!r} is not finite")
    return number


def shorten(value: Any, limit: int = 60) -> str:
    """A value as messages show it."""
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."

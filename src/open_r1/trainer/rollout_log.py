"""Writes what was generated and how it was rewarded, one file per rank.

Always: `OUTPUT_DIR/rollouts/rank0.jsonl`, one group per line, and `eval_rank0.jsonl` beside it, one validation row
and evaluation per line. With `DEBUG_MODE=true` also the text log of
VisualQuality-R1 and VLM-R1 at `LOG_PATH` (default `OUTPUT_DIR/debug.txt`), with a `_format.txt` file beside it for the
format reward; ranks above 0 add `_rank1` and so on to the name.
"""

import json
import os
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any


# Columns of a data row that are worth repeating with its completions.
_LOGGED_COLUMNS = ("id", "dataset_name", "image_path", "video_path", "problem", "solution", "mos", "source")


@dataclass(frozen=True, kw_only=True)
class GroupRecord:
    """One group as it was generated at a step: G completions, each with its rewards by function and its advantage."""

    step: int
    row: dict[str, Any]
    completions: list[str]
    rewards: dict[str, list[float | None]]
    advantages: list[float]
    finish_reasons: list[str]


@dataclass(frozen=True, kw_only=True)
class EvalRecord:
    """One validation row at a step: K completions, each with its rewards by function, and what the task measured."""

    step: int
    row: dict[str, Any]
    completions: list[str]
    rewards: dict[str, list[float | None]]
    finish_reasons: list[str]
    metrics: dict[str, Any]  # of the row, such as the score that was read from its completions


class RolloutLog:
    """Appends groups to the files of one rank.

    Args:
        output_dir: Folder of the run.
        rank: Of this process; no two processes write the same file.
    """

    def __init__(self, output_dir: str, rank: int):
        self.rollout_path = Path(output_dir) / "rollouts" / f"rank{rank}.jsonl"
        self.eval_path = self.rollout_path.with_name(f"eval_rank{rank}.jsonl")
        self.debug_path: Path | None = None
        if os.environ.get("DEBUG_MODE", "").lower() == "true":
            path = Path(os.environ.get("LOG_PATH") or Path(output_dir) / "debug.txt")
            self.debug_path = path if rank == 0 else path.with_name(f"{path.stem}_rank{rank}{path.suffix}")

    def write(self, records: list[GroupRecord]) -> None:
        _append(self.rollout_path, records)
        if self.debug_path is not None:
            self._write_debug(self.debug_path, records)

    def write_evaluation(self, records: list[EvalRecord]) -> None:
        _append(self.eval_path, records)

    def _write_debug(self, path: Path, records: list[GroupRecord]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        names = list(dict.fromkeys(name for record in records for name in record.rewards))
        for name in names:
            is_format = "format" in name
            target = path.with_name(f"{path.stem}_format{path.suffix}") if is_format else path
            with target.open("a", encoding="utf-8") as file:
                for record in records:
                    for text, reward in zip(record.completions, record.rewards[name]):
                        file.write(_format_debug_entry(record, name, text, reward))


def _append(path: Path, records: list[GroupRecord] | list[EvalRecord]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        for record in records:
            line = asdict(record) | {"row": {name: record.row.get(name) for name in _LOGGED_COLUMNS}}
            file.write(json.dumps(line, ensure_ascii=False) + "\n")


def _format_debug_entry(record: GroupRecord, reward_name: str, text: str, reward: float | None) -> str:
    now = datetime.now().strftime("%d-%H-%M-%S-%f")
    title = reward_name.removesuffix("_reward").replace("_", " ").capitalize()
    videos = f"video_path: {record.row['video_path']}\n" if record.row.get("video_path") else ""
    return (
        f"------------- {now} {title} reward: {reward} -------------\n"
        f"step: {record.step}\n"
        f"image_path: {record.row.get('image_path')}\n"
        f"{videos}"
        f"problem: {record.row.get('problem')}\n"
        f"Content: {text}\n"
        f"Solution: {record.row.get('solution')}\n"
    )

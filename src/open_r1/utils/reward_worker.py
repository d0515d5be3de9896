"""The process that reward functions with `runs_in = "process"` run in; see `trainer/reward_processes.py`.

    python -m open_r1.utils.reward_worker

Reads calls from its standard input and writes what they gave to its standard output, until the input ends. What a
reward function prints goes to standard error.
"""

import os
import pickle
import sys
import threading
import time
import traceback
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO


class _Call:
    """One call, and what is told of it."""

    def __init__(self):
        self.values: list[Any] = []
        self.metrics: list[tuple[str, float]] = []
        self.failure: str | None = None

    def log_metric(self, name: str, value: float) -> None:
        self.metrics.append((name, float(value)))

    def __enter__(self) -> "_Call":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, Exception):
            self.failure = "".join(traceback.format_exception(error))
        return isinstance(error, Exception)


def _refuse_gather(values: Any) -> Any:
    raise RuntimeError("all_gather is for rewards on the main thread: leave out runs_in")


def serve(calls: BinaryIO, replies: BinaryIO) -> None:
    """Answers calls until there are no more."""
    from open_r1.rewards.reward_files import load_reward_file

    while (files := _read_files(calls)) is not None:
        with _Call() as call:
            for path in files:
                load_reward_file(Path(path))
            func, arguments = pickle.load(calls)
            call.values = list(func(**arguments, log_metric=call.log_metric, all_gather=_refuse_gather))
        pickle.dump((call.values, call.metrics, call.failure), replies)
        replies.flush()


def _read_files(calls: BinaryIO) -> list[str] | None:
    """The files of rewards that the next call needs, which must be there before the call can be read."""
    try:
        return pickle.load(calls)
    except EOFError:
        return None


def _end_with(parent: int) -> None:
    """Ends this process when the one that started it is gone; a call in progress would not notice."""
    while os.getppid() == parent:
        time.sleep(1.0)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    serve(sys.stdin.buffer, replies)

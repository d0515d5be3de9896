"""Worker processes for reward functions that compute in Python: groups are dealt to them.

Workers are started when they are first needed (`utils/reward_worker.py`) and stay. They are killed when a reward fails
or takes too long, and started afresh for the next one.
"""

import atexit
import contextlib
import functools
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from open_r1.rewards.reward_files import list_reward_files


# What stays behind: open handles, and pictures, which no reward that computes in Python needs.
_LEFT_BEHIND = ("trainer_state", "image")
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "TOKENIZERS_PARALLELISM": "false"}


class RewardProcesses:
    """W worker processes of this one.

    Args:
        num_workers: W, at least 1.
    """

    def __init__(self, num_workers: int):
        self.num_workers = num_workers
        self._workers: list[subprocess.Popen] = []

    def map(self, func: Callable[..., Any], batch: dict[str, Any]) -> tuple[list[Any], list[tuple[str, float]]]:
        """Calls a reward function in shares of whole groups.

        Args:
            func: A function of a module or of a file of rewards, perhaps with options set.
            batch: Its arguments; lists with a value per completion are cut, everything else is sent as it is.

        Returns:
            The values in order, and the metrics that it logged.

        Raises:
            RuntimeError: it failed in a worker, with its traceback, or a worker ended.
        """
        batch = {name: value for name, value in batch.items() if name not in _LEFT_BEHIND}
        num_groups = len(batch["completions"]) // batch["num_generations"]
        shares = cut_into_shares(batch, min(self.num_workers, num_groups))
        values, metrics, is_whole = [], [], False
        try:
            workers = self._start(len(shares))
            base, options = (func.func, func.keywords) if isinstance(func, functools.partial) else (func, {})
            for worker, share in zip(workers, shares):
                pickle.dump(list_reward_files(), worker.stdin)
                pickle.dump((base, {**share, **options}), worker.stdin)
                worker.stdin.flush()
            for worker in workers:
                own_values, own_metrics = self._receive(worker)
                values += own_values
                metrics += own_metrics
            is_whole = True
        finally:
            if not is_whole:
                self.kill()
        return values, metrics

    def kill(self) -> None:
        """Ends all workers, whatever they are doing."""
        workers, self._workers = self._workers, []
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)  # with whatever it started
        for worker in workers:
            worker.wait()

    def _start(self, num_workers: int) -> list[subprocess.Popen]:
        if not self._workers:
            atexit.unregister(self.kill)
            atexit.register(self.kill)
        root = str(Path(__file__).parents[2])
        path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        while len(self._workers) < num_workers:
            self._workers.append(
                subprocess.Popen(
                    [sys.executable, "-m", "open_r1.utils.reward_worker"],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": path},
                    start_new_session=True,  # an interrupt from the keyboard is for the parent
                )
            )
        return self._workers[:num_workers]

    def _receive(self, worker: subprocess.Popen) -> tuple[list[Any], list[tuple[str, float]]]:
        try:
            values, metrics, failure = pickle.load(worker.stdout)
        except EOFError as error:
            raise RuntimeError(f"its worker process ended with code {worker.wait()}") from error
        if failure is not None:
            raise RuntimeError(f"in a worker process: {failure}")
        return values, metrics


def cut_into_shares(batch: dict[str, Any], num_shares: int) -> list[dict[str, Any]]:
    """Parts of whole groups, as equal as can be.

    >>> batch = {"completions": list("abcdef"), "num_generations": 2, "mos": [1, 1, 2, 2, 3, 3]}
    >>> [share["mos"] for share in cut_into_shares(batch, 2)]
    [[1, 1], [2, 2, 3, 3]]
    """
    size, total = batch["num_generations"], len(batch["completions"])
    bounds = [total // size * i // num_shares * size for i in range(num_shares + 1)]
    is_cut = {name: isinstance(value, list) and len(value) == total for name, value in batch.items()}
    return [
        {name: value[start:end] if is_cut[name] else value for name, value in batch.items()}
        for start, end in zip(bounds, bounds[1:])
    ]

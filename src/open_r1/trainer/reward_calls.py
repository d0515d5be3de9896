"""Calls reward functions on whole groups, beside each other where they can, and checks what they return.

    begin   coroutines, threads, worker processes     all at once
    run     functions of the main thread              in order, the same on all ranks
    wait    for those that were begun                 in order
    meet    all ranks                                 an error on one is raised on all; metrics are averaged

Rewards never overlap generation: the generator returns the completions of a round all at once. Where a function runs
and how it ends when it hangs: `reward_jobs.py`.
"""

import math
import threading
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch

from open_r1.trainer.reward_jobs import Job
from open_r1.trainer.reward_processes import RewardProcesses


RewardFunc = Callable[..., list[float | None]]
AllGather = Callable[[Any], Any]


class RewardError(RuntimeError):
    """A reward function failed, on this rank or on another."""


class _FailedElsewhere(RewardError):
    """All ranks know of this error already."""


def repeat_columns(rows: list[dict[str, Any]], num_generations: int) -> dict[str, list[Any]]:
    """Every column of N rows as a list of B values, group-major."""
    names = rows[0].keys()
    return {name: [row[name] for row in rows for _ in range(num_generations)] for name in names}


def call_reward_funcs(
    reward_funcs: list[RewardFunc],
    *,
    prompts: list[Any],
    texts: list[str],
    completion_ids: list[list[int]],
    columns: dict[str, Any],
) -> torch.Tensor:
    """Scores completions once; for many times, see `RewardRunner`."""
    runner = RewardRunner(reward_funcs)
    try:
        return runner.call(prompts=prompts, texts=texts, completion_ids=completion_ids, columns=columns)
    finally:
        runner.close()


class RewardRunner:
    """Calls the same F reward functions again and again.

    Args:
        reward_funcs: See `open_r1.rewards` for the signature.
        timeout_s: How long a function may take for a call; None: for ever.
        num_workers: Processes for functions with `runs_in = "process"`.
    """

    def __init__(self, reward_funcs: list[RewardFunc], timeout_s: float | None = None, num_workers: int = 1):
        self.reward_funcs = reward_funcs
        self.timeout_s = timeout_s
        self._processes = RewardProcesses(num_workers)

    def call(
        self,
        *,
        prompts: list[Any],
        texts: list[str],
        completion_ids: list[list[int]],
        columns: dict[str, Any],
        log_seconds: Callable[[str, float], None] | None = None,
    ) -> torch.Tensor:
        """Scores B completions.

        Args:
            prompts: B conversations.
            texts: B completions as text.
            completion_ids: B completions as token ids.
            columns: What else the functions may ask for, by name. `log_metric` gets what they log, averaged over the
                ranks, `all_gather` connects the ranks.
            log_seconds: Gets how long each function took, as `time/reward/<name>_s`.

        Returns:
            (B, F), NaN where a function abstained with None.

        Raises:
            ValueError: a function returned another number of values than completions, or something that is no number.
            RewardError: a function failed or took too long, here or on another rank.
        """
        columns = dict(columns)
        log_metric = columns.pop("log_metric", _ignore)
        meeting = _Meeting(columns.pop("all_gather", _keep))
        completions = [[{"role": "assistant", "content": text}] for text in texts]
        batch = {"prompts": prompts, "completions": completions, "completion_ids": completion_ids, **columns}
        jobs = [Job(func, batch, meeting.build_gather(func.__name__)) for func in self.reward_funcs]
        self._run(jobs)
        error = next((_explain(job, texts) for job in jobs if job.error is not None), None)
        if error is not None:
            self._processes.kill()
        values, error = _check_all(jobs, len(texts)) if error is None else ([], error)
        metrics = meeting.end(error, [metric for job in jobs for metric in job.metrics])
        for name, value in metrics.items():
            log_metric(name, value)
        for job in jobs if log_seconds is not None else ():
            log_seconds(f"time/reward/{job.name}_s", job.seconds)
        return torch.tensor(values, dtype=torch.float32).T

    def close(self) -> None:
        """Ends the worker processes."""
        self._processes.kill()

    def _run(self, jobs: list[Job]) -> None:
        """Runs all jobs; none after one on the main thread has failed, since it may not have met the other ranks."""
        beside = [job for job in jobs if job.place != "main"]
        computing = [job for job in beside if job.place == "process"]
        for job in beside:
            job.start()
        if computing:
            run = _run_in_turn
            threading.Thread(target=run, args=(computing, self._processes), name="rewards", daemon=True).start()
        for job in jobs:
            if job.place == "main":
                job.run_here(self.timeout_s)
                if job.error is not None:
                    return
        for job in beside:
            job.wait(self.timeout_s, self._processes.kill if job.place == "process" else _do_nothing)
            if job.error is not None:
                return


def _run_in_turn(jobs: list[Job], processes: RewardProcesses) -> None:
    """Each job has all worker processes to itself."""
    for job in jobs:
        job.run_in(processes)
        if job.error is not None and not job.is_given_up:
            return


class _Meeting:
    """What ranks tell each other during a call.

    Everything goes through one envelope that says where a rank is and whether it failed. So a rank that fails early
    meets the others wherever they are, all of them raise the same error, and no exchange is taken for another one.
    """

    def __init__(self, all_gather: AllGather):
        self._all_gather = all_gather

    def build_gather(self, name: str) -> AllGather:
        """`all_gather` for the reward function of that name."""

        def all_gather(values: Sequence[Any] | torch.Tensor) -> Any:
            is_tensor = isinstance(values, torch.Tensor)
            replies = self._exchange({"at": name, "values": values.tolist() if is_tensor else list(values)})
            if len(replies) == 1:
                return values
            joined = [value for reply in replies for value in reply["values"]]
            return torch.tensor(joined, dtype=values.dtype) if is_tensor else joined

        return all_gather

    def end(self, error: Exception | None, metrics: list[tuple[str, float]]) -> dict[str, float]:
        """Raises an error on all ranks, the own one as it is; else the mean of each metric over all ranks."""
        if isinstance(error, _FailedElsewhere):
            raise error
        message = {"at": "the end", "values": metrics, "error": None if error is None else str(error)}
        values = defaultdict(list)
        for reply in self._exchange(message, own=error):
            for name, value in reply["values"]:
                if value == value:  # NaN: nothing to say
                    values[name].append(value)
        return {name: math.fsum(numbers) / len(numbers) for name, numbers in values.items()}

    def _exchange(self, message: dict[str, Any], own: Exception | None = None) -> list[dict[str, Any]]:
        replies = self._all_gather([message])
        if own is not None:
            raise own
        for rank, reply in enumerate(replies):
            if reply.get("error"):
                raise _FailedElsewhere(f"rank {rank}: {reply['error']}")
        places = {reply["at"] for reply in replies}
        if len(places) > 1:
            raise _FailedElsewhere(
                f"the ranks are at different calls of all_gather ({', '.join(sorted(places))}): a reward must call it "
                "equally often on all ranks, whatever its completions are"
            )
        return replies


def _explain(job: Job, texts: list[str]) -> Exception:
    """The error of a reward function, with its name, its first completion and a remedy."""
    if isinstance(job.error, _FailedElsewhere):
        return job.error
    error = RewardError(
        f"Reward {job.name} failed on {len(texts)} completions, the first of which is {texts[0][:200]!r}: "
        f"{type(job.error).__name__}: {job.error}. A bad completion should earn the floor of the range, an "
        "unusable label None; `python -m open_r1.preflight` calls the rewards without training."
    )
    error.__cause__ = job.error
    return error


def _check_all(jobs: list[Job], num_completions: int) -> tuple[list[list[float]], ValueError | None]:
    """Values of all functions, or the first that is wrong about them."""
    try:
        return [_check_rewards(job.name, job.values, num_completions) for job in jobs], None
    except ValueError as error:
        return [], error


def _check_rewards(name: str, result: Any, num_completions: int) -> list[float]:
    if not hasattr(result, "__len__") or len(result) != num_completions:
        found = f"{len(result)} values" if hasattr(result, "__len__") else repr(result)
        raise ValueError(f"Reward {name} returned {found} for {num_completions} completions.")
    checked = [math.nan if value is None else _to_float(name, i, value) for i, value in enumerate(result)]
    for i, (value, returned) in enumerate(zip(checked, result)):
        if returned is not None and not math.isfinite(value):
            raise ValueError(f"Reward {name} returned {returned} for completion {i}; to abstain, return None.")
    return checked


def _to_float(name: str, i: int, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"Reward {name} returned {value!r} for completion {i}, which is no number.") from error


def _keep(values: Any) -> Any:
    """`all_gather` of a single process."""
    return values


def _ignore(name: str, value: float) -> None:
    """Where nobody logs."""


def _do_nothing() -> None:
    """There is nothing to end."""

"""One call of one reward function: where it runs, how long it may take, what became of it.

A function says where it runs by its attribute `runs_in`:

    main       (default) on the main thread, one after the other, in the same order on all ranks: may call `all_gather`
    thread     beside the others, for functions that wait: for a server, a disk, a GPU
    process    spread over worker processes, group by group, for functions that compute in Python

Coroutine functions run beside the others, too, in the process's event loop. A job that takes too long is given up: an
error, or abstentions where the function has the attribute `abstains_on_timeout`.
"""

import concurrent.futures
import contextlib
import faulthandler
import inspect
import logging
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType, TracebackType
from typing import Any

import torch

from open_r1.trainer.reward_processes import RewardProcesses
from open_r1.utils import background_loop


logger = logging.getLogger(__name__)

PLACES = ("main", "thread", "process")
_LAST_RESORT_S = 30.0  # after the timeout, for what neither returns to Python nor lets go of the interpreter
_RING_AGAIN_S = 1.0


class RewardTimeout(RuntimeError):
    """A reward function took longer than `--reward_timeout`."""


class _TimeIsUp(BaseException):
    """Raised in the middle of a reward function; no handler of its for `Exception` may take it."""


class Job:
    """One call of one reward function.

    Args:
        func: The function.
        batch: Its arguments, without `log_metric` and `all_gather`.
        all_gather: For functions on the main thread.
    """

    def __init__(self, func: Callable[..., Any], batch: dict[str, Any], all_gather: Callable[[Any], Any]):
        self.func = func
        self.name = func.__name__
        self.batch = batch
        self.place = choose_place(func)
        self.metrics: list[tuple[str, float]] = []
        self.values: Any = None
        self.error: Exception | None = None
        self.seconds = 0.0
        self.is_given_up = False
        self._all_gather = all_gather
        self._began = threading.Event()
        self._start = 0.0
        self._future: concurrent.futures.Future = concurrent.futures.Future()

    def __enter__(self) -> "Job":
        self._start = time.perf_counter()
        self._began.set()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        """Keeps an error for the one who waits; what is none (an interrupt from the keyboard) goes on."""
        if not self.is_given_up:
            self.seconds = time.perf_counter() - self._start
            self.error = error if isinstance(error, Exception) else None
        return isinstance(error, Exception)

    def log_metric(self, name: str, value: float) -> None:
        """Keeps a metric until all rewards are there, so that their order is the same in every run."""
        if not self.is_given_up:
            self.metrics.append((name, float(value)))

    def start(self) -> None:
        """Begins a job that runs beside the others, not in a worker process."""
        if self.place == "coroutine":
            self._future = background_loop.start(self._run_coroutine())
        elif self.place == "thread":
            device = torch.cuda.current_device() if torch.cuda.is_initialized() else None
            threading.Thread(target=self._run_thread, args=(device,), name=self.name, daemon=True).start()

    def run_in(self, processes: RewardProcesses) -> None:
        """Runs the job in worker processes, and waits for it."""
        with self._settling(), self:
            values, metrics = processes.map(self.func, self.batch)
            self._keep(values)
            for name, value in metrics:
                self.log_metric(name, value)

    def run_here(self, timeout_s: float | None) -> None:
        """Runs the job on this thread."""
        with _time_limit(timeout_s) as limit:
            try:
                with self:
                    result = self.func(**self.batch, log_metric=self.log_metric, all_gather=self._pausing(limit))
                    self.values = background_loop.wait(_await(result)) if inspect.isawaitable(result) else result
                limit.stop()
            except _TimeIsUp:
                limit.stop()
                self._give_up(timeout_s)

    def wait(self, timeout_s: float | None, give_up: Callable[[], None]) -> None:
        """Waits for a job that was started.

        Args:
            timeout_s: How long it may run.
            give_up: What else to do when it took longer.
        """
        with _last_resort(timeout_s):
            self._began.wait(timeout_s)
            remaining = None if timeout_s is None else max(0.0, self._start + timeout_s - time.perf_counter())
            done, _ = concurrent.futures.wait([self._future], remaining)
        if not done:
            self._give_up(timeout_s)
            self._future.cancel()
            give_up()

    def _give_up(self, timeout_s: float) -> None:
        self.is_given_up, self.seconds = True, timeout_s
        if getattr(self.func, "abstains_on_timeout", False):
            self.values, self.error = [None] * len(self.batch["completions"]), None
            self.metrics = [(f"rewards/{self.name}/timed_out", 1.0)]
            logger.warning("reward %s took longer than %g s, and abstains for this round", self.name, timeout_s)
            return
        self.error = RewardTimeout(
            f"it took longer than --reward_timeout {timeout_s:g} s: bound what it does, or raise the option"
        )

    async def _run_coroutine(self) -> None:
        with self:
            self._keep(await self.func(**self.batch, log_metric=self.log_metric, all_gather=_refuse_gather))

    def _run_thread(self, device: int | None) -> None:
        with self._settling(), self:
            if device is not None:  # each thread has a current device of its own
                torch.cuda.set_device(device)
            self._keep(self.func(**self.batch, log_metric=self.log_metric, all_gather=_refuse_gather))

    def _keep(self, values: Any) -> None:
        if not self.is_given_up:
            self.values = values

    @contextlib.contextmanager
    def _settling(self) -> Iterator[None]:
        """Lets nobody wait any longer, whatever ends the block."""
        try:
            yield
        finally:
            with contextlib.suppress(concurrent.futures.InvalidStateError):  # it was given up
                self._future.set_result(None)

    def _pausing(self, limit: "_TimeLimit") -> Callable[[Any], Any]:
        """`all_gather` during which the time stands still: other ranks have limits of their own."""

        def all_gather(values: Sequence[Any] | torch.Tensor) -> Any:
            with limit.paused():
                return self._all_gather(values)

        return all_gather


def choose_place(func: Callable[..., Any]) -> str:
    """Where a reward function runs: `coroutine`, or what its attribute says; ValueError for an unknown place."""
    if inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(inspect.unwrap(func)):
        return "coroutine"
    place = getattr(func, "runs_in", "main")
    if place not in PLACES:
        raise ValueError(f"Reward {func.__name__} has runs_in = {place!r}: take one of {', '.join(PLACES)}.")
    return place


async def _await(awaitable: Any) -> Any:
    return await awaitable


def _refuse_gather(values: Any) -> Any:
    raise RuntimeError(
        "all_gather is for rewards on the main thread, which all ranks call in the same order: make the function a "
        "plain one without the attribute runs_in"
    )


class _TimeLimit:
    """Raises `_TimeIsUp` on the main thread, and ends the process where that is of no use."""

    def __init__(self, seconds: float | None):
        self._seconds = seconds
        is_main = threading.current_thread() is threading.main_thread()
        self._can_ring = seconds is not None and is_main and hasattr(signal, "setitimer")

    def start(self, seconds: float | None) -> None:
        if self._can_ring:
            signal.setitimer(signal.ITIMER_REAL, max(seconds, 1e-3), _RING_AGAIN_S)

    def stop(self) -> float | None:
        """Returns what was left of the time."""
        return signal.setitimer(signal.ITIMER_REAL, 0)[0] if self._can_ring else None

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        left = self.stop()
        faulthandler.cancel_dump_traceback_later()
        try:
            yield
        finally:
            _arm_last_resort(self._seconds)
            self.start(left)


@contextlib.contextmanager
def _time_limit(seconds: float | None) -> Iterator[_TimeLimit]:
    """Interrupts what runs on the main thread after this time, by the signal of the alarm clock."""

    def ring(number: int, frame: FrameType | None) -> None:
        raise _TimeIsUp

    limit = _TimeLimit(seconds)
    with _last_resort(seconds):
        if not limit._can_ring:
            yield limit
            return
        previous = signal.signal(signal.SIGALRM, ring)
        try:
            limit.start(seconds)
            yield limit
        finally:
            limit.stop()
            signal.signal(signal.SIGALRM, previous)


@contextlib.contextmanager
def _last_resort(seconds: float | None) -> Iterator[None]:
    """Ends the process, with the stacks of all its threads, where Python itself hangs longer than this."""
    _arm_last_resort(seconds)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _arm_last_resort(seconds: float | None) -> None:
    if seconds is not None and sys.__stderr__ is not None:
        faulthandler.dump_traceback_later(seconds + _LAST_RESORT_S, exit=True, file=sys.__stderr__)

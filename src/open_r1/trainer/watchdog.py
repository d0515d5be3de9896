"""Says which process is where when processes wait for each other in vain.

A collective that one process never reaches ends in an error after `--ddp_timeout` seconds (gloo), or in an aborted
process (NCCL), and neither says who was missing. So each process tells the others, by way of the store that they met
at, in which stage it is. A warning names those that lag behind when half of that time has passed, and so does the last
line of a process that fails.

    rank 0 fails in stage loss_forward after 31 s there (RuntimeError); rank 1 is in stage reward for 33 s
"""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from types import TracebackType

import torch

from open_r1.trainer.distributed import has_launcher, meet


logger = logging.getLogger(__name__)

BETWEEN = "step"  # what no other stage covers: backward pass, exchange of gradients, optimizer
_MIN_BEAT_S, _MAX_BEAT_S = 0.2, 2.0


@dataclass(frozen=True, kw_only=True)
class Whereabouts:
    """Where a process was at its last sign of life, by its own clock."""

    stage: str
    since: float  # when the stage began
    num_entered: int  # stages entered so far: who has fewer is behind
    beat: float  # when this was written

    def describe(self, now: float, silent_s: float) -> str:
        if now - self.beat > silent_s:
            return f"gave no sign of life for {now - self.beat:.0f} s, last in stage {self.stage}"
        return f"is in stage {self.stage} for {now - self.since:.0f} s"


class StageWatch:
    """Keeps the stage of this process and, between entering and leaving it as a context, tells the others.

    Args:
        rank: Of this process.
        world_size: Number of processes; alone, nothing is started.
        timeout_s: After which a collective fails.
    """

    def __init__(self, rank: int, world_size: int, timeout_s: float):
        self.rank = rank
        self.world_size = world_size
        self.timeout_s = timeout_s
        self.beat_s = min(max(timeout_s / 20, _MIN_BEAT_S), _MAX_BEAT_S)
        self._stages = [(BETWEEN, time.time())]
        self._num_entered = 0
        self._store: torch.distributed.Store | None = None
        self._thread: threading.Thread | None = None
        self._ending: threading.Event | None = None

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Marks the block as a stage; stages may contain others."""
        self._num_entered += 1
        self._stages.append((name, time.time()))
        yield  # an error leaves the stage standing, as it is what the last line shall name
        self._num_entered += 1
        self._stages.pop()
        self._stages[-1] = (self._stages[-1][0], time.time())

    def __enter__(self) -> "StageWatch":
        self._stages = [(BETWEEN, time.time())]
        if self.world_size > 1 and has_launcher():
            store, *_ = meet()
            self._store = torch.distributed.PrefixStore("whereabouts", store)
            self._tell(self._locate())
            self._ending = threading.Event()
            self._thread = threading.Thread(target=self._watch, name="whereabouts", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        if error is not None and not isinstance(error, SystemExit | KeyboardInterrupt):
            stage, since = self._stages[-1]
            seconds = time.time() - since
            time.sleep(3 * self.beat_s)  # in which those that live give a sign of it
            logger.error(
                "rank %d fails in stage %s after %.0f s there (%s); %s",
                self.rank, stage, seconds, type(error).__name__, self._describe_others(),
            )  # fmt: skip
        self._ending.set()
        self._thread.join(timeout=10)
        self._thread = self._store = self._ending = None

    def _locate(self) -> Whereabouts:
        stage, since = self._stages[-1]
        return Whereabouts(stage=stage, since=since, num_entered=self._num_entered, beat=time.time())

    def _tell(self, here: Whereabouts) -> None:
        self._store.set(str(self.rank), json.dumps(asdict(here)))

    def _watch(self) -> None:
        """Gives signs of life; the first process warns when a stage takes suspiciously long."""
        warned_at, ending = None, self._ending
        while not ending.wait(self.beat_s):
            here = self._locate()
            try:
                self._tell(here)
            except RuntimeError as error:  # the process that kept the store is gone, and this one will fail soon
                logger.error("rank %d lost the store of the processes: %s", self.rank, error)
                return
            if self.rank == 0 and here.beat - here.since > self.timeout_s / 2 and warned_at != here.since:
                warned_at = here.since
                logger.warning(
                    "rank 0 is in stage %s for %.0f s; processes wait %.0f s for each other (--ddp_timeout); %s",
                    here.stage, here.beat - here.since, self.timeout_s, self._describe_others(),
                )  # fmt: skip

    def _describe_others(self) -> str:
        """Those that are elsewhere, behind or silent; at most eight of them by name."""
        here, now, silent_s = self._locate(), time.time(), 2.5 * self.beat_s
        others = {}
        try:
            for rank in range(self.world_size):
                if rank != self.rank:
                    others[rank] = self._look_up(rank)
        except RuntimeError as error:
            return f"the store of the processes is gone: {error}"
        lines = []
        for rank, there in others.items():
            if there is None:
                lines.append(f"rank {rank} has not begun")
            elif there.num_entered != here.num_entered or now - there.beat > silent_s:
                lines.append(f"rank {rank} {there.describe(now, silent_s)}")
        hidden = [f"and {len(lines) - 8} more"] if len(lines) > 8 else []
        return ", ".join([*lines[:8], *hidden]) or "all others are in the same stage"

    def _look_up(self, rank: int) -> Whereabouts | None:
        key = str(rank)
        return Whereabouts(**json.loads(self._store.get(key))) if self._store.check([key]) else None

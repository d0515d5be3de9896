"""Whether two mathematical expressions are equal, decided by math-verify in a process of its own.

    python -m open_r1.utils.math_equality        the process: pairs in, verdicts out, one JSON line each

math-verify stops long computations with signals, which work in a main thread only, and an expression that a model
wrote may still hang it or take all memory. So it runs in a child process, started when first needed and used from then
on, which works from any thread and is killed and started anew where it does not answer in time. Numbers, and answers
that are the same text, are compared without it.
"""

import functools
import itertools
import json
import logging
import os
import re
import select
import subprocess
import sys
import threading
from pathlib import Path

from open_r1.utils.extras import require


logger = logging.getLogger(__name__)

MAX_CHARACTERS = 200  # longer answers are no expression to compare
SECONDS_PER_PAIR = 2  # math-verify's own limit for reading, and for comparing
_SECONDS_TO_KILL = 10  # its answer is late even though it should have stopped by itself
_SECONDS_TO_START = 120
_MAX_DEPTH = 10  # of brackets
_MEMORY_LIMIT = 4 << 30  # bytes of address space

_MATHEMATICS = re.compile(r"\d|[\\^_=+*/<>{}()\[\]]")
_PROSE = re.compile(r"[^\W\d_]{3,}|\b(?:or|and)\b")
_FUNCTIONS = frozenset(
    ("sin", "cos", "tan", "cot", "sec", "csc", "log", "exp", "sqrt", "max", "min", "mod", "inf", "lim")
)
_POWER, _CLOSED = r"(?:\^|\*\*)[\s{(]{0,9}", r"[\s)}]{0,9}"
_HUGE = re.compile(rf"\d{{31}}|{_POWER}-?\d{{4}}|\d{_CLOSED}{_POWER}\d{{1,3}}{_CLOSED}{_POWER}\d|\d{{4}}\s?!")


def is_mathematics(text: str) -> bool:
    """Whether a text may be an expression: short, with a digit or sign of mathematics, and not prose.

    >>> [is_mathematics(text) for text in ("x^2 + 1", r"$\\frac{1}{2}$", "12", "a red car", "either 2 or 3")]
    [True, True, True, False, False]
    """
    if len(text) > MAX_CHARACTERS or not _MATHEMATICS.search(text) or _HUGE.search(text):
        return False
    depths = list(itertools.accumulate((character in "([{") - (character in ")]}") for character in text))
    if max(depths) > _MAX_DEPTH or depths[-1] != 0:
        return False
    outside = re.sub(r"\\text\{[^{}]*\}|\\[A-Za-z]+", " ", text)
    return not set(_PROSE.findall(outside.lower())) - _FUNCTIONS


@functools.lru_cache(maxsize=16_384)
def is_equal(gold: str, answer: str) -> bool:
    """Whether `answer` is the expression `gold`, by math-verify; False where either is none, or it takes too long.

    The result is remembered, as the completions of a group often give the same answer.
    """
    if not (is_mathematics(gold) and is_mathematics(answer)):
        return False
    return _get_worker().ask(_mark_up(gold), _mark_up(answer))


def _mark_up(text: str) -> str:
    """The text as math-verify finds expressions in it: LaTeX between dollar signs."""
    return text if "$" in text or "\\boxed" in text else f"${text}$"


class _Worker:
    """The child process, as seen from here."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen | None = None
        self._owner = 0

    def ask(self, gold: str, answer: str) -> bool:
        with self._lock:
            if self._process is None or self._owner != os.getpid():  # a fork must not share the pipes
                self._start()
            try:
                self._process.stdin.write(json.dumps([gold, answer]) + "\n")
                self._process.stdin.flush()
                line = self._read(_SECONDS_TO_KILL)
            except BrokenPipeError:
                line = ""
            if not line:
                logger.warning("math-verify was stopped over an answer that takes too long, or too much memory")
                self._stop()
            return line == "true\n"

    def _start(self) -> None:
        require("math_verify", "vqa")
        roots = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(root for root in roots if root)},
        )
        self._owner = os.getpid()
        if not self._read(_SECONDS_TO_START):
            self._stop()
            raise RuntimeError(f"the process for math-verify does not start: try `{sys.executable} -m {__name__}`")

    def _read(self, seconds: float) -> str:
        ready, _, _ = select.select([self._process.stdout], [], [], seconds)
        return self._process.stdout.readline() if ready else ""

    def _stop(self) -> None:
        process, self._process = self._process, None
        process.kill()
        process.wait()
        process.stdout.close()


@functools.lru_cache(maxsize=1)
def _get_worker() -> _Worker:
    return _Worker()


def serve() -> None:
    """Answers pairs from standard input until it ends."""
    import resource

    from math_verify import parse, verify

    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_LIMIT, _MEMORY_LIMIT))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        try:
            gold, answer = (parse(text, parsing_timeout=SECONDS_PER_PAIR) for text in json.loads(line))
            is_same = bool(gold) and bool(answer) and verify(gold, answer, timeout_seconds=SECONDS_PER_PAIR)
        except (ArithmeticError, MemoryError, RecursionError, TypeError, ValueError):
            is_same = False
        sys.stdout.write(json.dumps(bool(is_same)) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    serve()

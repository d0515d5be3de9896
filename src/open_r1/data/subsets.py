"""How much of a data file is taken: `sampling_strategy` of YAML mixtures."""

import random
import re
from collections.abc import Collection
from dataclasses import dataclass


_STRATEGY = re.compile(r"(?:(first|end|random):)?(\d+(?:\.\d+)?)(%?)")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Which rows of a file are taken. Examples: `Sampling()`, all; `Sampling(kind="first", count=100)`."""

    kind: str = "all"  # all, first, end or random
    count: int | None = None
    percent: float | None = None
    seed: str = ""  # of a random choice

    def choose(self, num_rows: int) -> Collection[int]:
        """The rows taken, numbered from 0; all of them where there are no more than asked for."""
        wanted = num_rows if self.kind == "all" else self.count
        if wanted is None:
            wanted = -(-num_rows * self.percent // 100)
        wanted = min(int(wanted), num_rows)
        if self.kind == "random":
            return set(random.Random(self.seed).sample(range(num_rows), wanted))
        return range(num_rows - wanted, num_rows) if self.kind == "end" else range(wanted)


def parse_sampling(text: str, seed: str) -> Sampling:
    """Reads `all`, `first:N`, `end:N`, `random:N` or `N%`; N may be a share, as in `first:10%`. `10%` is `random:10%`.

    Raises:
        ValueError: it is none of these, or asks for nothing.
    """
    if text == "all":
        return Sampling()
    match = _STRATEGY.fullmatch(text.replace(" ", ""))
    kind, number, is_share = match.groups() if match else (None, "0", "")
    is_whole = "." not in number
    if not match or float(number) == 0 or not (is_share or (kind and is_whole)) or (is_share and float(number) > 100):
        raise ValueError(f"sampling_strategy {text!r}: take all, first:N, end:N, random:N or N%, with N above 0")
    amount = {"percent": float(number)} if is_share else {"count": int(number)}
    return Sampling(kind=kind or "random", seed=seed, **amount)

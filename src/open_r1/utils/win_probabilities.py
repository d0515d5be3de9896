"""Which of two scored images is the better one, and how surely: a file of all pairs.

path,other,win_probability
images/a.png,images/b.png,0.841344746
"""

import csv
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from open_r1.utils.paired_comparison import compute_win_probabilities
from open_r1.utils.predictions import ENCODING_ERRORS, Prediction


WIN_COLUMNS = ("path", "other", "win_probability")
MAX_IMAGES = 5_000  # 12 million pairs
_BLOCK_SIZE = 256  # rows at once


def check_number(paths: Sequence[str]) -> None:
    """ValueError for more images than can be compared in pairs."""
    if len(paths) > MAX_IMAGES:
        raise ValueError(f"--win_probability compares all pairs: of {MAX_IMAGES} images at most, not {len(paths)}")


def iterate_wins(predictions: Sequence[Prediction]) -> Iterator[tuple[str, str, float]]:
    """Each pair of scored images once, in order: (path, other, how likely the first is the better one)."""
    scored = [row for row in predictions if row.score is not None]
    means = np.array([row.score for row in scored])
    variances = np.array([(row.score_std or 0.0) ** 2 for row in scored])
    for start in range(0, len(scored), _BLOCK_SIZE):
        rows = slice(start, start + _BLOCK_SIZE)
        block = compute_win_probabilities(means[rows], variances[rows], means, variances)  # (R, N)
        for offset, row in enumerate(scored[rows]):
            for m in range(start + offset + 1, len(scored)):
                yield row.path, scored[m].path, float(block[offset, m])


def write_wins(path: Path, predictions: Sequence[Prediction]) -> None:
    """A CSV of `iterate_wins`."""
    with open(path, "w", encoding="utf-8", errors=ENCODING_ERRORS, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerows(itertools.chain([WIN_COLUMNS], iterate_wins(predictions)))

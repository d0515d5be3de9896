"""How values are distributed, in a size that does not grow with their number, so that many devices and steps add up.

Values are counted in bins that grow with their distance from zero, 20 to a factor of ten, from 1e-6 to 1e3; ratios by
their logarithms, so that 1/2 and 2 are alike. Mean, minimum and maximum are exact; quantiles are good to 6 percent,
those of ratios in their logarithm.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch


QUANTILES = {"p01": 0.01, "p50": 0.5, "p99": 0.99}
_SMALLEST, _PER_DECADE, _NUM_DECADES = -6, 20, 9
_ONE_SIDE = _PER_DECADE * _NUM_DECADES
NUM_BINS = 2 * _ONE_SIDE + 1  # below zero, at it, above it
_LOWEST_LOG, _HIGHEST_LOG = -1e3, 700.0  # the exponentials are 0, and the largest that is a number


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Values that were counted. Those of several devices and steps are merged.

    Example: of the ratios 1, 2 and 4 `summarise` gives the mean 7 / 3, and a `p50` that is nearly 2.
    """

    numbers: torch.Tensor  # (NUM_BINS + 3,) float64: counts by bin; sum, lowest and highest of the values
    is_ratio: bool = False  # values are not negative, and counted by their logarithms

    @classmethod
    def count(cls, values: torch.Tensor, *, is_ratio: bool = False) -> "Distribution":
        """Of values of any shape; those that are not finite are left out.

        Args:
            values: To be counted.
            is_ratio: Whether they are ratios, at least 0.
        """
        values = values.detach().double().flatten()
        values = values[values.isfinite()]
        offsets = values.log().clamp(min=_LOWEST_LOG) if is_ratio else values
        steps = (_PER_DECADE * (offsets.abs().log10() - _SMALLEST)).floor().clamp(-1, _ONE_SIDE - 1) + 1
        bins = (_ONE_SIDE + offsets.sign() * steps).long()
        counts = torch.bincount(bins, minlength=NUM_BINS).double()
        infinity = values.new_full((1,), torch.inf)
        lowest, highest = torch.cat([values, infinity]).min(), torch.cat([values, -infinity]).max()
        return cls(numbers=torch.cat([counts, torch.stack([values.sum(), lowest, highest])]), is_ratio=is_ratio)

    @classmethod
    def merge(cls, parts: Iterable["Distribution"]) -> "Distribution":
        """Of all values together; at least one part, all ratios or none."""
        parts = list(parts)
        numbers = torch.stack([part.numbers for part in parts])
        merged = torch.cat([numbers[:, :-2].sum(dim=0), numbers[:, -2].min()[None], numbers[:, -1].max()[None]])
        return cls(numbers=merged, is_ratio=parts[0].is_ratio)

    def summarise(self) -> dict[str, float]:
        """`min`, `mean`, `max` and quantiles; nothing where there are no values."""
        counts, (total, lowest, highest) = self.numbers[:NUM_BINS], self.numbers[NUM_BINS:].tolist()
        number = counts.sum().item()
        if not number:
            return {}
        cumulated = counts.cumsum(dim=0)
        summary = {"min": lowest, "mean": total / number, "max": highest}
        for name, share in QUANTILES.items():
            position = int(torch.searchsorted(cumulated, cumulated.new_tensor(share * number)))
            summary[name] = min(max(self._locate(position), lowest), highest)
        return summary

    def _locate(self, position: int) -> float:
        """The middle of a bin, on the scale of its distance from zero."""
        step = abs(position - _ONE_SIDE)
        distance = 10 ** (_SMALLEST + (step - 0.5) / _PER_DECADE) if step else 0.0
        offset = math.copysign(distance, position - _ONE_SIDE)
        return math.exp(min(offset, _HIGHEST_LOG)) if self.is_ratio else offset

    def to_json(self) -> dict[str, Any]:
        """What `from_json` makes the same distribution of."""
        return {"numbers": self.numbers.tolist(), "is_ratio": self.is_ratio}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Distribution":
        """The distribution that `to_json` described."""
        return cls(numbers=torch.tensor(content["numbers"], dtype=torch.float64), is_ratio=content["is_ratio"])

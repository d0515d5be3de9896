"""How values are distributed, in a size that does not grow with their number, so that many devices and steps add up.

Values are counted in bins that grow with their distance from a centre, 20 to a factor of ten, from 1e-6 to 1e3. Mean,
minimum and maximum are exact; the distance of a quantile from the centre is good to 6 percent.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch


QUANTILES = {"p01": 0.01, "p50": 0.5, "p99": 0.99}
_SMALLEST, _PER_DECADE, _NUM_DECADES = -6, 20, 9
_ONE_SIDE = _PER_DECADE * _NUM_DECADES
NUM_BINS = 2 * _ONE_SIDE + 1  # below the centre, at it, above it


@dataclass(frozen=True, kw_only=True)
class Distribution:
    """Values that were counted. Those of several devices and steps are merged.

    Example: of 1, 2 and 4 about the centre 1, one lies at it, two above; `summarise` gives their mean 7 / 3.
    """

    numbers: torch.Tensor  # (NUM_BINS + 3,) float64: counts by bin; sum, lowest and highest of the values
    center: float = 0.0

    @classmethod
    def count(cls, values: torch.Tensor, center: float = 0.0) -> "Distribution":
        """Of values of any shape; those that are not finite are left out.

        Args:
            values: To be counted.
            center: Where bins are smallest: the value that most of them should have.
        """
        values = values.detach().double().flatten()
        values = values[values.isfinite()]
        offsets = values - center
        steps = (_PER_DECADE * (offsets.abs().log10() - _SMALLEST)).floor().clamp(-1, _ONE_SIDE - 1) + 1
        bins = (_ONE_SIDE + offsets.sign() * steps).long()
        counts = torch.bincount(bins, minlength=NUM_BINS).double()
        infinity = values.new_full((1,), torch.inf)
        lowest, highest = torch.cat([values, infinity]).min(), torch.cat([values, -infinity]).max()
        return cls(numbers=torch.cat([counts, torch.stack([values.sum(), lowest, highest])]), center=center)

    @classmethod
    def merge(cls, parts: Iterable["Distribution"]) -> "Distribution":
        """Of all values together; at least one part, all about one centre."""
        parts = list(parts)
        numbers = torch.stack([part.numbers for part in parts])
        merged = torch.cat([numbers[:, :-2].sum(dim=0), numbers[:, -2].min()[None], numbers[:, -1].max()[None]])
        return cls(numbers=merged, center=parts[0].center)

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
        """The middle of a bin, on the scale of its distance from the centre."""
        step = abs(position - _ONE_SIDE)
        distance = 10 ** (_SMALLEST + (step - 0.5) / _PER_DECADE) if step else 0.0
        return self.center + (distance if position > _ONE_SIDE else -distance)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` makes the same distribution of."""
        return {"numbers": self.numbers.tolist(), "center": self.center}

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Distribution":
        """The distribution that `to_json` described."""
        return cls(numbers=torch.tensor(content["numbers"], dtype=torch.float64), center=content["center"])

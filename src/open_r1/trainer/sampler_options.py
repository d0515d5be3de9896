"""Which prompts meet in a round: the options of `pools.py`, a part of `GRPOConfig`."""

import re
from dataclasses import dataclass, field


def _doc(text: str, default=None, **kwargs):
    return field(default=default, metadata={"help": text, **kwargs})


@dataclass
class SamplerOptions:
    """How the rows of several data sets are dealt to devices. What each choice means: docs/data.md."""

    sampling: str = _doc(
        "mixed: the prompts of a round come from all data sets; dataset_homogeneous: those of a device come from one.",
        "mixed",
        choices=["mixed", "dataset_homogeneous"],
    )
    dataset_weighting: str = _doc(
        "size: every row once per epoch; uniform: data sets have equal shares, and the smaller ones repeat.",
        "size",
        choices=["size", "uniform"],
    )
    group_by_prefix: bool = _doc(
        "Images of one reference come together on a device. With --sampling dataset_homogeneous.", False
    )
    prefix_pattern: str | None = _doc(
        "Regular expression whose group 1 is the reference in a file name. Default: that of the data set's card."
    )

    def check_sampling(self) -> None:
        """ValueError where the options do not go together."""
        is_homogeneous = self.sampling == "dataset_homogeneous"
        if self.sampling not in ("mixed", "dataset_homogeneous"):
            raise ValueError(f"--sampling {self.sampling}: take mixed or dataset_homogeneous.")
        if self.dataset_weighting not in ("size", "uniform"):
            raise ValueError(f"--dataset_weighting {self.dataset_weighting}: take size or uniform.")
        if getattr(self, "train_sampling_strategy", "random") != "random" and (
            is_homogeneous or self.dataset_weighting == "uniform"
        ):
            raise ValueError(
                "--train_sampling_strategy sequential keeps the order of the data: leave out --sampling and "
                "--dataset_weighting."
            )
        if self.group_by_prefix and not is_homogeneous:
            raise ValueError("--group_by_prefix fills a device's round: add --sampling dataset_homogeneous.")
        if self.prefix_pattern is not None:
            if not self.group_by_prefix:
                raise ValueError("--prefix_pattern does nothing without --group_by_prefix: add it, or leave it out.")
            _check_pattern(self.prefix_pattern)


def _check_pattern(pattern: str) -> None:
    try:
        num_groups = re.compile(pattern).groups
    except re.error as error:
        raise ValueError(f"--prefix_pattern {pattern!r} is no regular expression: {error}.") from error
    if num_groups != 1:
        raise ValueError(
            f"--prefix_pattern {pattern!r} must have one group, the reference: ^(I\\d+)_ for I04_01_03.png."
        )

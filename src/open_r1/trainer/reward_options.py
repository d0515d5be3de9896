"""How reward functions are called: the options of `reward_calls.py`, a part of `GRPOConfig`."""

import os
from dataclasses import dataclass, field


_MOST_WORKERS = 8


@dataclass
class RewardCallOptions:
    """How long a reward function may take, and how many processes compute rewards. Details: docs/rewards.md."""

    reward_timeout: float | None = field(
        default=None,
        metadata={
            "help": "Seconds that a reward function may take for the completions of a round; then the run ends with "
            "its name, or a reward that may do so abstains. None: half of --ddp_timeout."
        },
    )
    reward_workers: int | None = field(
        default=None,
        metadata={
            "help": "Processes per rank for reward functions that ask for them. None: half of the rank's share of the "
            "processors, at most 8."
        },
    )

    def check_reward_calls(self) -> None:
        """ValueError where the options are out of range."""
        if self.reward_timeout is not None and not 0 < self.reward_timeout < self.ddp_timeout:
            raise ValueError(
                f"--reward_timeout {self.reward_timeout}: must be above 0 and below --ddp_timeout "
                f"({self.ddp_timeout} s), after which the other ranks no longer wait."
            )
        if self.reward_workers is not None and self.reward_workers < 1:
            raise ValueError(f"--reward_workers {self.reward_workers}: must be at least 1.")

    @property
    def reward_timeout_s(self) -> float:
        """Seconds that a reward function may take."""
        return self.ddp_timeout / 2 if self.reward_timeout is None else self.reward_timeout

    @property
    def num_reward_workers(self) -> int:
        """Processes of this rank for rewards."""
        if self.reward_workers is not None:
            return self.reward_workers
        share = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        num_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        return max(1, min(_MOST_WORKERS, share // num_ranks // 2))

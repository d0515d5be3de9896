"""Which loss, and its constants: the part of the trainer's settings that the loss reads, checked as a whole."""

import math
from dataclasses import dataclass


CLIPPED_LOSS_TYPES = ("grpo", "bnpo", "dr_grpo", "dapo")
LOSS_TYPES = (*CLIPPED_LOSS_TYPES, "cispo", "sapo")
IMPORTANCE_SAMPLING_LEVELS = ("token", "sequence")
KL_ESTIMATORS = ("k1", "k2", "k3")
# The cap on the ratio that ScaleRL (arXiv 2510.13786) recommends for cispo, where epsilon_high is not given.
CISPO_EPSILON_HIGH = 5.0

# Settings that some losses do not read, with those that do.
_READ_BY = {
    "epsilon_low": CLIPPED_LOSS_TYPES,
    "epsilon_high": (*CLIPPED_LOSS_TYPES, "cispo"),
    "delta": CLIPPED_LOSS_TYPES,
    "sapo_temperature_pos": ("sapo",),
    "sapo_temperature_neg": ("sapo",),
}


@dataclass(frozen=True, kw_only=True)
class LossSettings:
    """The algorithm of `compute_policy_loss`.

    Raises:
        ValueError: a value out of range, or one that the loss would ignore.
    """

    loss_type: str = "grpo"
    importance_sampling_level: str = "token"
    epsilon_low: float = 0.2
    epsilon_high: float = 0.2  # under cispo the cap of the ratio itself
    delta: float | None = None
    beta: float = 0.0
    kl_estimator: str = "k3"
    use_bias_correction_kl: bool = False
    sapo_temperature_pos: float = 1.0
    sapo_temperature_neg: float = 1.05
    top_entropy_quantile: float = 1.0
    entropy_coef: float = 0.0

    def __post_init__(self):
        self._check_choices()
        self._check_ranges()
        for name, loss_types in _READ_BY.items():
            value = getattr(self, name)
            if value != getattr(LossSettings, name) and self.loss_type not in loss_types:
                raise ValueError(
                    f"{_as_option(name)} {value} would be ignored: loss_type {self.loss_type} does not read it, "
                    f"only {', '.join(loss_types)} do. Leave it out."
                )
        if self.beta == 0 and self.use_bias_correction_kl:
            raise ValueError("use_bias_correction_kl would be ignored: there is no KL term, since beta is 0.")
        if self.beta == 0 and self.kl_estimator != LossSettings.kl_estimator:
            raise ValueError(f"kl_estimator {self.kl_estimator} would be ignored: there is no KL term; beta is 0.")

    def _check_choices(self) -> None:
        choices = {
            "loss_type": LOSS_TYPES,
            "importance_sampling_level": IMPORTANCE_SAMPLING_LEVELS,
            "kl_estimator": KL_ESTIMATORS,
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {getattr(self, name)!r}.")

    def _check_ranges(self) -> None:
        for name in ("beta", "epsilon_low", "epsilon_high"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{_as_option(name)} must not be negative, not {getattr(self, name)}.")
        for name in ("sapo_temperature_pos", "sapo_temperature_neg"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}.")
        if not 0 < self.top_entropy_quantile <= 1:
            raise ValueError(
                f"top_entropy_quantile must be in (0, 1], not {self.top_entropy_quantile}: it is the share of tokens "
                "that are kept, 1.0 keeps all."
            )
        if not math.isfinite(self.entropy_coef):
            raise ValueError(f"entropy_coef must be finite, not {self.entropy_coef}.")
        if self.loss_type == "cispo" and self.epsilon_high < 1:
            raise ValueError(
                f"epsilon_high {self.epsilon_high} is too low for loss_type cispo, where it caps the ratio itself, "
                f"which is 1 on-policy: leave it out for {CISPO_EPSILON_HIGH}, or take at least 1."
            )
        if self.delta is not None and not self.delta > 1 + self.epsilon_high:
            raise ValueError(
                f"delta must be above 1 + epsilon_high = {1 + self.epsilon_high}, not {self.delta}: it bounds the "
                "ratio where an advantage is negative, beyond the range that epsilon_high clips to."
            )


def _as_option(name: str) -> str:
    return "epsilon" if name == "epsilon_low" else name

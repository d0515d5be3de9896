"""The protocol of a generation engine: encoded prompts in, G completions per prompt out."""

from dataclasses import dataclass
from typing import Protocol

from open_r1.vlm_modules.vlm_module import EncodedPrompt


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How completions are drawn. `temperature=0.0` is greedy decoding, the other settings then do not matter
    (but for `repetition_penalty`)."""

    max_new_tokens: int = 256
    temperature: float = 1.0
    top_p: float = 1.0  # nucleus: smallest set of tokens with at least this probability; 1.0 is off
    top_k: int = 0  # this many most likely tokens; 0 is off
    min_p: float | None = None  # tokens with at least this share of the most likely one's probability; None is off
    repetition_penalty: float = 1.0  # 1.0 is off
    seed: int | None = None  # None: draws from the global random state

    def __post_init__(self):
        if self.max_new_tokens < 1:
            raise ValueError(f"max_new_tokens must be at least 1, not {self.max_new_tokens}.")
        if self.temperature < 0:
            raise ValueError(f"temperature must not be negative, not {self.temperature}; 0 is greedy decoding.")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p must be in (0, 1], not {self.top_p}; 1.0 turns it off.")
        if self.top_k < 0:
            raise ValueError(f"top_k must not be negative, not {self.top_k}; 0 turns it off.")
        if self.min_p is not None and not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p must be in [0, 1], not {self.min_p}.")
        if self.repetition_penalty <= 0:
            raise ValueError(f"repetition_penalty must be positive, not {self.repetition_penalty}; 1.0 turns it off.")


@dataclass(frozen=True, kw_only=True)
class Completions:
    """G completions of each of N prompts, group-major: row n * G + g."""

    token_ids: list[list[int]]  # B lists, cut after the token that ended the completion (which is kept)
    finish_reasons: list[str]  # B times "stop" (an end token was drawn) or "length" (the limit was reached)
    per_token_logps: list[list[float]] | None = None  # of the tokens as the engine drew them; None: it tells none


class Generator(Protocol):
    """Anything that completes prompts. Implementations: `HFGenerator`, `VLLMGenerator`."""

    def generate(
        self, prompts: list[EncodedPrompt], num_generations: int, sampling: SamplingSettings
    ) -> Completions: ...

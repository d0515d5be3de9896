"""Overlong reward: completions that come near the length limit are penalised before it cuts them off.

Scope: one completion, by its number of tokens.
"""

from typing import Any


def overlong_reward(
    prompts: list[Any],
    completions: list[list[dict[str, str]]],
    completion_ids: list[list[int]] | None = None,
    *,
    max_completion_length: int = 256,
    overlong_cache: int | None = None,
    **columns: Any,
) -> list[float]:
    """A penalty that grows as a completion comes near the limit where it would be cut off.

    So length is kept in check by the reward and not by truncation. For *n* tokens, with *L* =
    `--max_completion_length` and *c* = `--overlong_cache` (default: a fifth of *L*, as in the paper):

        r = 0 for n ≤ L − c;   (L − c − n) / c up to n = L;   −1 beyond

    It is meant to be added to an accuracy reward: `--reward_funcs accuracy format overlong`. The ending token counts.
    The other remedy of the paper, leaving completions that were cut off out of the loss, is
    `--mask_truncated_completions` ([algorithms.md](algorithms.md)).

    Range: -1 to 0.
    Scope: completion.
    Source: *DAPO: An Open-Source LLM Reinforcement Learning System at Scale*, arXiv 2503.14476, Eq. 13.

    >>> lengths = [80, 90, 100, 101]
    >>> options = {"max_completion_length": 100, "overlong_cache": 20}
    >>> overlong_reward([None] * 4, [[]] * 4, [[0] * length for length in lengths], **options)
    [0.0, -0.5, -1.0, -1.0]

    Args:
        prompts: Not read.
        completions: Not read.
        completion_ids: Tokens of each completion.
        max_completion_length: L_max, tokens after which a completion is cut off.
        overlong_cache: L_cache; None: a fifth of L_max, as in the paper.
        columns: Not read.
    """
    if completion_ids is None:
        raise ValueError("overlong_reward counts tokens: it needs completion_ids.")
    cache = choose_overlong_cache(max_completion_length, overlong_cache)
    excess = [len(ids) - (max_completion_length - cache) for ids in completion_ids]
    return [-min(1.0, tokens / cache) if tokens > 0 else 0.0 for tokens in excess]


def choose_overlong_cache(max_completion_length: int, overlong_cache: int | None = None) -> int:
    """Tokens before the limit in which the penalty grows: as given, or a fifth of the limit.

    >>> choose_overlong_cache(20480)
    4096

    Raises:
        ValueError: not between 1 and the limit.
    """
    if overlong_cache is None:
        return max(1, max_completion_length // 5)
    if not 1 <= overlong_cache <= max_completion_length:
        raise ValueError(
            f"overlong_cache must be between 1 and max_completion_length ({max_completion_length}), not "
            f"{overlong_cache}."
        )
    return overlong_cache

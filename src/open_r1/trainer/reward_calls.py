"""Calls reward functions on whole groups and checks what they return."""

import asyncio
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch


RewardFunc = Callable[..., list[float | None]]


def repeat_columns(rows: list[dict[str, Any]], num_generations: int) -> dict[str, list[Any]]:
    """Every column of N rows as a list of B values, group-major."""
    names = rows[0].keys()
    return {name: [row[name] for row in rows for _ in range(num_generations)] for name in names}


def call_reward_funcs(
    reward_funcs: list[RewardFunc],
    *,
    prompts: list[Any],
    texts: list[str],
    completion_ids: list[list[int]],
    columns: dict[str, Any],
) -> torch.Tensor:
    """Scores B completions with F functions.

    Args:
        reward_funcs: See `open_r1.rewards` for the signature; coroutine functions are awaited.
        prompts: B conversations.
        texts: B completions as text.
        completion_ids: B completions as token ids.
        columns: What else the functions may ask for, by name.

    Returns:
        (B, F), NaN where a function abstained with None.

    Raises:
        ValueError: a function returned another number of values than completions, or something that is no number.
    """
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    values = []
    for func in reward_funcs:
        result = func(prompts=prompts, completions=completions, completion_ids=completion_ids, **columns)
        if inspect.isawaitable(result):
            result = asyncio.run(_await(result))
        values.append(_check_rewards(func.__name__, result, len(texts)))
    return torch.tensor(values, dtype=torch.float32).T


async def _await(awaitable: Any) -> Any:
    return await awaitable


def _check_rewards(name: str, result: Any, num_completions: int) -> list[float]:
    if len(result) != num_completions:
        raise ValueError(f"Reward {name} returned {len(result)} values for {num_completions} completions.")
    checked = [float("nan") if value is None else float(value) for value in result]
    for i, (value, returned) in enumerate(zip(checked, result)):
        if returned is not None and not math.isfinite(value):
            raise ValueError(f"Reward {name} returned {returned} for completion {i}; to abstain, return None.")
    return checked

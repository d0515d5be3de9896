"""The reward of data in which each row says how its answer is judged: `method_accuracy`."""

import inspect
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from open_r1.tasks import get_method_reward


def method_accuracy_reward(
    prompts: list[Any],
    completions: list[list[dict[str, str]]],
    completion_ids: list[list[int]] | None = None,
    *,
    reward_options: Mapping[str, Any] | None = None,
    **columns: Any,
) -> Any:
    """Each row by its own method: the reward that its `accu_reward_method` names, `default` where it names none.

    Methods: default, math, mcq, yes_no, all_match, map, od_ap, od_ap50, odLength, weighted_sum and llm
    (`open_r1.tasks.REWARD_METHODS`). Each is called once, with the rows that name it.

    Range: that of the methods.
    Scope: completion.
    Needs: column `accu_reward_method`, and what the methods need.
    Source: VLM-R1, `--reward_method` and the key of that name in a row.

    >>> texts = ["<answer>yes</answer>", "<answer>b</answer>"]
    >>> completions = [[{"role": "assistant", "content": text}] for text in texts]
    >>> columns = {"accu_reward_method": ["yes_no", "mcq"], "solution": ["true", "C"]}
    >>> method_accuracy_reward([None] * 2, completions, **columns)
    [1.0, 0.0]

    Args:
        prompts: For the methods, as everything else.
        completions: Likewise.
        completion_ids: Likewise.
        reward_options: Options of the methods, by name; `build_reward_funcs` sets them.
        columns: For the methods.

    Returns:
        One value per completion; awaitable where a method is (`llm`).

    Raises:
        ValueError: an unknown method.
    """
    from open_r1.rewards import REWARD_FUNCS, set_options

    rows = defaultdict(list)
    for index, method in enumerate(columns.get("accu_reward_method") or [None] * len(completions)):
        rows[get_method_reward(method)].append(index)
    batch = {"prompts": prompts, "completions": completions, "completion_ids": completion_ids, **columns}
    results = {}
    for name, indices in rows.items():
        func = set_options(REWARD_FUNCS[name], dict(reward_options or {}))
        results[name] = func(**_take(batch, indices, len(completions)))
    if any(inspect.isawaitable(result) for result in results.values()):
        return _await_and_place(rows, results, len(completions))
    return _place(rows, results, len(completions))


def _take(batch: dict[str, Any], indices: list[int], count: int) -> dict[str, Any]:
    """The given rows of every list that has one value per completion."""
    return {
        name: [value[index] for index in indices] if isinstance(value, list) and len(value) == count else value
        for name, value in batch.items()
    }


def _place(rows: dict[str, list[int]], results: dict[str, list[float | None]], count: int) -> list[float | None]:
    rewards: list[float | None] = [None] * count
    for name, indices in rows.items():
        for index, reward in zip(indices, results[name], strict=True):
            rewards[index] = reward
    return rewards


async def _await_and_place(rows: dict[str, list[int]], results: dict[str, Any], count: int) -> list[float | None]:
    done = {name: await result if inspect.isawaitable(result) else result for name, result in results.items()}
    return _place(rows, done, count)

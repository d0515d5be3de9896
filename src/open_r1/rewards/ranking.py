"""The ranking reward: a score is rewarded for ordering its image rightly among the others of the batch.

Scope: the global batch. What a completion earns depends on the scores of the other images' groups, so the scores and
labels (never images) are gathered over all devices, and each device computes the rewards of its own groups. The
formula and its source are in `open_r1.rewards.thurstone`.
"""

import hashlib
import json
import math
from typing import Any

import numpy as np

from open_r1.completions import parse_score
from open_r1.rewards.thurstone import RankingSettings, compute_ranking_rewards


def fidelity_reward(
    prompts: list[Any],
    completions: list[list[dict[str, str]]],
    completion_ids: list[list[int]] | None = None,
    *,
    ranking_reward: str = "fidelity",
    ranking_variance: str = "adaptive",
    ranking_scope: str = "global",
    **columns: Any,
) -> list[float | None]:
    """Rewards a score for ordering its image rightly among those of the batch. Range 0 to 1.0010005.

    An unreadable score gets 0. A group without a usable MOS or without any partner abstains. Logs `ranking/partners`,
    the mean number of groups that a group was compared with, and `ranking/unreadable`, the share of scores that could
    not be read.

    >>> texts = ["<answer>2</answer>", "<answer>4</answer>", "<answer>3</answer>", "no answer"]
    >>> rewards = fidelity_reward(
    ...     prompts=[None] * 4,
    ...     completions=[[{"role": "assistant", "content": text}] for text in texts],
    ...     num_generations=2,
    ...     dataset_name=["KADID-10K"] * 4,
    ...     image_path=[["a.png"], ["a.png"], ["b.png"], ["b.png"]],
    ...     mos=[4.5, 4.5, 1.5, 1.5],
    ... )
    >>> [round(reward, 3) for reward in rewards]
    [0.491, 0.873, 0.708, 0.0]

    Args:
        prompts: Not read.
        completions: B conversations of one assistant message, group-major.
        completion_ids: Not read.
        ranking_reward: See `RankingSettings`, as for the next two.
        ranking_variance: Likewise.
        ranking_scope: Likewise.
        columns: `num_generations`, `dataset_name`; `mos`, or else `solution`; `image_path`, or else `id`; on more than
            one device `all_gather`, which must keep ints and floats exactly, and `process_index`.
    """
    settings = RankingSettings(reward=ranking_reward, variance=ranking_variance, scope=ranking_scope)
    num_generations = columns["num_generations"]
    firsts = range(0, len(completions), num_generations)  # one row of each group
    predictions = [_or_nan(parse_score(completion[-1]["content"])) for completion in completions]
    mos = [_read_mos(columns, row) for row in firsts]
    dataset_ids = [_hash_to_int([columns["dataset_name"][row]]) for row in firsts]
    sample_ids = [_hash_to_int(_identify_sample(columns, row)) for row in firsts]

    log_metric = columns.get("log_metric", _ignore)
    log_metric("ranking/unreadable", sum(map(math.isnan, predictions)) / max(len(predictions), 1))
    rows = slice(0, len(firsts))
    if settings.scope == "global" and "all_gather" in columns:
        all_gather = columns["all_gather"]
        group_counts = all_gather([len(firsts)])  # devices may hold different numbers of groups
        start = sum(group_counts[: columns["process_index"]]) if len(group_counts) > 1 else 0
        rows = slice(start, start + len(firsts))
        predictions, mos = all_gather(predictions), all_gather(mos)
        dataset_ids, sample_ids = all_gather(dataset_ids), all_gather(sample_ids)
    rewards, num_partners = compute_ranking_rewards(
        np.asarray(predictions).reshape(-1, num_generations),
        mos,
        dataset_ids,
        sample_ids,
        rows=rows,
        settings=settings,
    )
    log_metric("ranking/partners", float(num_partners.mean()) if len(num_partners) else 0.0)
    return [None if math.isnan(reward) else reward for reward in rewards.ravel().tolist()]


def _read_mos(columns: dict[str, Any], row: int) -> float:
    """The label of a row: its `mos`, or else the number in its `solution`; NaN where there is none."""
    if "mos" in columns:
        return _or_nan(columns["mos"][row])
    return _or_nan(parse_score(columns["solution"][row], low=-math.inf, high=math.inf))


def _identify_sample(columns: dict[str, Any], row: int) -> list[Any]:
    """What makes two groups the same sample: data set and images, or the id where there is no image."""
    images = columns["image_path"][row] if "image_path" in columns else None
    return [columns["dataset_name"][row], images or columns["id"][row]]


def _hash_to_int(parts: list[Any]) -> int:
    """A 63-bit number that is the same on every device, unlike `hash`; for ids that have to be gathered as scalars."""
    text = json.dumps(parts, default=str)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _ignore(name: str, value: float) -> None:
    """Where nobody logs."""

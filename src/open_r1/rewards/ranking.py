"""The ranking reward: a score is rewarded for ordering its image rightly among the others of the batch.

Scope: the global batch. What a completion earns depends on the scores of the other images' groups, so the scores and
labels (never images) are gathered over all devices, and each device computes the rewards of its own groups. One call
gathers everything, G + 4 numbers per group, in which a missing score or label is NaN:

    device, data set, sample, MOS, score 1, ..., score G

The formula and its source are in `open_r1.rewards.thurstone`.
"""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from open_r1.completions import parse_score
from open_r1.rewards.thurstone import RankingSettings, compute_ranking_rewards


_NUM_LABELS = 4  # numbers of a group beside its scores
_BYTES_PER_NUMBER = 8


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
    """Reinforcement learning to rank: a score is rewarded for ordering its image rightly among those of the batch.

    The absolute value of a score does not matter. For completion *j* of image *i* with score *q_ij*, against another
    image *k* with mean score *μ_k*, and *σ²* the unbiased variances of the two groups' scores:

        p_ijk = Φ( (q_ij − μ_k) / sqrt(σ²_i + σ²_k + γ) )                       γ = 1e-6
        t_ik  = 1, 0 or ½  where MOS_i is above, below or equal to MOS_k
        r_ij  = mean over k of  sqrt(p t + ε) + sqrt((1 − p)(1 − t) + ε)        ε = 1e-6

    ε is the released code's; the paper has none. The tests compare with rewards computed by the released code (8
    cases, to 1e-5). In the example below the better image (MOS 4.5) got 2 and 4, the worse one 3 and nothing that can
    be read, so its variance is 0. For the first, z = ∓1/√2, p = 0.24 and 0.76, r = √p = 0.49 and 0.87; the second
    sees mean 3: r = √½ = 0.71.

    * Compared are images of one data set only (`dataset_name`), and never two copies of one image.
    * All devices' images are partners. `--ranking_scope device` compares those of one device only, as the released
      code does; rewards then depend on how many devices there are.
    * An unreadable score earns 0 and enters no mean or variance. A group without a MOS or without a single partner
      abstains: its rewards are None and do not count.
    * `ranking/partners` logs the mean number of partners; near 0 means that there is nothing to rank by, so enlarge
      the batch, or deal the rows by data set (`--sampling dataset_homogeneous`,
      [data.md](data.md#several-data-sets)). `ranking/unreadable` logs the share of scores that could not be read. Both
      are of all devices, whatever the scope.
    * What devices exchange is one list of numbers per call: four labels and G scores for each group, never an image.
      `ranking/gathered_bytes` logs what each device received, at 8 bytes a number (pickled, as they travel, about 9).
      Eight devices with 8 images of 6 completions each: 64 × 10 numbers, 5 kB. The rewards of four processes are those
      of one process that holds the whole batch, to 1e-6 (`tests/e2e/test_rewards_ranking_ranks.py`).
    * Ablations of the paper: `--ranking_variance fixed` (σ² = 1 everywhere); `--ranking_reward binary` (1 where the
      order is right, else 0); `--ranking_reward probability_average` (Eq. 7; here p is the mean of Φ over the
      partner's single scores instead of Φ at their mean).

    Range: 0 to 1.001.
    Scope: global batch.
    Needs: columns `dataset_name`, `mos` (or a number in `solution`), and `image_path` (or `id`).
    Source: *VisualQuality-R1: Reasoning-Induced Image Quality Assessment via Reinforcement Learning to Rank*,
        arXiv 2505.14460, Eq. 1-4.

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
            one device `all_gather`, which concatenates lists and keeps ints and floats exactly, and `process_index`.
    """
    settings = RankingSettings(reward=ranking_reward, variance=ranking_variance, scope=ranking_scope)
    num_generations, device = columns["num_generations"], columns.get("process_index", 0)
    records: list[int | float] = []
    for row in range(0, len(completions), num_generations):  # one row of each group
        records += [device, _hash_to_int([columns["dataset_name"][row]]), _hash_to_int(_identify_sample(columns, row))]
        records.append(_read_mos(columns, row))
        own = completions[row : row + num_generations]
        records += [_or_nan(parse_score(completion[-1]["content"])) for completion in own]

    gathered = columns["all_gather"](records) if "all_gather" in columns else records
    batch = _parse_records(gathered, num_generations, is_split_by_device=settings.scope == "device")
    rows = np.flatnonzero(batch.devices == device)
    rewards, _ = compute_ranking_rewards(
        batch.predictions,
        batch.mos,
        batch.dataset_ids,
        batch.sample_ids,
        rows=slice(rows[0], rows[-1] + 1) if len(rows) else slice(0),  # each device's groups stand together
        settings=settings,
    )
    log_metric = columns.get("log_metric", _ignore)
    log_metric("ranking/unreadable", _mean(np.isnan(batch.predictions)))
    log_metric("ranking/partners", _mean(count_partners(batch)))
    log_metric("ranking/gathered_bytes", float(_BYTES_PER_NUMBER * len(gathered) * (gathered is not records)))
    return [None if math.isnan(reward) else reward for reward in rewards.ravel().tolist()]


@dataclass(frozen=True, kw_only=True)
class RankingBatch:
    """N groups of G scores, of all devices in the order of their numbers."""

    devices: np.ndarray  # (N,)
    dataset_ids: np.ndarray  # (N,) only groups with equal ones are compared
    sample_ids: np.ndarray  # (N,) groups with equal ones show the same image
    mos: np.ndarray  # (N,) NaN where there is none
    predictions: np.ndarray  # (N, G) NaN where unreadable


def count_partners(batch: RankingBatch) -> np.ndarray:
    """How many groups each group is compared with, (N,); 0 for one without a label.

    >>> scores = np.array([[3.0], [3.0], [np.nan]])
    >>> ids = np.zeros(3, dtype=int)
    >>> batch = RankingBatch(devices=ids, dataset_ids=ids, sample_ids=np.arange(3), mos=np.ones(3), predictions=scores)
    >>> count_partners(batch).tolist()
    [1, 1, 2]
    """
    _, datasets = np.unique(batch.dataset_ids, return_inverse=True)
    _, samples = np.unique(np.stack([batch.dataset_ids, batch.sample_ids], axis=1), axis=0, return_inverse=True)
    is_labelled = np.isfinite(batch.mos)
    is_partner = is_labelled & ~np.isnan(batch.predictions).all(axis=1)
    of_dataset, of_sample = (np.bincount(ids.ravel(), weights=is_partner)[ids.ravel()] for ids in (datasets, samples))
    return np.where(is_labelled, of_dataset - of_sample, 0).astype(np.int64)


def _parse_records(numbers: Sequence[int | float], num_generations: int, is_split_by_device: bool) -> RankingBatch:
    """Records of all devices; where these are to be kept apart, each has data sets of its own."""
    width = _NUM_LABELS + num_generations
    devices, dataset_ids, sample_ids = (np.array(numbers[i::width], dtype=np.int64) for i in range(3))
    if is_split_by_device:
        dataset_ids = dataset_ids ^ devices
    scores = [np.array(numbers[i::width], dtype=np.float64) for i in range(_NUM_LABELS - 1, width)]
    return RankingBatch(
        devices=devices,
        dataset_ids=dataset_ids,
        sample_ids=sample_ids,
        mos=scores[0],
        predictions=np.stack(scores[1:], axis=1),
    )


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if values.size else 0.0


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

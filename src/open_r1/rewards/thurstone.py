"""The mathematics of reinforcement learning to rank: rewards of scores from Thurstone's model of paired comparison.

Pure functions of the global batch: scores of N groups of G completions, and N labels. `open_r1.rewards.ranking` makes
a reward function of them. Source: "VisualQuality-R1: Reasoning-Induced Image Quality Assessment via Reinforcement
Learning to Rank", arXiv 2505.14460, Eq. 1-4 and 7. For completion j of group i with score q_ij, against another group
k of the same data set:

    p_ijk = Phi( (q_ij - mu_k) / sqrt(var_i + var_k + gamma) )      how likely i is the better image
    t_ik  = 1, 0 or 0.5 where mos_i is above, below or equal to mos_k
    r_ij  = mean over k of sqrt(p t + epsilon) + sqrt((1 - p)(1 - t) + epsilon)      fidelity

mu and var are the mean and the unbiased variance of the scores that could be read. epsilon = 1e-6 is the released
code's; with 0 it is the paper's Eq. 3.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from open_r1.utils.paired_comparison import compute_normal_cdf


_BLOCK_SIZE = 1 << 15  # elements of a work array: it stays in the cache, and torch stays on one thread
_CHOICES = {
    "reward": ("fidelity", "binary", "probability_average"),
    "variance": ("adaptive", "fixed"),
    "scope": ("global", "device"),
}


@dataclass(frozen=True, kw_only=True)
class RankingSettings:
    """How pairs are scored; the defaults are the paper's method."""

    reward: str = "fidelity"
    """fidelity; or an ablation of the paper: binary, 1 where the order is right and 0 where it is not; or
    probability_average, where p is the mean of Phi over the partner's single scores instead of Phi at their mean."""
    variance: str = "adaptive"
    """adaptive: of each group's scores; fixed: 1 for every group."""
    scope: str = "global"
    """global: partners from all devices; device: from this one alone, as the released code has it."""
    epsilon: float = 1e-6
    """Added under each square root of the fidelity."""
    gamma: float = 1e-6
    """Added to the sum of the two variances, which may be 0."""

    def __post_init__(self) -> None:
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise ValueError(f"ranking_{name} is {getattr(self, name)!r}; known: {', '.join(known)}")
        if self.epsilon < 0 or self.gamma <= 0:
            raise ValueError(f"epsilon is {self.epsilon}, at least 0; gamma is {self.gamma}, above 0")


def compute_ranking_rewards(
    predictions: np.ndarray,
    mos: np.ndarray,
    dataset_ids: np.ndarray,
    sample_ids: np.ndarray,
    *,
    rows: slice = slice(None),
    settings: RankingSettings = RankingSettings(),
) -> tuple[np.ndarray, np.ndarray]:
    """Ranking rewards of some groups of a batch, each compared with all groups of the batch.

    >>> rewards, num_partners = compute_ranking_rewards(
    ...     np.array([[2.0, 4.0], [3.0, 3.0]]), mos=np.array([4.5, 1.5]), dataset_ids=[0, 0], sample_ids=[0, 1]
    ... )
    >>> rewards.round(3).tolist(), num_partners.tolist()
    ([[0.491, 0.873], [0.708, 0.708]], [1, 1])

    Args:
        predictions: Scores (N, G), NaN where there is none.
        mos: Labels (N,), higher is better, NaN where there is none.
        dataset_ids: (N,); only groups with equal ids are compared.
        sample_ids: (N,); groups with equal ids show the same image and are not compared.
        rows: The groups to reward.
        settings: How pairs are scored.

    Returns:
        Rewards (R, G) of the chosen groups, NaN where a group abstains (no label, or no partner), and their numbers
        of partners (R,).
    """
    predictions, mos = np.asarray(predictions, dtype=np.float64), np.asarray(mos, dtype=np.float64)
    dataset_ids, sample_ids = np.asarray(dataset_ids), np.asarray(sample_ids)
    means, variances = compute_group_moments(predictions)  # (N,)
    if settings.variance == "fixed":
        variances = np.ones_like(variances)
    is_missing = np.isnan(predictions)
    is_labelled = np.isfinite(mos)
    chosen = np.arange(len(mos))[rows]
    sums = np.zeros(predictions.shape)  # (N, G)
    num_partners = np.zeros(len(mos), dtype=np.int64)

    for dataset_id in np.unique(dataset_ids[chosen]):
        is_member = is_labelled & (dataset_ids == dataset_id)
        partners = np.flatnonzero(is_member & ~is_missing.all(axis=1))
        for i, k in _iterate_blocks(chosen[is_member[chosen]], partners, predictions.shape[1]):
            is_other = sample_ids[i][:, None] != sample_ids[k]  # (I, K)
            scale = 1 / np.sqrt(variances[i][:, None] + variances[k] + settings.gamma)
            target = (np.sign(mos[i][:, None] - mos[k]) + 1) / 2
            scores = _score_pairs(predictions[i], predictions[k], means[k], scale, target, settings)  # (I, G, K)
            sums[i] += (scores @ is_other[:, :, None].astype(np.float64))[:, :, 0]
            num_partners[i] += is_other.sum(axis=1)

    sums[is_missing] = 0.0
    rewards = np.full(predictions.shape, np.nan)
    np.divide(sums, num_partners[:, None], out=rewards, where=num_partners[:, None] > 0)
    return rewards[rows], num_partners[rows]


def compute_group_moments(predictions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and unbiased variance (N,) of the scores present in each row of (N, G).

    A single score has variance 0; a row without any has mean NaN and variance 0.
    """
    is_present = ~np.isnan(predictions)
    counts = is_present.sum(axis=1)
    totals = np.where(is_present, predictions, 0.0).sum(axis=1)
    means = np.divide(totals, counts, out=np.full(len(counts), np.nan), where=counts > 0)
    squares = np.where(is_present, predictions - means[:, None], 0.0) ** 2
    return means, squares.sum(axis=1) / np.maximum(counts - 1, 1)


def _iterate_blocks(
    rows: np.ndarray, partners: np.ndarray, group_size: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Cuts rows x partners into rectangles of at most `_BLOCK_SIZE` pairs of a completion and a partner."""
    num_partners = max(1, _BLOCK_SIZE // group_size)
    for start in range(0, len(partners), num_partners):
        block = partners[start : start + num_partners]
        num_rows = max(1, _BLOCK_SIZE // (group_size * len(block)))
        for first in range(0, len(rows), num_rows):
            yield rows[first : first + num_rows], block


def _score_pairs(
    predictions: np.ndarray,
    partner_predictions: np.ndarray,
    partner_means: np.ndarray,
    scale: np.ndarray,
    target: np.ndarray,
    settings: RankingSettings,
) -> np.ndarray:
    """What each completion of I groups earns against each of K partners, (I, G, K); NaN for a missing prediction.

    Args:
        predictions: (I, G).
        partner_predictions: (K, G), at least one present in each row.
        partner_means: (K,).
        scale: One over the standard deviation of the difference, (I, K).
        target: Probability that i is better than k according to the labels, (I, K).
        settings: Which reward.
    """
    scale, target = scale[:, None, :], target[:, None, :]
    difference = predictions[:, :, None] - partner_means
    if settings.reward == "binary":
        order = (np.sign(difference.round(9)) + 1) / 2  # rounded: the mean of equal scores may be off in its last bit
        return np.where(np.isnan(difference), np.nan, order == target)
    if settings.reward == "fidelity":
        p = compute_normal_cdf(difference * scale)
    else:
        is_present = ~np.isnan(partner_predictions)
        p = np.zeros_like(difference)
        for scores, present in zip(np.nan_to_num(partner_predictions).T, is_present.T):
            p += compute_normal_cdf((predictions[:, :, None] - scores) * scale) * present
        p /= is_present.sum(axis=1)
        np.minimum(p, 1.0, out=p)  # a mean of ones may exceed 1 by a rounding error
    return _compute_fidelity(p, target, settings.epsilon)


def _compute_fidelity(p: np.ndarray, target: np.ndarray, epsilon: float) -> np.ndarray:
    """Fidelity between the probabilities p and target, in the memory of p."""
    agreement = p * target
    agreement += epsilon
    np.sqrt(agreement, out=agreement)
    np.subtract(1.0, p, out=p)
    p *= 1.0 - target
    p += epsilon
    np.sqrt(p, out=p)
    p += agreement
    return p

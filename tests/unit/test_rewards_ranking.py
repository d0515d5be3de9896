"""The ranking reward: the released code's numbers, hand-computed and edge cases, and a slow twin that must agree."""

import json
import math
import threading
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from open_r1.completions import wrap_answer
from open_r1.rewards.ranking import RankingBatch, count_partners, fidelity_reward
from open_r1.rewards.thurstone import RankingSettings, compute_group_moments, compute_ranking_rewards


CASES_FILE = Path(__file__).parents[3] / "shared" / "data" / "fidelity_cases.json"
NAN = float("nan")


def rank(predictions, mos, dataset_ids=None, sample_ids=None, rows=slice(None), **settings):
    """compute_ranking_rewards with one data set and distinct samples unless told otherwise."""
    dataset_ids = [0] * len(mos) if dataset_ids is None else dataset_ids
    sample_ids = range(len(mos)) if sample_ids is None else sample_ids
    settings = RankingSettings(**settings)
    return compute_ranking_rewards(predictions, mos, dataset_ids, list(sample_ids), rows=rows, settings=settings)


def rank_slowly(predictions, mos, dataset_ids, sample_ids, settings):
    """The definition, one pair at a time, with NaN for groups that abstain."""

    def phi(x):
        return (1 + math.erf(x / math.sqrt(2))) / 2

    def moments(group):
        present = [q for q in group if not math.isnan(q)]
        mean = sum(present) / len(present) if present else NAN
        variance = sum((q - mean) ** 2 for q in present) / (len(present) - 1) if len(present) > 1 else 0.0
        return present, mean, 1.0 if settings.variance == "fixed" else variance

    def score(q, i, k):
        present, mean, variance = moments(predictions[k])
        scale = math.sqrt(moments(predictions[i])[2] + variance + settings.gamma)
        t = 0.5 if mos[i] == mos[k] else float(mos[i] > mos[k])
        if settings.reward == "binary":
            return float((0.5 if abs(q - mean) < 1e-9 else float(q > mean)) == t)
        if settings.reward == "fidelity":
            p = phi((q - mean) / scale)
        else:
            p = sum(phi((q - other) / scale) for other in present) / len(present)
        return math.sqrt(p * t + settings.epsilon) + math.sqrt((1 - p) * (1 - t) + settings.epsilon)

    rewards = []
    for i, group in enumerate(predictions):
        partners = [
            k
            for k in range(len(mos))
            if dataset_ids[k] == dataset_ids[i] and sample_ids[k] != sample_ids[i]
            if not math.isnan(mos[k]) and not math.isnan(mos[i]) and moments(predictions[k])[0]
        ]
        rewards.append([_mean([score(q, i, k) for k in partners], is_missing=math.isnan(q)) for q in group])
    return np.array(rewards)


def _mean(scores, is_missing):
    if not scores:
        return NAN
    return 0.0 if is_missing else sum(scores) / len(scores)


def make_batch(num_groups, num_generations, seed=0):
    """A batch with ties, duplicates, three data sets, missing scores and missing labels."""
    rng = np.random.default_rng(seed)
    mos = rng.integers(1, 6, num_groups).astype(float)
    predictions = np.clip(mos[:, None] + rng.normal(0, 1, (num_groups, num_generations)), 1, 5).round(1)
    predictions[rng.random(predictions.shape) < 0.15] = NAN
    predictions[::7] = NAN
    predictions[1::7] = 3.3  # no variance
    mos[::11] = NAN
    return predictions, mos, rng.integers(0, 3, num_groups), rng.integers(0, num_groups, num_groups)


@pytest.mark.skipif(not CASES_FILE.exists(), reason=f"needs {CASES_FILE.name}, which is not part of the repo")
def test_rewards_are_those_of_the_released_code():
    cases = json.loads(CASES_FILE.read_text())
    assert cases
    for case in cases:
        rewards, _ = rank(case["predictions"], case["mos"])
        assert np.abs(rewards - case["rewards"]).max() < 1e-5


def test_two_images_by_hand():
    # variances 2 and 0: z = (2-3)/sqrt(2) and (4-3)/sqrt(2), p = 0.2398 and 0.7602; the first image is the better one,
    # so it earns sqrt(p); the second sees mean 3 twice: p = 0.5, earns sqrt(0.5)
    rewards, num_partners = rank([[2, 4], [3, 3]], [4.5, 1.5], epsilon=0.0)
    assert rewards == pytest.approx(np.sqrt([[0.23975, 0.76025], [0.5, 0.5]]), abs=1e-5)
    assert num_partners.tolist() == [1, 1]


def test_right_order_earns_the_most_and_wrong_order_the_least():
    right, _ = rank([[5, 5], [1, 1]], [4, 2])
    wrong, _ = rank([[1, 1], [5, 5]], [4, 2])
    assert right == pytest.approx(np.full((2, 2), 1.0010005), abs=1e-6)
    assert wrong == pytest.approx(np.full((2, 2), 0.002), abs=1e-6)


def test_a_tie_in_the_labels_asks_for_a_tie_in_the_scores():
    # t = 0.5: p = 0.5 gives sqrt(.25) twice, p = 1 gives sqrt(.5) once
    agreeing, _ = rank([[3, 3], [3, 3]], [2, 2], epsilon=0.0)
    apart, _ = rank([[5, 5], [1, 1]], [2, 2], epsilon=0.0)
    assert agreeing == pytest.approx(np.ones((2, 2)))
    assert apart == pytest.approx(np.full((2, 2), math.sqrt(0.5)))


@pytest.mark.parametrize("num_generations", [1, 4])
def test_a_single_group_abstains(num_generations):
    rewards, num_partners = rank(np.full((1, num_generations), 3.0), [3.0])
    assert np.isnan(rewards).all()
    assert num_partners.tolist() == [0]


def test_an_empty_batch_gives_an_empty_answer():
    rewards, num_partners = rank(np.zeros((0, 4)), [])
    assert rewards.shape == (0, 4)
    assert num_partners.shape == (0,)


def test_one_completion_per_group_is_defined():
    rewards, _ = rank([[4.0], [2.0], [3.0]], [4, 2, 3])
    assert rewards == pytest.approx(np.full((3, 1), 1.0010005), abs=1e-6)


def test_an_unreadable_score_earns_nothing_and_enters_no_mean_or_variance():
    with_gap, _ = rank([[4.0, NAN, 3.0], [2.0, 2.5, NAN]], [4, 2])
    without, _ = rank([[4.0, 3.0], [2.0, 2.5]], [4, 2])
    assert with_gap[0, 1] == with_gap[1, 2] == 0.0
    assert with_gap[0, [0, 2]] == pytest.approx(without[0])
    assert with_gap[1, :2] == pytest.approx(without[1])


def test_a_group_without_any_readable_score_is_no_partner_and_earns_nothing():
    rewards, num_partners = rank([[NAN, NAN], [4.0, 4.0], [2.0, 2.0]], [3, 4, 2])
    assert num_partners.tolist() == [2, 1, 1]
    assert rewards[0].tolist() == [0.0, 0.0]
    assert (rewards[1:] > 1).all()


def test_if_nothing_can_be_read_everyone_abstains():
    rewards, _ = rank(np.full((3, 2), NAN), [1, 2, 3])
    assert np.isnan(rewards).all()


def test_a_group_without_a_label_abstains_and_is_no_partner():
    rewards, num_partners = rank([[4.0, 4.5], [2.0, 2.5], [3.0, 3.5]], [4, NAN, 3])
    assert np.isnan(rewards[1]).all()
    assert num_partners.tolist() == [1, 0, 1]


def test_duplicates_of_one_image_are_not_compared():
    predictions, mos = [[4.0, 4.4], [3.0, 5.0], [2.0, 2.2]], [4, 4, 2]
    rewards, num_partners = rank(predictions, mos, sample_ids=[7, 7, 8])
    assert num_partners.tolist() == [1, 1, 2]
    alone, _ = rank(predictions[::2], mos[::2])
    assert rewards[0] == pytest.approx(alone[0])
    only_duplicates, _ = rank(predictions[:2], mos[:2], sample_ids=[7, 7])
    assert np.isnan(only_duplicates).all()


def test_data_sets_are_never_compared_with_each_other():
    predictions, mos, _, sample_ids = make_batch(40, 4)
    dataset_ids = np.arange(40) % 2
    together, _ = rank(predictions, mos, dataset_ids, sample_ids)
    for dataset_id in (0, 1):
        apart, _ = rank(predictions[dataset_id::2], mos[dataset_id::2], None, sample_ids[dataset_id::2])
        assert together[dataset_id::2] == pytest.approx(apart, nan_ok=True)


def test_permuting_groups_permutes_rewards():
    batch = make_batch(50, 5)
    order = np.random.default_rng(1).permutation(50)
    rewards, _ = rank(*batch)
    permuted, _ = rank(*(values[order] for values in batch))
    assert permuted == pytest.approx(rewards[order], nan_ok=True)


def test_rows_give_the_same_rewards_as_the_whole_batch():
    batch = make_batch(50, 5)
    rewards, num_partners = rank(*batch)
    some, some_partners = rank(*batch, rows=slice(20, 33))
    assert some == pytest.approx(rewards[20:33], nan_ok=True)
    assert some_partners.tolist() == num_partners[20:33].tolist()


@pytest.mark.parametrize("reward", ["fidelity", "binary", "probability_average"])
@pytest.mark.parametrize("variance", ["adaptive", "fixed"])
@pytest.mark.parametrize("epsilon", [0.0, 1e-6])
def test_the_slow_twin_agrees(reward, variance, epsilon):
    settings = {"reward": reward, "variance": variance, "epsilon": epsilon}
    batch = make_batch(60, 5)
    rewards, _ = rank(*batch, **settings)
    slow = rank_slowly(*(values.tolist() for values in batch), RankingSettings(**settings))
    assert np.isnan(slow).any()
    assert (slow == 0).any()
    assert rewards == pytest.approx(slow, abs=1e-9, nan_ok=True)


def test_blocks_do_not_change_the_rewards(monkeypatch):
    batch = make_batch(60, 5)
    rewards, _ = rank(*batch)
    for size in (1, 7, 64):
        monkeypatch.setattr("open_r1.rewards.thurstone._BLOCK_SIZE", size)
        assert rank(*batch)[0] == pytest.approx(rewards, abs=1e-12, nan_ok=True)


def test_moments_are_of_the_present_scores():
    means, variances = compute_group_moments(np.array([[1.0, 2.0, 3.0], [4.0, NAN, 5.0], [2.0, NAN, NAN], [NAN] * 3]))
    assert means == pytest.approx([2.0, 4.5, 2.0, NAN], nan_ok=True)
    assert variances == pytest.approx([1.0, 0.5, 0.0, 0.0])


@pytest.mark.parametrize("name", ["reward", "variance", "scope"])
def test_an_unknown_setting_is_refused_with_the_known_ones(name):
    with pytest.raises(ValueError, match=f"ranking_{name} is 'typo'; known: "):
        RankingSettings(**{name: "typo"})


@pytest.mark.parametrize("setting", [{"gamma": 0.0}, {"epsilon": -1e-6}])
def test_settings_that_divide_by_zero_or_take_roots_of_negative_numbers_are_refused(setting):
    with pytest.raises(ValueError, match="gamma"):
        RankingSettings(**setting)


def test_memory_does_not_grow_with_the_number_of_pairs():
    rng = np.random.default_rng(0)
    mos, predictions = rng.uniform(1, 5, 4096), rng.uniform(1, 5, (4096, 16))
    tracemalloc.start()
    rank(predictions, mos, rows=slice(0, 64))  # 64 x 16 completions against 4096 partners: 32 MiB an array at once
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 * 2**20


# The reward function on top: texts and columns in, lists of floats out.


def make_columns(groups, num_generations):
    """Columns of groups (dataset, image, mos), repeated per completion."""
    rows = [group for group in groups for _ in range(num_generations)]
    return {
        "num_generations": num_generations,
        "dataset_name": [row[0] for row in rows],
        "image_path": [[row[1]] for row in rows],
        "mos": [row[2] for row in rows],
        "id": list(range(len(rows))),
    }


def make_completions(scores):
    return [[{"role": "assistant", "content": wrap_answer(str(score))}] for score in scores]


def call(scores, groups, **more):
    num_generations = len(scores) // len(groups)
    columns = make_columns(groups, num_generations)
    return fidelity_reward(prompts=scores, completions=make_completions(scores), **{**columns, **more})


GROUPS = [("A", "1.png", 4.5), ("A", "2.png", 1.5), ("B", "1.png", 3.0), ("B", "2.png", 2.0), ("A", "3.png", 3.0)]
SCORES = [4.1, 3.9, 1.0, "blurred", 4.0, 2.0, 2.0, 2.5, 3.0, 9.0]


def test_the_reward_function_scores_text_like_the_pure_function():
    predictions = [[4.1, 3.9], [1.0, NAN], [4.0, 2.0], [2.0, 2.5], [3.0, NAN]]
    expected, _ = rank(predictions, [4.5, 1.5, 3.0, 2.0, 3.0], [0, 0, 1, 1, 0], [0, 1, 2, 3, 4])
    assert call(SCORES, GROUPS) == pytest.approx(expected.ravel().tolist())


def test_it_logs_how_many_partners_there_were():
    logged = {}
    call(SCORES, GROUPS, log_metric=logged.__setitem__)
    assert logged == {
        "ranking/partners": (2 + 2 + 1 + 1 + 2) / 5,
        "ranking/unreadable": 0.2,
        "ranking/gathered_bytes": 0.0,  # one process
    }


def test_partners_are_counted_as_the_rewards_compare_them():
    predictions, mos, dataset_ids, sample_ids = make_batch(80, 4)
    _, expected = rank(predictions, mos, dataset_ids, sample_ids)
    batch = RankingBatch(
        devices=dataset_ids, dataset_ids=dataset_ids, sample_ids=sample_ids, mos=mos, predictions=predictions
    )
    assert count_partners(batch).tolist() == expected.tolist()


def test_a_group_that_abstains_gives_none():
    assert call([3, 4], GROUPS[:1]) == [None, None]
    assert call([3, 4, 2, 1], [GROUPS[0], ("A", "2.png", None)]) == [None] * 4


def test_without_a_mos_column_the_solution_is_read():
    solutions = [wrap_answer(str(group[2])) for group in GROUPS for _ in range(2)]
    columns = {**make_columns(GROUPS, 2), "solution": solutions}
    del columns["mos"]
    assert fidelity_reward(SCORES, make_completions(SCORES), **columns) == call(SCORES, GROUPS)


def test_rows_without_an_image_are_told_apart_by_their_id():
    groups = [("A", "1.png", 4.5), ("A", "1.png", 1.5)]
    assert call([4, 2], groups) == [None, None]
    by_id = call([4, 2], groups, image_path=[[], []])
    assert by_id == pytest.approx([1.0010005] * 2, abs=1e-6)


class Devices:
    """Runs a function once per rank in threads, with an all_gather that really waits for all of them."""

    def __init__(self, num_devices):
        self.barrier = threading.Barrier(num_devices, timeout=20)
        self.slots = [None] * num_devices

    def run(self, func):
        results = [None] * len(self.slots)

        def target(rank):
            results[rank] = func(rank, lambda values: self.all_gather(rank, values))

        threads = [threading.Thread(target=target, args=(rank,)) for rank in range(len(self.slots))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results

    def all_gather(self, rank, values):
        self.slots[rank] = values
        self.barrier.wait()
        gathered = [value for slot in self.slots for value in slot]
        self.barrier.wait()
        return gathered


def call_on_two_devices(split, **options):
    parts = [slice(0, split), slice(split, None)]

    def on_device(rank, all_gather):
        groups, scores = GROUPS[parts[rank]], SCORES[2 * split :] if rank else SCORES[: 2 * split]
        return call(scores, groups, all_gather=all_gather, process_index=rank, **options)

    return sum(Devices(2).run(on_device), [])


@pytest.mark.parametrize("split", [1, 2, 4])
def test_devices_share_their_scores_so_that_rewards_do_not_depend_on_their_number(split):
    assert call_on_two_devices(split) == call(SCORES, GROUPS)


def test_with_device_scope_each_device_compares_its_own_groups():
    expected = call(SCORES[:4], GROUPS[:2]) + call(SCORES[4:], GROUPS[2:])
    assert call_on_two_devices(2, ranking_scope="device") == expected
    assert expected != call(SCORES, GROUPS)

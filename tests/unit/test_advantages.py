"""Advantages by hand: what is compared with what, and the settled edge cases.

Against TRL's code: test_advantages_against_trl.py.
"""

import pytest
import torch

from open_r1.trainer.advantages import (
    AGGREGATIONS,
    DEFAULT_SCALE,
    STD_EPSILON,
    Advantages,
    AdvantageSettings,
    combine_rewards,
    estimate_advantages,
)


NAN = float("nan")
RLOO = AdvantageSettings(advantage_estimator="rloo", scale_rewards="none")
REINFORCE = AdvantageSettings(advantage_estimator="reinforce_plus_plus", scale_rewards="batch")
GDPO = AdvantageSettings(multi_objective_aggregation="normalize_then_sum")
GRPO = [AdvantageSettings(scale_rewards=scale) for scale in ("group", "batch", "none")]
EVERY_SETTING = [*GRPO, RLOO, REINFORCE, GDPO]


def estimate(
    rewards: list[float], num_generations: int, settings: AdvantageSettings = AdvantageSettings()
) -> Advantages:
    """Advantages under a single reward function."""
    return estimate_advantages(torch.tensor(rewards)[:, None], torch.ones(1), num_generations, settings)


def test_advantages_are_deviations_from_the_group_over_its_unbiased_std_plus_1e4():
    advantages = estimate([0.0, 1.0, 2.0, 5.0, 5.0, 8.0], 3).advantages
    # group 0: mean 1, std 1; group 1: mean 6, deviations -1 -1 2, variance 6 / 2 = 3
    root = 3**0.5 + STD_EPSILON
    expected = [-1 / (1 + STD_EPSILON), 0.0, 1 / (1 + STD_EPSILON), -1 / root, -1 / root, 2 / root]
    assert advantages.tolist() == pytest.approx(expected)
    assert STD_EPSILON == 1e-4


@pytest.mark.parametrize("settings", EVERY_SETTING, ids=str)
def test_a_group_of_equal_rewards_has_advantage_exactly_zero_and_is_counted(settings):
    estimated = estimate([0.7, 0.7 + 1e-7, 0.1, 0.9], 2, settings)
    assert estimated.advantages[:2].tolist() == [0.0, 0.0]
    assert estimated.is_constant.tolist() == [True, False]
    assert estimated.advantages[2] < 0 < estimated.advantages[3]


@pytest.mark.parametrize("settings", EVERY_SETTING, ids=str)
def test_an_absent_reward_has_advantage_zero_and_changes_no_other(settings):
    with_absent = estimate([1.0, 3.0, NAN, NAN, NAN, NAN, 2.0, NAN, 8.0], 3, settings)
    without = estimate([1.0, 3.0, 2.0, 8.0], 2, settings)
    assert with_absent.advantages[[0, 1, 6, 8]].tolist() == pytest.approx(without.advantages.tolist())
    assert with_absent.advantages[[2, 3, 4, 5, 7]].tolist() == [0.0] * 5
    assert with_absent.rewards.isnan().nonzero().flatten().tolist() == [2, 3, 4, 5, 7]
    assert with_absent.is_constant.tolist() == [False, True, False]


@pytest.mark.parametrize("settings", EVERY_SETTING, ids=str)
def test_a_reward_without_another_to_compare_with_teaches_nothing(settings):
    estimated = estimate([NAN, 5.0, 2.0, 8.0], 2, settings)
    assert estimated.advantages[:2].tolist() == [0.0, 0.0]
    assert estimated.is_constant.tolist() == [True, False]


@pytest.mark.parametrize("settings", [GRPO[0], GRPO[2], RLOO, REINFORCE, GDPO], ids=str)  # not by the batch's spread
def test_adding_a_constant_to_a_group_changes_nothing(settings):
    before = estimate([0.1, 0.4, 0.2, 0.9], 2, settings).advantages
    after = estimate([5.1, 5.4, -2.8, -2.1], 2, settings).advantages
    assert torch.allclose(before, after, atol=1e-5)


def test_scaling_by_the_batch_divides_all_groups_by_one_number():
    rewards = [0.0, 1.0, 0.0, 3.0]
    advantages = estimate(rewards, 2, AdvantageSettings(scale_rewards="batch")).advantages
    spread = torch.tensor(rewards).std() + STD_EPSILON
    assert torch.allclose(advantages, torch.tensor([-0.5, 0.5, -1.5, 1.5]) / spread)


def test_without_scaling_advantages_keep_the_unit_of_the_reward():
    assert estimate([0.0, 1.0], 2, AdvantageSettings(scale_rewards="none")).advantages.tolist() == [-0.5, 0.5]


def test_rloo_compares_each_completion_with_the_mean_of_the_others():
    # others' means: 4, 3, 2; then 5, 3, with the third absent
    advantages = estimate([1.0, 3.0, 5.0, 3.0, 5.0, NAN], 3, RLOO).advantages
    assert advantages.tolist() == pytest.approx([-3.0, 0.0, 3.0, -2.0, 2.0, 0.0])


def test_reinforce_plus_plus_normalises_deviations_over_the_batch():
    # group means 1, 10 and 4; deviations -1 1, -3 3, 0 0; their variance (1 + 1 + 9 + 9) / 5 = 4
    advantages = estimate([0.0, 2.0, 7.0, 13.0, 4.0, 4.0], 2, REINFORCE).advantages
    scale = 2 + STD_EPSILON
    assert advantages.tolist() == pytest.approx([-1 / scale, 1 / scale, -3 / scale, 3 / scale, 0.0, 0.0])


def test_normalising_first_keeps_a_small_reward_from_drowning_in_a_large_one():
    # one group; the first reward says 1 > 0, the second 0 > 100: (r - mean) / std = 0.7071 up to 1e-4 for both
    rewards_per_func = torch.tensor([[1.0, 0.0], [0.0, 100.0]])
    summed = estimate_advantages(rewards_per_func, torch.ones(2), 2, AdvantageSettings())
    assert summed.advantages[1] > 0.7
    normalised = estimate_advantages(rewards_per_func, torch.tensor([2.0, 1.0]), 2, GDPO)
    # 2 * 0.7071 - 0.7071 = 0.7071, whose spread over the batch is 1
    assert normalised.advantages.tolist() == pytest.approx([0.7071, -0.7071], abs=5e-4)
    assert normalised.rewards.tolist() == [2.0, 100.0]  # logged as they are


def test_normalising_first_takes_an_abstention_for_no_opinion():
    rewards_per_func = torch.tensor([[1.0, NAN], [3.0, NAN], [2.0, 4.0], [NAN, 8.0]])
    estimated = estimate_advantages(rewards_per_func, torch.ones(2), 4, GDPO)
    # first reward: mean 2, std 1: -1 1 0; second: mean 6, std sqrt 8: -0.7071 0.7071; sums -1 1 -0.7071 0.7071
    scores = torch.tensor([-1.0, 1.0, -(0.5**0.5), 0.5**0.5])
    assert torch.allclose(estimated.advantages, scores / scores.std(), atol=1e-3)


def test_normalising_first_is_blind_to_a_reward_that_does_not_vary():
    rewards_per_func = torch.tensor([[0.3, 5.0], [0.3 + 5e-7, 7.0]])
    alone = estimate([5.0, 7.0], 2, GDPO)
    both = estimate_advantages(rewards_per_func, torch.ones(2), 2, GDPO)
    assert torch.equal(both.advantages, alone.advantages)


def test_rewards_are_summed_with_weights_over_the_functions_that_gave_a_value():
    rewards_per_func = torch.tensor([[1.0, 2.0], [NAN, 2.0], [NAN, NAN]])
    combined = combine_rewards(rewards_per_func, torch.tensor([1.0, 0.5]))
    assert combined[:2].tolist() == [2.0, 1.0]
    assert combined[2].isnan()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"scale_rewards": "row"}, "scale_rewards must be group, batch or none, not 'row'"),
        ({"advantage_estimator": "gae"}, "advantage_estimator must be grpo, rloo or reinforce_plus_plus"),
        ({"multi_objective_aggregation": "max"}, "must be sum_then_normalize or normalize_then_sum"),
        ({"advantage_estimator": "rloo"}, "scale_rewards group would be ignored by advantage_estimator rloo"),
        (
            {"advantage_estimator": "reinforce_plus_plus", "scale_rewards": "none"},
            "scale_rewards none would be ignored",
        ),
        (
            {
                "advantage_estimator": "rloo",
                "scale_rewards": "none",
                "multi_objective_aggregation": "normalize_then_sum",
            },
            "does not go with advantage_estimator rloo",
        ),
        (
            {"scale_rewards": "batch", "multi_objective_aggregation": "normalize_then_sum"},
            "scale_rewards batch would be ignored by multi_objective_aggregation normalize_then_sum",
        ),
    ],
)
def test_settings_that_are_unknown_or_would_be_ignored_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        AdvantageSettings(**settings)


def test_every_estimator_and_aggregation_is_covered_above():
    assert {settings.advantage_estimator for settings in EVERY_SETTING} == DEFAULT_SCALE.keys()
    assert {settings.multi_objective_aggregation for settings in EVERY_SETTING} == set(AGGREGATIONS)

"""Advantages: what is compared with what, and the settled edge cases."""

import pytest
import torch

from open_r1.trainer.advantages import STD_EPSILON, combine_rewards, compute_advantages


NAN = float("nan")


def test_advantages_are_deviations_from_the_group_over_its_unbiased_std_plus_1e4():
    rewards = torch.tensor([0.0, 1.0, 2.0, 5.0, 5.0, 8.0])
    advantages, _ = compute_advantages(rewards, num_generations=3)
    # group 0: mean 1, std 1; group 1: mean 6, deviations -1 -1 2, variance 6 / 2 = 3
    root = 3**0.5 + STD_EPSILON
    expected = [-1 / (1 + STD_EPSILON), 0.0, 1 / (1 + STD_EPSILON), -1 / root, -1 / root, 2 / root]
    assert advantages.tolist() == pytest.approx(expected)
    assert STD_EPSILON == 1e-4


def test_a_group_of_equal_rewards_has_advantage_exactly_zero_and_is_counted():
    rewards = torch.tensor([0.7, 0.7 + 1e-7, 0.1, 0.9])
    advantages, is_constant = compute_advantages(rewards, num_generations=2)
    assert advantages[:2].tolist() == [0.0, 0.0]
    assert is_constant.tolist() == [True, False]


def test_an_absent_reward_has_advantage_zero_and_enters_no_mean():
    rewards = torch.tensor([1.0, 3.0, NAN, NAN, NAN, NAN])
    advantages, is_constant = compute_advantages(rewards, num_generations=3)
    assert advantages.tolist() == pytest.approx([-1 / (2**0.5 + 1e-4), 1 / (2**0.5 + 1e-4), 0, 0, 0, 0])
    assert is_constant.tolist() == [False, True]


def test_adding_a_constant_to_a_group_changes_nothing():
    rewards = torch.tensor([0.1, 0.4, 0.2, 0.9])
    shifted = rewards + torch.tensor([5.0, 5.0, -3.0, -3.0])
    for scale in ("group", "batch", "none"):
        if scale == "batch":
            continue  # the batch's spread does change
        before, after = (compute_advantages(values, 2, scale)[0] for values in (rewards, shifted))
        assert torch.allclose(before, after, atol=1e-5)


def test_scaling_by_the_batch_divides_all_groups_by_one_number():
    rewards = torch.tensor([0.0, 1.0, 0.0, 3.0])
    advantages, _ = compute_advantages(rewards, 2, "batch")
    spread = rewards.std() + STD_EPSILON
    assert torch.allclose(advantages, torch.tensor([-0.5, 0.5, -1.5, 1.5]) / spread)


def test_without_scaling_advantages_keep_the_unit_of_the_reward():
    advantages, _ = compute_advantages(torch.tensor([0.0, 1.0]), 2, "none")
    assert advantages.tolist() == [-0.5, 0.5]


def test_an_unknown_scaling_is_refused():
    with pytest.raises(ValueError, match="group, batch or none"):
        compute_advantages(torch.zeros(2), 2, "row")


def test_rewards_are_summed_with_weights_over_the_functions_that_gave_a_value():
    rewards_per_func = torch.tensor([[1.0, 2.0], [NAN, 2.0], [NAN, NAN]])
    combined = combine_rewards(rewards_per_func, torch.tensor([1.0, 0.5]))
    assert combined[:2].tolist() == [2.0, 1.0]
    assert combined[2].isnan()

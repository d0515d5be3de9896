"""Reward functions see whole groups, and what they return is checked."""

import pytest
import torch

from open_r1.trainer.reward_calls import call_reward_funcs, repeat_columns


def call(*funcs):
    return call_reward_funcs(
        list(funcs),
        prompts=["p", "p", "q", "q"],
        texts=["a", "bb", "ccc", "dddd"],
        completion_ids=[[1], [2], [3], [4]],
        columns={"mos": [1.0, 1.0, 2.0, 2.0], "num_generations": 2},
    )


def length_reward(completions, **kwargs):
    return [float(len(completion[0]["content"])) for completion in completions]


def mos_reward(mos, num_generations, **kwargs):
    return [None if value == 1.0 else value / num_generations for value in mos]


async def slow_reward(completion_ids, **kwargs):
    return [ids[0] for ids in completion_ids]


def test_columns_are_repeated_per_completion_group_by_group():
    assert repeat_columns([{"a": 1}, {"a": 2}], 3) == {"a": [1, 1, 1, 2, 2, 2]}


def test_values_of_all_functions_stand_side_by_side_and_none_becomes_nan():
    rewards = call(length_reward, mos_reward, slow_reward)
    assert rewards[:, 0].tolist() == [1, 2, 3, 4]
    assert rewards[:2, 1].isnan().all()
    assert rewards[2:, 1].tolist() == [1.0, 1.0]
    assert rewards[:, 2].tolist() == [1, 2, 3, 4]
    assert rewards.dtype == torch.float32


def test_a_function_that_returns_too_few_values_is_named():
    def short_reward(**kwargs):
        return [1.0]

    with pytest.raises(ValueError, match="short_reward returned 1 values for 4 completions"):
        call(short_reward)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_function_that_returns_no_number_is_named(value):
    def broken_reward(**kwargs):
        return [1.0, value, 1.0, 1.0]

    with pytest.raises(ValueError, match="broken_reward returned .* for completion 1"):
        call(broken_reward)

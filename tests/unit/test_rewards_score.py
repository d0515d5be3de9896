"""The regression reward: how near a score is to the MOS."""

import doctest
import math

import pytest

from open_r1.completions import wrap_answer
from open_r1.rewards import build_reward_funcs, score
from open_r1.rewards.score import score_regression_reward


def reward(texts, mos=3.0, **options):
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    return score_regression_reward([], completions, mos=[mos] * len(texts), **options)


@pytest.mark.parametrize(
    "text, expected",
    [
        ("<think>soft</think><answer>3</answer>", 1.0),
        ("<answer>3.34 out of 5</answer>", 1.0),
        ("<answer>2,66</answer>", 1.0),
        ("<answer>3.36</answer>", 0.0),
        ("<answer>1</answer><answer>3</answer>", 1.0),
        ("<answer>30</answer>", 0.0),  # outside the scale
        ("<answer>nan</answer>", 0.0),
        ("<answer>three</answer>", 0.0),
        ("<answer></answer>", 0.0),
        ("3.0", 0.0),
        ("", 0.0),
        ('{"reasoning_steps": [], "answer": ""}', 0.0),
    ],
)
def test_a_score_within_the_threshold_earns_one(text, expected):
    assert reward([text]) == [expected]


def test_the_threshold_itself_is_outside():
    assert reward([wrap_answer("3.5"), wrap_answer("3.25")], regression_width=0.5) == [0.0, 1.0]


def test_the_gaussian_falls_with_the_distance():
    texts = [wrap_answer(text) for text in ("3", "3.5", "2.5", "4", "five")]
    expected = [1.0, math.exp(-0.5), math.exp(-0.5), math.exp(-2), 0.0]
    assert reward(texts, regression_kernel="gaussian", regression_width=0.5) == pytest.approx(expected)


@pytest.mark.parametrize("mos", [None, math.nan])
def test_a_row_without_mos_abstains(mos):
    assert reward([wrap_answer("3"), ""], mos) == [None, None]


def test_labels_on_another_scale_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match="71.5.*rescale.*fidelity"):
        reward([wrap_answer("3")], mos=71.5)
    assert reward([wrap_answer("5")], mos=5.0000001) == [1.0]  # rounding is no other scale


@pytest.mark.parametrize("options", [{"regression_kernel": "cubic"}, {"regression_width": 0.0}])
def test_options_that_mean_nothing_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        reward([], **options)


def test_regression_takes_the_place_of_ranking_by_one_flag():
    ranking, regression = (build_reward_funcs([name, "format"], "iqa") for name in ("accuracy", "score_regression"))
    assert [func.__name__ for func in ranking] == ["fidelity_reward", "format_reward"]
    assert [func.__name__ for func in regression] == ["score_regression_reward", "format_reward"]


def test_the_examples_in_the_docstrings_hold():
    results = doctest.testmod(score)
    assert results.attempted > 0
    assert results.failed == 0

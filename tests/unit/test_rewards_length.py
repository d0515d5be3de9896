"""Shaping rewards: length by right and wrong, repetition."""

import asyncio
import doctest
import json

import pytest

from open_r1.completions import wrap_answer
from open_r1.rewards import build_reward_funcs, length
from open_r1.rewards.length import length_reward, repetition_reward


def by_column(prompts, completions, completion_ids=None, **columns):
    return columns["accuracy"]


def reward(lengths, accuracies, **options):
    ids = [[1] * number for number in lengths]
    completions = [[{"role": "assistant", "content": ""}] for _ in lengths]
    return length_reward([], completions, ids, accuracy_func=by_column, accuracy=accuracies, **options)


def repeat(*texts, **options):
    return repetition_reward([], [[{"role": "assistant", "content": text}] for text in texts], **options)


# ---- length -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "tokens, right, wrong",
    [(0, 1.0, 0.0), (512, 0.75, -0.25), (1024, 0.5, -0.5), (2048, 0.5, -0.5), (9999, 0.5, -0.5)],
)
def test_right_and_wrong_answers_have_curves_of_their_own(tokens, right, wrong):
    assert reward([tokens] * 2, [1.0, 0.0]) == pytest.approx([right, wrong])


@pytest.mark.parametrize("accuracy", [0.0, 1.0])
def test_the_curve_never_turns(accuracy):
    values = reward(range(0, 5000, 50), [accuracy] * 100)
    assert all(later <= earlier for earlier, later in zip(values, values[1:]))
    assert values[0] > values[10] > values[20]


def test_an_answer_is_right_from_the_threshold_on():
    assert reward([0] * 4, [0.69, 0.7, 1.5, -1.0]) == [0.0, 1.0, 1.0, 0.0]
    assert reward([0] * 2, [0.69, 0.7], length_correct_from=0.5) == [1.0, 1.0]


def test_the_ends_of_both_curves_and_the_horizon_are_options():
    options = {"length_horizon": 100, "length_correct": [2.0, 1.0], "length_wrong": [-10.0, 0.0]}  # as in the paper
    assert reward([0, 50, 100] * 2, [1.0] * 3 + [0.0] * 3, **options) == pytest.approx([2, 1.5, 1, -10, -5, 0])


def test_where_accuracy_abstains_so_does_length():
    assert reward([10, 10], [None, 1.0])[0] is None


def test_length_refuses_to_go_without_tokens_or_accuracy():
    with pytest.raises(ValueError, match="completion_ids"):
        length_reward([], [], accuracy_func=by_column)
    with pytest.raises(ValueError, match="accuracy_func"):
        length_reward([], [], [])


def test_the_accuracy_of_the_task_with_its_options_says_what_is_right():
    """A box in relative coordinates that is right only where `--box_format` reaches the accuracy behind `length`."""
    names, options = ["accuracy", "length"], {"box_format": "relative_1000", "label_box_format": "relative_1000"}
    accuracy, shaped = build_reward_funcs(names, "rec", **options, length_horizon=10)
    texts = [
        wrap_answer("[0, 0, 500, 500]"),
        wrap_answer("[600, 600, 700, 700]"),
        '{"reasoning_steps": [], "answer": ""}',
    ]
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    columns = {"solution": ["[0, 0, 500, 500]"] * 3}
    assert accuracy([], completions, **columns) == [1.0, 0.0, 0.0]
    assert shaped([], completions, [[1] * 5] * 3, **columns) == pytest.approx([0.75, -0.25, -0.25])


def test_another_accuracy_can_be_named():
    (shaped,) = build_reward_funcs(["length"], "rec", length_accuracy="emotion")
    completions = [[{"role": "assistant", "content": wrap_answer("angry")}]]
    assert shaped([], completions, [[]], solution=["anger"], dataset_name=["DFEW"]) == [1.0]
    with pytest.raises(ValueError, match="--length_accuracy"):
        build_reward_funcs(["length"], "rec", length_accuracy="length")
    with pytest.raises(ValueError, match="unknown reward 'nothing'"):
        build_reward_funcs(["length"], "rec", length_accuracy="nothing")


def test_an_accuracy_that_is_awaited_makes_length_awaited():
    async def ask(prompts, completions, completion_ids=None, **columns):
        return [1.0, None]

    assert asyncio.run(length_reward([], [[]] * 2, [[], []], accuracy_func=ask)) == [1.0, None]


def test_length_runs_where_its_accuracy_runs(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "def slow_reward(prompts, completions, completion_ids=None, **columns):\n    return [1.0] * len(completions)\n"
        "slow_reward.runs_in = 'process'\n"
    )
    (shaped,) = build_reward_funcs(["length"], "rec", length_accuracy=f"{path}:slow_reward")
    (other,) = build_reward_funcs(["length"], "rec")
    assert shaped.runs_in == "process"
    assert not hasattr(other, "runs_in") and not hasattr(length_reward, "runs_in")


# ---- repetition -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, expected",
    [
        ("", 0.0),
        ("a b c d e", 0.0),  # no run of six words
        ("a b c d e f g h", 0.0),
        ("a b c a b c a b c", -0.25),  # runs of six: abcabc bcabca cabcab abcabc
        ("no " * 105, 1 / 100 - 1),
        ("No no " * 50 + "NO no no no no", 1 / 100 - 1),
        ('{"reasoning_steps": [], "answer": ""}', 0.0),
    ],
)
def test_repeated_runs_of_words_cost_their_share(text, expected):
    assert repeat(text) == [pytest.approx(expected)]


def test_in_a_list_repeated_items_cost_their_share():
    box = {"bbox_2d": [1, 2, 3, 4], "label": "cat"}
    other = {"label": "dog", "bbox_2d": [1, 2, 3, 4]}
    same = {"label": "cat", "bbox_2d": [1, 2, 3, 4]}
    fence = "```json\n{}\n```"
    texts = [fence.format(json.dumps(items)) for items in ([box, other], [box, same], [box] * 10, [])]
    assert repeat(*texts) == pytest.approx([0.0, -0.5, -0.9, 0.0])


def test_a_broken_list_is_text():
    assert repeat("```json\n[1, 1, 1\n```", "```json\n" + "[" * 100_000 + "\n```") == [0.0, 0.0]


def test_the_length_of_a_run_is_an_option():
    assert repeat("a a a a", repetition_ngram=1) == [-0.75]
    with pytest.raises(ValueError, match="repetition_ngram"):
        repeat("a", repetition_ngram=0)


def test_the_examples_in_the_docstrings_hold():
    results = doctest.testmod(length)
    assert results.attempted > 0
    assert results.failed == 0

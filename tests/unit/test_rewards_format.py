"""Format rewards: tables of good, bad and adversarial completions."""

import doctest
import time

import pytest

from open_r1.completions import get_answer_contract
from open_r1.rewards import REWARD_FUNCS, format


FORMAT_REWARDS = [name for name in REWARD_FUNCS if name.endswith("_format")]
COLLAPSE = '{"reasoning_steps": [], "answer": ""}'
ADVERSARIAL = [
    "",
    " \n",
    COLLAPSE,
    f"```json\n{COLLAPSE}\n```",
    "<think></think><answer></answer><explain></explain>",
    "<think> </think>\n<answer> \n </answer>",
    "<answer>" * 30,
    "</answer>" * 30,
    "<explain>" * 30,
    "<think><answer><explain>" * 10,
    "</think></answer></explain>" * 10,
    "<THINK>a</THINK><ANSWER>b</ANSWER>",
    "think: a\nanswer: b",
]


def score(name, *texts):
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    return REWARD_FUNCS[name]([None] * len(texts), completions, [[]] * len(texts), num_generations=len(texts))


def test_all_formats_are_tested():
    names = {"think_answer_format", "nothink_format", "vivqa_format", "json_steps_format", "rec_format"}
    assert set(FORMAT_REWARDS) == names


@pytest.mark.parametrize("name", FORMAT_REWARDS)
def test_completions_without_an_answer_earn_less_than_half_and_nothing_but_for_the_blank_thinking(name):
    rewards = score(name, *ADVERSARIAL)
    credited = [text for text, reward in zip(ADVERSARIAL, rewards) if reward]
    assert credited == (ADVERSARIAL[4:6] if name == "vivqa_format" else [])
    assert max(rewards) <= 1 / 3


@pytest.mark.parametrize(
    "text, reward",
    [
        ("<think>a</think><answer>b</answer>", 1.0),
        (" \n<think>a</think>\n<answer>b</answer>\n", 1.0),
        ("<think>a</think><answer>b</answer><answer>c</answer>", 0.0),
        ("<think>a</think><answer>b</answer><think>a</think><answer>b</answer>", 0.0),
        ("<think>a</think><answer></answer>", 0.0),
        ("<think>a</think><answer>b</answer> and so on", 0.0),
    ],
)
def test_white_space_is_free_and_a_second_or_empty_answer_is_not(text, reward):
    assert score("think_answer_format", text) == [reward]


@pytest.mark.parametrize(
    "text, reward",
    [
        ("<think>a</think><answer>b</answer><explain>c</explain>", 1.0),
        ("<think>a</think>\n<answer>b</answer>\n<explain>c</explain>\n", 1.0),
        ("<think>a</think><answer>b</answer><explain>c</explain> more", 2 / 3),
        ("<think>a</think><answer>b</answer>", 2 / 3),
        ("<answer>b</answer><explain>c</explain>", 2 / 3),
        ("<answer>b</answer><think>a</think><explain>c</explain>", 2 / 3),
        ("<explain>c</explain><answer>b</answer><think>a</think>", 1 / 3),
        ("<think>a</think>", 1 / 3),
        ("<think>a</think><answer>b", 1 / 3),
        ("<think>a</think>b</answer>", 1 / 3),
        ("<think>a</think><answer>b</answer></answer>", 1 / 3),
        ("<think>a</think>" + "<answer>b</answer>" * 2 + "<explain>c</explain>" * 3, 1 / 3),
        ("<explain>c</explain>" * 30, 0.0),
        ("<explain>" * 30 + "c</explain>", 0.0),
        ("<think><answer>b</answer></think>", 0.0),
        ("a b c", 0.0),
    ],
)
def test_each_right_section_is_a_third_and_no_number_of_tags_leaves_zero_to_one(text, reward):
    assert score("vivqa_format", text) == [reward]


@pytest.mark.parametrize(
    "text, reward",
    [
        ('{"reasoning_steps": ["a"], "answer": "b"}', 1.0),
        ('```json\n{"answer": 2, "reasoning_steps": ["a {b}", "}{"]}\n```', 1.0),
        ('{"reasoning_steps": ["a"], "answer": "b", "certainty": 0.9}', 1.0),
        ('The answer: {"reasoning_steps": ["a"], "answer": "b"}', 0.0),
        ('{"reasoning_steps": ["a"], "answer": "b"}' * 2, 0.0),
        ('{"reasoning_steps": [""], "answer": "b"}', 0.0),
        ('{"reasoning_steps": [["a"]], "answer": "b"}', 0.0),
        ('{"reasoning_steps": "a", "answer": "b"}', 0.0),
        ('{"reasoning_steps": ["a"], "answer": ["b"]}', 0.0),
        ('{"reasoning_steps": ["a"], "answer": null}', 0.0),
        ('{"reasoning_steps": ["a"], "answer": "b",}', 0.0),
    ],
)
def test_a_json_answer_is_parsed_and_not_searched_for(text, reward):
    assert score("json_steps_format", text) == [reward]


@pytest.mark.parametrize(
    "answer, reward",
    [
        ('{"bbox_2d": [10, 20, 30, 40]}', 1.0),
        ('```json\n[{"bbox_2d": [10.5, 20, 30, 40], "label": "cat"}]\n```', 1.0),
        ("[10, 20, 30, 40]", 1.0),
        ("[10, 20, 30, 40] [50, 60, 70, 80]", 0.0),
        ("[10, 20, 30]", 0.0),
        ("10 20 30 40", 0.0),
        ("[a, b, c, d]", 0.0),
        ("", 0.0),
    ],
)
def test_a_box_answer_has_one_box(answer, reward):
    assert score("rec_format", f"<think>left</think><answer>{answer}</answer>") == [reward]
    assert score("rec_format", f"<think>[1, 2, 3, 4]</think><answer>{answer}</answer>") == [reward]
    assert score("rec_format", f"<answer>{answer}</answer>") == [0.0]


@pytest.mark.parametrize("name", FORMAT_REWARDS)
def test_what_the_contract_composes_earns_everything_and_twice_the_same(name):
    contracts = {"think_answer": "default", "nothink": "scoring_no_think", "json_steps": "vqa"}
    contract = get_answer_contract(contracts.get(name.removesuffix("_format"), name.removesuffix("_format")))
    texts = [contract.compose(answer="[1, 2, 3, 4]", think="a step", explain="since"), "x"]
    assert score(name, *texts) == score(name, *texts) == [1.0, 0.0]


@pytest.mark.parametrize("name", FORMAT_REWARDS)
def test_a_round_of_hostile_completions_takes_moments(name):
    pieces = ["<think>", "<answer>", "[1,", "[ ", '{"a":', "```", "<explain>a</explain>", '"', "\\"]
    texts = [piece * (20_000 // len(piece)) for piece in pieces] * 8
    start = time.perf_counter()
    assert score(name, *texts) == [0.0] * len(texts)
    assert time.perf_counter() - start < 5.0  # 0.1 s is usual


def test_the_examples_in_the_docstrings_hold():
    results = doctest.testmod(format)
    assert results.attempted > 0
    assert results.failed == 0

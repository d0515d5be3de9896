"""Accuracy rewards: tables of good, bad and adversarial completions. What needs math-verify: tests/e2e."""

import asyncio
import doctest
import inspect
import time
import unicodedata

import pytest

from open_r1.completions import get_answer_contract, wrap_answer
from open_r1.rewards import REWARD_FUNCS, accuracy, build_reward_funcs, method
from open_r1.tasks import REWARD_METHODS
from open_r1.utils import answer_grading, answers, math_equality, quantities
from open_r1.utils.quantities import read_date, read_quantity


CONTRACTS = {
    "default_accuracy": "default",
    "math_accuracy": "default",
    "mcq_accuracy": "default",
    "yes_no_accuracy": "default",
    "all_match": "default",
    "vivqa_accuracy": "vivqa",
    "vqa_accuracy": "vqa",
    "method_accuracy": "default",
}
NAMES = pytest.mark.parametrize("name", CONTRACTS)
COLLAPSE = '{"reasoning_steps": [], "answer": ""}'


def call(name, texts, golds, **columns):
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    solutions = [gold if gold is None or "<answer>" in gold else wrap_answer(gold) for gold in golds]
    (func,) = build_reward_funcs([name])
    return func([None] * len(texts), completions, [[]] * len(texts), solution=solutions, **columns)


def score(name, answer, gold, **columns):
    """The reward of one answer, written as the contract of that reward asks."""
    text = get_answer_contract(CONTRACTS[name]).compose(answer=answer, think="so", explain="since")
    columns = {key: [value] for key, value in columns.items()}
    (reward,) = call(name, [text], [gold], **columns)
    return reward


def check(name, rows, **columns):
    """Rows are (answer, gold, reward)."""
    got = [(answer, gold, score(name, answer, gold, **columns)) for answer, gold, _ in rows]
    assert got == [(answer, gold, pytest.approx(reward, abs=1e-3)) for answer, gold, reward in rows]


# ---- all of them ------------------------------------------------------------------------------------------------


NOTHING = [
    "",
    " ",
    COLLAPSE,
    f"```json\n{COLLAPSE}\n```",
    "<think></think><answer></answer><explain></explain>",
    "<think>yes B 2 a red car</think>",
    "<answer> \n </answer>",
    "<answer>.</answer>",
    "<answer>?!</answer>",
    "</answer>yes<answer>",
    "<answer>" * 50,
    '{"reasoning_steps": ["yes"], "answer": null}',
    '{"reasoning_steps": ["yes"], "answer": []}',
    '{"answer": {}}',
    '{"a":' * 2000,
]
GOLDS = ["yes", "B", "2", "a red car", "1/2", "không", "not sure"]


@NAMES
def test_completions_that_say_nothing_earn_nothing_against_any_gold(name):
    pairs = [(text, gold) for gold in GOLDS for text in NOTHING]
    rewards = call(name, *zip(*pairs))
    assert [pair for pair, reward in zip(pairs, rewards) if reward not in (0.0, None)] == []
    unreadable = {gold for (_, gold), reward in zip(pairs, rewards) if reward is None}
    assert unreadable <= {"yes_no_accuracy": {*GOLDS} - {"yes"}, "mcq_accuracy": {*GOLDS} - {"B"}}.get(name, set())


@NAMES
def test_the_gold_answer_earns_everything_with_or_without_its_tags(name):
    gold = {"mcq_accuracy": "B", "yes_no_accuracy": "yes"}.get(name, "12 m")
    full = 3.0 if name == "vivqa_accuracy" else 1.0
    for solution in (gold, f" {gold} ", f"<answer>{gold}</answer><explain>since</explain>"):
        assert score(name, gold, solution) == full


@NAMES
@pytest.mark.parametrize("gold", [None, "", "  ", "<answer> </answer>"])
def test_a_row_without_a_gold_answer_abstains_whatever_is_said(name, gold):
    assert call(name, ["<answer>a</answer>", ""], [gold] * 2) == [None, None]


@NAMES
def test_rewards_are_the_same_at_every_call(name):
    texts = [*NOTHING, "<answer>yes</answer>", '{"reasoning_steps": ["a"], "answer": "2"}']
    golds = (GOLDS * 3)[: len(texts)]
    assert call(name, texts, golds) == call(name, texts, golds)


@NAMES
def test_the_answer_is_read_by_the_contract_of_the_run(name):
    gold = {"mcq_accuracy": "B", "yes_no_accuracy": "yes"}.get(name, "car")
    (func,) = build_reward_funcs([name], question_template="vqa")
    completions = [[{"role": "assistant", "content": f'{{"reasoning_steps": ["a"], "answer": "{gold}"}}'}]]
    assert func([None], completions, solution=[gold])[0] >= 1.0


@NAMES
def test_a_round_of_hostile_completions_takes_moments(name):
    pieces = [
        "<answer>",
        "yes ",
        "B) ",
        "1,",
        "9",
        "(",
        "a.",
        "mèo ",
        "$",
        "{",
        "^9",
        "the answer is ",
        "not ",
        "\u0301",
        " ",
    ]
    texts = [wrap_answer(piece * (20_000 // len(piece))) for piece in pieces] * 4
    golds = [*("2 m", "B", "yes", "a red car"), "mèo đen"] * 12
    start = time.perf_counter()
    rewards = call(name, texts, golds)
    assert time.perf_counter() - start < 8.0  # below 1 s is usual
    assert all(reward in (0.0, None) for reward in rewards)


@NAMES
def test_thousands_of_short_answers_take_moments(name):
    texts = [wrap_answer(f"{i % 17} dogs") for i in range(4096)]
    start = time.perf_counter()
    call(name, texts, ["3"] * 4096)
    assert time.perf_counter() - start < 8.0  # below 1 s is usual


# ---- one by one -------------------------------------------------------------------------------------------------


def test_the_cascade_takes_numbers_then_letters_then_text():
    check(
        "default_accuracy",
        [
            ("a red car", "a red car", 1.0),
            ("A red car.", "a red car", 1.0),
            ("a red van", "a red car", 0.778),  # 7 of 9 characters in order
            ("12 m", "13 m", 0.0),
            ("12", "13", 0.0),
            ("12.0", "12", 1.0),
            ("1,000", "1000", 1.0),
            ("12 cm", "12 m", 0.0),
            ("12", "12 m", 1.0),
            ("100", "1000", 0.0),
            ("two", "2", 1.0),
            ("B", "B", 1.0),
            ("(b)", "B", 1.0),
            ("blue", "B", 0.0),
            ("Route 67", "Route 66", 0.0),
            ("the Route 66", "Route 66", 0.8),  # 8 of 8 and of 12: 16 / 20
            ("xyz", "abc", 0.0),
            ("yes", "no", 0.0),
        ],
    )


def test_free_text_is_compared_as_the_library_of_the_original_does():
    import difflib

    pairs = [("a black dog", "the black cat"), ("con mèo", "con chó"), ("left", "right")]
    for first, second in pairs:
        reward = score("default_accuracy", first, second)
        blocks = difflib.SequenceMatcher(None, first, second, autojunk=False).ratio()
        assert 0 < reward < 1
        assert reward >= blocks - 1e-9  # the longest common subsequence is at least what blocks find


def test_mathematics_of_numbers_needs_no_library():
    check(
        "math_accuracy",
        [
            ("0.5", "1/2", 1.0),
            ("0.333333", "1/3", 1.0),
            ("0.33", "1/3", 0.0),
            ("50%", "0.5", 1.0),
            ("105", "100", 0.0),
            ("12 cm", "12 m", 0.0),
            ("5", "-5", 0.0),
            ("1e3", "1000", 1.0),
            ("the answer is 7", "7", 1.0),
            ("6 or 7", "7", 0.0),
            ("x=7 and x=8", "7", 0.0),
            ("$7$ or $8$", "7", 0.0),
            ("seven", "7", 1.0),
            ("east", "East", 1.0),
            ("west", "East", 0.0),
        ],
    )


CHOICES = ["two men", "a dog", "blue"]


def test_a_letter_is_read_as_a_letter_and_never_out_of_a_word():
    good = [
        "B",
        "b",
        "(B)",
        "[b]",
        "B.",
        "B)",
        "B) a dog",
        "b. a dog",
        "B: a dog",
        "**B**",
        "\\boxed{B}",
        "$B$",
        "B\na dog",
    ]
    good += [
        "\\boxed{B}",
        "$B$",
        "The answer is B.",
        "the answer is (b)",
        "Answer: B",
        "I choose option B",
        "B - a dog",
    ]
    check("mcq_accuracy", [(answer, "B", 1.0) for answer in good])
    bad = [
        "blue",
        "Brown",
        "A",
        "a dog",
        "I.",
        "A or B",
        "A, B",
        "AB",
        "A. B. C.",
        "(A) (B)",
        "not",
        "Beta",
        "grade b",
        "A B",
    ]
    check("mcq_accuracy", [(answer, "B", 0.0) for answer in bad])
    articles = ["A dog", "The answer is A dog", "It is A. or B.", "I think so"]
    check("mcq_accuracy", [(answer, "A", 0.0) for answer in articles] + [("I think so", "I", 0.0)])


@pytest.mark.parametrize(
    "columns",
    [
        {"options": CHOICES},
        {"options": ["A) two men", "B) a dog", "C) blue"]},
        {"options": [], "problem": "What is it?\nA) two men\n(B) a dog\nC. blue\nAnswer."},
    ],
)
@pytest.mark.parametrize("gold", ["B", "b", "a dog", "B) a dog"])
def test_letter_and_text_of_an_option_mean_the_same_both_ways(columns, gold):
    rows = [("B", 1.0), ("A dog.", 1.0), ("B) a dog", 1.0), ("dog", 1.0), ("C", 0.0), ("blue", 0.0), ("a cat", 0.0)]
    rows += [("D", 0.0), ("A) a dog", 0.0), ("a dog, blue", 0.0), ("C) a dog", 0.0)]
    check("mcq_accuracy", [(answer, gold, reward) for answer, reward in rows], **columns)


def test_a_gold_answer_that_is_no_option_abstains():
    assert score("mcq_accuracy", "B", "a cat", options=CHOICES) is None
    assert score("mcq_accuracy", "B", "D", options=CHOICES) is None
    assert score("yes_no_accuracy", "yes", "maybe") is None


def test_yes_and_no_match_as_words():
    yes = [
        "yes",
        "Yes.",
        "YES!",
        "Yes, two dogs.",
        "true",
        "correct",
        "the answer is yes",
        "not false",
        "Yes, there is no cat",
    ]
    no = [
        "no",
        "No.",
        "No, not at all",
        "false",
        "incorrect",
        "not true",
        "it isn't true",
        "There is no dog",
        "not correct",
    ]
    neither = [
        "not",
        "know",
        "nothing",
        "I know nothing",
        "none",
        "eyes",
        "not sure",
        "yes or no",
        "yes no",
        "yes/no",
        "",
        "maybe",
    ]
    for gold, other in (("yes", no), ("no", yes)):
        right = yes if gold == "yes" else no
        check("yes_no_accuracy", [(answer, gold, 1.0) for answer in right])
        check("yes_no_accuracy", [(answer, gold, 0.0) for answer in other + neither])
    check("yes_no_accuracy", [("no", "False", 1.0), ("yes", "<answer> yes </answer>", 1.0)])


def test_all_match_is_the_text_but_for_case_white_space_and_the_stop():
    check(
        "all_match",
        [
            ("click(10, 20)", "click(10, 20)", 1.0),
            ("Click(10,\n20).", "click(10, 20)", 1.0),
            ("click(10,20)", "click(10, 20)", 0.0),
            ("click(10, 20) or wait()", "click(10, 20)", 0.0),
            ("10", "10.0", 0.0),
            (".", "x", 0.0),
        ],
    )
    assert score("all_match", ".", ".") == 1.0


# ---- Vietnamese -------------------------------------------------------------------------------------------------


def test_vietnamese_points_are_three_one_and_a_half_and_none():
    check(
        "vivqa_accuracy",
        [
            ("con mèo", "con mèo", 3.0),
            ("Con Mèo!", "con mèo", 3.0),
            ("mèo", "con mèo", 1.5),
            ("một con mèo", "con mèo", 1.5),
            ("mèo con", "con mèo", 1.5),
            ("một con mèo đang nằm", "mèo", 0.0),
            ("con", "con mèo đen", 0.0),
            ("con mèo", "con mèo đen", 1.5),
            ("chó", "con mèo", 0.0),
            ("màu hoà bình", "màu hòa bình", 3.0),
            ("2", "2", 3.0),
        ],
    )


def test_gold_words_count_once_each():
    check("vivqa_accuracy", [("xanh", "xanh xanh đỏ tím vàng", 0.0), ("xanh đỏ", "xanh xanh đỏ tím", 1.5)])


def test_part_of_a_word_is_no_word():
    check("vivqa_accuracy", [("khôngkhí", "không", 0.0), ("an toàn", "toàn thắng", 1.5), ("toà", "to", 0.0)])


def test_an_answer_that_is_negated_is_not_partly_the_one_that_is_not():
    check(
        "vivqa_accuracy",
        [
            ("không phải", "không", 1.5),
            ("không", "không phải", 1.5),
            ("không có", "có", 0.0),
            ("có", "không có", 0.0),
            ("không phải mèo", "mèo", 0.0),
            ("chưa chín", "chín", 0.0),
            ("không", "có", 0.0),
            ("không", "không", 3.0),
            ("có không", "có", 0.0),
        ],
    )


def test_a_list_of_guesses_earns_nothing():
    guesses = "đỏ xanh vàng trắng đen tím nâu hồng cam xám"
    check("vivqa_accuracy", [(guesses, color, 0.0) for color in guesses.split()])
    check("vivqa_accuracy", [("mèo " * 10, "con mèo", 0.0)])


@pytest.mark.parametrize(
    "gold", ["không phải", "màu hòa bình", "quả táo đỏ", "Đường Trường Sơn", "nước uống", "ậ ộ ề"]
)
@pytest.mark.parametrize("answer", ["không", "màu hoà bình", "táo đỏ", "đường trường sơn", "ộ ề"])
def test_composed_and_decomposed_text_earn_the_same(answer, gold):
    rewards = {
        score("vivqa_accuracy", unicodedata.normalize(form, answer), unicodedata.normalize(other, gold))
        for form in ("NFC", "NFD", "NFKC", "NFKD")
        for other in ("NFC", "NFD")
    }
    assert len(rewards) == 1


# ---- quantities -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, value, unit",
    [
        ("3", 3, ""),
        ("-2.50", -2.5, ""),
        ("−2", -2, ""),
        ("1,000", 1000, ""),
        ("1 000", 1000, ""),
        ("1.000.000", 1_000_000, ""),
        ("4,25", 4.25, ""),
        ("0,500", 0.5, ""),
        ("3/4", 0.75, ""),
        ("1 3/4", 1.75, ""),
        ("2 x 10^3", 2000, ""),
        ("5 million", 5_000_000, ""),
        ("twenty-one dogs", 21, "dog"),
        ("$5", 5, "usd"),
        ("5 dollars", 5, "usd"),
        ("12m", 12, "m"),
        ("3 square meters", 3, "m^2"),
        ("3 m²", 3, "m^2"),
        ("90 kilometers per hour", 90, "km/h"),
        ("20 degrees Celsius", 20, "°c"),
        ("50 percent", 50, "%"),
        ("The answer is about 3 m.", 3, "m"),
        ("\\boxed{7}", 7, ""),
        ("$7$", 7, ""),
        ("**7**", 7, ""),
        ("7 pm", 7, "pm"),
    ],
)
def test_a_quantity_is_read_with_its_unit(text, value, unit):
    quantity = read_quantity(text)
    assert (float(quantity.value), quantity.unit) == (value, unit)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "A 3 m tree",
        "2 or 3",
        "2 dogs and 5 cats",
        "10:30",
        "1990s",
        "1.2.3",
        "10-20",
        "3/0",
        "3 of 5",
        "no 5",
        "nan",
        "red",
    ],
)
def test_a_text_with_a_number_in_it_is_no_quantity(text):
    assert read_quantity(text) is None


def test_dates_are_read_in_several_orders():
    texts = [
        "March 3, 2010",
        "3 March 2010",
        "3rd of March 2010",
        "Mar. 3 2010",
        "2010-03-03",
        "2010/3/3",
        "on 3 Mar 2010",
    ]
    assert {read_date(text) for text in texts} == {(2010, 3, 3)}
    assert [read_date(text) for text in ("3/3/2010", "2010", "marching", "")] == [None] * 4


# ---- rows by method ---------------------------------------------------------------------------------------------


def test_each_row_is_judged_by_its_own_method_and_default_without_one():
    methods = [None, "mcq", "yes_no", "all_match", "default", "mcq"]
    texts = ["a red car", "b", "not true", "a cat", "12", "A dog"]
    golds = ["a red car", "B", "no", "a dog", "13", "A"]
    rewards = call("method_accuracy", [wrap_answer(text) for text in texts], golds, accu_reward_method=methods)
    assert rewards == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0]


def test_without_the_column_every_row_is_judged_by_default():
    assert call("method_accuracy", [wrap_answer("a red van")], ["a red car"]) == [pytest.approx(0.778, abs=1e-3)]


def test_boxes_are_judged_by_the_rewards_of_boxes():
    answer = '```json\n[{"bbox_2d": [10, 10, 50, 50], "label": "cat"}]\n```'
    columns = {
        "accu_reward_method": ["odLength", "yes_no"],
        "image_size": [[(100, 100)]] * 2,
        "input_size": [None] * 2,
        "family_box_format": "pixel",
    }
    texts = [wrap_answer(answer), wrap_answer("yes")]
    rewards = call("method_accuracy", texts, [answer, "yes"], **columns, num_generations=1)
    assert rewards == [pytest.approx(1.0), 1.0]


def test_every_method_is_a_reward_and_an_unknown_one_is_refused():
    assert set(REWARD_METHODS.values()) <= REWARD_FUNCS.keys()
    with pytest.raises(ValueError, match="unknown reward method 'fuzzy'; known: all_match, default, llm, "):
        call("method_accuracy", ["a"], ["a"], accu_reward_method=["fuzzy"])


def test_the_options_of_a_method_reach_it():
    (func,) = build_reward_funcs(["method_accuracy"], question_template="vqa", judge=None)
    completions = [[{"role": "assistant", "content": '{"reasoning_steps": ["a"], "answer": "b"}'}]] * 2
    assert func([None] * 2, completions, solution=["B", "A"], accu_reward_method=["mcq"] * 2) == [1.0, 0.0]


def test_a_method_that_must_be_awaited_makes_the_whole_awaitable():
    (func,) = build_reward_funcs(["method_accuracy"])
    completions = [[{"role": "assistant", "content": wrap_answer("yes")}]] * 2
    result = func(
        [None] * 2, completions, solution=["yes", "a"], accu_reward_method=["yes_no", "llm"], problem=["", ""]
    )
    assert inspect.isawaitable(result)
    with pytest.raises(ValueError, match="llm_judge has no judge"):
        asyncio.run(_wait(result))


async def _wait(awaitable):
    return await awaitable


@pytest.mark.parametrize(
    "module",
    [accuracy, method, answers, answer_grading, math_equality, quantities],
    ids=lambda module: module.__name__,
)
def test_the_examples_in_the_docstrings_hold(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0

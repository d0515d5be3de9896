"""The accuracy calculator: what is right, what is wrong, and what cannot be gamed."""

import doctest
import math
import time

import pytest

from open_r1.rewards import build_reward_funcs
from open_r1.utils import vqa_accuracy
from open_r1.utils.vqa_accuracy import AccuracyCalculator


CALCULATOR = AccuracyCalculator()


def check(rows, calculator=CALCULATOR, **kwargs):
    """Rows are (predicted answer, gold answer, match type where right, else None)."""
    results = [calculator.evaluate_single("What is it?", predicted, gold, **kwargs) for predicted, gold, _ in rows]
    got = [
        (predicted, gold, result.match_type if result.is_correct else None)
        for (predicted, gold, _), result in zip(rows, results)
    ]
    assert got == list(rows)


def test_numbers_are_compared_with_units_separators_fractions_and_words():
    check(
        [
            ("1,000", "1000", "numeric"),
            ("1000", "1,000", "numeric"),
            ("3/4", "0.75", "numeric"),
            ("75%", "0.75", "numeric"),
            ("two", "2", "numeric"),
            ("2 dogs", "2", "numeric"),
            ("2", "two dogs", "numeric"),
            ("2 brown dogs", "2 dogs", "numeric"),
            ("$5", "5 dollars", "numeric"),
            ("12 meters", "12 m", "numeric"),
            ("The answer is 7.", "7", "numeric"),
            ("about 3.0", "3", "numeric"),
            ("5 million", "5,000,000", "numeric"),
        ]
    )


def test_no_other_number_and_no_other_unit_is_right():
    check(
        [
            ("2 men", "2 dogs", None),
            ("2 m", "2 cm", None),
            ("12", "13", None),
            ("100", "105", None),
            ("1", "1.14", None),
            ("1", "1,000", None),
            ("2 dogs and 5 cats", "2", None),
            ("2 or 3", "2", None),
            ("A 3 m tree", "3", None),
            ("1 2 3 4 5 6 7 8 9", "5", None),
            ("-5", "5", None),
            ("nan", "5", None),
            ("inf", "5", None),
            ("9" * 50, "5", None),
        ]
    )


def test_years_counts_prices_and_identifiers_are_exact():
    check(
        [
            ("2010", "2010", "numeric"),
            ("2011", "2010", None),
            ("in 2011", "2010", None),
            ("101 people", "100 people", None),
            ("9990", "9999", None),
            ("$9.95", "$9.99", None),
            ("5551234568", "5551234567", None),
            ("0123457", "0123456", None),
            ("10:31", "10:30", None),
            ("2000s", "1990s", None),
            ("the 1990s", "1990s", "exact"),
            ("7 am", "7 pm", None),
        ]
    )


@pytest.mark.parametrize(
    "predicted, gold, is_right",
    [
        ("101 m", "100 m", True),
        ("102 m", "100 m", False),
        ("3.14", "3.1416", True),
        ("3.2", "3.1416", False),
        ("10,050", "10,000", True),
        ("10,200", "10,000", False),
        ("50.4%", "50%", True),
        ("0", "0.0", True),
        ("0.001", "0", False),
    ],
)
def test_measured_fractional_and_large_numbers_may_be_off_by_one_percent(predicted, gold, is_right):
    assert CALCULATOR.evaluate_single("", predicted, gold).is_correct == is_right


def test_the_tolerance_is_a_parameter_that_never_reaches_counts():
    loose = AccuracyCalculator(numeric_relative_tolerance=0.5, numeric_absolute_tolerance=3)
    strict = AccuracyCalculator(numeric_relative_tolerance=0)
    rows = [("140 m", "100 m", "numeric"), ("2.9 m", "0.5 m", "numeric"), ("2011", "2010", None), ("3", "2", None)]
    check(rows, loose)
    check([("3.141", "3.1416", None), ("3.1416", "3.1416", "numeric")], strict)


def test_dates_are_exact_in_any_order():
    check(
        [
            ("March 3, 2010", "3 March 2010", "date"),
            ("2010-03-03", "March 3rd, 2010", "date"),
            ("March 4, 2010", "March 3, 2010", None),
            ("March 3, 2011", "March 3, 2010", None),
            ("March 2010", "March 3, 2010", None),
            ("3/4/2010", "4/3/2010", None),
        ]
    )


def test_yes_and_no_are_words():
    check(
        [
            ("Yes, it is.", "yes", "yes_no"),
            ("true", "yes", "yes_no"),
            ("not true", "no", "yes_no"),
            ("incorrect", "no", "yes_no"),
            ("incorrect", "yes", None),
            ("not true", "yes", None),
            ("nothing", "no", None),
            ("not", "no", None),
            ("I know", "no", None),
            ("eyes", "yes", None),
            ("yes and no", "yes", None),
            ("yes and no", "no", None),
            ("no", "not sure", None),
            ("yes", "a yes man", None),
        ]
    )


def test_letters_are_not_taken_out_of_words():
    check(
        [
            ("red", "rose", None),
            ("cat", "car", None),
            ("xanh", "xám", None),
            ("blue", "B", None),
            ("B", "blue", None),
            ("a", "an apple", None),
            ("B", "b", "choice"),
            ("(B)", "B", "choice"),
            ("the answer is C", "C.", "choice"),
            ("A, B, C, D", "B", None),
        ]
    )


OPTIONS = ["two men", "A dog", "3 m"]


@pytest.mark.parametrize("gold", ["B", "(b)", "a dog", "B) A dog"])
def test_a_choice_is_its_letter_or_its_text_both_ways(gold):
    rows = [("B", "choice"), ("b)", "choice"), ("the dog", "choice"), ("B) a dog", "choice"), ("A", None), ("C", None)]
    rows += [("3 m", None), ("A) a dog", None), ("a dog or 3 m", None), ("dogs", None), ("E", None)]
    check([(predicted, gold, match) for predicted, match in rows], options=OPTIONS)


def test_options_are_read_from_the_question_where_they_are_not_given():
    question = "What is it?\n\nA) two men\nB) a dog"
    assert CALCULATOR.evaluate_single(question, "a dog", "B").is_correct
    assert CALCULATOR.evaluate_single(question, "B", "a dog").is_correct
    assert not CALCULATOR.evaluate_single(question, "A", "a dog").is_correct
    assert not CALCULATOR.evaluate_single("What is it?", "a dog", "B").is_correct


def test_a_letter_stands_for_its_option_in_every_rule():
    check([("3 metres", "C", "numeric"), ("3.5 metres", "C", None)], options=OPTIONS)
    check([("yes", "A", "yes_no"), ("B", "yes", None), ("A", "yes", "choice")], options=["yes", "no"])
    check([("2010", "A", "choice"), ("2011", "A", None), ("2011", "2010", None)], options=["2010", "2011"])


def test_text_is_the_same_but_for_case_punctuation_and_a_leading_article():
    check(
        [
            ("A red car.", "red car", "exact"),
            ("T-shirt", "t shirt", "exact"),
            ("New York, USA", "new york usa", "exact"),
            ("don’t walk", "dont walk", "exact"),
            ("con me\u0300o", "con mèo", "exact"),
            ("car", "a red car", None),
            ("a red car", "car", None),
            ("red", "red car", None),
            ("C", "C++", None),
            ("C#", "C++", None),
            ("!", "?", None),
            ("?", "?", "exact"),
        ]
    )


def test_articles_belong_to_a_language():
    check([("toàn", "an toàn", None), ("an toàn", "An toàn.", "exact")], AccuracyCalculator(language="vi"))
    check([("hat", "a hat", "exact")])


@pytest.mark.parametrize("predicted", ["", "  ", "\n", None])
@pytest.mark.parametrize("gold", ["car", "a red car", "yes", "B", "2", "2010", "not sure", "March 3"])
def test_an_empty_answer_is_wrong_against_everything(predicted, gold):
    result = CALCULATOR.evaluate_single("", predicted, gold, options=None)
    assert (result.is_correct, result.match_type) == (False, "empty")


@pytest.mark.parametrize("gold", ["", "  "])
def test_an_empty_gold_answer_is_refused(gold):
    with pytest.raises(ValueError, match="gold answer is blank"):
        CALCULATOR.evaluate_single("", "car", gold)


def test_a_result_says_what_was_compared():
    result = CALCULATOR.evaluate_single("Which?", " The Red-Car ", "red car.")
    assert (result.predicted_answer, result.ground_truth_answer) == ("The Red-Car", "red car.")
    assert (result.normalized_prediction, result.normalized_ground_truth) == ("red car", "red car")
    assert (result.match_type, result.confidence) == ("exact", 1.0)


def test_a_grader_is_asked_only_about_text_that_no_rule_settles():
    asked = []

    def grade(question, predicted, gold):
        asked.append((predicted, gold))
        return {"auto": 0.9, "boat": 0.2}.get(predicted)

    calculator = AccuracyCalculator(grader=grade)
    single = calculator.evaluate_single
    got = [
        (result.match_type, result.is_correct, result.confidence)
        for result in (single("", predicted, "car") for predicted in ("auto", "boat", "hm", "car", ""))
    ]
    ungraded = ("ungraded", False, 0.0)
    assert got == [("llm", True, 0.9), ("llm", False, 0.8), ungraded, ("exact", True, 1.0), ("empty", False, 1.0)]
    single("", "3", "2"), single("", "no", "yes"), single("", "A", "B")
    assert asked == [("auto", "car"), ("boat", "car"), ("hm", "car")]
    single("", "2 men", "2 people")
    assert asked[-1] == ("2 men", "2 people")


def test_a_data_set_is_summed_up_by_rule():
    answers = [("yes", "yes"), ("no", "yes"), ("2", "two"), ("auto", "car"), ("", "car")]
    calculator = AccuracyCalculator(grader=lambda question, predicted, gold: 0.75)
    summary = calculator.evaluate_dataset([""] * 5, *zip(*answers))
    assert (summary.total_samples, summary.correct_samples) == (5, 3)
    assert math.isclose(summary.overall_accuracy, 0.6)
    assert math.isclose(summary.weighted_accuracy, 2.75 / 5)
    counts = {name: (item.count, item.correct, item.accuracy) for name, item in summary.type_statistics.items()}
    assert counts == {"empty": (1, 0, 0), "llm": (1, 1, 1), "numeric": (1, 1, 1), "yes_no": (2, 1, 0.5)}
    assert [result.match_type for result in summary.detailed_results] == [
        "yes_no",
        "yes_no",
        "numeric",
        "llm",
        "empty",
    ]


def test_lists_of_different_length_and_no_answers_are_refused():
    with pytest.raises(ValueError):
        CALCULATOR.evaluate_dataset(["", ""], ["a"], ["a"])
    with pytest.raises(ValueError, match="no answer to evaluate"):
        CALCULATOR.evaluate_dataset([], [], [])


def test_the_reward_is_right_or_wrong_and_abstains_without_a_verdict():
    texts = [f'{{"reasoning_steps": ["a"], "answer": "{answer}"}}' for answer in ("car", "auto", "truck", "")]
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    grades = {"auto": 0.7, "truck": None}
    options = {"answer_grader": lambda question, predicted, gold: grades[predicted]}
    columns = {"solution": ["<answer> car </answer>"] * 4, "problem": ["Which?"] * 4, "options": [[]] * 4}
    (plain,), (graded,) = build_reward_funcs(["vqa_accuracy"]), build_reward_funcs(["vqa_accuracy"], **options)
    assert plain([None] * 4, completions, **columns) == [1.0, 0.0, 0.0, 0.0]
    assert graded([None] * 4, completions, **columns) == [1.0, 1.0, None, 0.0]


@pytest.mark.parametrize("piece", ["1,", "9", "yes no ", "A) ", "a", "the answer is ", "-", "1/", "march ", "(", "."])
def test_a_long_answer_is_wrong_in_moments(piece):
    start = time.perf_counter()
    for gold in ("2", "yes", "B", "March 3", "a red car"):
        assert not CALCULATOR.evaluate_single("", piece * (200_000 // len(piece)), gold, ["x", "y"]).is_correct
        assert not CALCULATOR.evaluate_single("", piece * (2_000 // len(piece)), gold).is_correct
    assert time.perf_counter() - start < 2.0  # 0.01 s is usual


def test_the_examples_in_the_docstrings_hold():
    results = doctest.testmod(vqa_accuracy)
    assert results.attempted > 0
    assert results.failed == 0

"""Rows of every layout become one record; what is wrong with one is said at once."""

import json
from pathlib import Path

import pytest
import yaml

from open_r1.data.records import parse_record, parse_row
from open_r1.data.schema import RowRules
from open_r1.data.subsets import parse_sampling


ANY = RowRules()


def talk(question="What is this?", answer="a cat"):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def parse(rules=ANY, **record):
    return parse_record(record, rules)


def refuse(rules=ANY, **record):
    with pytest.raises(ValueError) as caught:
        parse_record(record, rules)
    return str(caught.value)


@pytest.mark.parametrize(
    "record",
    [
        {"conversations": talk()},
        {"question": "What is this?", "answer": "a cat"},
        {"problem": "What is this?", "solution": "a cat"},
        {"problem": "What is this?", "answer": "a cat", "normal_caption": "not used"},
    ],
)
def test_a_question_and_an_answer_may_stand_under_several_names(record):
    row = parse(**record)
    assert (row.problem, row.solution) == ("What is this?", "<answer> a cat </answer>")


def test_tags_of_an_answer_are_kept_as_they_stand():
    text = "<answer>có</answer><explain>vì trời nắng</explain>"
    assert parse(conversations=talk(answer=text)).solution == text
    assert parse(conversations=talk(answer="<explain>only this</explain>")).solution.startswith("<answer> <explain>")


@pytest.mark.parametrize(
    ("answer", "inside"),
    [([1, 2, 30, 40], "[1, 2, 30, 40]"), ({"bbox_2d": [1, 2]}, '{"bbox_2d": [1, 2]}'), (3, "3"), (0.5, "0.5")],
)
def test_boxes_and_numbers_are_written_as_json(answer, inside):
    assert parse(problem="Where?", solution=answer).solution == f"<answer> {inside} </answer>"


def test_images_and_videos_are_names_or_lists_of_them_and_rows_of_text_have_none():
    assert parse(image="a.png", video=["b.mp4", "c.mp4"], conversations=talk()).videos == ("b.mp4", "c.mp4")
    assert parse(image=["a.png", "b.png"], conversations=talk()).images == ("a.png", "b.png")
    row = parse(conversations=talk())
    assert (row.images, row.videos) == ((), ())
    assert "the video must be a file name" in refuse(video=[3], conversations=talk())


def test_place_holders_of_media_are_taken_out_and_refused_where_there_is_no_such_medium():
    row = parse(image="a.png", video="b.mp4", conversations=talk("<image>\n<video>What is this?"))
    assert row.problem == "What is this?"
    assert "<video>, the row has no video" in refuse(image="a.png", conversations=talk("<video>What?"))


@pytest.mark.parametrize(
    "choices",
    [
        ["a cat", "a dog"],
        {"A": "a cat", "B": "a dog"},
        {"b": "a dog", "a": "a cat"},
        {"A": "a cat", "B": "a dog", "C": None, "D": None},
        ["A) a cat", "B) a dog"],
        ["(A) a cat", "(B) a dog"],
        ["A. a cat", "B. a dog"],
    ],
)
def test_options_stand_below_the_question_by_letter_whatever_form_they_come_in(choices):
    for key in ("choices", "options"):
        row = parse(question="What is this?", answer="B", **{key: choices})
        assert row.options == ("a cat", "a dog")
        assert row.problem == "What is this?\n\nA) a cat\nB) a dog"


def test_choices_win_over_options_and_a_question_that_has_them_is_left_alone():
    row = parse(question="Which?", answer="A", choices=["x", "y"], options=["1", "2"])
    assert row.options == ("x", "y")
    assert parse(question="Which?", answer="A", choices=[], options=[1, 2]).options == ("1", "2")
    again = parse(question=row.problem, answer="A", choices=["x", "y"])
    assert again.problem == row.problem


def test_an_option_that_only_begins_like_a_label_is_kept():
    assert parse(question="Which?", answer="A", choices=["A. Smith", "C. Jones"]).options == ("A. Smith", "C. Jones")


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        ({"A": "x", "C": "y"}, "letters of the choices must be A, B"),
        ("a cat or a dog", "must be a list"),
        ([["x"], ["y"]], "must be a list"),
        (["x", ""], "must be a list"),
        ([True, False], "must be a list"),
        (list(map(str, range(27))), "up to 26"),
    ],
)
def test_options_that_cannot_be_lettered_are_refused(choices, reason):
    assert reason in refuse(question="Which?", answer="A", choices=choices)


def test_steps_and_explanations_are_lists_without_blanks():
    row = parse(
        conversations=talk(), reference_steps=[" one ", "", "two", "one"], explanation="a", explanations=["b", "a"]
    )
    assert row.reference_steps == ("one", "two", "one")
    assert row.explanations == ("b", "a")
    assert "reference_steps must be a text or a list" in refuse(conversations=talk(), reference_steps={"a": 1})


def test_a_method_must_be_known_where_the_known_ones_are_given():
    rules = RowRules(reward_methods=frozenset({"mcq", "math"}))
    assert parse(rules, conversations=talk(), accu_reward_method="mcq").accu_reward_method == "mcq"
    assert "'guess' is unknown; known: math, mcq" in refuse(rules, conversations=talk(), accu_reward_method="guess")
    assert parse(conversations=talk(), accu_reward_method="guess").accu_reward_method == "guess"


@pytest.mark.parametrize("turns", [[{"from": "gpt", "value": "angry"}], talk("", "angry"), talk("<video>", "angry")])
def test_a_default_question_is_put_where_there_is_none_and_only_there(turns):
    rules = RowRules(default_question="Which emotion?")
    assert parse(rules, video="a.mp4", conversations=turns).problem == "Which emotion?"
    assert parse(rules, video="a.mp4", conversations=talk("<video>And now?", "angry")).problem == "And now?"
    assert "human" in refuse(video="a.mp4", conversations=turns)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({}, "no conversations"),
        ({"question": "What?"}, "no 'answer' value"),
        ({"answer": "x"}, "no 'question' value"),
        ({"question": "What?", "answer": None}, "no 'answer' value"),
        ({"question": "What?", "answer": " "}, "the answer must be a number or a text"),
        ({"question": 3, "answer": "x"}, "the question value must be a text"),
        ({"question": "What?", "answer": "\ud800"}, "the answer must be"),
        ({"conversations": talk(), "image": {"a": 1}}, "the image must be"),
    ],
)
def test_what_is_missing_or_of_another_kind_is_named(record, reason):
    assert reason in refuse(**record)


def test_a_score_is_demanded_where_scores_are_learnt():
    rules = RowRules(require_mos=True)
    assert parse(rules, image="a.png", conversations=talk(answer="4.5")).mos == 4.5
    assert "no image; the MOS" in refuse(rules, conversations=talk(answer=[4.5]))


def test_a_line_and_its_object_give_the_same_row():
    record = {"id": 7, "question": "Là gì?", "answer": "một con mèo", "choices": ["a", "b"]}
    line = json.dumps(record, ensure_ascii=False).encode()
    assert parse_row(line, ANY) == parse_record(record, ANY)


def test_the_examples_of_the_page_on_data_are_rows():
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    examples = [part.partition("```")[0] for part in text.split("```json\n")[1:]]
    assert len(examples) >= 6
    for example in examples:
        parse_row(example.encode(), ANY)
    (mixture,) = [part.partition("```")[0] for part in text.split("```yaml\n")[1:]]
    for entry in yaml.safe_load(mixture)["datasets"]:
        parse_sampling(entry["sampling_strategy"], "0")

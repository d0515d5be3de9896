"""Reading and checking completions: the table of scores, nasty strings, and time linear in the text."""

import time

import pytest

from open_r1.completions import (
    ANSWER_CONTRACTS,
    IQA_QUESTION,
    extract_answer,
    extract_think,
    get_answer_contract,
    parse_score,
    wrap_answer,
)


@pytest.mark.parametrize(
    "text, score",
    [
        ("<answer>3.5</answer>", 3.5),
        ("<answer> 4,25 </answer>", 4.25),
        ("<answer>3.5/5</answer>", 3.5),
        ("<answer>3.5 out of 5</answer>", 3.5),
        ("<answer>1</answer><answer>2</answer>", 2.0),
        ("<answer>\n4\n</answer>", 4.0),
        ("<answer>Rating: 4.50.</answer>", 4.5),
        ("<answer>**2.75**</answer>", 2.75),
        ("<answer>1</answer>", 1.0),
        ("<answer>5</answer>", 5.0),
        ("<answer>4.</answer>", 4.0),
        ("<answer>+4.5</answer>", 4.5),
        ("<answer>quality-4</answer>", 4.0),
        ("<answer>35e-1</answer>", 3.5),
        ("<answer>0003</answer>", 3.0),
        ("<answer>４．２</answer>", 4.2),
        ("<answer>٤</answer>", 4.0),
        ("2024 <think>maybe 1 or 2</think><answer>3</answer> 5", 3.0),
    ],
)
def test_a_score_in_range_is_read_from_the_last_answer(text, score):
    assert parse_score(text) == score


@pytest.mark.parametrize(
    "text",
    [
        "<answer>85</answer>",
        "<answer>-2</answer>",
        "<answer>−2</answer>",
        "no tag 2024",
        "3.5",
        "<answer>four</answer>",
        "<answer></answer>",
        "<answer>nan</answer>",
        "<answer>nan or 3</answer>",
        "<answer>-inf</answer>",
        "<answer>Infinity</answer>",
        "<answer>1e999</answer>",
        "<answer>.75</answer>",
        "<answer>0.99</answer>",
        "<answer>5.01</answer>",
        "<answer>４5</answer>",
        "<answer>" + "9" * 100_000 + "</answer>",
        "<answer>²</answer>",
        "<ANSWER>3</ANSWER>",
        "<answer>3",
        "3</answer>",
        "</answer>3<answer>",
        "",
    ],
)
def test_anything_else_is_unparsable(text):
    assert parse_score(text) is None


def test_the_range_belongs_to_the_task():
    assert parse_score("<answer>85</answer>", low=0, high=100) == 85
    assert parse_score("<answer>-2</answer>", low=-3, high=3) == -2
    assert parse_score("<answer>.75</answer>", low=0, high=1) == 0.75


@pytest.mark.parametrize(
    "text, inside",
    [
        ("<answer>a</answer><answer>b</answer>", "b"),
        ("<answer>a<answer>b</answer>", "b"),
        ("<answer>a</answer> left over </answer>", "a"),
        ("<answer>a</answer><answer>cut off", "a"),
        ("<answer>\nline\n</answer>", "\nline\n"),
        ("<answer></answer>", ""),
        ("<answer>", None),
        ("</answer>", None),
        ("</answer><answer>", None),
        ("", None),
    ],
)
def test_the_last_complete_pair_is_extracted(text, inside):
    assert extract_answer(text) == inside
    assert extract_think(text.replace("answer>", "think>")) == inside


@pytest.mark.parametrize(
    "piece", ["<answer>", "</answer>", "<answer></answer>", "<think>", "1,", "-", "1e", "<", "a "]
)
def test_reading_takes_time_linear_in_the_text(piece):
    text = piece * (2_000_000 // len(piece))
    start = time.perf_counter()
    for nasty in (text, f"<think>{text}</think><answer>{text}</answer>"):
        parse_score(nasty)
        extract_think(nasty)
        get_answer_contract("scoring").is_well_formed(nasty)
    assert time.perf_counter() - start < 5.0  # a quadratic search needs minutes; 0.1 s is usual


WELL_FORMED = [
    "<think>blur</think><answer>3</answer>",
    "  <think>blur</think>\n\n<answer> 3 </answer>\n",
    "<think></think><answer>three</answer>",
    "<think>a < b > c\nsecond line</think> <answer>3</answer>",
]
BADLY_FORMED = [
    "<answer>3</answer>",
    "<think>blur</think>",
    "<answer>3</answer><think>blur</think>",
    "<think>blur</think><answer> \n </answer>",
    "<think>blur</think><answer></answer>",
    "note <think>blur</think><answer>3</answer>",
    "<think>blur</think> so <answer>3</answer>",
    "<think>blur</think><answer>3</answer> done",
    "<think>a</think><answer>1</answer><think>b</think><answer>2</answer>",
    "<think>a</think><think>b</think><answer>3</answer>",
    "<think>a</think><answer>1</answer><answer>2</answer>",
    "<think><think>a</think></think><answer>3</answer>",
    "<think>a<answer>3</answer></think>",
    "<think>a</think><answer>3<answer>",
    "<think>a<answer>3</answer>",
    "<THINK>a</THINK><ANSWER>3</ANSWER>",
    "",
]


@pytest.mark.parametrize("name", ["default", "scoring"])
def test_think_then_answer_and_nothing_else_is_well_formed(name):
    contract = get_answer_contract(name)
    assert [text for text in WELL_FORMED if not contract.is_well_formed(text)] == []
    assert [text for text in BADLY_FORMED if contract.is_well_formed(text)] == []


def test_without_thinking_the_answer_alone_is_well_formed():
    contract = get_answer_contract("scoring_no_think")
    assert contract.is_well_formed(" <answer>3</answer>\n")
    bad = ["<answer> </answer>", "<answer>3</answer> ok", "<answer>1</answer><answer>2</answer>", *WELL_FORMED, ""]
    assert [text for text in bad if contract.is_well_formed(text)] == []


@pytest.mark.parametrize("contract", ANSWER_CONTRACTS.values(), ids=lambda contract: contract.name)
def test_what_a_contract_composes_is_well_formed_and_read_back(contract):
    text = contract.compose(answer="3.25", think="sharp, 2 artefacts")
    assert contract.is_well_formed(text)
    assert parse_score(text) == 3.25
    assert ("artefacts" in text) == ("think" in contract.sections)


@pytest.mark.parametrize("contract", ANSWER_CONTRACTS.values(), ids=lambda contract: contract.name)
@pytest.mark.parametrize("question", [IQA_QUESTION, "{}", "{0} {Question} {x!r}", '{"json": [1]}', "100 % {"])
def test_rendering_leaves_braces_in_the_question_alone(contract, question):
    text = contract.render(question)
    assert text.startswith(question)
    assert text.endswith("<answer> </answer> tags.")


def test_rendering_leaves_other_braces_in_the_template_alone():
    contract = type(get_answer_contract("default"))(name="json", template='{Question} Answer as {"score": 3}.')
    assert contract.render("Why?") == 'Why? Answer as {"score": 3}.'


def test_an_unknown_contract_is_refused_with_the_known_names():
    with pytest.raises(ValueError, match="'scorign'.*default, scoring, scoring_no_think"):
        get_answer_contract("scorign")


def test_a_wrapped_answer_is_what_the_solution_column_holds():
    assert wrap_answer("4.63") == "<answer> 4.63 </answer>"

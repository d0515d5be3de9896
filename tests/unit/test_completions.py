"""Reading and checking completions: the table of scores, nasty strings, and time linear in the text."""

import doctest
import json
import re
import time

import pytest

from open_r1 import completions, json_text
from open_r1.completions import (
    ANSWER_CONTRACTS,
    EMOTION_QUESTION,
    IQA_QUESTION,
    JsonContract,
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
    "piece",
    [
        "<answer>",
        "</answer>",
        "<answer></answer>",
        "<think>",
        "1,",
        "-",
        "1e",
        "<",
        "a ",
        "[",
        "{",
        '{"a":',
        "[1,",
        " ",
        "```",
    ],
)
def test_reading_takes_time_linear_in_the_text(piece):
    text = piece * (1_000_000 // len(piece))
    start = time.perf_counter()
    for nasty in (text, f"<think>{text}</think><answer>{text}</answer>", f"[ 1{text}", f'{{"answer": {text}}}'):
        parse_score(nasty)
        extract_think(nasty)
        for name in ("scoring", "rec", "vqa", "vivqa"):
            contract = get_answer_contract(name)
            contract.is_well_formed(nasty), contract.count_sections(nasty)
            contract.read_answer(nasty), contract.read_steps(nasty), contract.read_explanation(nasty)
    assert time.perf_counter() - start < 10.0  # a quadratic search needs minutes; 0.3 s is usual


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


CONTRACTS = pytest.mark.parametrize("contract", ANSWER_CONTRACTS.values(), ids=lambda contract: contract.name)


def compose(contract, **changes):
    texts = {"answer": "[3.25, 2, 1, 7]", "think": "sharp, 2 artefacts", "explain": "it is sharp"}
    return contract.compose(**(texts | changes))


@CONTRACTS
def test_what_a_contract_composes_is_well_formed_and_read_back(contract):
    text = compose(contract)
    assert contract.is_well_formed(text)
    assert contract.is_well_formed(f"\n {text} \n")
    assert not contract.is_well_formed(f"{text} done")
    assert contract.read_answer(text) == "[3.25, 2, 1, 7]"
    assert contract.read_steps(text) == (["sharp, 2 artefacts"] if contract.name == "vqa" else None)
    assert contract.read_explanation(text) == ("it is sharp" if contract.name == "vivqa" else None)
    assert contract.count_sections(text) == len(contract.sections)
    assert ("artefacts" in text) == (contract.name != "scoring_no_think")


@CONTRACTS
def test_a_blank_answer_is_none_and_not_well_formed(contract):
    assert contract.read_answer(compose(contract, answer=" ")) is None
    assert not contract.is_well_formed(compose(contract, answer=" "))
    assert contract.read_answer("") is None


@CONTRACTS
def test_an_instruction_asks_for_the_form_that_is_checked(contract):
    opened = re.findall(r"<(\w+)>", contract.template)
    assert set(opened) == set(contract.sections)
    assert all(f"</{section}>" in contract.template for section in contract.sections)
    assert ("reasoning_steps" in contract.template) == isinstance(contract, JsonContract)
    assert contract.template.count("{Question}") == 1


@CONTRACTS
@pytest.mark.parametrize("question", [IQA_QUESTION, "{}", "{0} {Question} {x!r}", '{"json": [1]}', "100 % {"])
def test_rendering_leaves_braces_in_the_question_alone(contract, question):
    before, after = contract.template.split("{Question}")
    assert contract.render(question) == before + question + after


def test_rendering_leaves_other_braces_in_the_template_alone():
    contract = type(get_answer_contract("default"))(name="json", template='{Question} Answer as {"score": 3}.')
    assert contract.render("Why?") == 'Why? Answer as {"score": 3}.'
    assert get_answer_contract("vqa").render("Why?").count("{") == 1


def test_the_instructions_of_the_reproduced_systems_are_theirs():
    first = "Q First output the thinking process in <think> </think> tags and then output the final answer "
    assert get_answer_contract("default").render("Q") == first + "in <answer> </answer> tags."
    assert get_answer_contract("scoring").render("Q") == first + "with only one score in <answer> </answer> tags."
    assert get_answer_contract("emotion").render(EMOTION_QUESTION).startswith("As an emotional recognition expert; ")


BOX_ANSWERS = ['{"bbox_2d": [1, 2, 30, 40]}', '```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "a"}]\n```', "[1,2.5,3,4]"]
NO_BOX_ANSWERS = [
    "1, 2, 3, 4",
    "[1, 2, 3]",
    "[1, 2, 3, 4, 5]",
    "[1, 2, 3, x]",
    "[1, 2, 3, nan]",
    "[]",
    "[[1, 2], [3, 4]]",
]


def test_a_box_answer_has_exactly_one_box_of_four_numbers():
    contract = get_answer_contract("rec")
    assert [text for text in BOX_ANSWERS if not contract.is_well_formed(compose(contract, answer=text))] == []
    bad = [*NO_BOX_ANSWERS, "[1, 2, 3, 4] [5, 6, 7, 8]"]
    assert [text for text in bad if contract.is_well_formed(compose(contract, answer=text))] == []
    assert not contract.is_well_formed("<think>[1, 2, 3, 4]</think><answer>none</answer>")


STEPS = '"reasoning_steps": ["a cat sits", "so one animal"]'
JSON_GOOD = [
    (f'{{{STEPS}, "answer": "one"}}', "one"),
    (f'```json\n{{{STEPS}, "answer": "one"}}\n```', "one"),
    (f'```\n{{{STEPS}, "answer": "one"}}\n```\n', "one"),
    (f'{{"answer": "one", {STEPS}}}', "one"),
    (f'{{{STEPS}, "answer": 3.50}}', "3.50"),
    (f'{{{STEPS}, "answer": -2}}', "-2"),
    ('{"reasoning_steps": ["the set {1, 2}", "}"], "answer": "{1}"}', "{1}"),
    ('{"reasoning_steps": ["con mèo"], "answer": "mèo"}', "mèo"),
]
JSON_BAD = [
    "",
    "one",
    "[]",
    "{}",
    "null",
    '{"reasoning_steps": [], "answer": ""}',
    '{"reasoning_steps": [], "answer": "one"}',
    '{"reasoning_steps": [" "], "answer": "one"}',
    '{"reasoning_steps": ["a", ""], "answer": "one"}',
    '{"reasoning_steps": ["a", 1], "answer": "one"}',
    '{"reasoning_steps": "a", "answer": "one"}',
    '{"answer": "one"}',
    *(f'{{{STEPS}, "answer": {value}}}' for value in ('""', '"  "', "null", "true", '["one"]', "NaN", "Infinity")),
    f"{{{STEPS}}}",
    f'{{{STEPS}, "answer": "one", "answer": "two"}}',
    f'{{{STEPS}, "answer": "one"',
    f'Here it is: {{{STEPS}, "answer": "one"}}',
    f'{{{STEPS}, "answer": "one"}} I am sure.',
    f'{{{STEPS}, "answer": "one"}} {{{STEPS}, "answer": "two"}}',
    f'[{{{STEPS}, "answer": "one"}}]',
    f"{{{STEPS}, 'answer': 'one'}}",
    '{"a":' * 100_000,
]


@pytest.mark.parametrize("text, answer", JSON_GOOD)
def test_one_object_with_steps_and_an_answer_is_well_formed(text, answer):
    contract = get_answer_contract("vqa")
    assert contract.is_well_formed(text)
    assert contract.read_answer(text) == answer
    assert contract.read_steps(text)


@pytest.mark.parametrize("text", JSON_BAD, ids=lambda text: text[:60])
def test_anything_but_one_full_object_is_not_well_formed(text):
    assert not get_answer_contract("vqa").is_well_formed(text)


@pytest.mark.parametrize(
    "text, answer, steps",
    [
        ('Sure: {"reasoning_steps": ["a"], "answer": "one"} Bye', "one", ["a"]),
        ('Thus\n```json\n{"reasoning_steps": ["a"], "answer": 1e999}\n```\nBye', "1e999", ["a"]),
        ('{"first": 1} and then ```{"answer": "one"}```', "one", None),
        ('{"reasoning_steps": [], "answer": ""}', None, []),
        ('{"reasoning_steps": [" a ", "", 3, null, {"b": 1}], "answer": "one"}', "one", ["a"]),
        ('{"reasoning_steps": "a", "answer": ["one"]}', None, None),
        ('{"answer": "one"} or {"answer": "two"}', None, None),
        ("one", None, None),
    ],
)
def test_an_object_is_read_through_prose_unless_there_are_two(text, answer, steps):
    contract = get_answer_contract("vqa")
    assert contract.read_answer(text) == answer
    assert contract.read_steps(text) == steps


def test_composing_json_escapes_what_it_must():
    text = get_answer_contract("vqa").compose(answer='the "red" one', steps=["a\nb", "{"])
    assert json.loads(text) == {"reasoning_steps": ["a\nb", "{"], "answer": 'the "red" one'}


@pytest.mark.parametrize(
    "text, num_right",
    [
        ("<think>a</think><answer>b</answer><explain>c</explain>", 3),
        ("<think></think><answer>b</answer> so <explain>c</explain>", 3),
        ("<think>a</think><answer></answer><explain> </explain>", 1),
        ("<answer>b</answer><think>a</think><explain>c</explain>", 2),
        ("<explain>c</explain><answer>b</answer><think>a</think>", 1),
        ("<think><answer>b</answer></think><explain>c</explain>", 1),
        ("<think>a</think><answer>b</answer><answer>b</answer>", 1),
        ("<think>a<answer>b<explain>c", 0),
        ("</think>a<think></answer>b<answer>", 0),
        ("<explain>" * 30, 0),
        ("", 0),
    ],
)
def test_sections_are_counted_where_they_are_right(text, num_right):
    contract = get_answer_contract("vivqa")
    assert contract.count_sections(text) == num_right
    assert contract.is_well_formed(text) == (num_right == 3 and " so " not in text)


@pytest.mark.parametrize("holder", ["{Question}", "{USER_INSTRUCTION}"])
@pytest.mark.parametrize(
    "rest, like",
    [
        ("", "default"),
        ("Write <answer>x</answer>.", "scoring_no_think"),
        ("Write <think>x</think> <answer>y</answer> {as said}.", "default"),
        ("Write <explain>x</explain> behind <think> and <answer>.", "vivqa"),
        ('Write {"reasoning_steps": [], "answer": ""}.', "vqa"),
    ],
)
def test_a_template_from_a_file_asks_for_what_its_tags_say(tmp_path, holder, rest, like):
    path = tmp_path / "template.txt"
    path.write_text(f"Nhìn: {holder} {rest}\n", encoding="utf-8")
    contract = get_answer_contract(str(path))
    assert contract.render("Why {USER_INSTRUCTION}?") == f"Nhìn: Why {{USER_INSTRUCTION}}? {rest}".strip()
    assert type(contract) is type(get_answer_contract(like))
    assert contract.sections == get_answer_contract(like).sections


def test_a_template_file_that_cannot_work_is_refused(tmp_path):
    path = tmp_path / "template.txt"
    with pytest.raises(ValueError, match="no question template .*template.txt"):
        get_answer_contract(str(path))
    path.write_text("Answer in <answer> </answer> tags. {question}")
    with pytest.raises(ValueError, match=r"no place for the question: write \{Question\}"):
        get_answer_contract(str(path))


def test_an_unknown_contract_is_refused_with_the_known_names():
    with pytest.raises(ValueError, match="'scorign'.*comparing, default, .*scoring, scoring_no_think, .*text file"):
        get_answer_contract("scorign")


def test_a_wrapped_answer_is_what_the_solution_column_holds():
    assert wrap_answer("4.63") == "<answer> 4.63 </answer>"


@pytest.mark.parametrize("module", [completions, json_text], ids=lambda module: module.__name__)
def test_the_examples_in_the_docstrings_hold(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0

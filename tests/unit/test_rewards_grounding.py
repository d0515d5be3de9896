"""Rewards of boxes: tables of good, bad and adversarial completions, and the coordinates they may be in."""

import doctest
import json

import pytest

from open_r1.completions import wrap_answer
from open_r1.rewards import build_reward_funcs, grounding
from open_r1.rewards.grounding import (
    ap50_reward,
    iou_reward,
    map_reward,
    od_length_reward,
    weighted_sum_reward,
)
from open_r1.tasks import get_task


ALL = [iou_reward, map_reward, ap50_reward, od_length_reward, weighted_sum_reward]
DETECTION = ALL[1:]
names = pytest.mark.parametrize("reward", ALL, ids=lambda reward: reward.__name__)
detection_names = pytest.mark.parametrize("reward", DETECTION, ids=lambda reward: reward.__name__)

GOLD = "[0, 0, 100, 100]"


def score(reward, texts, solution=GOLD, *, box_format="pixel", **columns):
    """Rewards of completions of one row, whose columns are given once."""
    return reward(
        prompts=[None] * len(texts),
        completions=[[{"role": "assistant", "content": text}] for text in texts],
        solution=[solution] * len(texts),
        box_format=box_format,
        **{name: [value] * len(texts) for name, value in columns.items() if name != "label_box_format"},
        **{name: value for name, value in columns.items() if name == "label_box_format"},
    )


def answer(value):
    """A completion that thinks, and then answers this (text, or JSON of anything else)."""
    return "<think>there</think> " + wrap_answer(value if isinstance(value, str) else json.dumps(value))


def boxes(*pairs):
    return [{"bbox_2d": list(box), "label": label} for label, box in pairs]


# ---- one box ----------------------------------------------------------------------------------------------------

ONE_BOX = {
    answer([0, 0, 100, 100]): 1.0,
    answer({"bbox_2d": [0, 0, 100, 50], "label": "whatever"}): 0.5,
    answer('```json\n{"bbox_2d": [0, 0, 100, 25]}\n```'): 0.25,
    answer("It is [0, 0, 100, 80], I think."): 0.8,
    answer("(0, 0), (100, 60)"): 0.6,
    answer([[0, 0, 100, 50], [0, 0, 100, 100]]): 0.5,  # the first box counts
    answer([100, 100, 0, 0]): 0.0,  # corners exchanged
    answer([100, 0, 0, 100]): 0.0,
    answer([50, 50, 50, 50]): 0.0,
    answer([200, 200, 300, 300]): 0.0,
    answer("[0, 0, NaN, 100]"): 0.0,
    answer("[0, 0, 1e999, 1e999]"): 0.0,
    answer([-1e300, -1e300, 1e300, 1e300]): 0.0,
    answer([[100, 100, 0, 0], [0, 0, 100, 100]]): 0.0,  # no second try
    answer("None"): 0.0,
    answer("[]"): 0.0,
    answer(""): 0.0,
    answer("0, 0, 100, 100"): 0.0,
    "[0, 0, 100, 100]": 0.0,  # outside the answer
    "<think>[0, 0, 100, 100]</think>": 0.0,
    answer([0, 0, 100, 100]) + answer("somewhere"): 0.0,  # the last answer counts
    '{"reasoning_steps": [], "answer": ""}': 0.0,
    answer({"reasoning_steps": [], "answer": ""}): 0.0,
    "": 0.0,
}


@pytest.mark.parametrize("text, expected", ONE_BOX.items())
def test_the_first_box_is_rewarded_by_how_well_it_covers_the_label(text, expected):
    assert score(iou_reward, [text]) == [pytest.approx(expected)]


@pytest.mark.parametrize("solution", ["", "None", "[]", "the dog", "[100, 100, 0, 0]", "[1, 2, 3]", "[5, 5, 5, 9]"])
def test_a_label_without_a_box_abstains(solution):
    assert score(iou_reward, [answer([0, 0, 1, 1]), ""], solution) == [None, None]


@pytest.mark.parametrize(
    "solution", ["<answer> [0, 0, 100, 100] </answer>", '{"bbox_2d": [0, 0, 100, 100], "label": "dog"}', GOLD]
)
def test_labels_are_read_as_answers_are(solution):
    assert score(iou_reward, [answer([0, 0, 100, 50])], solution) == [0.5]


# ---- coordinates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "box_format, box",
    [
        ("pixel", [0, 0, 320, 120]),
        ("input_pixel", [0, 0, 322, 119]),
        ("relative_1000", [0, 0, 500, 250]),
        ("relative_1", [0, 0, 0.5, 0.25]),
    ],
)
@names
def test_answers_in_any_coordinates_meet_labels_in_pixels_of_the_picture(reward, box_format, box):
    sizes = {"image_size": [(640, 480)], "input_size": [(644, 476)]}
    solution = "[0, 0, 320, 120]"
    assert score(reward, [answer(box)], solution, box_format=box_format, **sizes) == [pytest.approx(1)]
    other = "relative_1000" if box_format != "relative_1000" else "pixel"
    assert score(reward, [answer(box)], solution, box_format=other, **sizes) != [pytest.approx(1)]


def test_the_family_decides_where_nothing_is_said():
    columns = {"solution": ["[0, 0, 320, 240]"], "image_size": [[(640, 480)]], "input_size": [[(1280, 960)]]}
    for family, box in {"input_pixel": [0, 0, 640, 480], "relative_1000": [0, 0, 500, 500]}.items():
        completions = [[{"role": "assistant", "content": answer(box)}]]
        assert iou_reward([], completions, family_box_format=family, **columns) == [pytest.approx(1)]
    with pytest.raises(ValueError, match="give --box_format"):
        iou_reward([], completions, family_box_format=None, **columns)


def test_labels_may_be_relative_too_and_then_no_size_is_needed():
    options = {"box_format": "relative_1000", "label_box_format": "relative_1000"}
    assert score(iou_reward, [answer([0, 0, 500, 500])], "[0, 0, 500, 500]", **options) == [1.0]
    options = {"box_format": "relative_1", "label_box_format": "relative_1000"}
    assert score(iou_reward, [answer([0, 0, 0.5, 0.5])], "[0, 0, 500, 500]", **options) == [1.0]


@pytest.mark.parametrize(
    "sizes", [{}, {"image_size": [], "input_size": []}, {"image_size": [(6, 4)], "input_size": [None]}]
)
def test_a_size_that_is_needed_and_not_there_is_an_error_of_the_run(sizes):
    with pytest.raises(ValueError, match="`input_size`.*--box_format"):
        score(
            iou_reward, [answer([0, 0, 1, 1])], GOLD, box_format="input_pixel", label_box_format="relative_1", **sizes
        )


def test_rows_have_sizes_of_their_own():
    rewards = iou_reward(
        [],
        [[{"role": "assistant", "content": answer([0, 0, 500, 500])}]] * 2,
        solution=["[0, 0, 50, 50]", "[0, 0, 50, 50]"],
        image_size=[[(100, 100)], [(200, 50)]],
        input_size=[[None], [None]],
        box_format="relative_1000",
    )
    assert rewards == [1.0, pytest.approx(1250 / 3750)]  # half of 200 by 50, against 50 by 50


# ---- all objects ------------------------------------------------------------------------------------------------

CAT, DOG = (0, 0, 100, 100), (200, 0, 300, 100)
SCENE = json.dumps(boxes(("cat", CAT), ("dog", DOG)))
RIGHT = boxes(("cat", CAT), ("dog", DOG))
NOTHING = [
    *("", "None", answer(""), answer("None"), answer("[]"), answer("cat and dog"), SCENE),
    answer(boxes(("dog", CAT), ("cat", DOG))),  # labels exchanged
    answer(boxes(("cat", (100, 100, 0, 0)), ("dog", (300, 100, 200, 0)))),
    answer([[0, 0, 100, 100], [200, 0, 300, 100]]),  # no labels
    answer(boxes(("cat", (0, 0, 1e300, 1e300)))),
    answer('[{"bbox_2d": [NaN, 0, 100, 100], "label": "cat"}]'),
    answer("[" * 10_000),
    '{"reasoning_steps": [], "answer": ""}',
    answer({"reasoning_steps": [], "answer": ""}),
]


@detection_names
def test_all_objects_under_their_labels_earn_everything(reward):
    fenced = answer(f"```json\n{json.dumps(RIGHT[::-1])}\n```")
    shouted = answer(boxes(("CAT ", CAT), ("Dog", DOG)))
    assert score(reward, [answer(RIGHT), fenced, shouted], SCENE) == [pytest.approx(1)] * 3


@detection_names
@pytest.mark.parametrize("text", NOTHING, ids=lambda text: text[:40])
def test_what_finds_no_object_earns_nothing(reward, text):
    assert score(reward, [text], SCENE) == [0.0]


@detection_names
def test_where_there_is_nothing_saying_so_earns_everything_and_nothing_else_anything(reward):
    texts = [answer("None"), answer("[]"), answer("```json\n[]\n```"), answer(RIGHT), answer(""), "", answer("{}")]
    for solution in ("None", "<answer> None </answer>", "[]"):
        assert score(reward, texts, solution) == [1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0]
    assert score(reward, ['{"reasoning_steps": [], "answer": ""}'], "None") == [0.0]


@detection_names
@pytest.mark.parametrize("solution", ["", "a cat", "[[100, 100, 0, 0]]", "{}"])
def test_a_label_that_cannot_be_read_abstains(reward, solution):
    assert score(reward, [answer(RIGHT), ""], solution) == [None, None]


@detection_names
def test_labels_of_answers_do_not_matter_where_the_gold_boxes_have_none(reward):
    assert score(reward, [answer(RIGHT)], "[[0, 0, 100, 100], [200, 0, 300, 100]]") == [pytest.approx(1)]


def test_half_of_the_objects_earn_half_of_the_precision():
    texts = [answer(RIGHT[:1])]
    assert score(map_reward, texts, SCENE) == [pytest.approx(0.5)]
    assert score(ap50_reward, texts, SCENE) == [pytest.approx(0.5)]
    # 0.7 * 1 / 2 + 0.3 * (1 - (1 / 2 + 0) / 2)
    assert score(weighted_sum_reward, texts, SCENE) == [pytest.approx(0.575)]


def test_a_rough_box_is_right_at_low_thresholds_only():
    rough = answer([0, 0, 100, 62])  # IoU .62: right at .5, .55, .6 of ten thresholds
    assert score(map_reward, [rough]) == [pytest.approx(0.3)]
    assert score(ap50_reward, [rough]) == [pytest.approx(1)]


def test_guessing_many_boxes_costs_where_they_come_first_and_by_length_wherever_they_come():
    right, false = [0, 0, 100, 100], [500, 500, 600, 600]
    before, behind = answer([false] * 3 + [right]), answer([right] + [false] * 3)
    assert score(map_reward, [before, behind]) == [pytest.approx(0.25), pytest.approx(1)]
    assert score(od_length_reward, [before, behind]) == [pytest.approx(0.0625), pytest.approx(0.25)]
    others = answer(boxes(("cat", CAT), ("dog", DOG), *[("bird", CAT)] * 6))
    assert score(od_length_reward, [others], SCENE) == [pytest.approx(0.25)]
    # 0.7 + 0.3 * (1 - (0 + 3 / 4) / 2)
    assert score(weighted_sum_reward, [behind]) == [pytest.approx(0.8875)]


def test_the_same_box_twice_is_found_once():
    twice = answer([[0, 0, 100, 100]] * 2)
    assert score(od_length_reward, [twice]) == [pytest.approx(0.5)]
    assert score(weighted_sum_reward, [twice]) == [pytest.approx(0.925)]


def test_a_wrong_label_does_not_use_a_gold_box_up():
    mixed = answer(boxes(("dog", CAT), ("cat", (0, 0, 100, 80))))
    # 0.7 * .8 + 0.3 * (1 - (0 + 1 / 2) / 2)
    assert score(weighted_sum_reward, [mixed], json.dumps(boxes(("cat", CAT)))) == [pytest.approx(0.785)]


@names
def test_a_completion_is_rewarded_alike_in_any_company(reward):
    texts = [answer(RIGHT), answer(RIGHT[:1]), "", answer([0, 0, 100, 62]), answer(RIGHT + RIGHT)]
    together = score(reward, texts, SCENE)
    assert together == [pytest.approx(score(reward, [text], SCENE)[0]) for text in texts]
    assert all(0 <= value <= 1 for value in together)


# ---- tasks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "task, reward",
    [
        ("rec", "iou_reward"),
        ("od", "map_reward"),
        ("ovd", "map_reward"),
        ("od_length", "od_length_reward"),
        ("odLength", "od_length_reward"),
    ],
)
def test_accuracy_is_the_reward_of_the_task(task, reward):
    (accuracy,) = build_reward_funcs(["accuracy"], task, box_format="pixel", label_box_format="pixel")
    assert accuracy.__name__ == reward
    template = get_task(task).question_template
    (accuracy,) = build_reward_funcs(["accuracy"], task, box_format="pixel", question_template=template)
    completions = [[{"role": "assistant", "content": answer([0, 0, 100, 100])}]]
    assert accuracy([], completions, solution=[GOLD]) == [pytest.approx(1)]


def test_the_examples_in_the_docstrings_hold():
    results = doctest.testmod(grounding)
    assert results.attempted > 0
    assert results.failed == 0

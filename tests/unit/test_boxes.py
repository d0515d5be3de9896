"""Boxes: their geometry, their coordinates, how they are read out of text, and COCO's precision of them."""

import contextlib
import doctest
import io
import math
import random
import time

import pytest

from open_r1.utils import boxes
from open_r1.utils.boxes import (
    LabelledBox,
    find_scale,
    get_area,
    iou,
    is_inside,
    normalise_label,
    parse_boxes,
    parse_point,
    rescale,
)
from open_r1.utils.detection import (
    ImageBoxes,
    compute_dataset_precision,
    compute_image_precision,
    drop_idle_labels,
    match_boxes,
)


def read(text):
    """Boxes with their labels, or None."""
    found = parse_boxes(text)
    return None if found is None else [(box.box, box.label) for box in found]


# ---- geometry ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "first, second, expected",
    [
        ((0, 0, 2, 2), (0, 0, 2, 2), 1.0),
        ((0, 0, 2, 2), (1, 0, 3, 2), 1 / 3),  # 2 of 6
        ((0, 0, 4, 4), (1, 1, 2, 2), 1 / 16),
        ((0, 0, 2, 2), (2, 0, 4, 2), 0.0),  # they touch
        ((0, 0, 2, 2), (5, 5, 6, 6), 0.0),
        ((-2, -2, 0, 0), (-1, -1, 1, 1), 1 / 7),
        ((0, 0, 0, 0), (0, 0, 0, 0), 0.0),
        ((2, 2, 0, 0), (0, 0, 2, 2), 0.0),  # inverted
        ((2, 0, 0, 2), (2, 0, 0, 2), 0.0),
        ((0, 0, 2, 0), (0, 0, 2, 2), 0.0),
    ],
)
def test_intersection_over_union_by_hand(first, second, expected):
    assert iou(first, second) == pytest.approx(expected)
    assert iou(second, first) == iou(first, second)


def test_intersection_over_union_does_not_depend_on_scale_or_place():
    """A pixel added to the intersection alone, as in the first implementation, would depend on both."""
    first, second = (1.0, 2.0, 11.0, 9.0), (4.0, 3.0, 15.0, 8.0)
    for scale, shift in ((7.0, 0.0), (0.01, 0.0), (1.0, 50.0)):
        moved = [tuple(value * scale + shift for value in box) for box in (first, second)]
        assert iou(*moved) == pytest.approx(iou(first, second))
    assert iou(rescale(first, (3, 5)), rescale(second, (3, 5))) == pytest.approx(iou(first, second))


def test_a_box_with_exchanged_corners_has_no_area():
    assert get_area((0, 0, 3, 2)) == 6
    assert get_area((3, 2, 0, 0)) == get_area((3, 0, 0, 2)) == 0


def test_a_point_on_the_edge_is_inside():
    assert is_inside((1, 1), (1, 1, 2, 2))
    assert not is_inside((0.99, 1.5), (1, 1, 2, 2))
    assert not is_inside((1, 1), (2, 2, 0, 0))


# ---- coordinates ------------------------------------------------------------------------------------------------


def test_every_format_says_where_the_same_corner_is():
    image_size, input_size = (640, 480), (644, 476)
    corners = {"pixel": (320, 120), "input_pixel": (322, 119), "relative_1000": (500, 250), "relative_1": (0.5, 0.25)}
    assert corners.keys() == set(boxes.BOX_FORMATS)
    for box_format, (x, y) in corners.items():
        scale = find_scale(box_format, image_size, input_size)
        assert rescale((0, 0, x, y), scale)[2:] == pytest.approx((0.5, 0.25))


@pytest.mark.parametrize("box_format, missing", [("pixel", "image_size"), ("input_pixel", "input_size")])
def test_a_format_that_needs_a_size_says_which(box_format, missing):
    with pytest.raises(ValueError, match=missing):
        find_scale(box_format, None, None)
    with pytest.raises(ValueError, match="known: pixel, input_pixel, relative_1000, relative_1"):
        find_scale("voxel", (1, 1), (1, 1))


# ---- text -------------------------------------------------------------------------------------------------------

BOX, OTHER = (1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.5, 8.0)
READABLE = {
    '{"bbox_2d": [1, 2, 3, 4], "label": "cat"}': [(BOX, "cat")],
    '{"label": "cat", "bbox_2d": [1, 2, 3, 4]}': [(BOX, "cat")],
    '```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]\n```': [(BOX, "cat")],
    '```\n[{"bbox_2d": [9, 9, 9, 9]}]\n``` or\n```json\n{"box": [1, 2, 3, 4]}\n```': [(BOX, "")],
    '```json\n{"bbox": [1, 2, 3, 4], "name": "cat"}': [(BOX, "cat")],  # the fence is cut off
    "[1, 2, 3, 4]": [(BOX, "")],
    "[[1, 2, 3, 4], [5, 6, 7.5, 8]]": [(BOX, ""), (OTHER, "")],
    "[1,2,3,4],[5,6,7.5,8]": [(BOX, ""), (OTHER, "")],
    '{"bbox_2d": [1,2,3,4], "label": "a"}\n{"bbox_2d": [5,6,7.5,8], "label": "b"}': [(BOX, "a"), (OTHER, "b")],
    '{"cat": [1, 2, 3, 4], "dogs": [[5, 6, 7.5, 8]]}': [(BOX, "cat"), (OTHER, "dogs")],
    '{"objects": [{"bbox_2d": [1, 2, 3, 4], "label": "a"}]}': [(BOX, "a")],
    '{"label": "{x}", "scores": [0.1, 0.2, 0.3, 0.4], "bbox_2d": [1, 2, 3, 4]}': [(BOX, "{x}")],
    'The [left] one: {"bbox_2d": [1, 2, 3, 4], "label": "a"}.': [(BOX, "a")],
    '[{"bbox_2d": [1, 2, 3, 4], "label": "a"}, {"bbox_2d": [5, 6': [(BOX, "a")],
    "{'bbox_2d': [1, 2, 3, 4]}": [(BOX, "")],
    "It is at (1, 2), (3, 4).": [(BOX, "")],
    "<box>[[1, 2, 3, 4]]</box>": [(BOX, "")],
    "(1,2)(3,4)": [(BOX, "")],
    "[1e0, +2.0, .3e1, 4.]": [(BOX, "")],
}
EMPTY = ["None", " none. ", '"None"', "[]", "```json\n[]\n```", "```\nNone\n```"]
UNREADABLE = [
    *("", " ", "{}", "nothing", "null", "[[]]", '{"boxes": []}', '{"reasoning_steps": [], "answer": ""}'),
    *("[1, 2, 3]", "[1, 2, 3, 4, 5]", "[true, 1, 2, 3]", '["1", "2", "3", "4"]', "1, 2, 3, 4", "None of [these]"),
    *("[" * 50_000, "{" * 50_000, '{"a": [' * 50_000, "```" * 50_000, '{"a":' * 900 + "1" + "}" * 900),
]


@pytest.mark.parametrize("text, expected", READABLE.items())
def test_boxes_are_read_however_they_are_written(text, expected):
    assert read(text) == expected


@pytest.mark.parametrize("text", EMPTY)
def test_that_there_are_none_can_be_said(text):
    assert read(text) == []


@pytest.mark.parametrize("text", UNREADABLE, ids=lambda text: text[:20])
def test_anything_else_is_unreadable(text):
    assert read(text) is None


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400, "9" * 5000, "-2e6"])
def test_a_number_that_is_no_place_makes_a_box_without_area(number):
    for text in (f"[0, 0, 10, {number}]", f'{{"bbox_2d": [0, 0, {number}, 10]}}'):
        found = parse_boxes(text) or []  # `NaN` in brackets alone is JSON to Python, and to no one else
        assert [get_area(box.box) for box in found] == [0.0]
        assert all(map(math.isfinite, found[0].box))


HOSTILE = {
    "opened brackets": "[",
    "opened objects": '{"a":[',
    "half boxes": "[1,2,",
    "points": "(1,1),",
    "points with room": "(1,1)    ",
    "digits": "1",
    "bracket and spaces": "[1 " + " " * 20,
    "fences": "``` ",
    "empty lists": "[] ",
    "escapes": '{"a": "\\\\',
    "boxes": '{"bbox_2d": [1, 2, 3, 4], "label": "a"},',
}


@pytest.mark.parametrize("unit", HOSTILE.values(), ids=HOSTILE)
def test_reading_takes_time_in_proportion_to_the_text(unit):
    def measure(length):
        text = unit * (length // len(unit))
        start = time.process_time()
        parse_boxes(text)
        parse_point(text)
        return time.process_time() - start

    assert measure(160_000) < 0.5 + 30 * measure(20_000)  # eight times the text; 64 if it were quadratic


@pytest.mark.parametrize(
    "text, expected",
    [
        ("(12, 30)", (12, 30)),
        ("click [12.5, 30] twice", (12.5, 30)),
        ("[10, 20, 20, 40]", (15, 30)),
        ('{"point_2d": [7, 8], "label": "ok"}', (7, 8)),
        ("(1, 2) then [3, 4, 5, 6]", (1, 2)),
        ("(1, 2), (3, 4)", (2, 3)),  # two corners
        ("12, 30", None),
        ("(1e999, 3)", None),
        ("", None),
    ],
)
def test_a_point_is_read_or_the_middle_of_a_box(text, expected):
    assert parse_point(text) == expected


def test_labels_are_compared_without_case_and_separators():
    assert (
        normalise_label(" 'Traffic_Light' ") == normalise_label("traffic-light") == normalise_label("TRAFFIC light.")
    )
    assert normalise_label("cat") != normalise_label("cats")
    assert normalise_label("e\u0301") == normalise_label("\u00e9")


# ---- precision --------------------------------------------------------------------------------------------------


def draw_image(rng, num_gold, num_false):
    """Gold boxes of three labels, most of them found with some error, and false ones between and behind them."""

    def draw():
        x, y = rng.uniform(0, 500), rng.uniform(0, 300)
        return x, y, x + rng.uniform(5, 200), y + rng.uniform(5, 200)

    gold = [LabelledBox(draw(), rng.choice("abc")) for _ in range(num_gold)]
    found = [
        LabelledBox(tuple(value + rng.gauss(0, 6) for value in box.box), rng.choice([box.label] * 9 + ["a", "z"]))
        for box in gold
        if rng.random() < 0.9
    ]
    false = [LabelledBox(draw(), rng.choice("abcz")) for _ in range(num_false)]
    predicted = found + false
    rng.shuffle(predicted)
    return ImageBoxes(gold=gold, predicted=predicted)


def evaluate_with_coco(images):
    """mAP, AP50, AP75 by pycocotools as its own demo uses it, with its own defaults."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    def as_coco(box):
        x1, y1, x2, y2 = box
        return [x1, y1, x2 - x1, y2 - y1]

    labels = sorted({box.label for image in images for box in image.gold})
    records = [(n, box) for n, image in enumerate(images) for box in image.gold]
    with contextlib.redirect_stdout(io.StringIO()):
        gold = COCO()
        gold.dataset = {
            "info": {},
            "images": [{"id": n, "width": 800, "height": 600} for n in range(len(images))],
            "categories": [{"id": k, "name": label} for k, label in enumerate(labels)],
            "annotations": [
                {
                    "id": i + 1,
                    "image_id": n,
                    "category_id": labels.index(box.label),
                    "bbox": as_coco(box.box),
                    "area": get_area(box.box),
                    "iscrowd": 0,
                }
                for i, (n, box) in enumerate(records)
            ],
        }
        gold.createIndex()
        found = [
            {"image_id": n, "category_id": labels.index(box.label), "bbox": as_coco(box.box), "score": 1.0}
            for n, image in enumerate(images)
            for box in image.predicted
            if box.label in labels
        ]
        if not found:  # which loadRes does not take
            return [0.0, 0.0, 0.0]
        evaluation = COCOeval(gold, gold.loadRes(found), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return [float(value) for value in evaluation.stats[:3]]


@pytest.mark.parametrize("seed", range(4))
def test_precision_over_a_data_set_is_that_of_pycocotools(seed):
    rng = random.Random(seed)
    images = [draw_image(rng, rng.randrange(6), rng.randrange(4)) for _ in range(8)]
    ours = compute_dataset_precision(images)
    assert [ours.map, ours.ap50, ours.ap75] == pytest.approx(evaluate_with_coco(images), abs=1e-9)
    assert 0.05 < ours.map < ours.ap50 < 1


def test_the_precision_of_each_picture_is_that_of_pycocotools_on_it_alone():
    rng = random.Random(7)
    images = [draw_image(rng, 1 + rng.randrange(6), 1 + rng.randrange(4)) for _ in range(6)]
    ours = compute_image_precision(images)
    for image, precision in zip(images, ours, strict=True):
        assert [precision.map, precision.ap50, precision.ap75] == pytest.approx(evaluate_with_coco([image]), abs=1e-9)
    assert len({round(precision.map, 6) for precision in ours}) > 3


def test_precision_does_not_depend_on_the_scale_of_coordinates():
    image = draw_image(random.Random(3), 5, 2)
    small = ImageBoxes(
        gold=[LabelledBox(rescale(box.box, (800, 600)), box.label) for box in image.gold],
        predicted=[LabelledBox(rescale(box.box, (800, 600)), box.label) for box in image.predicted],
    )
    assert compute_image_precision([small])[0].map == pytest.approx(compute_image_precision([image])[0].map)


def test_precision_prints_nothing(capsys):
    compute_dataset_precision([draw_image(random.Random(0), 2, 1)])
    assert capsys.readouterr() == ("", "")


def test_pictures_without_objects_have_no_precision_but_their_false_boxes_count():
    empty = ImageBoxes(gold=[], predicted=[LabelledBox(BOX, "a")])
    full = ImageBoxes(gold=[LabelledBox(BOX, "a")], predicted=[LabelledBox(BOX, "a")])
    assert compute_dataset_precision([empty]) is None
    assert compute_dataset_precision([full]).map == pytest.approx(1)
    assert compute_dataset_precision([empty, full]).map == pytest.approx(0.5)  # one false box before the right one


def test_a_box_with_another_label_takes_no_gold_box_away():
    gold = [LabelledBox((0, 0, 10, 10), "cat")]
    predicted = [LabelledBox((0, 0, 10, 10), "dog"), LabelledBox((0, 0, 10, 8), "Cat")]
    assert match_boxes(gold, predicted) == [(0, 1, pytest.approx(0.8))]


def test_boxes_are_matched_one_to_one_from_the_best_pair_down():
    gold = [LabelledBox((0, 0, 10, 10)), LabelledBox((0, 0, 10, 7))]
    predicted = [LabelledBox((0, 0, 10, 8)), LabelledBox((0, 0, 10, 10))]
    assert match_boxes(gold, predicted) == [(0, 1, 1.0), (1, 0, pytest.approx(7 / 8))]
    assert match_boxes(gold, predicted[:1]) == [(1, 0, pytest.approx(7 / 8))]
    assert match_boxes(gold, [LabelledBox((0, 0, 10, 2))]) == []


def test_labels_of_answers_are_read_only_where_there_are_gold_labels():
    bare = ImageBoxes(gold=[LabelledBox(BOX)], predicted=[LabelledBox(BOX, "cat")])
    empty = ImageBoxes(gold=[], predicted=[LabelledBox(BOX, "cat")])
    labelled = ImageBoxes(gold=[LabelledBox(BOX, "dog")], predicted=[LabelledBox(BOX, "cat")])
    assert [image.predicted for image in drop_idle_labels([bare, empty])] == [[LabelledBox(BOX)]] * 2
    assert drop_idle_labels([empty, labelled]) == [empty, labelled]  # a false cat, even where there is nothing


def test_the_examples_in_the_docstrings_hold():
    results = doctest.testmod(boxes)
    assert results.attempted > 0
    assert results.failed == 0

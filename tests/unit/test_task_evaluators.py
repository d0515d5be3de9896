"""Evaluators of boxes, points and emotions over a data set, against numbers by hand and other libraries."""

import json
import math
import random

import pytest

from open_r1.completions import wrap_answer
from open_r1.utils.box_pairs import BoxFormats
from open_r1.utils.boxes import LabelledBox
from open_r1.utils.detection import ImageBoxes, compute_dataset_precision
from open_r1.utils.emotion_eval import UNKNOWN, compute_recalls, compute_uar, compute_war, evaluate_emotion
from open_r1.utils.grounding_eval import evaluate_gui, evaluate_od, evaluate_rec


HACK = '{"reasoning_steps": [], "answer": ""}'


def make_row(solution, text, **columns):
    return {"solution": wrap_answer(solution), "text": text, "dataset_name": "A", **columns}


def answer(value):
    return wrap_answer(value if isinstance(value, str) else json.dumps(value))


def is_finite(report):
    return all(math.isfinite(value) for value in report.metrics.values())


# ---- referring expressions --------------------------------------------------------------------------------------

GOLD = "[0, 0, 100, 100]"


def test_an_object_is_found_above_half_an_overlap():
    texts = [answer([0, 0, 100, 51]), answer([0, 0, 100, 50]), answer([100, 100, 0, 0]), "", HACK]
    report = evaluate_rec([make_row(GOLD, text) for text in texts])
    assert report.metrics == {"accuracy": 1 / 5, "mean_iou": pytest.approx(1.01 / 5)}
    assert report.counts == {"rows": 5, "scored": 5, "unusable_labels": 0}
    assert [detail["iou"] for detail in report.details] == [0.51, 0.5, 0.0, 0.0, 0.0]


def test_rows_without_a_labelled_box_are_left_out_and_counted():
    report = evaluate_rec([make_row(GOLD, answer(GOLD)), make_row("the dog", answer(GOLD))])
    assert report.metrics["accuracy"] == 1.0
    assert (report.counts["scored"], report.counts["unusable_labels"]) == (1, 1)
    assert evaluate_rec([make_row("the dog", "")]).notes == ["no row has a label with a box"]


def test_data_sets_are_reported_beside_all_rows():
    rows = [make_row(GOLD, answer(GOLD))] * 3 + [make_row(GOLD, "", dataset_name="B")]
    metrics = evaluate_rec(rows).metrics
    assert (metrics["accuracy"], metrics["A/accuracy"], metrics["B/accuracy"]) == (0.75, 1.0, 0.0)


def test_answers_may_be_in_other_coordinates_than_labels():
    row = make_row("[0, 0, 320, 240]", answer([0, 0, 500, 500]), image_size=[(640, 480)], input_size=[None])
    assert evaluate_rec([row], formats=BoxFormats(answer="relative_1000")).metrics["accuracy"] == 1.0
    assert evaluate_rec([row]).metrics["accuracy"] == 0.0


# ---- detection --------------------------------------------------------------------------------------------------


def test_detection_over_rows_is_the_precision_of_their_boxes():
    rng = random.Random(0)

    def draw():
        x, y = rng.randrange(50), rng.randrange(50)
        return x, y, x + rng.randrange(10, 40), y + rng.randrange(10, 40)

    images = []
    for _ in range(12):
        gold = [LabelledBox(tuple(map(float, draw())), rng.choice(["cat", "dog"])) for _ in range(rng.randrange(4))]
        moved = [LabelledBox(tuple(value + rng.randrange(4) for value in box.box), box.label) for box in gold]
        images.append(ImageBoxes(gold=gold, predicted=moved + [LabelledBox(draw(), "cat")] * rng.randrange(2)))

    def write(boxes):
        return json.dumps([{"bbox_2d": box.box, "label": box.label} for box in boxes])

    report = evaluate_od([make_row(write(image.gold), answer(write(image.predicted))) for image in images])
    expected = compute_dataset_precision(images)
    assert {name: report.metrics[name] for name in ("map", "ap50", "ap75")} == pytest.approx(vars(expected))
    assert 0 < expected.map < 1
    assert report.counts["gold_boxes"] == sum(len(image.gold) for image in images)


def test_precision_and_recall_count_objects_that_were_found():
    gold = json.dumps([{"bbox_2d": [0, 0, 10, 10], "label": "cat"}, {"bbox_2d": [20, 0, 30, 10], "label": "dog"}])
    one = answer([{"bbox_2d": [0, 0, 10, 9], "label": "cat"}])
    three = answer([{"bbox_2d": [0, 0, 10, 9], "label": label} for label in ("cat", "dog", "cat")])
    report = evaluate_od([make_row(gold, one), make_row(gold, three), make_row(gold, HACK), make_row("", one)])
    assert report.metrics["precision"] == 2 / 4
    assert report.metrics["recall"] == 2 / 6
    assert report.metrics["f1"] == pytest.approx(0.4)
    assert (report.counts["unreadable"], report.counts["unusable_labels"]) == (1, 1)
    assert [detail.get("found") for detail in report.details] == [1, 1, 0, None]


def test_what_has_no_value_is_left_out_and_told():
    report = evaluate_od([make_row("None", answer("None"))])
    assert report.metrics == {}
    assert "no average precision" in report.notes[0]


# ---- user interfaces --------------------------------------------------------------------------------------------

BUTTON = '{"action": "click", "bbox_2d": [10, 10, 30, 20]}'


@pytest.mark.parametrize(
    "solution, text, is_right",
    [
        ("[10, 10, 30, 20]", answer([20, 15]), True),
        ("[10, 10, 30, 20]", answer("click(30, 20)"), True),  # on the edge
        ("[10, 10, 30, 20]", answer([12, 12, 20, 18]), True),  # its middle
        ("[10, 10, 30, 20]", answer([31, 15]), False),
        ("[10, 10, 30, 20]", answer([0, 0, 100, 100]), False),
        ("[10, 10, 30, 20]", answer("the button"), False),
        ("[10, 10, 30, 20]", "(20, 15)", False),
        ("[10, 10, 30, 20]", answer("[NaN, 15]"), False),
        (BUTTON, answer({"action": "Click", "point": [20, 15]}), True),
        (BUTTON, answer({"action": "type", "point": [20, 15]}), False),
        (BUTTON, answer({"point": [20, 15]}), False),
        ("PRESS BACK", answer("press  back."), True),
        ("PRESS BACK", answer("press home"), False),
        ("PRESS BACK", answer(""), False),
        ("PRESS BACK", HACK, False),
        ("[10, 10, 30, 20]", HACK, False),
    ],
)
def test_a_point_must_lie_in_its_box_and_an_action_be_met_exactly(solution, text, is_right):
    report = evaluate_gui([make_row(solution, text)])
    assert report.metrics["accuracy"] == float(is_right)
    assert report.details[0]["is_right"] is is_right


def test_points_and_actions_are_counted_apart():
    rows = [
        make_row("[10, 10, 30, 20]", answer([20, 15])),
        make_row("[10, 10, 30, 20]", answer([0, 0])),
        make_row("home", answer("home")),
        make_row(" ", answer("home")),
    ]
    report = evaluate_gui(rows)
    assert report.metrics == {"accuracy": pytest.approx(2 / 3), "point_accuracy": 0.5, "action_accuracy": 1.0}
    assert (report.counts["points"], report.counts["actions"], report.counts["unusable_labels"]) == (2, 1, 1)


def test_points_are_brought_to_the_coordinates_of_the_label():
    row = make_row("[310, 230, 330, 250]", answer([500, 500]), image_size=[(640, 480)])
    assert evaluate_gui([row], formats=BoxFormats(answer="relative_1000")).metrics["accuracy"] == 1.0


# ---- emotions ---------------------------------------------------------------------------------------------------


def feel(gold, predicted, dataset="DFEW", **columns):
    return make_row(gold, answer(predicted), dataset_name=dataset, **columns)


def test_war_weighs_classes_by_size_and_uar_does_not():
    gold, predicted = ["a"] * 4 + ["b"], ["a", "a", "b", "c", "b"]
    assert compute_war(gold, predicted) == 3 / 5
    assert compute_recalls(gold, predicted) == {"a": 0.5, "b": 1.0}
    assert compute_uar(gold, predicted) == 0.75


def test_war_and_uar_are_those_of_scikit_learn_told_the_labels():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = random.Random(0)
    gold = rng.choices("abcde", weights=[5, 3, 2, 1, 1], k=200)
    predicted = [rng.choice([label, label, *"abcdefg"]) for label in gold]
    assert compute_war(gold, predicted) == pytest.approx(metrics.accuracy_score(gold, predicted))
    expected = metrics.recall_score(gold, predicted, labels=sorted(set(gold)), average="macro", zero_division=0)
    assert compute_uar(gold, predicted) == pytest.approx(expected)
    assert compute_uar(gold, predicted) > metrics.recall_score(gold, predicted, average="macro", zero_division=0)


def test_a_class_that_no_label_has_is_no_part_of_the_average():
    rows = [feel("happy", "joy"), feel("happy", "fear"), feel("sad", "sadness")]
    report = evaluate_emotion(rows)
    assert report.metrics["war"] == pytest.approx(2 / 3)
    assert report.metrics["uar"] == 0.75
    assert report.metrics["DFEW/recall/happiness"] == 0.5
    assert report.counts["unknown"] == 0


@pytest.mark.parametrize("predicted", ["happy or sad", "contempt", "not happy", "", "bliss"])
def test_what_names_no_class_is_unknown_and_wrong(predicted):
    report = evaluate_emotion([feel("happy", predicted), feel("happy", "happy")])
    assert report.metrics["war"] == 0.5
    assert report.counts["unknown"] == 1
    assert [detail["predicted"] for detail in report.details] == [UNKNOWN, "happiness"]


def test_folds_are_averaged_and_not_pooled():
    rows = [feel("sad", "sad", fold=1)] * 3 + [feel("sad", "happy", fold=2)]
    metrics = evaluate_emotion(rows).metrics
    assert (metrics["DFEW/fold_1/war"], metrics["DFEW/fold_2/war"], metrics["war"]) == (1.0, 0.0, 0.5)
    assert "are not in the means over 2 folds" in evaluate_emotion([*rows, feel("sad", "sad")]).notes[0]


def test_data_sets_are_averaged_and_labels_read_by_each():
    rows = [feel("neutral", "calm"), feel("neutral", "calm", dataset="RAVDESS")]
    metrics = evaluate_emotion(rows).metrics
    assert (metrics["DFEW/war"], metrics["RAVDESS/war"], metrics["war"]) == (1.0, 0.0, 0.5)


def test_labels_of_another_set_are_classes_of_their_own():
    rows = [feel("boredom", "Boredom", dataset="X"), feel("boredom", "anger", dataset="X")]
    assert evaluate_emotion(rows).metrics["X/recall/boredom"] == 0.5


def test_rows_without_a_label_are_left_out_and_counted():
    report = evaluate_emotion([feel(" ", "happy")])
    assert (report.metrics, report.notes) == ({}, ["no row has a label"])
    assert report.counts["unusable_labels"] == 1


@pytest.mark.parametrize("evaluate", [evaluate_rec, evaluate_od, evaluate_gui, evaluate_emotion])
def test_no_rows_give_no_numbers(evaluate):
    report = evaluate([])
    assert report.metrics == {}
    assert report.counts["rows"] == 0
    assert is_finite(report)

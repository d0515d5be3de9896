"""Rewards of boxes: one referred object (`iou`), or all objects of a picture (`map`, `ap50`, `od_length`, ...).

The boxes of the answer and those of the label (`solution`) may be in different coordinates:

    --box_format        of the answers; `auto`: those that the model family writes (`family_box_format`)
    --label_box_format  of the labels; `pixel`, of the picture itself, where nothing is said

Both are brought to fractions of the row's first picture, whose sizes are in the columns `image_size` and `input_size`.
"""

from collections.abc import Callable
from typing import Any

from open_r1.completions import get_answer_contract
from open_r1.utils.box_pairs import BoxFormats, BoxPair, read_pairs
from open_r1.utils.boxes import iou
from open_r1.utils.detection import ImageBoxes, Precision, compute_image_precision, drop_idle_labels, match_boxes


def iou_reward(
    prompts: list[Any],
    completions: list[list[dict[str, str]]],
    completion_ids: list[list[int]] | None = None,
    *,
    box_format: str = "auto",
    label_box_format: str = "pixel",
    question_template: str = "rec",
    **columns: Any,
) -> list[float | None]:
    """How well the box of the answer covers the labelled one, as intersection over union.

    The first box of the answer counts, against the first of the label; an answer without a box earns 0, and so does a
    box without area, such as one with its corners exchanged. A label without a box of some area abstains.

    Range: 0 to 1.
    Scope: completion.
    Needs: columns `solution`, `image_size`, `input_size`.
    Source: VLM-R1, `iou_reward` of its Qwen module, without the pixel that it adds to the intersection alone.

    >>> texts = ['<answer>{"bbox_2d": [0, 0, 10, 10]}</answer>', "<answer>[10, 10, 0, 0]</answer>"]
    >>> completions = [[{"role": "assistant", "content": text}] for text in texts]
    >>> iou_reward([], completions, solution=["<answer> [0, 0, 20, 10] </answer>"] * 2, box_format="pixel")
    [0.5, 0.0]

    Args:
        prompts: Not read.
        completions: B conversations of one assistant message.
        completion_ids: Not read.
        box_format: Coordinates of the answers.
        label_box_format: Coordinates of the labels.
        question_template: Contract that the answers are read by.
        columns: See above; `family_box_format` for `box_format="auto"`.
    """
    pairs = _read_pairs(completions, columns, box_format, label_box_format, question_template)
    return [_score_first_box(pair) for pair in pairs]


def map_reward(
    prompts: list[Any],
    completions: list[list[dict[str, str]]],
    completion_ids: list[list[int]] | None = None,
    *,
    box_format: str = "auto",
    label_box_format: str = "pixel",
    question_template: str = "od",
    **columns: Any,
) -> list[float | None]:
    """Mean average precision of the answer's boxes, as COCO evaluates it, with the picture as the whole data set.

    Labels are compared without regard to case, `_` and `-`; where the gold boxes have none, those of the answer are
    not read. Boxes count in the order in which they are written, so that one behind the last right one costs nothing,
    nor does one with a label that the picture does not have: `od_length` is the reward for which they do. Where there
    is nothing to be found, `None` and an empty list earn 1, all else 0.

    Range: 0 to 1.
    Scope: completion.
    Needs: columns `solution`, `image_size`, `input_size`; extra `grounding`.
    Source: VLM-R1, `map_reward` (its reward method `map`, `od_ap`); pycocotools.

    >>> boxes = '[{"bbox_2d": [0, 0, 10, 10], "label": "cat"}, {"bbox_2d": [20, 0, 30, 10], "label": "dog"}]'
    >>> texts = [f"<answer>{boxes}</answer>", f"<answer>{boxes[:46]}]</answer>", "<answer>None</answer>"]
    >>> completions = [[{"role": "assistant", "content": text}] for text in texts]
    >>> [round(reward, 3) for reward in map_reward([], completions, solution=[texts[0]] * 3, box_format="pixel")]
    [1.0, 0.5, 0.0]
    """
    pairs = _read_pairs(completions, columns, box_format, label_box_format, question_template)
    return _score_precision(pairs, lambda image, precision: precision.map)


def ap50_reward(
    prompts: list[Any],
    completions: list[list[dict[str, str]]],
    completion_ids: list[list[int]] | None = None,
    *,
    box_format: str = "auto",
    label_box_format: str = "pixel",
    question_template: str = "od",
    **columns: Any,
) -> list[float | None]:
    """Average precision of the answer's boxes at an IoU of 0.5; otherwise as `map`.

    Range: 0 to 1.
    Scope: completion.
    Needs: columns `solution`, `image_size`, `input_size`; extra `grounding`.
    Source: VLM-R1, its reward method `od_ap50`; pycocotools.

    >>> completions = [[{"role": "assistant", "content": "<answer>[0, 0, 10, 6]</answer>"}]]
    >>> [reward] = ap50_reward([], completions, solution=["[0, 0, 10, 10]"], box_format="pixel")
    >>> round(reward, 3)
    1.0
    """
    pairs = _read_pairs(completions, columns, box_format, label_box_format, question_template)
    return _score_precision(pairs, lambda image, precision: precision.ap50)


def od_length_reward(
    prompts: list[Any],
    completions: list[list[dict[str, str]]],
    completion_ids: list[list[int]] | None = None,
    *,
    box_format: str = "auto",
    label_box_format: str = "pixel",
    question_template: str = "od",
    **columns: Any,
) -> list[float | None]:
    """Mean average precision, times the share that the labelled boxes are of the boxes written, where these are more.

    Everything else as for `map`. Boxes of any label count as written, so that guessing more does not pay.

    Range: 0 to 1.
    Scope: completion.
    Needs: columns `solution`, `image_size`, `input_size`; extra `grounding`.
    Source: VLM-R1, its reward method `odLength`; pycocotools.

    >>> completions = [[{"role": "assistant", "content": "<answer>[[0, 0, 9, 9], [0, 0, 5, 5]]</answer>"}]]
    >>> [reward] = od_length_reward([], completions, solution=["[0, 0, 9, 9]"], box_format="pixel")
    >>> round(reward, 3)
    0.5
    """
    pairs = _read_pairs(completions, columns, box_format, label_box_format, question_template)
    return _score_precision(
        pairs, lambda image, precision: precision.map * min(1.0, len(image.gold) / len(image.predicted))
    )


def weighted_sum_reward(
    prompts: list[Any],
    completions: list[list[dict[str, str]]],
    completion_ids: list[list[int]] | None = None,
    *,
    box_format: str = "auto",
    label_box_format: str = "pixel",
    question_template: str = "od",
    **columns: Any,
) -> list[float | None]:
    """Where the objects are (0.7) and whether they are all there and no others (0.3).

    `0.7 * sum of IoU / gold boxes + 0.3 * (1 - (missed / gold boxes + false / predicted boxes) / 2)` over pairs of
    boxes of equal labels, chosen greedily by falling IoU, none below 0.5. A box with another label is false and takes
    part in no pair. Without any pair 0; where there is nothing to be found, as `map`.

    Range: 0 to 1.
    Scope: completion.
    Needs: columns `solution`, `image_size`, `input_size`.
    Source: VLM-R1, `detection_score` (its reward method `weighted_sum`), where a wrong label used a gold box up and an
        empty answer earned 0.15.

    >>> completions = [[{"role": "assistant", "content": "<answer>[[0, 0, 9, 9], [50, 50, 60, 60]]</answer>"}]]
    >>> [reward] = weighted_sum_reward([], completions, solution=["[0, 0, 9, 9]"], box_format="pixel")
    >>> round(reward, 3)
    0.925
    """
    pairs = _read_pairs(completions, columns, box_format, label_box_format, question_template)
    return [_score_simple(pair) if _is_simple(pair) else _score_weighted_sum(pair) for pair in pairs]


# pycocotools computes in Python: a millisecond for a completion of a few boxes, several for one of twenty.
map_reward.runs_in = ap50_reward.runs_in = od_length_reward.runs_in = "process"


def _read_pairs(
    completions: list[list[dict[str, str]]],
    columns: dict[str, Any],
    box_format: str,
    label_box_format: str,
    question_template: str,
) -> list[BoxPair]:
    if box_format == "auto":
        box_format = columns.get("family_box_format")
        if box_format is None:
            raise ValueError(
                "The coordinates in which this model family writes boxes are not known: give --box_format."
            )
    return read_pairs(
        [completion[-1]["content"] for completion in completions],
        columns["solution"],
        contract=get_answer_contract(question_template),
        formats=BoxFormats(answer=box_format, label=label_box_format),
        image_size=columns.get("image_size"),
        input_size=columns.get("input_size"),
    )


def _score_first_box(pair: BoxPair) -> float | None:
    if not pair.gold:
        return None
    return iou(pair.gold[0].box, pair.predicted[0].box) if pair.predicted else 0.0


def _is_simple(pair: BoxPair) -> bool:
    """Whether there is nothing to compare: no boxes on one side, or a text that could not be read."""
    return not (pair.gold and pair.predicted)


def _score_simple(pair: BoxPair) -> float | None:
    if pair.gold is None:
        return None
    return float(pair.gold == pair.predicted == [])


def _score_precision(pairs: list[BoxPair], score: Callable[[ImageBoxes, Precision], float]) -> list[float | None]:
    """The score of each pair by its precision, all in one run of pycocotools."""
    rewards = [_score_simple(pair) if _is_simple(pair) else None for pair in pairs]
    members = [b for b, pair in enumerate(pairs) if not _is_simple(pair)]
    if members:
        images = [_build_image(pairs[b]) for b in members]
        for b, image, precision in zip(members, images, compute_image_precision(images), strict=True):
            rewards[b] = score(image, precision)
    return rewards


def _build_image(pair: BoxPair) -> ImageBoxes:
    (image,) = drop_idle_labels([ImageBoxes(gold=pair.gold, predicted=pair.predicted)])
    return image


def _score_weighted_sum(pair: BoxPair) -> float:
    image = _build_image(pair)
    matches = match_boxes(image.gold, image.predicted)
    if not matches:
        return 0.0
    position = sum(overlap for _, _, overlap in matches) / len(image.gold)
    missed, wrong = 1 - len(matches) / len(image.gold), 1 - len(matches) / len(image.predicted)
    return 0.7 * position + 0.3 * (1 - (missed + wrong) / 2)

"""Detection as COCO evaluates it, through pycocotools (extra `grounding`): average precision per picture or data set.

Boxes of a text have no confidence, so all have the same, and pycocotools takes them in the order in which they were
written. All sizes count (COCO's area ranges are in pixels, boxes here may be fractions), at most 100 boxes per label.
"""

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from open_r1.utils.boxes import Box, LabelledBox, get_area, iou, normalise_label
from open_r1.utils.extras import require


if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True, kw_only=True)
class ImageBoxes:
    """The boxes of one picture, or of one completion about it, in the same coordinates."""

    gold: Sequence[LabelledBox]
    predicted: Sequence[LabelledBox]


@dataclass(frozen=True, kw_only=True)
class Precision:
    """Average precision, 0 to 1: the mean over IoU thresholds .50, .55, … .95 (COCO's mAP), and single thresholds."""

    map: float
    ap50: float
    ap75: float


def compute_image_precision(images: Sequence[ImageBoxes]) -> list[Precision]:
    """The precision of each picture on its own, all in one run of pycocotools.

    Each (picture, label) is a category of its own, whose average precision therefore depends on no other picture; a
    picture's is the mean over its gold labels. Predicted labels that no gold box has do not enter, as in COCO.

    Args:
        images: Each with at least one gold box.
    """
    gold = [(0, _category(n, box), box.box) for n, image in enumerate(images) for box in image.gold]
    predicted = [(0, _category(n, box), box.box) for n, image in enumerate(images) for box in image.predicted]
    categories = list(dict.fromkeys(category for _, category, _ in gold))
    precision = _run_coco(gold, predicted, categories).mean(axis=1)  # (10, categories)
    members: list[list[int]] = [[] for _ in images]
    for column, (n, _) in enumerate(categories):
        members[n].append(column)
    return [_summarise(precision[:, columns]) for columns in members]


def compute_dataset_precision(images: Sequence[ImageBoxes]) -> Precision | None:
    """The precision over all pictures together; None where there is no gold box in any."""
    gold = [(n, normalise_label(box.label), box.box) for n, image in enumerate(images) for box in image.gold]
    predicted = [(n, normalise_label(box.label), box.box) for n, image in enumerate(images) for box in image.predicted]
    if not gold:
        return None
    categories = list(dict.fromkeys(category for _, category, _ in gold))
    return _summarise(_run_coco(gold, predicted, categories).mean(axis=1))


def match_boxes(
    gold: Sequence[LabelledBox], predicted: Sequence[LabelledBox], threshold: float = 0.5
) -> list[tuple[int, int, float]]:
    """Pairs boxes of equal labels one to one, greedily by falling IoU, none below the threshold.

    Returns:
        (index of the gold box, index of the predicted box, IoU) of each pair.
    """
    gold_labels, labels = ([normalise_label(box.label) for box in boxes] for boxes in (gold, predicted))
    candidates = [
        (-iou(first.box, second.box), i, j)
        for i, first in enumerate(gold)
        for j, second in enumerate(predicted)
        if gold_labels[i] == labels[j]
    ]
    pairs, taken_gold, taken = [], set(), set()
    for negative_iou, i, j in sorted(candidates):
        if -negative_iou >= threshold and i not in taken_gold and j not in taken:
            pairs.append((i, j, -negative_iou))
            taken_gold.add(i)
            taken.add(j)
    return pairs


def drop_idle_labels(images: Sequence[ImageBoxes]) -> list[ImageBoxes]:
    """The pictures without predicted labels where the gold boxes, of all of them, have none to compare them with."""
    if any(box.label for image in images for box in image.gold):
        return list(images)
    return [
        ImageBoxes(gold=image.gold, predicted=[LabelledBox(box.box) for box in image.predicted]) for image in images
    ]


def _category(n: int, box: LabelledBox) -> tuple[int, str]:
    return n, normalise_label(box.label)


def _summarise(precision: "np.ndarray") -> Precision:
    """Of (10, categories), the means over categories."""
    ap50, ap75 = precision[0].mean(), precision[5].mean()
    return Precision(map=float(precision.mean()), ap50=float(ap50), ap75=float(ap75))


def _run_coco(
    gold: list[tuple[int, Any, Box]], predicted: list[tuple[int, Any, Box]], categories: list[Any]
) -> "np.ndarray":
    """Precision (10 IoU thresholds, 101 recalls, categories) of (picture, category, box) records."""
    numbers = {category: number for number, category in enumerate(categories)}
    known = [record for record in predicted if record[1] in numbers]
    coco_eval = require("pycocotools.cocoeval", "grounding").COCOeval
    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints at every step
        evaluation = coco_eval(_build_index(gold, numbers), _build_index(known, numbers), "bbox")
        evaluation.params.imgIds = sorted({image for image, _, _ in [*gold, *known]})
        evaluation.params.catIds = list(numbers.values())
        evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
        evaluation.params.maxDets = [100]
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][:, :, :, 0, 0]


def _build_index(records: list[tuple[int, Any, Box]], numbers: dict[Any, int]) -> Any:
    """Records as pycocotools holds them; its matching takes an id of 0 for none, so that they count from 1."""
    index = require("pycocotools.coco", "grounding").COCO()
    index.dataset = {
        "images": [{"id": image} for image in sorted({image for image, _, _ in records})],
        "categories": [{"id": number} for number in numbers.values()],
        "annotations": [
            {
                "id": number,
                "image_id": image,
                "category_id": numbers[category],
                "bbox": _to_coco(box),
                "area": get_area(box),
                "iscrowd": 0,
                "score": 1.0,
            }
            for number, (image, category, box) in enumerate(records, start=1)
        ],
    }
    index.createIndex()
    return index


def _to_coco(box: Box) -> list[float]:
    """Left, top, width, height; of no size where the box has no area."""
    x1, y1, x2, y2 = box
    return [x1, y1, x2 - x1, y2 - y1] if get_area(box) else [x1, y1, 0.0, 0.0]

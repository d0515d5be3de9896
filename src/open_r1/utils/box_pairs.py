"""Reads the boxes of labels and of answers into the same coordinates, for rewards and evaluators alike."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from open_r1.completions import AnswerContract, extract_answer
from open_r1.utils.boxes import LabelledBox, Size, find_scale, get_area, parse_boxes, rescale


@dataclass(frozen=True, kw_only=True)
class BoxPair:
    """The boxes of a label and of an answer to it; None where a text could not be read."""

    gold: list[LabelledBox] | None
    predicted: list[LabelledBox] | None


@dataclass(frozen=True, kw_only=True)
class BoxFormats:
    """The coordinates of answers and of labels, see `open_r1.utils.boxes.find_scale`."""

    answer: str = "pixel"
    label: str = "pixel"

    def find_scales(
        self, image_size: Size | None, input_size: Size | None
    ) -> tuple[tuple[float, float], tuple[float, float]]:
        """What coordinates of the label and of the answer are divided by; where both are the same, by one."""
        if self.answer == self.label:
            return (1.0, 1.0), (1.0, 1.0)
        return find_scale(self.label, image_size, input_size), find_scale(self.answer, image_size, input_size)


def read_pairs(
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    contract: AnswerContract,
    formats: BoxFormats,
    image_size: Sequence[Sequence[Size | None]] | None = None,
    input_size: Sequence[Sequence[Size | None]] | None = None,
) -> list[BoxPair]:
    """The boxes of B completions and of their labels.

    Args:
        texts: B completions.
        labels: B labels, with or without answer tags.
        contract: What the answers are read by.
        formats: The coordinates of both.
        image_size: Sizes of each row's pictures; the first one is meant.
        input_size: The same after resizing.
    """
    parsed_labels = {label: parse_label(label) for label in set(labels)}
    pairs = []
    for b, (text, label) in enumerate(zip(texts, labels, strict=True)):
        answer = contract.read_answer(text)
        pair = BoxPair(gold=parsed_labels[label], predicted=None if answer is None else parse_boxes(answer))
        if pair.gold and pair.predicted:
            gold_scale, scale = formats.find_scales(get_first(image_size, b), get_first(input_size, b))
            pair = BoxPair(gold=_rescale_all(pair.gold, gold_scale), predicted=_rescale_all(pair.predicted, scale))
        pairs.append(pair)
    return pairs


def parse_label(label: str) -> list[LabelledBox] | None:
    """The gold boxes that have some area; None where none has, or the label cannot be read."""
    inside = extract_answer(label)
    boxes = parse_boxes(label if inside is None else inside)
    usable = [box for box in boxes or () if get_area(box.box)]
    return usable or (boxes if boxes == [] else None)


def get_first(sizes: Sequence[Sequence[Size | None]] | None, b: int) -> Size | None:
    """The size of the row's first picture; None where it has no picture, or the picture no such size."""
    if not sizes or not sizes[b] or not sizes[b][0]:
        return None
    width, height = sizes[b][0]
    return width, height


def _rescale_all(boxes: list[LabelledBox], scale: tuple[float, float]) -> list[LabelledBox]:
    return [replace(box, box=rescale(box.box, scale)) for box in boxes]

"""Boxes in pictures: geometry, coordinate formats, and how boxes are read out of text. Pure, standard library only.

A box is (x1, y1, x2, y2), x to the right and y down, corners as points and not as pixels: the box (0, 0, 2, 2) covers
four pixels. Boxes are compared as fractions of the picture, so that it does not matter what anything was resized to.
Texts are untrusted: reading is linear in them and raises nothing.
"""

import json
import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


Box = tuple[float, float, float, float]
Size = tuple[int, int]  # width, height

BOX_FORMATS = ("pixel", "input_pixel", "relative_1000", "relative_1")
_SCALES = {"relative_1000": 1000.0, "relative_1": 1.0}

_NOWHERE: Box = (0.0, 0.0, 0.0, 0.0)
_MAX_COORDINATE = 1e6  # no picture is that large, and areas and differences of such numbers are exact enough
_BOX_KEYS = ("bbox_2d", "bbox", "box_2d", "box", "bounding_box", "coordinates")
_LABEL_KEYS = ("label", "name", "category", "class", "object")

_NUMBER = r"\s*+([-+]?+(?:\d++(?:\.\d*+)?+|\.\d++)(?:[eE][-+]?+\d++)?+)\s*+"
# [1, 2, 3, 4] and (1, 2, 3, 4), and the two points (1, 2), (3, 4) of Qwen2-VL
_BOX_TEXT = re.compile(rf"[\[(]{_NUMBER},{_NUMBER}(?:,|\)\s*+,?+\s*+\(){_NUMBER},{_NUMBER}[\])]")
_POINT_TEXT = re.compile(rf"[\[(]{_NUMBER},{_NUMBER}[\])]")
_FLAT_OBJECT = re.compile(r"\{[^{}]*+\}")


@dataclass(frozen=True)
class LabelledBox:
    """A box and what is in it. Example: `LabelledBox((10, 20, 60, 80), "cat")`."""

    box: Box
    label: str = ""


# ---- geometry ---------------------------------------------------------------------------------------------------


def get_area(box: Box) -> float:
    """Its area; 0 for a box of no width or height, or with its corners exchanged."""
    x1, y1, x2, y2 = box
    return (x2 - x1) * (y2 - y1) if x2 > x1 and y2 > y1 else 0.0


def iou(first: Box, second: Box) -> float:
    """Intersection over union, 0 to 1; 0 where either box has no area.

    >>> iou((0, 0, 2, 2), (1, 0, 3, 2))
    0.3333333333333333
    """
    areas = get_area(first), get_area(second)
    if not all(areas):
        return 0.0
    corners = *map(max, first[:2], second[:2]), *map(min, first[2:], second[2:])
    shared = get_area(corners)
    return shared / (sum(areas) - shared)


def is_inside(point: tuple[float, float], box: Box) -> bool:
    """Whether a point lies in a box, its edges included."""
    (x, y), (x1, y1, x2, y2) = point, box
    return x1 <= x <= x2 and y1 <= y <= y2


# ---- coordinates ------------------------------------------------------------------------------------------------


def find_scale(box_format: str, image_size: Size | None, input_size: Size | None) -> tuple[float, float]:
    """What the coordinates of a format are divided by, (x, y), to be fractions of the picture.

    Args:
        box_format: `pixel` of the picture itself, `input_pixel` of the picture as it was resized for the model,
            `relative_1000` and `relative_1`: of a picture as wide and high as the number says.
        image_size: Width and height of the picture itself.
        input_size: Width and height after resizing.

    Raises:
        ValueError: an unknown format, or one that needs a size which is not there.
    """
    if box_format not in BOX_FORMATS:
        raise ValueError(f"box format {box_format!r}; known: {', '.join(BOX_FORMATS)}")
    if box_format in _SCALES:
        return _SCALES[box_format], _SCALES[box_format]
    size, name = (image_size, "image_size") if box_format == "pixel" else (input_size, "input_size")
    if size is None:
        raise ValueError(
            f"boxes in format {box_format!r} need the column `{name}`, which has no value: a row without a picture, "
            "or a model family that cuts pictures into tiles. Choose another --box_format or --label_box_format."
        )
    return float(size[0]), float(size[1])


def rescale(box: Box, scale: tuple[float, float]) -> Box:
    """The box with its coordinates divided by (x, y)."""
    (x1, y1, x2, y2), (width, height) = box, scale
    return x1 / width, y1 / height, x2 / width, y2 / height


# ---- text -------------------------------------------------------------------------------------------------------


def normalise_label(label: str) -> str:
    """A label as it is compared: case, Unicode form, white space, `_`, `-`, and quotes around it do not matter.

    >>> normalise_label(' "Traffic_Light" ')
    'traffic light'
    """
    text = unicodedata.normalize("NFKC", label).casefold().replace("_", " ").replace("-", " ")
    return " ".join(text.split()).strip(" \"'`.,;:")


def parse_boxes(text: str) -> list[LabelledBox] | None:
    """The boxes in a text, in their order; None where it can be read neither as boxes nor as the statement of none.

    Read are JSON in the last code fence, else in the whole text: objects with a box under `bbox_2d` or a name like it
    and a `label`, lists of them, bare lists of four numbers, objects `{label: box}`; then single objects in prose or
    in JSON that is cut off; then four numbers in brackets. `None` and an empty list say that there are none.
    Coordinates that are no place in a picture (NaN, infinite, beyond a million) make a box without area.

    >>> parse_boxes('[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]')
    [LabelledBox(box=(1.0, 2.0, 3.0, 4.0), label='cat')]
    >>> parse_boxes("None"), parse_boxes("somewhere on the left")
    ([], None)
    """
    text = _open_fence(text).strip()
    if text.strip(" .\"'`").casefold() == "none":
        return []
    values, is_whole = _decode_all(text)
    boxes = [box for value in values for box in _walk(value)]
    if boxes:
        return boxes
    if values and is_whole and all(value == [] for value in values):
        return []
    boxes = [box for value in _decode_flat(text) for box in _walk(value)]
    return boxes or [LabelledBox(_build_box(match.groups())) for match in _BOX_TEXT.finditer(text)] or None


def parse_point(text: str) -> tuple[float, float] | None:
    """The first point in brackets, or the middle of the first box where that comes first; None where there is none.

    >>> parse_point("click(12, 30)"), parse_point("[10, 20, 20, 40]")
    ((12.0, 30.0), (15.0, 30.0))
    """
    point, box = _POINT_TEXT.search(text), _BOX_TEXT.search(text)
    if box is not None and (point is None or box.start() <= point.start()):
        x1, y1, x2, y2 = _build_box(box.groups())
        return (x1 + x2) / 2, (y1 + y2) / 2
    if point is None:
        return None
    x, y = map(float, point.groups())
    return (x, y) if max(abs(x), abs(y)) <= _MAX_COORDINATE else None


def _open_fence(text: str) -> str:
    """What is in the last code fence, closed or else cut off; the text itself where there is none."""
    parts = text.split("```")
    if len(parts) == 1:
        return text
    last_inside = max(1, len(parts) - 2 - (len(parts) % 2 == 0))
    inside = parts[last_inside]
    return inside[4:] if inside[:4].casefold() == "json" else inside


def _decode_all(text: str) -> tuple[list[Any], bool]:
    """The JSON values that follow one another from the first bracket on, and whether there is nothing else."""
    starts = [start for start in (text.find("["), text.find("{")) if start >= 0]
    first = position = min(starts, default=len(text))
    values, decoder = [], json.JSONDecoder()
    while position < len(text) and text[position] in "[{":
        try:
            value, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            break
        values.append(value)
        while position < len(text) and text[position] in ", \t\r\n":
            position += 1
    return values, first == 0 and position == len(text)


def _decode_flat(text: str) -> Iterator[Any]:
    """The objects in a text that hold no other object."""
    for match in _FLAT_OBJECT.finditer(text):
        try:
            value = json.loads(match.group())
        except (ValueError, RecursionError):
            value = None
        yield value


def _walk(value: Any) -> Iterator[LabelledBox]:
    """The boxes in a JSON value, in their order. Not recursive: untrusted values may be nested deeply."""
    pending: list[tuple[Any, str]] = [(value, "")]
    while pending:
        value, label = pending.pop()
        if isinstance(value, list):
            if len(value) == 4 and all(map(_is_number, value)):
                yield LabelledBox(_build_box(value), label)
            else:
                pending += [(item, label) for item in reversed(value)]
        elif isinstance(value, dict):
            own = next((value[key] for key in _LABEL_KEYS if isinstance(value.get(key), str)), None)
            keys = [key for key in _BOX_KEYS if key in value] or list(value)
            pending += [(value[key], _choose_label(key, own, label)) for key in reversed(keys)]


def _choose_label(key: str, own: str | None, inherited: str) -> str:
    """The object's own label; else what it stands under, which is the key in `{label: box}`."""
    if own is not None:
        return own
    return inherited if key in _BOX_KEYS else key


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _build_box(numbers: Any) -> Box:
    """Four numbers, or their texts, as a box."""
    values = [float(number) if isinstance(number, str) else number for number in numbers]
    if not all(-_MAX_COORDINATE <= value <= _MAX_COORDINATE for value in values):  # false for NaN
        return _NOWHERE
    x1, y1, x2, y2 = map(float, values)
    return x1, y1, x2, y2

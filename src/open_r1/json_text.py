"""Reading one JSON object out of text that a model has written. Linear in the text; raises nothing."""

import json
from typing import Any


class NumberText(str):
    """A number of a JSON text, as it is written: "3.50" stays that, and no exponent overflows."""


def parse_object(text: str) -> dict[str, Any] | None:
    """The JSON object that `text` is, perhaps in a code fence; None where it is not one, or has a key twice.

    >>> parse_object('```json\\n{"a": 3.50}\\n```')
    {'a': '3.50'}
    """
    try:
        value = json.loads(
            _strip_fence(text),
            parse_int=NumberText,
            parse_float=NumberText,
            parse_constant=_refuse,
            object_pairs_hook=_build_object,
        )
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def find_object(text: str) -> dict[str, Any] | None:
    """The JSON object in a text that may have prose around it: in its last code fence, or between its outer braces.

    >>> find_object('So the answer is {"a": "b"}.')
    {'a': 'b'}
    """
    fenced = text.rsplit("```", 2)
    candidates = [text, f"```{fenced[1]}```" if len(fenced) == 3 else ""]
    candidates.append(text[text.find("{") : text.rfind("}") + 1])
    return next((record for record in map(parse_object, candidates) if record is not None), None)


def _strip_fence(text: str) -> str:
    text = text.strip()
    if len(text) < 6 or not (text.startswith("```") and text.endswith("```")):
        return text
    inside = text[3:-3]
    return inside[4:] if inside[:4].lower() == "json" else inside


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _build_object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    record = dict(pairs)
    if len(record) < len(pairs):
        raise ValueError("a key twice")
    return record

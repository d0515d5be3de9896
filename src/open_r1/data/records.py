"""Reads one row: a line of a JSONL file, an entry of a JSON list, or a row of a Hugging Face data set.

    {"id": 1, "dataset_name": "KADID-10K", "image": ["I01_01_01.png"], "conversations": [
        {"from": "human", "value": "You are doing the image quality assessment task. ..."},
        {"from": "gpt", "value": 4.63}]}                          (one line in the file)

    {"image": "a.jpg", "question": "What is this?", "answer": "B", "choices": ["a cat", "a dog"],
     "reference_steps": ["It has a collar."]}

Rows are untrusted: everything wrong with one is said at once.
"""

import json
import re
from typing import Any

from open_r1.completions import extract_answer, wrap_answer
from open_r1.data.schema import Row, RowRules, parse_number, shorten


_PLACE_HOLDERS = {"image": "<image>", "video": "<video>"}
_QUESTION_KEYS, _ANSWER_KEYS = ("question", "problem"), ("answer", "solution")
_NAMES = ("id", "dataset_name", "reference", "accu_reward_method")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_LABEL = re.compile(r"\(?([A-Z])[).:]\s*(?=\S)")  # of an option: `A) `, `(A) `, `A. `
_SURROGATE = re.compile("[\ud800-\udfff]")


def parse_row(line: bytes, rules: RowRules) -> Row:
    """Reads one line of a JSONL file, undecoded; ValueError says all that is wrong with it."""
    return parse_record(decode_line(line), rules)


def decode_line(line: bytes) -> Any:
    """The JSON value of a line; ValueError where it is none."""
    try:
        return json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start + 1} of the line)") from error
    except json.JSONDecodeError as error:
        raise ValueError(f"not JSON: {error.msg} (character {error.pos + 1})") from error
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets nested as deep
        raise ValueError(f"not JSON that can be read: {error}") from error


def parse_record(record: Any, rules: RowRules) -> Row:
    """Turns a record into a row.

    Args:
        record: An object with `conversations`, or with `question` (or `problem`) and `answer` (or `solution`).
        rules: What it must have.

    Raises:
        ValueError: all that is wrong with it.
    """
    if not isinstance(record, dict):
        raise ValueError(f"a row must be a JSON object, not a {type(record).__name__}")
    problems: list[str] = []
    images = _parse_files(record, "image", problems)
    videos = _parse_files(record, "video", problems)
    if rules.require_mos and not images and record.get("image") in (None, [], ()):
        problems.append("no image")
    question, answer = _parse_turns(record, rules, problems)
    for kind, holder in _PLACE_HOLDERS.items():
        if holder in question:
            if record.get(kind) is None:
                problems.append(f"the question has {holder}, the row has no {kind}")
            question = question.replace(holder, "")
    mos = _parse_mos(answer, rules.require_mos, problems)
    names = {key: _parse_name(record, key, problems) for key in _NAMES if record.get(key) is not None}
    method = names.get("accu_reward_method")
    if method is not None and rules.reward_methods is not None and method not in rules.reward_methods:
        known = ", ".join(sorted(rules.reward_methods))
        problems.append(f"the accu_reward_method {shorten(method)} is unknown; known: {known}")
    options = _parse_options(record, problems)
    steps = _parse_texts(record, ("reference_steps",), problems)
    explanations = _parse_texts(record, ("explanations", "explanation"), problems)
    if problems:
        raise ValueError("; ".join(problems))
    return Row(
        problem=_render_options(question.strip(), options),
        solution=_wrap(answer),
        images=images,
        videos=videos,
        mos=mos,
        options=options,
        reference_steps=steps,
        explanations=tuple(dict.fromkeys(explanations)),
        **names,
    )


def _wrap(answer: Any) -> str:
    text = json.dumps(answer, ensure_ascii=False) if isinstance(answer, list | dict) else str(answer)
    return wrap_answer(text.strip()) if extract_answer(text) is None else text


def _is_text(value: Any) -> bool:
    """A string with something in it, and none of the halves of surrogate pairs that JSON allows."""
    return isinstance(value, str) and bool(value.strip()) and (value.isascii() or not _SURROGATE.search(value))


def _parse_files(record: dict[str, Any], kind: str, problems: list[str]) -> tuple[str, ...]:
    value = record.get(kind)
    if value is None:
        return ()
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(map(_is_text, names)):
        problems.append(f"the {kind} must be a file name or a list of them, not {shorten(value)}")
        return ()
    return tuple(names)


# ---- question and answer ----------------------------------------------------------------------------------------


def _parse_turns(record: dict[str, Any], rules: RowRules, problems: list[str]) -> tuple[str, Any]:
    """The question, "" where there is none that can be used, and the answer, None where there is none."""
    if "conversations" in record:
        names, kind = ("human", "gpt"), "turn with a value"
        values = _read_conversations(record["conversations"], problems)
    else:
        names, kind = (_find_key(record, _QUESTION_KEYS), _find_key(record, _ANSWER_KEYS)), "value"
        values = record if any(name in record for name in names) else {}
        if not values:
            problems.append("no conversations")
    if not values:
        return "", None
    question, answer = (values.get(name) for name in names)
    if rules.default_question is not None and (question is None or _is_blank(question)):
        question = rules.default_question
    problems += [f"no {name!r} {kind}" for name, value in zip(names, (question, answer)) if value is None]
    if question is not None and not (_is_text(question) and not _is_blank(question)):
        problems.append(f"the {names[0]} value must be a text, not {shorten(question)}")
        question = None
    return question or "", answer


def _read_conversations(turns: Any, problems: list[str]) -> dict[str, Any]:
    """The first value of each speaker; nothing where there is no turn at all."""
    if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
        problems.append(f"conversations must be a list of objects, not {shorten(turns)}")
        return {}
    values: dict[str, Any] = {"": None}
    for turn in turns:
        if isinstance(turn.get("from"), str):
            values.setdefault(turn["from"], turn.get("value"))
    return values


def _find_key(record: dict[str, Any], keys: tuple[str, ...]) -> str:
    return next((key for key in keys if key in record), keys[0])


def _is_blank(question: Any) -> bool:
    """Whether a text has nothing but place holders in it."""
    if not isinstance(question, str):
        return False
    for holder in _PLACE_HOLDERS.values():
        question = question.replace(holder, "")
    return not question.strip()


def _parse_mos(answer: Any, is_required: bool, problems: list[str]) -> float | None:
    if answer is None or (isinstance(answer, list | dict) and not is_required):
        return None
    if isinstance(answer, str) and not _is_text(answer):
        problems.append(f"the answer must be a number or a text, not {shorten(answer)}")
        return None
    inside = extract_answer(answer) if isinstance(answer, str) else None
    try:
        return parse_number(answer if inside is None else inside)
    except ValueError as error:
        if is_required:
            problems.append(f"the MOS (gpt value) {error}")
        return None


# ---- what else a row may have -----------------------------------------------------------------------------------


def _parse_name(record: dict[str, Any], key: str, problems: list[str]) -> str | None:
    value = record[key]
    if isinstance(value, bool) or not (isinstance(value, int | float) or _is_text(value)):
        problems.append(f"the {key} must be a text or a number, not {shorten(value)}")
        return None
    return str(value)


def _parse_texts(record: dict[str, Any], keys: tuple[str, ...], problems: list[str]) -> tuple[str, ...]:
    """The texts under these keys, trimmed; blank ones do not count."""
    texts: list[str] = []
    for key in keys:
        value = record.get(key)
        if value is None:
            continue
        values = [value] if isinstance(value, str) else value
        if not isinstance(values, list) or not all(isinstance(text, str) for text in values):
            problems.append(f"the {key} must be a text or a list of them, not {shorten(value)}")
            continue
        texts += [text.strip() for text in values if _is_text(text)]
    return tuple(texts)


def _parse_options(record: dict[str, Any], problems: list[str]) -> tuple[str, ...]:
    """The choices in the order of their letters, without labels of their own such as `A) `."""
    for key in ("choices", "options"):
        value = record.get(key)
        if isinstance(value, dict):  # a column of a data set has the letters of all its rows
            value = {str(letter).strip().upper(): text for letter, text in value.items() if text is not None}
        elif isinstance(value, list):
            while value and value[-1] is None:
                value = value[:-1]
        if value:
            return _read_options(key, value, problems)
    return ()


def _read_options(key: str, value: Any, problems: list[str]) -> tuple[str, ...]:
    choices = list(value) if isinstance(value, list) else []
    if isinstance(value, dict):
        letters = sorted(value)
        choices = [value[letter] for letter in letters]
        if "".join(letters) != _LETTERS[: len(letters)]:
            problems.append(f"the letters of the {key} must be A, B, and so on, not {', '.join(letters)}")
            return ()
    is_usable = all(_is_text(text) or type(text) in (int, float) for text in choices)
    if not choices or not is_usable or len(choices) > len(_LETTERS):
        problems.append(f"the {key} must be a list of up to 26 texts, or texts by letter, not {shorten(value)}")
        return ()
    texts = [str(text).strip() for text in choices]
    labels = [_LABEL.match(text) for text in texts]
    if all(label and label.group(1) == letter for label, letter in zip(labels, _LETTERS)):
        texts = [text[label.end() :] for text, label in zip(texts, labels)]
    return tuple(texts)


def _render_options(question: str, options: tuple[str, ...]) -> str:
    """The question with `A) …` lines below it, unless it ends in them."""
    lines = "\n".join(f"{letter}) {text}" for letter, text in zip(_LETTERS, options))
    return question if not lines or question.endswith(lines) else f"{question}\n\n{lines}"

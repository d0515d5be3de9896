"""The answer contract: what a model is told to write, what counts as well formed, and how its text is read.

Training (rewards, prompts), scoring and evaluation all take these from here, so they cannot drift apart. A contract is
one object: the instruction shown to the model, the form it must write, the check that it did, and the reader. The tags
themselves are written once in the repo, below; the instructions are in `templates`. Completions are untrusted text of
any length: everything here is linear in it and raises nothing.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_r1.json_text import NumberText, find_object, parse_object
from open_r1.templates import EMOTION_QUESTION as EMOTION_QUESTION
from open_r1.templates import IQA_QUESTION as IQA_QUESTION
from open_r1.templates import TEMPLATES


_TAGS = {
    "think": ("<think>", "</think>"),
    "answer": ("<answer>", "</answer>"),
    "explain": ("<explain>", "</explain>"),
}
_ALL_TAGS = tuple(tag for pair in _TAGS.values() for tag in pair)
_MAY_BE_BLANK = ("think",)
_STEPS, _ANSWER = "reasoning_steps", "answer"  # keys of the JSON contract
_QUESTION, _OTHER_QUESTION = "{Question}", "{USER_INSTRUCTION}"  # place holders of a template

_NUMBER = re.compile(
    r"""
    (?: (?<!\w)[-+] )?                      # a sign, but not the hyphen of "quality-4"
    (?: (?: \d+(?:[.]\d*)? | [.]\d+ )       # 3  3.  3.5  .5
        (?: e[-+]?\d+ )?                    # 1e3
      | \b(?: nan | inf(?:inity)? )\b )
    """,
    re.VERBOSE | re.IGNORECASE,
)
_TO_ASCII = str.maketrans(",，．−－＋", "...--+")  # the decimal comma, and the wide and typographic forms
_COORDINATE = r"\s*-?\d+(?:\.\d+)?\s*"
_BOX = re.compile(rf"\[{_COORDINATE}(?:,{_COORDINATE}){{3}}\]")


@dataclass(frozen=True, kw_only=True)
class AnswerContract:
    """One way of asking for an answer, with the check and the reader that belong to it: here, sections between tags.

    >>> contract = get_answer_contract("scoring_no_think")
    >>> contract.is_well_formed(contract.compose(answer="3.50"))
    True
    """

    name: str
    """What `--question_template` calls it."""
    template: str
    """Instruction with the place holder `{Question}`; any other brace is plain text."""
    sections: tuple[str, ...] = ("think", "answer")
    """The tag pairs of a well-formed completion, in order."""

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of its sections, as a tokenizer wants to know them."""
        return tuple(tag for section in self.sections for tag in _TAGS[section])

    def render(self, question: str) -> str:
        """The user's text: the template with the question put in. Braces in either are left alone."""
        return self.template.replace(_QUESTION, question)

    def compose(self, *, answer: str, think: str = "", explain: str = "", steps: Sequence[str] = ()) -> str:
        """A completion in this contract, as cold-start data and tests need it.

        Args:
            answer: The answer.
            think: The thinking; where it is empty, `steps` in its place.
            explain: The explanation, where the contract has one.
            steps: The reasoning in steps.
        """
        texts = {"think": think or "\n".join(steps), "answer": answer, "explain": explain}
        return " ".join(_wrap(section, texts[section]) for section in self.sections)

    def is_well_formed(self, text: str) -> bool:
        """Whether `text` is the sections in order, each exactly once, and nothing else but white space around them.

        The thinking may be blank, the other sections may not.
        """
        if any(text.count(tag) != (tag in self.tags) for tag in _ALL_TAGS):
            return False
        rest = text
        for section in self.sections:
            opening, closing = _TAGS[section]
            before, _, rest = rest.partition(opening)
            inside, closed, rest = rest.partition(closing)
            if before.strip() or not closed or not (inside.strip() or section in _MAY_BE_BLANK):
                return False
        return not rest.strip()

    def count_sections(self, text: str) -> int:
        """How many of the sections are right: written once, behind the earlier ones, holding text but no other tag."""
        num_right = end_of_last = 0
        for section in self.sections:
            opening, closing = _TAGS[section]
            start, end = text.find(opening), text.find(closing)
            if text.count(opening) != 1 or text.count(closing) != 1 or end < start:
                continue
            inside = text[start + len(opening) : end]
            is_clean = not any(tag in inside for tag in _ALL_TAGS) and (inside.strip() or section in _MAY_BE_BLANK)
            num_right += bool(is_clean and start >= end_of_last)
            end_of_last = max(end_of_last, end)
        return num_right

    def read_answer(self, text: str) -> str | None:
        """The answer that a completion gives, trimmed; None where it gives none, or a blank one."""
        return (extract_answer(text) or "").strip() or None

    def read_steps(self, text: str) -> list[str] | None:
        """The reasoning steps that a completion gives; None where the contract or the completion has none."""
        return None

    def read_explanation(self, text: str) -> str | None:
        """The explanation, trimmed; None where the contract or the completion has none, or a blank one."""
        if "explain" not in self.sections:
            return None
        return (_extract("explain", text) or "").strip() or None


@dataclass(frozen=True, kw_only=True)
class BoxContract(AnswerContract):
    """Sections between tags, with exactly one box [x1, y1, x2, y2] in the answer, bare or in JSON.

    >>> contract = get_answer_contract("rec")
    >>> contract.is_well_formed('<think>left</think><answer>{"bbox_2d": [1, 2, 30, 40.5]}</answer>')
    True
    >>> contract.is_well_formed("<think>left</think><answer>[1, 2, 3, 4] or [5, 6, 7, 8]</answer>")
    False
    """

    def is_well_formed(self, text: str) -> bool:
        """Whether the sections are, and the answer has one box."""
        return super().is_well_formed(text) and len(_BOX.findall(extract_answer(text))) == 1


@dataclass(frozen=True, kw_only=True)
class JsonContract(AnswerContract):
    """One JSON object with reasoning steps and an answer.

    >>> contract = get_answer_contract("vqa")
    >>> text = contract.compose(steps=["two dogs run", "one cat sits"], answer="3")
    >>> text
    '{"reasoning_steps": ["two dogs run", "one cat sits"], "answer": "3"}'
    >>> contract.is_well_formed(text), contract.read_steps(text), contract.read_answer('{"answer": 3.50}')
    (True, ['two dogs run', 'one cat sits'], '3.50')
    """

    sections: tuple[str, ...] = ()

    def compose(self, *, answer: str, think: str = "", explain: str = "", steps: Sequence[str] = ()) -> str:
        """A completion in this contract; without `steps`, the lines of `think` are them."""
        steps = list(steps) or [line.strip() for line in think.splitlines() if line.strip()]
        return json.dumps({_STEPS: steps, _ANSWER: answer}, ensure_ascii=False)

    def is_well_formed(self, text: str) -> bool:
        """Whether `text` is one such object, perhaps in a code fence, with steps and an answer that are not blank."""
        record = parse_object(text)
        if record is None or _read_json_answer(record) is None:
            return False
        steps = record.get(_STEPS)
        return isinstance(steps, list) and bool(steps) and all(_is_step(step) for step in steps)

    def count_sections(self, text: str) -> int:
        return 0

    def read_answer(self, text: str) -> str | None:
        """The answer, a number as it is written; None where there is none or a blank one.

        Prose around the object, which is not well formed, does not hide the answer.
        """
        record = find_object(text)
        return None if record is None else _read_json_answer(record)

    def read_steps(self, text: str) -> list[str] | None:
        """The steps that are text and not blank, perhaps none; None where there is no list of steps."""
        record = find_object(text) or {}
        steps = record.get(_STEPS)
        return [step.strip() for step in steps if _is_step(step)] if isinstance(steps, list) else None


def get_answer_contract(name: str) -> AnswerContract:
    """The contract of a `--question_template`.

    Args:
        name: A known name, or the path of a text file with the place holder `{Question}` (or `{USER_INSTRUCTION}`).
            What such a text asks for is seen from the tags in it; it asks for JSON where it has none and names
            `reasoning_steps`, and is taken to follow `default` where it has neither.

    Raises:
        ValueError: an unknown name, with the known ones; no such file; or no place holder in it.
    """
    if name in ANSWER_CONTRACTS:
        return ANSWER_CONTRACTS[name]
    if Path(name).suffix or len(Path(name).parts) > 1:
        return _read_template(Path(name))
    known = ", ".join(sorted(ANSWER_CONTRACTS))
    raise ValueError(f"unknown question template {name!r}; known: {known}, or the path of a text file")


def wrap_answer(answer: str) -> str:
    """The answer between its tags, as the `solution` column holds the gold answer."""
    return _wrap("answer", answer)


def extract_answer(text: str) -> str | None:
    """The text inside the last answer pair, untrimmed; None where there is no complete pair."""
    return _extract("answer", text)


def extract_think(text: str) -> str | None:
    """The text inside the last thinking pair, untrimmed; None where there is no complete pair."""
    return _extract("think", text)


def parse_score(text: str, low: float = 1.0, high: float = 5.0) -> float | None:
    """The score that a completion gives: the first number inside its last answer pair.

    A decimal comma counts as a point. None ("unparsable") where there is no answer pair or no number in it, and where
    the number is not finite or lies outside [low, high].

    >>> parse_score("<think>blurred</think> <answer>3,5 out of 5</answer>")
    3.5
    >>> parse_score("I rate it 3.5") is None
    True
    """
    answer = extract_answer(text)
    match = _NUMBER.search(answer.translate(_TO_ASCII)) if answer is not None else None
    if match is None:
        return None
    score = float(match.group())
    return score if math.isfinite(score) and low <= score <= high else None


def _wrap(section: str, inside: str) -> str:
    opening, closing = _TAGS[section]
    return f"{opening} {inside} {closing}"


def _extract(section: str, text: str) -> str | None:
    """The inside of the last complete pair. Plain searches: a lazy pattern is quadratic in tags that never close."""
    opening, closing = _TAGS[section]
    start = text.rfind(opening, 0, max(text.rfind(closing), 0))
    if start < 0:
        return None
    start += len(opening)
    return text[start : text.index(closing, start)]


def _is_step(step: Any) -> bool:
    return isinstance(step, str) and not isinstance(step, NumberText) and bool(step.strip())


def _read_json_answer(record: dict[str, Any]) -> str | None:
    answer = record.get(_ANSWER)
    return str(answer).strip() or None if isinstance(answer, str) else None


def _read_template(path: Path) -> AnswerContract:
    if not path.is_file():
        raise ValueError(f"no question template {path}: give the path of a text file, or a name such as 'default'")
    text = path.read_text(encoding="utf-8-sig").strip().replace(_OTHER_QUESTION, _QUESTION)
    if _QUESTION not in text:
        raise ValueError(f"{path} has no place for the question: write {_QUESTION} (or {_OTHER_QUESTION}) into it")
    named = [section for section in _TAGS if _TAGS[section][0] in text]
    if not named and _STEPS in text:
        return JsonContract(name=str(path), template=text)
    expected = {*(named or ["think"]), "answer"}
    sections = tuple(section for section in _TAGS if section in expected)
    return AnswerContract(name=str(path), template=text, sections=sections)


ANSWER_CONTRACTS: dict[str, AnswerContract] = {
    name: AnswerContract(name=name, template=TEMPLATES[name])
    for name in ("default", "scoring", "comparing", "od", "od_length", "gui", "ic", "emotion")
} | {
    "scoring_no_think": AnswerContract(
        name="scoring_no_think", template=TEMPLATES["scoring_no_think"], sections=("answer",)
    ),
    "rec": BoxContract(name="rec", template=TEMPLATES["rec"]),
    "vqa": JsonContract(name="vqa", template=TEMPLATES["vqa"]),
    "vivqa": AnswerContract(name="vivqa", template=TEMPLATES["vivqa"], sections=("think", "answer", "explain")),
}

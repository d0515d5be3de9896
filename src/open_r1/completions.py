"""The answer contract: what a model is told to write, what counts as well formed, and how its text is read.

Training (rewards, prompts), scoring and evaluation all take these from here, so they cannot drift apart. A contract is
one object: the instruction shown to the model, the tag sections it must write, and the check that it did. The tags
themselves are written once in the repo, below. Completions are untrusted text of any length: everything here is linear
in it and raises nothing.
"""

import math
import re
from dataclasses import dataclass


IQA_QUESTION = (
    "You are doing the image quality assessment task. Here is the question: What is your overall rating on the "
    "quality of this picture? The rating should be a float between 1 and 5, rounded to two decimal places, with 1 "
    "representing very poor quality and 5 representing excellent quality."
)

_TAGS = {"think": ("<think>", "</think>"), "answer": ("<answer>", "</answer>")}
TAGS = tuple(tag for pair in _TAGS.values() for tag in pair)  # all of them, as a tokenizer wants to know them

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


@dataclass(frozen=True, kw_only=True)
class AnswerContract:
    """One way of asking for an answer, with the check that belongs to it.

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

    def render(self, question: str) -> str:
        """The user's text: the template with the question put in. Braces in either are left alone."""
        return self.template.replace("{Question}", question)

    def compose(self, *, answer: str, think: str = "") -> str:
        """A completion in this contract, as cold-start data and tests need it."""
        texts = {"think": think, "answer": answer}
        return " ".join(_wrap(section, texts[section]) for section in self.sections)

    def is_well_formed(self, text: str) -> bool:
        """Whether `text` is the sections in order, each exactly once, and nothing else but white space around them.

        The answer must not be blank; the thinking may be.
        """
        expected_tags = [tag for section in self.sections for tag in _TAGS[section]]
        if any(text.count(tag) != (tag in expected_tags) for tag in TAGS):
            return False
        rest, insides = text, {}
        for section in self.sections:
            opening, closing = _TAGS[section]
            before, _, rest = rest.partition(opening)
            inside, closed, rest = rest.partition(closing)
            if before.strip() or not closed:
                return False
            insides[section] = inside
        return not rest.strip() and bool(insides["answer"].strip())


def get_answer_contract(name: str) -> AnswerContract:
    """The contract of a `--question_template`; ValueError with the known names for any other."""
    if name not in ANSWER_CONTRACTS:
        raise ValueError(f"unknown question template {name!r}; known: {', '.join(sorted(ANSWER_CONTRACTS))}")
    return ANSWER_CONTRACTS[name]


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


_THINK_FIRST = (
    "{Question} First output the thinking process in <think> </think> tags and then output the final answer "
)

ANSWER_CONTRACTS = {
    contract.name: contract
    for contract in (
        AnswerContract(name="default", template=_THINK_FIRST + "in <answer> </answer> tags."),
        AnswerContract(name="scoring", template=_THINK_FIRST + "with only one score in <answer> </answer> tags."),
        AnswerContract(
            name="scoring_no_think",
            template="{Question} Please only output the final answer with only one score in <answer> </answer> tags.",
            sections=("answer",),
        ),
    )
}

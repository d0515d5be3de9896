"""How much an answer is worth against a gold answer: mathematics, free text, Vietnamese short answers.

All take text of any length from a model, in time linear in it.
"""

import functools
import re
from collections.abc import Sequence

from open_r1.utils.answers import MAX_CHARACTERS, clean_text, read_choice, split_vietnamese_words
from open_r1.utils.extras import require
from open_r1.utils.math_equality import is_equal, is_mathematics
from open_r1.utils.quantities import agree, read_quantity


_ROUNDING = 2e-6  # relative; 1/3 is also 0.333333
_VIETNAMESE_NEGATIONS = "không chẳng chả chưa đừng chớ"
_FULL, _PARTIAL = 3.0, 1.5


def compare_expressions(answer: str, gold: str, options: Sequence[str] = ()) -> float:
    """1.0 for an answer that is the gold number, quantity or expression, or the same text; else 0.0.

    >>> compare_expressions("0.5", "1/2"), compare_expressions("12 cm", "12 m"), compare_expressions("", "")
    (1.0, 0.0, 0.0)
    """
    answer, gold = answer.strip(), gold.strip()
    if not answer or _is_overlong(answer, gold):
        return 0.0
    if answer == gold or (not is_mathematics(gold) and clean_text(answer) == clean_text(gold)):
        return 1.0
    quantity, gold_quantity = read_quantity(answer), read_quantity(gold)
    if quantity is not None and gold_quantity is not None:
        return float(agree(quantity, gold_quantity, relative_tolerance=_ROUNDING))
    return float(is_equal(gold, answer))


def compare_free_text(answer: str, gold: str, options: Sequence[str] = ()) -> float:
    """How right an answer is whose gold answer may be a number, an expression, a letter or free text, 0 to 1.

    >>> [round(compare_free_text(text, "a red car"), 2) for text in ("A red car.", "a red van", "12 cars")]
    [1.0, 0.78, 0.0]
    """
    texts = clean_text(answer[: MAX_CHARACTERS + len(gold)]), clean_text(gold)
    if not texts[0] or _is_overlong(answer, gold):
        return 0.0
    if texts[0] == texts[1]:
        return 1.0
    letter = read_choice(gold, options) if options or len(gold.strip(" ().[]")) == 1 else None
    if letter is not None:
        return float(read_choice(answer, options) == letter)
    if read_quantity(gold) is not None or is_mathematics(gold):
        return compare_expressions(answer, gold)
    if re.findall(r"\d+", texts[0]) != re.findall(r"\d+", texts[1]):
        return 0.0
    return require("rapidfuzz.distance.Indel", "vqa").normalized_similarity(*texts)


def grade_vietnamese(answer: str, gold: str) -> float | None:
    """3.0 for the same words; 1.5 for half of the gold words in an answer that says the same; else 0.0.

    None where the gold answer has no word. See `open_r1.rewards.accuracy.vivqa_accuracy_reward`.
    """
    gold_words = split_vietnamese_words(gold)
    if not gold_words:
        return None
    words = [] if _is_overlong(answer, gold) else split_vietnamese_words(answer)
    if words == gold_words:
        return _FULL
    if bool(_read_negations() & set(words)) != bool(_read_negations() & set(gold_words)):
        return 0.0
    common = set(words) & set(gold_words)
    is_half_there = 2 * len(common) >= len(set(gold_words))
    return _PARTIAL if is_half_there and 3 * len(common) >= len(words) else 0.0


@functools.cache
def _read_negations() -> frozenset[str]:
    return frozenset(split_vietnamese_words(_VIETNAMESE_NEGATIONS))


def _is_overlong(answer: str, gold: str) -> bool:
    return len(answer) > max(MAX_CHARACTERS, 2 * len(gold))

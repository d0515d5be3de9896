"""Reading short answers: normal forms of text, letters of multiple choice, yes and no. Pure, and linear in the text.

Words match as words: no letter is found inside one, "know" holds no "no", and what says two things says nothing.
"""

import re
import unicodedata
from collections.abc import Sequence


MAX_CHARACTERS = 2_000  # longer texts are no letter and no yes or no

_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ARTICLES = {"en": ("a ", "an ", "the ")}  # by language; in Vietnamese "an" is a word
_TONES = "\u0300\u0301\u0303\u0309\u0323"  # grave, acute, tilde, hook above, dot below

_MARKUP = re.compile(r"\*\*|__|`|\$|\\boxed(?=\{)|\\text(?=\{)|\\mathrm(?=\{)")
_LETTER_ALONE = re.compile(r"[(\[{]?[ ]?([A-Za-z])[ ]?[)\]}]?[.:]?")
_LETTER_FIRST = re.compile(r"[(\[]?([A-Za-z])(?:[)\]][.:]?|[.:](?=[ ])|[ ]?[-–—](?=[ ]))[ ]?(?=\S)")
_LETTER_AFTER_CUE = re.compile(
    r"\b(?:answer|option|choice|choose|pick|select)\b(?:[ ](?:is|are|would[ ]be|should[ ]be|option|choice))*[ :]*"
    r"[(\[]?((?-i:[A-Z])(?=[)\].,:;!]|$)|[a-z](?=[)\]]?[.!]?$))",
    re.IGNORECASE,
)
_LABEL = re.compile(r"(?<!\w)(?:[(\[]?([A-Z])[)\]]|([A-Z])[.:](?=\s|$))")
_OPTION_LINE = re.compile(r"^[ \t]*[(\[]?([A-Z])[)\].:][ \t]+(\S.*)$", re.MULTILINE)

_POLARITY = {
    **dict.fromkeys(("yes", "true", "correct", "affirmative"), "yes"),
    **dict.fromkeys(("no", "false", "incorrect", "negative"), "no"),
}
_OPPOSITE = {"yes": "no", "no": "yes"}
_NEGATIONS = ("not", "isn't", "isnt", "never", "n't")


def clean_text(text: str) -> str:
    """One line, lower case, without blanks or a full stop at its end: what exact answers are compared by.

    >>> clean_text(" The Save\\nbutton. ")
    'the save button'
    """
    return " ".join(unicodedata.normalize("NFC", text).split()).removesuffix(".").rstrip().lower()


def normalize_text(text: str, language: str = "en") -> str:
    """`text` without case, punctuation and a leading article; itself where nothing else would be left of it.

    >>> normalize_text("A red, old T-shirt!"), normalize_text("?"), normalize_text("An toàn", language="vi")
    ('red old t shirt', '?', 'an toàn')
    """
    lowered = unicodedata.normalize("NFC", text).casefold().strip()
    words = " ".join(split_words(lowered))
    for article in _ARTICLES.get(language, ()):
        words = words.removeprefix(article)
    return words or lowered


def split_words(text: str) -> list[str]:
    """Words in lower case, in composed form (NFC), without punctuation.

    >>> split_words("It's 3.5 km, isn’t it?"), split_words("C++ (or C#)")
    (['its', '3.5', 'km', 'isnt', 'it'], ['c++', 'or', 'c#'])
    """
    text = unicodedata.normalize("NFC", text).casefold().replace("'", "").replace("’", "")
    kept = [
        " " if unicodedata.category(character)[0] == "P" and character not in "#@%&.," else character
        for character in text
    ]
    return [word for word in (piece.strip(".,") for piece in re.split(r"\s+|[.,](?!\d)", "".join(kept))) if word]


def split_vietnamese_words(text: str) -> list[str]:
    """Syllables in lower case without punctuation, each with its tone at its end.

    So it makes no difference whether a text is composed or not (NFC, NFD), nor on which vowel a tone is written
    ("hòa", "hoà").

    >>> split_vietnamese_words("Hòa bình!") == split_vietnamese_words("hoà  bình")
    True
    """
    text = unicodedata.normalize("NFD", text).casefold()
    words = "".join(" " if unicodedata.category(character)[0] in "PS" else character for character in text).split()
    return [unicodedata.normalize("NFC", _move_tone(word)) for word in words]


def _move_tone(word: str) -> str:
    tones = [character for character in word if character in _TONES]
    return "".join([*(character for character in word if character not in _TONES), *tones]) if tones else word


# ---- multiple choice --------------------------------------------------------------------------------------------


def find_options(question: str) -> list[str]:
    """The texts of the options that a question lists on lines of their own: "A) cat", "(B) dog", "C. cow".

    >>> find_options("Which animal?\\nA) cat\\nB) dog")
    ['cat', 'dog']
    """
    options = []
    for letter, text in _OPTION_LINE.findall(question):
        if len(options) < len(_LETTERS) and letter == _LETTERS[len(options)]:
            options.append(text.strip())
    return options if len(options) > 1 else []


def read_choice(text: str, options: Sequence[str] = ()) -> str | None:
    """The letter that an answer chooses: by letter, or by the text of one of `options`.

    Letters are read where the answer is one ("b", "(B)", "B."), begins with one that is set off ("B) dogs",
    "B: dogs"), or names one after a word for it ("the answer is B"). None where it does neither, names two, or the
    letter and the text contradict each other.

    >>> read_choice("(b) two dogs"), read_choice("blue"), read_choice("A dog"), read_choice("A or B")
    ('B', None, None, None)
    >>> read_choice("The dog.", options=["cat", "dog"])
    'B'
    """
    if len(text) > MAX_CHARACTERS:
        return None
    first_line, _, rest = _MARKUP.sub("", text).strip("\"'“” \n").partition("\n")
    alone = _LETTER_ALONE.fullmatch(first_line)
    text = " ".join((f"{alone[1]}) {rest}" if alone and rest else f"{first_line} {rest}").split())
    known = _LETTERS[: len(options)] if options else _LETTERS
    texts = [normalize_text(_without_label(option, letter)) for letter, option in zip(_LETTERS, options)]
    letter, rest = _read_letter(text)
    by_text = [other for other, option in zip(_LETTERS, texts) if option == normalize_text(rest)]
    if letter is None:
        return by_text[0] if len(by_text) == 1 else None
    contradicts = bool(by_text) and letter not in by_text
    return letter if letter in known and not contradicts else None


def _read_letter(text: str) -> tuple[str | None, str]:
    """The letter of an answer, and what else it says; two letters are none."""
    if alone := _LETTER_ALONE.fullmatch(text):
        return alone[1].upper(), ""
    labels = {first or second for first, second in _LABEL.findall(text)}
    first, cue = _LETTER_FIRST.match(text), _LETTER_AFTER_CUE.search(text)
    if len(labels) > 1 or (first is None and cue is None):
        return None, text
    letter, rest = (first or cue)[1].upper(), text[first.end() :] if first else ""
    is_single = labels <= {letter} and not _LETTER_ALONE.fullmatch(rest)
    return (letter, rest) if is_single else (None, text)


def _without_label(option: str, letter: str) -> str:
    match = _LETTER_FIRST.match(option.strip())
    return option.strip()[match.end() :] if match and match[1] == letter else option


# ---- yes and no -------------------------------------------------------------------------------------------------


def read_yes_no(text: str) -> str | None:
    """What an answer says first, or says alone among other words: "yes" or "no"; None where it does neither.

    True, correct and affirmative are yes; false, incorrect and negative are no; "not" turns the next word round.

    >>> [read_yes_no(text) for text in ("Yes, two.", "not true", "There is no dog", "I know nothing", "yes or no")]
    ['yes', 'no', 'no', None, None]
    """
    if len(text) > MAX_CHARACTERS:
        return None
    words = re.findall(r"[^\W_]+(?:['’][^\W_]+)?", text.casefold())
    said = []
    for index, word in enumerate(words):
        if word in _POLARITY:
            is_negated = index > 0 and words[index - 1].replace("’", "'") in _NEGATIONS
            said.append((index, _OPPOSITE[_POLARITY[word]] if is_negated else _POLARITY[word]))
    if not said:
        return None
    if words[0] in _POLARITY:
        leading = [polarity for index, polarity in said if set(words[:index]) <= {*_POLARITY, "and", "or"}]
        return leading[0] if len(set(leading)) == 1 else None
    return said[0][1] if len({polarity for _, polarity in said}) == 1 else None

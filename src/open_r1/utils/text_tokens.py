"""Words of explanations and answers, for metrics that compare them. Each tokenizer has a name, which results record.

Figures of two tokenizers are not comparable: CIDEr of the same Vietnamese texts differs by two thirds between
syllables and segmented words.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence

from open_r1.utils.answers import split_vietnamese_words


_WORD = re.compile(r"\w+")
_OPENINGS = ("vì", "because")  # of an explanation, left out of predictions and references alike
_PTB_PUNCTUATION = frozenset(("''", "'", "``", "`", "-lrb-", "-rrb-", "-lcb-", "-rcb-", *".?!,:-;", "--", "..."))

Tokenizer = Callable[[Sequence[str]], list[list[str]]]


def tokenize_syllables(texts: Sequence[str]) -> list[list[str]]:
    """Lower-case words of letters and digits in composed Unicode (NFC), without punctuation; Vietnamese: syllables.

    >>> tokenize_syllables(["Vì có ba con CHÓ.", "A dog's bed"])
    [['vì', 'có', 'ba', 'con', 'chó'], ['a', 'dog', 's', 'bed']]
    """
    return [_WORD.findall(unicodedata.normalize("NFC", text).lower()) for text in texts]


def tokenize_ptb(texts: Sequence[str]) -> list[list[str]]:
    """English as the COCO caption evaluation has it: Stanford's Penn Treebank tokenizer (needs Java), no punctuation.

    Raises:
        ImportError: pycocoevalcap is not installed.
        FileNotFoundError: there is no Java.
        PermissionError: the folder of pycocoevalcap, where it puts its files, cannot be written to.
    """
    from open_r1.utils.extras import require

    library = require("pycocoevalcap.tokenizer.ptbtokenizer", "nle")
    captions = {index: [{"caption": text}] for index, text in enumerate(texts) if text.strip()}
    tokens = library.PTBTokenizer().tokenize(captions) if captions else {}
    kept = (tokens.get(index, [""])[0].split() for index in range(len(texts)))
    return [[token for token in words if token not in _PTB_PUNCTUATION] for words in kept]


TOKENIZERS: dict[str, Tokenizer] = {"syllable": tokenize_syllables, "ptb": tokenize_ptb}


def drop_opening(tokens: list[str]) -> list[str]:
    """The tokens without a leading "vì" or "because".

    >>> drop_opening(["because", "it", "rains"])
    ['it', 'rains']
    """
    return tokens[1:] if tokens and tokens[0] in _OPENINGS else tokens


def tokenize_explanation(text: str) -> list[str]:
    """Syllables of an explanation without its opening word, alike wherever a tone is written ("hòa", "hoà").

    >>> tokenize_explanation("Vì có ba con chó.") == tokenize_explanation("có ba con CHÓ")
    True
    """
    return drop_opening(split_vietnamese_words(text))

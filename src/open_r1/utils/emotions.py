"""Names of emotions: the labels of the data sets, the words that stand for each, and how an answer is read.

Labels: DFEW 7, MAFW 11, RAVDESS 8 classes, as their authors name them. A word stands for one label at most; where two
words of different labels are in an answer, it has named several emotions and none is read.
"""

import re
import unicodedata


MAFW = (
    *("anger", "disgust", "fear", "happiness", "neutral", "sadness", "surprise"),
    *("contempt", "anxiety", "helplessness", "disappointment"),
)
DFEW = ("happiness", "sadness", "neutral", "anger", "surprise", "disgust", "fear")
RAVDESS = ("neutral", "calm", "happiness", "sadness", "anger", "fear", "disgust", "surprise")
LABELS = {"mafw": MAFW, "dfew": DFEW, "ravdess": RAVDESS}

_WORDS = {
    "anger": "angry angrily anger furious fury rage enraged irate mad",
    "anxiety": "anxious anxiety anxiously worried worry nervous nervousness",
    "calm": "calm calmness calmly serene relaxed",
    "contempt": "contempt contemptuous scorn scornful disdain disdainful",
    "disappointment": "disappointed disappointment disappointing",
    "disgust": "disgust disgusted disgusting revulsion repulsed",
    "fear": "fear fearful afraid scared frightened terrified terror",
    "happiness": "happy happiness happily joy joyful joyous cheerful delighted",
    "helplessness": "helpless helplessness powerless",
    "neutral": "neutral neutrality expressionless emotionless",
    "sadness": "sad sadness sadly sorrow sorrowful grief",
    "surprise": "surprise surprised surprising astonished astonishment amazed amazement",
}
_LABEL_OF_WORD = {word: label for label, words in _WORDS.items() for word in words.split()}
# Not a label, and not another emotion either, where the data set does not tell the two apart.
_MERGED = {"mafw": {"calm": "neutral"}, "dfew": {"calm": "neutral"}, "ravdess": {}}

# What may stand around the one word: "The man's most obvious emotion is anger."
_FILLERS = """
    a an the is are was were be being it he she they him her them his their this that person persons people man woman
    boy girl child speaker actor character characters main video clip scene emotion emotions emotional feeling feelings
    feels feel expression expressed expresses expressing conveyed conveys conveying shown shows showing looks look
    looking seems seem appears appear state most obvious very clearly mainly primarily predominantly answer final label
    in of by to and or with s d
"""
_WORD = re.compile(r"[^\W\d_]+")


def get_labels(dataset_name: str | None) -> tuple[str, ...] | None:
    """The labels of a data set by its name (`MAFW`, `dfew_set_1`); None where it is none of the three.

    >>> len(get_labels("RAVDESS-test"))
    8
    """
    known = _find_dataset(dataset_name)
    return None if known is None else LABELS[known]


def read_emotion(text: str, dataset_name: str | None = None) -> str | None:
    """The one emotion that a text names, as a label of the data set; None where it names none, several, or anything
    else beside it.

    A word for an emotion that the data set has no label for is read as that emotion, and is then equal to no label.

    >>> read_emotion("The man feels Angry."), read_emotion("angry or sad"), read_emotion("not angry")
    ('anger', None, None)
    >>> read_emotion("calm", "DFEW"), read_emotion("calm", "RAVDESS")
    ('neutral', 'calm')
    """
    fillers, merged = set(_FILLERS.split()), _MERGED.get(_find_dataset(dataset_name) or "", {})
    found = set()
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        label = _LABEL_OF_WORD.get(word)
        if label is not None:
            found.add(merged.get(label, label))
        elif word not in fillers:
            return None
    return found.pop() if len(found) == 1 else None


def _find_dataset(dataset_name: str | None) -> str | None:
    name = (dataset_name or "").casefold()
    return next((known for known in LABELS if known in name), None)

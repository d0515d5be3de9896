"""CIDEr-D: how much of the telling n-grams of the references a text has.

"CIDEr: Consensus-based Image Description Evaluation", arXiv 1411.5726, in its variant D (clipped counts, penalty for
lengths that differ), equal to that of pycocoevalcap. There, document frequencies come from the very texts that are
scored, so a score depends on the rest of the batch, and is 0 for a single item. Here they are a value of their own,
and one text can be scored by itself.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


MAX_CIDER = 10.0
_MAX_N = 4
_SIGMA = 6.0  # of the penalty for lengths that differ

Ngram = tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class DocumentFrequencies:
    """In how many items' references each n-gram stands.

    Example: `DocumentFrequencies(counts={("a",): 2, ("a", "dog"): 2}, num_documents=3)`.
    """

    counts: Mapping[Ngram, int]  # those of one item alone weigh as those of none, and are left out
    num_documents: int

    def weigh(self, ngram: Ngram) -> float:
        """Inverse document frequency, in nats."""
        return math.log(self.num_documents) - math.log(self.counts.get(ngram, 1))


def count_documents(references: Iterable[Sequence[Sequence[str]]]) -> DocumentFrequencies:
    """Document frequencies of items, each with the tokens of all its references.

    >>> frequencies = count_documents([[["a", "dog"], ["one", "dog"]], [["a", "cat"]], [["snow"]]])
    >>> frequencies.num_documents, frequencies.counts
    (3, {('a',): 2})

    Raises:
        ValueError: fewer than two items, of which every n-gram would weigh nothing.
    """
    counts: Counter[Ngram] = Counter()
    num_documents = 0
    for texts in references:
        counts.update({ngram for tokens in texts for ngram in _count_ngrams(tokens)})
        num_documents += 1
    if num_documents < 2:
        raise ValueError(f"document frequencies of {num_documents} items say nothing: CIDEr needs two or more")
    return DocumentFrequencies(
        counts={ngram: count for ngram, count in counts.items() if count > 1}, num_documents=num_documents
    )


def compute_cider(
    tokens: Sequence[str], references: Sequence[Sequence[str]], frequencies: DocumentFrequencies
) -> float:
    """CIDEr-D of a text, from 0 to 10: the mean over its references, and over n-grams of one to four tokens.

    A copy of the only reference has 10, or less where that is shorter than four tokens.

    >>> frequencies = DocumentFrequencies(counts={}, num_documents=100)
    >>> round(compute_cider("a dog runs fast".split(), ["a dog runs fast".split()], frequencies), 6)
    10.0
    >>> compute_cider("a cat".split(), ["two dogs".split()], frequencies)
    0.0

    Args:
        tokens: The text.
        references: At least one.
        frequencies: Of the references of a whole data set.
    """
    counts = _count_ngrams(tokens)
    vectors = _weigh(counts, frequencies)
    scores = [_compare(counts, vectors, _count_ngrams(reference), frequencies) for reference in references]
    return MAX_CIDER * sum(scores) / len(scores)


def _compare(
    counts: Counter[Ngram],
    vectors: list[dict[Ngram, float]],
    other_counts: Counter[Ngram],
    frequencies: DocumentFrequencies,
) -> float:
    others = _weigh(other_counts, frequencies)
    difference = _count_bigrams(counts) - _count_bigrams(other_counts)
    penalty = math.exp(-(difference**2) / (2 * _SIGMA**2))
    similarities = 0.0
    for vector, other in zip(vectors, others, strict=True):
        norm = math.hypot(*vector.values()) * math.hypot(*other.values())
        product = sum(min(weight, other[ngram]) * other[ngram] for ngram, weight in vector.items() if ngram in other)
        similarities += product / norm if norm else 0.0
    return penalty * similarities / _MAX_N


def _count_ngrams(tokens: Sequence[str]) -> Counter[Ngram]:
    tokens = tuple(tokens)
    return Counter(tokens[start : start + n] for n in range(1, _MAX_N + 1) for start in range(len(tokens) - n + 1))


def _count_bigrams(counts: Counter[Ngram]) -> int:
    """The length that the penalty compares, as in pycocoevalcap."""
    return sum(count for ngram, count in counts.items() if len(ngram) == 2)


def _weigh(counts: Counter[Ngram], frequencies: DocumentFrequencies) -> list[dict[Ngram, float]]:
    """A vector of weighted counts for each n."""
    vectors: list[dict[Ngram, float]] = [{} for _ in range(_MAX_N)]
    for ngram, count in counts.items():
        vectors[len(ngram) - 1][ngram] = count * frequencies.weigh(ngram)
    return vectors

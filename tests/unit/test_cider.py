"""CIDEr-D: equal to pycocoevalcap's, with document frequencies of their own."""

import doctest
import random
import unicodedata

import pytest

from open_r1.utils import cider, text_tokens
from open_r1.utils.cider import DocumentFrequencies, compute_cider, count_documents


words = str.split
WORDS = words("a the two red dog dogs cat runs sits on grass mat under tree in park man with hat near river")
CAPTION = words("two red dogs run on the grass")


def draw_captions(num_items: int, seed: int) -> list[tuple[list[str], list[list[str]]]]:
    """(prediction, references) of captions that share words; predictions are often mutations of a reference."""
    draw = random.Random(seed)
    items = []
    for _ in range(num_items):
        references = [draw.choices(WORDS, k=draw.randint(1, 14)) for _ in range(draw.randint(1, 4))]
        prediction = list(draw.choice(references))
        for _ in range(draw.randint(0, 5)):
            prediction.insert(draw.randrange(len(prediction) + 1), draw.choice(WORDS))
        items.append((prediction[draw.randint(0, 2) :], references))
    return items


@pytest.mark.parametrize("seed, num_items", [(0, 300), (1, 40), (2, 2)])
def test_scores_are_those_of_pycocoevalcap(seed, num_items):
    cider_module = pytest.importorskip("pycocoevalcap.cider.cider")
    items = draw_captions(num_items, seed)
    theirs = cider_module.Cider().compute_score(
        {i: [" ".join(text) for text in references] for i, (_, references) in enumerate(items)},
        {i: [" ".join(prediction)] for i, (prediction, _) in enumerate(items)},
    )[1]
    frequencies = count_documents(references for _, references in items)
    ours = [compute_cider(prediction, references, frequencies) for prediction, references in items]
    assert ours == pytest.approx(theirs, abs=1e-9)
    assert num_items == 2 or len({round(score, 6) for score in ours}) > num_items / 2


def test_ngrams_that_every_item_has_weigh_nothing():
    frequencies = count_documents([[words("there is a dog")], [words("there is a cat")]])
    assert compute_cider(words("there is a"), [words("there is a dog")], frequencies) == 0.0
    assert compute_cider(words("dog"), [words("there is a dog")], frequencies) > 0.0


def test_more_of_a_reference_scores_more_and_padding_it_scores_less():
    frequencies = DocumentFrequencies(counts={}, num_documents=100)
    part, whole, padded, shuffled = (
        compute_cider(tokens, [CAPTION], frequencies)
        for tokens in (CAPTION[:4], CAPTION, CAPTION * 3, sorted(CAPTION))
    )
    assert whole == pytest.approx(10)
    assert 0 < part < whole
    assert 0 < padded < 0.2 * whole  # 21 tokens for 7
    assert 0 < shuffled < 0.6 * whole


def test_the_mean_over_references_is_taken():
    frequencies = DocumentFrequencies(counts={}, num_documents=100)
    other = words("a man with a hat")
    expected = compute_cider(CAPTION, [CAPTION], frequencies) / 2
    assert compute_cider(CAPTION, [CAPTION, other], frequencies) == pytest.approx(expected)


def test_no_tokens_score_nothing():
    frequencies = DocumentFrequencies(counts={}, num_documents=100)
    assert compute_cider([], [CAPTION], frequencies) == 0.0
    assert compute_cider(CAPTION, [[]], frequencies) == 0.0


@pytest.mark.parametrize("references", [[], [[CAPTION]]])
def test_frequencies_of_less_than_two_items_are_refused(references):
    with pytest.raises(ValueError, match=f"of {len(references)} items say nothing"):
        count_documents(references)


def test_ngrams_of_one_item_are_left_out_and_weigh_as_unknown_ones():
    frequencies = count_documents([[CAPTION, CAPTION], [["two", "cats"]]])
    assert frequencies.counts == {("two",): 2}
    assert frequencies.weigh(("grass",)) == frequencies.weigh(("unheard",)) == pytest.approx(0.6931472)


def test_words_are_the_same_in_both_unicode_forms():
    composed, decomposed = "Người lướt sóng", unicodedata.normalize("NFD", "Người lướt sóng")
    assert composed != decomposed
    assert text_tokens.tokenize_syllables([composed, decomposed]) == [words("người lướt sóng")] * 2


def test_explanations_are_the_same_with_the_tone_on_either_vowel():
    first, second = (text_tokens.tokenize_explanation(text) for text in ("Hòa nhã, thuỷ thủ", "HOÀ NHÃ THỦY THỦ"))
    assert first == second
    assert len(set(text_tokens.tokenize_explanation("ma má mà mả mã mạ"))) == 6


def test_the_opening_word_is_dropped_once_and_nowhere_else():
    assert text_tokens.tokenize_explanation("Vì vì có ba con chó") == words("vì có ba con chó")
    assert text_tokens.tokenize_explanation("Because it rains") == ["it", "rains"]
    assert text_tokens.tokenize_explanation("an ninh vì ba") == words("an ninh vì ba")
    assert text_tokens.tokenize_explanation(" . ") == []


@pytest.mark.parametrize("module", [cider, text_tokens], ids=lambda module: module.__name__)
def test_the_examples_in_the_docstrings_of_text_metrics_hold(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0

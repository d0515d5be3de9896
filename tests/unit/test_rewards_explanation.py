"""The explanation reward without pictures (alpha 1): CIDEr against all references, one completion at a time."""

import doctest
import unicodedata

import pytest

from open_r1.completions import get_answer_contract
from open_r1.rewards import build_reward_funcs, explanation
from open_r1.rewards.explanation import count_explanations, explanation_reward


GOLD = "người đàn ông đang lướt trên sóng biển"
EXPLANATIONS = [
    [GOLD, "có ván lướt dưới chân anh ấy"],
    ["con chó đang chạy trên cỏ"],
    ["có ba quả táo trong bát"],
    ["trời đang mưa và đường ướt"],
    ["con mèo đang ngủ trên ghế"],
]
FREQUENCIES = count_explanations(EXPLANATIONS, [None] * len(EXPLANATIONS))


def explain(text):
    return get_answer_contract("vivqa").compose(answer="lướt sóng", think="xem ảnh", explain=text)


def score(*texts, references=(GOLD,), frequencies=FREQUENCIES, **columns):
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    columns = {"explanations": [list(references)] * len(texts), **columns}
    return explanation_reward(
        [None] * len(texts), completions, explanation_alpha=1.0, document_frequencies=frequencies, **columns
    )


def test_a_copy_of_the_reference_earns_one_and_nothing_in_common_earns_zero():
    assert score(explain(GOLD), explain("hai quả cam")) == pytest.approx([1.0, 0.0])


@pytest.mark.parametrize(
    "text",
    [
        f"Vì {GOLD}.",
        GOLD.upper(),
        unicodedata.normalize("NFD", GOLD),
        f"  {GOLD.replace(' ', ', ')}!\n",
    ],
)
def test_opening_word_case_unicode_form_and_punctuation_do_not_matter(text):
    assert score(explain(text)) == pytest.approx([1.0])


@pytest.mark.parametrize(
    "text",
    [
        explain(""),
        explain(" . "),
        explain("vì"),
        GOLD,
        f"<explain>{GOLD}",
        f"<think>{GOLD}</think> <answer>{GOLD}</answer>",
        "<explain>" * 20_000,
        "",
    ],
    ids=range(8),
)
def test_a_completion_without_an_explanation_earns_nothing(text):
    assert score(text) == [0.0]


def test_more_in_common_earns_more():
    texts = ["người đàn ông đứng", "người đàn ông đang lướt", "người đàn ông đang lướt trên sóng", GOLD]
    rewards = score(*map(explain, texts))
    assert rewards == sorted(rewards)
    assert len(set(rewards)) == 4


@pytest.mark.parametrize(
    "text",
    [
        " ".join([GOLD] * 50),
        " ".join(sorted(GOLD.split())),
        "đang trên có trong",  # words that many explanations have
        "lướt lướt lướt lướt lướt lướt lướt",
        "vì trong ảnh có thể thấy rõ điều đó",
    ],
    ids=["fifty copies", "shuffled", "common words", "one word", "an empty phrase"],
)
def test_what_games_overlap_earns_little(text):
    (reward,) = score(explain(text))
    assert 0 <= reward < 0.3


def test_all_references_of_an_item_count():
    first, second = EXPLANATIONS[0]
    rewards = score(explain(first), explain(second), explain("con mèo"), references=EXPLANATIONS[0])
    assert rewards[0] > 0.4
    assert rewards[1] > 0.4
    assert rewards[2] == 0.0


def test_a_reward_does_not_depend_on_the_rest_of_the_batch():
    texts = [explain(text) for text in (GOLD, "người đàn ông trên biển", "con chó", "")]
    together = score(*texts)
    assert together == [score(text)[0] for text in texts]
    assert score(*texts[::-1]) == together[::-1]


def test_a_batch_of_one_question_is_told_apart():
    """In-batch document frequencies weigh nothing here: every reference of the batch is the same."""
    best, worse, worst = score(explain(GOLD), explain("người đàn ông lướt sóng"), explain("con chó đang chạy"))
    assert best == pytest.approx(1.0)
    assert best > worse > worst > 0.0  # "đang" is shared


def test_equal_explanations_earn_the_same_and_not_nothing():
    assert score(explain(GOLD), explain(GOLD)) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("references", [[], [""], [" . "]])
def test_a_row_without_references_abstains(references):
    assert score(explain(GOLD), "", references=references) == [None, None]


def test_the_explanation_in_the_solution_stands_in_for_references():
    rewards = score(explain(GOLD), explanations=[[]], solution=[f"<answer>lướt</answer><explain>{GOLD}</explain>"])
    assert rewards == pytest.approx([1.0])
    assert score(explain(GOLD), explanations=[[]], solution=["<answer>lướt</answer>"]) == [None]


def test_document_frequencies_take_references_from_either_column():
    rows = [[], ["a dog"], None]
    frequencies = count_explanations(rows, ["<explain>a cat</explain>", None, "<answer>no</answer>"])
    assert (frequencies.num_documents, frequencies.counts) == (2, {("a",): 2})


def test_data_with_one_explained_row_is_refused():
    with pytest.raises(ValueError, match="document frequencies of 1 items say nothing"):
        count_explanations([["a dog"], []], [None, None])


def test_cider_without_document_frequencies_is_refused():
    with pytest.raises(ValueError, match="needs document_frequencies"):
        score(explain(GOLD), frequencies=None)


@pytest.mark.parametrize("alpha", [-0.1, 1.1])
def test_a_weight_outside_its_range_is_refused(alpha):
    with pytest.raises(ValueError, match="take a value from 0 to 1"):
        explanation_reward([], [], explanation_alpha=alpha, explanations=[])


def test_its_parts_are_logged():
    logged = {}
    score(explain(GOLD), "", log_metric=logged.__setitem__)
    assert logged == pytest.approx({"explanation/cider": 0.5, "explanation/clip": 0.0})


def test_options_of_the_command_line_reach_the_explanation_reward():
    (reward,) = build_reward_funcs(["explanation"], explanation_alpha=1.0, document_frequencies=FREQUENCIES)
    completions = [[{"role": "assistant", "content": explain(GOLD)}]]
    assert reward([None], completions, explanations=[[GOLD]]) == pytest.approx([1.0])
    assert reward.__name__ == "explanation_reward"


def test_the_example_of_the_explanation_reward_holds():
    results = doctest.testmod(explanation)
    assert results.attempted > 0
    assert results.failed == 0

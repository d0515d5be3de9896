"""Match F1: which steps match, what a match is worth, and what the reward does where there is nothing to compare."""

import doctest
import itertools
import json

import numpy as np
import pytest

from open_r1.rewards import build_reward_funcs
from open_r1.rewards.reasoning import reasoning_reward
from open_r1.utils import step_matching
from open_r1.utils.step_matching import find_repeats, get_threshold, match_steps, score_steps


REFERENCE = ["Two dogs run on grass", "The sky is blue"]
NOTHING_TO_READ = [
    '{"reasoning_steps": [], "answer": ""}',  # the constant output that other rewards have paid for
    '{"reasoning_steps": [], "answer": "2"}',
    '{"reasoning_steps": ["", "  "], "answer": "2"}',
    '{"reasoning_steps": [1, null, {"step": "Two dogs run on grass"}], "answer": "2"}',
    '{"reasoning_steps": "Two dogs run on grass", "answer": "2"}',
    '{"answer": "2"}',
    "Two dogs run on grass. The sky is blue.",
    '{"reasoning_steps": ["Two dogs run on grass"',
    "[" * 100_000,
    "",
]


def as_completions(*texts):
    return [[{"role": "assistant", "content": text}] for text in texts]


def answer(steps):
    return json.dumps({"reasoning_steps": steps, "answer": "2"})


@pytest.mark.parametrize("text", NOTHING_TO_READ, ids=range(len(NOTHING_TO_READ)))
def test_a_completion_without_a_readable_step_earns_nothing(text):
    assert reasoning_reward([None], as_completions(text), reference_steps=[REFERENCE]) == [0.0]


@pytest.mark.parametrize("reference", [None, [], ["", " "]])
def test_a_row_without_reference_steps_abstains(reference):
    texts = as_completions(answer(["Two dogs run on grass"]), "nonsense")
    assert reasoning_reward([None] * 2, texts, reference_steps=[reference] * 2) == [None, None]


def test_no_encoder_is_asked_for_where_nothing_is_compared():
    rewards = reasoning_reward(
        [None] * 2,
        as_completions("nonsense", answer(["Two dogs run"])),
        reference_steps=[REFERENCE, []],
        reasoning_encoder="no/such/encoder",
    )
    assert rewards == [0.0, None]


def test_a_contract_without_steps_is_refused():
    with pytest.raises(ValueError, match="--question_template rec have no reasoning steps: take vqa"):
        reasoning_reward([None], as_completions("{}"), reference_steps=[REFERENCE], question_template="rec")


def test_the_number_of_steps_is_logged():
    logged = {}
    reasoning_reward(
        [None] * 2,
        as_completions(answer(["a", "b", "c"]), "nonsense"),
        reference_steps=[[], []],
        log_metric=logged.__setitem__,
    )
    assert logged == {"reasoning/num_steps": 1.5}


def test_options_of_the_command_line_reach_it():
    (reward,) = build_reward_funcs(["reasoning"], task_type="iqa", reasoning_encoder="no/such/encoder")
    assert reward([None], as_completions(""), reference_steps=[REFERENCE]) == [0.0]


@pytest.mark.parametrize(
    "similarity, pairs",
    [
        ([[0.46, 0.1], [0.2, 0.9]], [(1, 1), (0, 0)]),
        ([[0.45, 0.1], [0.2, 0.4499]], []),  # a similarity equal to the threshold is no match
        ([[0.9, 0.8], [0.8, 0.0]], [(0, 0)]),  # greedy loses a match
        ([[0.7, 0.7], [0.7, 0.7]], [(1, 1), (0, 0)]),  # of equal ones, the greater indices first
        ([[0.9], [0.95], [0.8]], [(1, 0)]),  # one to one
        ([[-0.9, -1.0]], []),
    ],
)
def test_the_most_similar_pairs_match_first(similarity, pairs):
    assert match_steps(np.array(similarity), 0.45) == pairs


def test_the_maximum_matching_finds_what_greedy_misses():
    similarity = np.array([[0.9, 0.8], [0.8, 0.0]])
    assert match_steps(similarity, 0.45, "maximum") == [(0, 1), (1, 0)]
    assert score_steps(similarity, 0.45, "greedy").match_f1 == 0.5
    assert score_steps(similarity, 0.45, "maximum").match_f1 == 1.0


@pytest.mark.parametrize("seed", range(20))
def test_the_maximum_matching_is_the_largest_and_of_those_the_most_similar(seed):
    similarity = np.random.default_rng(seed).uniform(0, 1, (4, 3))
    threshold = 0.55
    pairs = match_steps(similarity, threshold, "maximum")
    candidates = []
    for rows in itertools.permutations(range(4), 3):  # row of each column; pairs below the threshold are dropped
        kept = [(row, column) for column, row in enumerate(rows) if similarity[row, column] > threshold]
        candidates.append((len(kept), sum(similarity[pair] for pair in kept)))
    assert (len(pairs), sum(similarity[pair] for pair in pairs)) == pytest.approx(max(candidates))
    assert len(pairs) >= len(match_steps(similarity, threshold))


@pytest.mark.parametrize("matching", ["greedy", "maximum"])
def test_no_step_is_matched_twice(matching):
    similarity = np.random.default_rng(0).uniform(0.3, 1, (7, 5))
    predicted, reference = zip(*match_steps(similarity, 0.45, matching), strict=True)
    assert len(set(predicted)) == len(predicted)
    assert len(set(reference)) == len(reference)


def test_f1_is_the_harmonic_mean_of_precision_and_recall():
    similarity = np.zeros((4, 2))
    similarity[3, 1] = 0.8
    metrics = score_steps(similarity, 0.45)
    assert (metrics.precision, metrics.recall) == (0.25, 0.5)
    assert metrics.match_f1 == pytest.approx(2 / 6)  # 2 · matched / (predicted + reference)
    assert (metrics.num_predicted_steps, metrics.num_reference_steps) == (4, 2)
    assert (metrics.num_matched_predictions, metrics.num_matched_references) == (1, 1)
    assert (metrics.avg_similarity, metrics.max_similarity, metrics.threshold_used) == (0.1, 0.8, 0.45)


def test_many_steps_cost_precision():
    good = np.zeros((50, 4))
    good[:4] = np.eye(4)
    assert score_steps(good, 0.45).match_f1 == pytest.approx(8 / 54)


def test_nothing_predicted_scores_zero():
    metrics = score_steps(np.zeros((0, 3)), 0.45)
    assert (metrics.match_f1, metrics.precision, metrics.recall, metrics.max_similarity) == (0, 0, 0, 0)


def test_nothing_to_compare_with_is_refused():
    with pytest.raises(ValueError, match="Reference steps cannot be empty"):
        score_steps(np.zeros((2, 0)), 0.45)


def test_an_unknown_matching_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'optimal'; known: greedy, maximum"):
        match_steps(np.zeros((1, 1)), 0.45, "optimal")


@pytest.mark.parametrize(
    "encoder, threshold",
    [
        ("all-MiniLM-L6-v2", 0.45),
        ("sentence-transformers/all-MiniLM-L12-v2", 0.47),
        ("models/all-mpnet-base-v2/", 0.48),
        ("C:\\models\\all-distilroberta-v1", 0.50),
        ("paraphrase-multilingual-MiniLM-L12-v2", 0.43),
        ("paraphrase-multilingual-mpnet-base-v2", 0.45),
        ("intfloat/multilingual-e5-base", 0.45),
    ],
)
def test_the_threshold_is_the_encoders(encoder, threshold):
    assert get_threshold(encoder) == threshold


def test_repeats_are_found_up_to_case_space_and_punctuation():
    steps = ["Two dogs run.", "A cat", "two  DOGS run", "Two dogs", "a cat!", "Two dogs run."]
    assert find_repeats(steps) == [2, 4, 5]


def test_the_example_of_matching_holds():
    results = doctest.testmod(step_matching, extraglobs={"np": np})
    assert results.attempted > 0
    assert results.failed == 0

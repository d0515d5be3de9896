"""What the cold start shows a model."""

import numpy as np
import pytest

from open_r1.cold_start import blur_score, compose_completion
from open_r1.completions import get_answer_contract, parse_score


SCORING = get_answer_contract("scoring")


def compose(record, score=3.456, contract=SCORING, noise_std=0.0, decimals=1, seed=0):
    return compose_completion(record, score, contract, noise_std=noise_std, decimals=decimals, seed=seed)


def test_a_completion_of_the_users_own_is_taken_as_it_stands():
    assert compose({"id": 1, "completion": "as it is", "think": "no"}, score=None) == "as it is"


def test_own_thinking_wins_over_the_name_of_the_distortion():
    text = compose({"id": 1, "think": "soft edges", "distortion": "jpeg"})
    assert "soft edges" in text and "jpeg" not in text
    assert SCORING.is_well_formed(text)


def test_the_score_is_rounded_to_the_decimals_asked_for():
    assert parse_score(compose({"id": 1, "distortion": "jpeg"})) == 3.5
    assert parse_score(compose({"id": 1, "distortion": "jpeg"}, decimals=2)) == 3.46


def test_the_answer_alone_needs_no_thinking():
    contract = get_answer_contract("scoring_no_think")
    assert contract.is_well_formed(compose({"id": 1}, contract=contract))


@pytest.mark.parametrize("record, score", [({"id": 9}, 3.0), ({"id": 9, "distortion": "jpeg"}, None)])
def test_a_row_with_nothing_to_learn_from_is_named(record, score):
    with pytest.raises(ValueError, match="row 9"):
        compose(record, score)


def test_noise_depends_on_seed_and_row_alone():
    first = [compose({"id": row, "distortion": "jpeg"}, noise_std=0.7, seed=1) for row in range(20)]
    again = [compose({"id": row, "distortion": "jpeg"}, noise_std=0.7, seed=1) for row in range(20)]
    other = [compose({"id": row, "distortion": "jpeg"}, noise_std=0.7, seed=2) for row in range(20)]
    assert first == again
    assert first != other
    assert len(set(first)) > 5


def test_blurred_scores_stay_on_the_scale_without_piling_up_at_its_ends():
    rng = np.random.default_rng(0)
    scores = np.array([blur_score(1.2, 1.0, rng) for _ in range(2000)])
    assert scores.min() >= 1 and scores.max() <= 5
    assert (scores < 1.01).mean() < 0.05  # clipping would put 42 % there


def test_a_score_off_the_scale_is_refused():
    with pytest.raises(ValueError, match="57"):
        blur_score(57.0, 1.0, np.random.default_rng(0))

"""Correlation measures, the logistic fit and bootstrap intervals, against hand-computed numbers and scipy."""

import numpy as np
import pytest
from scipy import optimize, stats

from open_r1.utils.bootstrap import (
    compute_ci95,
    compute_interval,
    compute_weighted_midranks,
    draw_resample_counts,
    resample_measures,
)
from open_r1.utils.math import (
    METRICS,
    METRICS_5,
    compute_agreement,
    compute_krcc,
    compute_plcc,
    compute_rmse,
    compute_srcc,
    explain_undefined,
    fit_logistic4,
    fit_logistic5,
)


def draw_scores(num_rows: int, seed: int = 0, digits: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Predictions (n,) with ties and MOS (n,) that follow them with noise."""
    rng = np.random.default_rng(seed)
    pred_score = np.round(np.clip(3 + rng.normal(size=num_rows), 1, 5), digits)
    return pred_score, 5 / (1 + np.exp(-(pred_score - 3))) + 0.5 * rng.normal(size=num_rows)


def test_hand_computed_correlations():
    # ranks 1 2 4 3 against 1 2 3 4: d = 0 0 1 -1, srcc = 1 - 6 * 2 / (4 * 15) = 0.8; 5 of 6 pairs agree: (5 - 1) / 6
    assert compute_srcc([1.0, 1.5, 4.0, 3.0], [10, 20, 30, 40]) == pytest.approx(0.8)
    assert compute_krcc([1.0, 1.5, 4.0, 3.0], [10, 20, 30, 40]) == pytest.approx(4 / 6)
    # deviations -1 0 1 and -1 -1 2: 3 / sqrt(2 * 6)
    assert compute_plcc([1, 2, 3], [0, 0, 3]) == pytest.approx(3 / 12**0.5)


def test_ties_share_their_mean_rank():
    # ranks 1.5 1.5 3 against 1 2 3: deviations -.5 -.5 1 and -1 0 1: 1.5 / sqrt(1.5 * 2)
    assert compute_srcc([2, 2, 5], [1, 2, 3]) == pytest.approx(1.5 / 3**0.5)
    # tau-b: two concordant pairs, one tied in x: 2 / sqrt((3 - 1) * 3)
    assert compute_krcc([2, 2, 5], [1, 2, 3]) == pytest.approx(2 / 6**0.5)


@pytest.mark.parametrize("seed", range(5))
def test_correlations_agree_with_scipy(seed):
    pred_score, mos = draw_scores(57, seed)
    assert compute_srcc(pred_score, mos) == pytest.approx(stats.spearmanr(pred_score, mos).statistic, abs=1e-12)
    assert compute_krcc(pred_score, mos) == pytest.approx(stats.kendalltau(pred_score, mos).statistic, abs=1e-12)
    assert compute_plcc(pred_score, mos) == pytest.approx(stats.pearsonr(pred_score, mos).statistic, abs=1e-12)


def test_inverted_predictions_keep_their_sign_in_everything_but_the_fitted_measure():
    pred_score, mos = draw_scores(200)
    upright, inverted = compute_agreement(pred_score, mos).values, compute_agreement(-pred_score, mos).values
    for metric in ("srcc", "krcc", "plcc"):
        assert upright[metric] > 0.4
        assert inverted[metric] == pytest.approx(-upright[metric])
    assert inverted["plcc_fitted"] == pytest.approx(upright["plcc_fitted"], abs=1e-4)


@pytest.mark.parametrize(
    ("pred_score", "mos", "reason"),
    [
        ([3.0] * 6, [1, 2, 3, 4, 5, 6], "every prediction is 3"),
        ([0.1] * 6, [1, 2, 3, 4, 5, 6], "every prediction is 0.1"),
        ([1, 2, 3, 4, 5, 6], [2.5] * 6, "every MOS is 2.5"),
        ([1, 2], [1, 2], "2 rows; at least 3"),
        ([], [], "0 rows; at least 3"),
        ([1, 2, float("nan"), 4, 5, 6], [1, 2, 3, 4, 5, 6], "1 prediction values are not finite"),
        ([1, 2, 3, 4, 5, 6], [1, 2, 3, 4, float("inf"), 6], "1 MOS values are not finite"),
    ],
)
def test_undefined_measures_are_none_with_a_reason(pred_score, mos, reason):
    agreement = compute_agreement(pred_score, mos)
    assert reason in explain_undefined(pred_score, mos)
    for metric in METRICS:
        assert agreement.values[metric] is None
        assert reason in agreement.reasons[metric]
    assert set(compute_ci95(pred_score, mos, num_resamples=20).values()) == {None}


def test_lists_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="equally long"):
        compute_srcc([1, 2, 3], [1, 2, 3, 4])


def test_logistic_fit_finds_the_curve_it_was_drawn_from():
    x = np.linspace(1, 5, 80)
    fit = fit_logistic4(x, (90 - 10) / (1 + np.exp(-(x - 2.7) / 0.4)) + 10)
    assert fit.params == pytest.approx((90, 10, 2.7, 0.4), rel=1e-4)
    assert fit.predict([2.7])[0] == pytest.approx(50)


def test_logistic_fit_agrees_with_scipy_curve_fit():
    pred_score, mos = draw_scores(300)

    def logistic(x, b1, b2, b3, b4):
        return (b1 - b2) / (1 + np.exp(-(x - b3) / b4)) + b2

    start = [mos.max(), mos.min(), pred_score.mean(), pred_score.std() / 4]
    params, _ = optimize.curve_fit(logistic, pred_score, mos, start, maxfev=10_000)
    values = compute_agreement(pred_score, mos).values
    assert values["plcc_fitted"] == pytest.approx(
        stats.pearsonr(logistic(pred_score, *params), mos).statistic, abs=1e-6
    )
    assert values["rmse"] == pytest.approx(np.sqrt(np.mean((logistic(pred_score, *params) - mos) ** 2)), abs=1e-6)


def test_a_fit_that_does_not_converge_is_reported_and_takes_its_measures_with_it(monkeypatch):
    pred_score, mos = draw_scores(300)
    monkeypatch.setattr("open_r1.utils.math.MAX_FIT_EVALUATIONS", 6)
    agreement = compute_agreement(pred_score, mos)
    assert agreement.fit.params is None
    for metric in ("plcc_fitted", "rmse"):
        assert agreement.values[metric] is None
        assert "fit failed" in agreement.reasons[metric]
    assert agreement.values["srcc"] == pytest.approx(stats.spearmanr(pred_score, mos).statistic)
    with pytest.raises(ValueError, match="fit failed"):
        agreement.fit.predict(pred_score)


def test_four_rows_have_correlations_but_no_fit():
    agreement = compute_agreement([1, 2, 3, 4], [1, 3, 2, 4])
    assert agreement.values["srcc"] == pytest.approx(0.8)
    assert agreement.values["rmse"] is None
    assert "at least 5" in agreement.reasons["rmse"]


def test_rmse_is_in_units_of_the_mos_and_taken_after_the_fit():
    assert compute_rmse([1, 2, 3], [1, 2, 6]) == pytest.approx(3**0.5)
    pred_score, mos = draw_scores(100)
    shifted = compute_agreement(10 * pred_score + 400, mos).values["rmse"]
    assert shifted == pytest.approx(compute_agreement(pred_score, mos).values["rmse"], rel=1e-4)


def test_five_parameters_find_the_curve_they_were_drawn_from_and_bound_the_error_of_four():
    x = np.linspace(1, 5, 80)
    fit = fit_logistic5(x, 3 * (0.5 - 1 / (1 + np.exp(2 * (x - 2.7)))) + 0.4 * x + 1)
    assert fit.predict([2.7])[0] == pytest.approx(0.4 * 2.7 + 1, abs=1e-4)
    pred_score, mos = draw_scores(300)
    values = compute_agreement(pred_score, mos, with_fit5=True).values
    assert values["rmse5"] < values["rmse"] + 1e-6
    assert list(compute_agreement(pred_score, mos).values) == list(METRICS)


def test_five_parameters_have_intervals_around_their_measures():
    pred_score, mos = draw_scores(200)
    values = compute_agreement(pred_score, mos, with_fit5=True).values
    for metric, (low, high) in compute_ci95(pred_score, mos, num_resamples=60, metrics=METRICS_5).items():
        assert low < values[metric] < high


def test_weighted_ranks_equal_the_ranks_of_the_repeated_rows():
    values, counts = np.array([3.0, 1.0, 3.0, 2.0]), np.array([[2, 0, 1, 3], [1, 1, 1, 1]])
    for row_counts, ranks in zip(counts, compute_weighted_midranks(values, counts), strict=True):
        present = row_counts > 0
        repeated = stats.rankdata(np.repeat(values, row_counts))
        assert np.repeat(ranks[present], row_counts[present]) == pytest.approx(repeated)


def test_each_resample_has_the_measures_of_its_repeated_rows():
    pred_score, mos = draw_scores(40)
    counts = draw_resample_counts(40, num_resamples=30, seed=3)
    resampled = resample_measures(pred_score, mos, counts)
    for index, row_counts in enumerate(counts):
        direct = compute_agreement(np.repeat(pred_score, row_counts), np.repeat(mos, row_counts)).values
        for metric in METRICS:
            tolerance = 1e-3 if metric in ("plcc_fitted", "rmse") else 1e-12
            assert resampled[metric][index] == pytest.approx(direct[metric], abs=tolerance)


def test_rows_of_one_reference_are_drawn_together():
    references = [f"I{row // 5:02d}.png" for row in range(50)]
    counts = draw_resample_counts(50, references, num_resamples=200)
    by_reference = counts.reshape(200, 10, 5)
    assert (by_reference == by_reference[:, :, :1]).all()
    assert (by_reference[:, :, 0].sum(axis=1) == 10).all()
    assert (draw_resample_counts(50, num_resamples=200).sum(axis=1) == 50).all()


def test_resampling_by_reference_widens_the_interval_where_references_differ():
    rng = np.random.default_rng(0)
    content = np.repeat(rng.normal(size=12), 30)  # the predictions are wrong by an amount that each reference shares
    mos = rng.normal(size=360)
    pred_score = mos + 2 * content
    by_row = compute_ci95(pred_score, mos, num_resamples=300)["srcc"]
    by_reference = compute_ci95(pred_score, mos, references=[str(c) for c in content], num_resamples=300)["srcc"]
    assert by_reference[1] - by_reference[0] > 1.5 * (by_row[1] - by_row[0])


def test_one_reference_alone_gives_no_interval():
    pred_score, mos = draw_scores(30)
    assert set(compute_ci95(pred_score, mos, references=["I01.png"] * 30, num_resamples=20).values()) == {None}


def test_intervals_hold_the_measure_depend_on_the_seed_alone_and_match_theory():
    pred_score, mos = draw_scores(640, digits=6)
    intervals = compute_ci95(pred_score, mos, num_resamples=400)
    for metric, value in compute_agreement(pred_score, mos).values.items():
        low, high = intervals[metric]
        assert low < value < high
    assert compute_ci95(pred_score, mos, num_resamples=400) == intervals
    assert compute_ci95(pred_score, mos, num_resamples=400, seed=1) != intervals
    # Fisher's z: half a width of 1.96 / sqrt(n - 3) around atanh(r)
    theory = np.tanh(np.arctanh(compute_plcc(pred_score, mos)) + np.array([-1.96, 1.96]) / 637**0.5)
    assert intervals["plcc"] == pytest.approx(theory, abs=0.015)


def test_too_many_undefined_resamples_give_no_interval():
    assert compute_interval(np.array([np.nan] * 6 + [0.5] * 94), 100) is None
    assert compute_interval(np.array([np.nan] * 4 + [0.5] * 96), 100) == [0.5, 0.5]


def test_few_units_widen_the_interval_to_that_of_students_t():
    values = np.sort(np.random.default_rng(0).normal(size=100_000))
    for num_units, tail in ((5, 0.0009491), (20, 0.0158821), (10_000, 0.0250)):
        low, high = compute_interval(values, num_units)
        assert np.mean(values < low) == pytest.approx(tail, abs=2e-4)
        assert np.mean(values > high) == pytest.approx(tail, abs=2e-4)

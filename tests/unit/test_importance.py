"""The correction for another engine: ratios, bounds, what is left alone, and what is told of the mismatch."""

import math
from dataclasses import fields

import pytest
import torch

from open_r1.trainer.batch import RolloutBatch, pad_completions
from open_r1.trainer.guards import find_bad_groups
from open_r1.trainer.importance import (
    AGREEMENT,
    IMPORTANCE_MODES,
    UNKNOWN_LOGP,
    ImportanceSettings,
    compute_importance_ratio,
    pad_engine_logps,
)
from open_r1.trainer.rollouts import Rollout
from open_r1.trainer.rounds import Round, load_round, save_round
from open_r1.trainer.vision import with_idle_group
from open_r1.vlm_modules.vlm_module import EncodedPrompt


CPU = torch.device("cpu")
RATIO = "sampling/importance_sampling_ratio"
DIFFERENCE = "sampling/sampling_logp_difference"
UNBOUNDED = {"clip_min": None, "clip_max": None}


def correct(
    log_ratios: list[list[float]], mask: list[list[bool]] | None = None, engine_logp: float = -2.0, **settings
):
    """A correction where trainer - engine is `log_ratios`."""
    difference = torch.tensor(log_ratios)
    engine = torch.full_like(difference, engine_logp)
    mask = torch.ones_like(difference).bool() if mask is None else torch.tensor(mask)
    return compute_importance_ratio(engine + difference, engine, mask, ImportanceSettings(**settings))


def mean(value: torch.Tensor) -> float:
    total, count = value.tolist()
    return total / count


HALF, TWICE, FIVEFOLD = math.log(0.5), math.log(2), math.log(5)


def test_each_token_has_its_ratio():
    correction = correct([[HALF, TWICE, 0.0]], mode="token_truncate", **UNBOUNDED)
    assert correction.ratio[0].tolist() == pytest.approx([0.5, 2.0, 1.0])


def test_a_completion_has_the_product_of_its_tokens_ratios():
    correction = correct([[TWICE, TWICE, FIVEFOLD]], [[True, True, False]], mode="sequence_truncate", **UNBOUNDED)
    assert correction.ratio.tolist() == [[pytest.approx(4.0)]]


@pytest.mark.parametrize(("mode", "expected"), [("token_truncate", [0.8, 3.0, 2.0]), ("token_mask", [0.0, 0.0, 2.0])])
def test_out_of_bounds_a_ratio_is_truncated_or_zero(mode, expected):
    correction = correct([[HALF, FIVEFOLD, TWICE]], mode=mode, clip_min=0.8, clip_max=3.0)
    assert correction.ratio[0].tolist() == pytest.approx(expected)
    name = f"{RATIO}/{'truncated' if mode == 'token_truncate' else 'masked'}"
    assert correction.metrics[name].tolist() == [2.0, 3.0]


def test_without_bounds_nothing_is_masked():
    correction = correct([[HALF, 3 * FIVEFOLD]], mode="token_mask", **UNBOUNDED)
    assert correction.ratio[0].tolist() == pytest.approx([0.5, 125.0])
    assert correction.metrics[f"{RATIO}/masked"].tolist() == [0.0, 2.0]


@pytest.mark.parametrize("absent", [UNKNOWN_LOGP, math.nan, -math.inf])
@pytest.mark.parametrize("mode", IMPORTANCE_MODES)
def test_a_token_that_the_engine_told_nothing_of_is_not_corrected(mode, absent):
    trainer, mask = torch.tensor([[-1.0, -1.0]]), torch.ones(1, 2, dtype=torch.bool)
    engine = torch.tensor([[-1.0 - TWICE, absent]])
    correction = compute_importance_ratio(trainer, engine, mask, ImportanceSettings(mode=mode))
    expected = [2.0] if mode.startswith("sequence") else [2.0, 1.0]
    assert correction.ratio[0].tolist() == pytest.approx(expected)
    assert correction.metrics["sampling/kl/k1"].tolist() == pytest.approx([-TWICE, 1.0])


@pytest.mark.parametrize("mode", IMPORTANCE_MODES)
def test_completions_on_which_the_engines_agree_are_left_alone(mode):
    rounding = 0.2 * AGREEMENT
    close = [[rounding, -rounding, rounding], [0.0, rounding, 0.0]]
    assert correct(close, mode=mode).weights is None
    weights = correct([*close, [rounding, 0.0, 0.1]], mode=mode).weights
    assert (weights[:2] == 1).all()
    expected = math.exp(0.1 + rounding) if mode.startswith("sequence") else math.exp(0.1)
    assert weights[2, -1].item() == pytest.approx(expected)


def test_small_differences_that_add_up_over_a_completion_are_corrected_there():
    steps = [[0.3 * AGREEMENT] * 20]
    assert correct(steps, mode="token_truncate").weights is None
    assert correct(steps, mode="sequence_truncate").weights.item() == pytest.approx(math.exp(6 * AGREEMENT))


def test_switched_off_it_measures_and_weighs_nothing():
    on, off = correct([[TWICE]], is_enabled=True), correct([[TWICE]], is_enabled=False)
    assert off.weights is None and on.weights is not None
    assert on.metrics[f"{RATIO}/applied"].tolist() == [1.0, 1.0]
    assert off.metrics[f"{RATIO}/applied"].tolist() == [0.0, 1.0]
    assert off.distributions[RATIO].summarise() == on.distributions[RATIO].summarise()
    assert off.metrics["sampling/kl/k1"].tolist() == on.metrics["sampling/kl/k1"].tolist()


@pytest.mark.parametrize("mode", IMPORTANCE_MODES)
def test_tokens_and_completions_that_are_not_learnt_from_do_not_count(mode):
    ratios = [[TWICE, FIVEFOLD], [3.0, 3.0]]
    correction = correct(ratios, [[True, False], [False, False]], mode=mode)
    alone = correct([[TWICE]], mode=mode)
    for name, value in alone.metrics.items():
        assert correction.metrics[name].tolist() == value.tolist(), name
    for name, values in alone.distributions.items():
        assert correction.distributions[name].summarise() == values.summarise(), name
    assert correction.is_applied.tolist() == [[True], [False]]


def test_differences_are_told_in_both_directions_alike():
    summary = correct([[HALF, TWICE, 0.1]], mode="token_truncate").distributions[DIFFERENCE].summarise()
    assert summary["max"] == pytest.approx(TWICE)
    assert summary["mean"] == pytest.approx((2 * TWICE + 0.1) / 3)


def test_the_divergence_of_the_engines_is_estimated_from_the_tokens_that_were_drawn():
    generator = torch.Generator().manual_seed(0)
    engine = torch.randn(50, generator=generator).log_softmax(0)
    trainer = (engine + 0.3 * torch.randn(50, generator=generator)).log_softmax(0)
    exact = (engine.exp() * (engine - trainer)).sum().item()
    tokens = torch.multinomial(engine.exp(), 200_000, replacement=True, generator=generator)[None]
    mask = torch.ones_like(tokens).bool()
    metrics = compute_importance_ratio(trainer[tokens], engine[tokens], mask, ImportanceSettings()).metrics
    assert mean(metrics["sampling/kl/k1"]) == pytest.approx(exact, rel=0.05)
    assert mean(metrics["sampling/kl/k3"]) == pytest.approx(exact, rel=0.02)


def test_no_gradient_flows_through_the_ratio():
    trainer = torch.tensor([[-1.0]], requires_grad=True)
    mask = torch.ones(1, 1, dtype=torch.bool)
    correction = compute_importance_ratio(trainer, torch.tensor([[-2.0]]), mask, ImportanceSettings())
    assert not correction.ratio.requires_grad


@pytest.mark.parametrize("mode", IMPORTANCE_MODES)
def test_the_parts_of_a_batch_are_corrected_as_the_whole_is(mode):
    generator = torch.Generator().manual_seed(2)
    lengths = torch.tensor([5, 1, 0, 7, 3])
    mask = torch.arange(7) < lengths[:, None]
    trainer = -torch.rand(5, 7, generator=generator)
    engine = torch.where(torch.rand(5, 1, generator=generator) < 0.5, trainer, trainer + 0.3)
    settings = ImportanceSettings(mode=mode, clip_min=0.5, clip_max=1.3)
    whole = compute_importance_ratio(trainer, engine, mask, settings)
    assert 0 < whole.is_applied.sum() < 5
    parts = [
        compute_importance_ratio(trainer[rows, :width], engine[rows, :width], mask[rows, :width], settings)
        for rows, width in (([2, 0], 5), ([4, 1, 3], 7))
    ]
    for part, rows in zip(parts, ([2, 0], [4, 1, 3])):
        torch.testing.assert_close(part.ratio, whole.ratio[rows][:, : part.ratio.shape[1]])
        assert torch.equal(part.is_applied, whole.is_applied[rows])
    for name, value in whole.metrics.items():
        torch.testing.assert_close(sum(part.metrics[name] for part in parts), value)


def test_a_mode_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="sequence_mask, not 'token'"):
        ImportanceSettings(mode="token")


# ---- the engine's log-probabilities on their way to the loss ----


TOKEN_IDS = [[5, 6, 7], [8], [9, 9], [4, 3]]
LOGPS = [[-0.1, -0.2, -0.3], [-0.4], [-0.5, math.nan], [-math.inf, -0.8]]


def build_batch() -> RolloutBatch:
    ids, mask = pad_completions(TOKEN_IDS, 0, CPU)
    return RolloutBatch(
        prompts=[EncodedPrompt(input_ids=torch.arange(2)), EncodedPrompt(input_ids=torch.arange(3))],
        completion_ids=ids,
        completion_mask=mask,
        advantages=torch.zeros(4),
        engine_per_token_logps=pad_engine_logps(LOGPS, TOKEN_IDS, CPU),
    )


def test_log_probabilities_are_padded_as_completions_are_and_always_finite():
    padded = build_batch().engine_per_token_logps
    u = UNKNOWN_LOGP
    expected = torch.tensor([[-0.1, -0.2, -0.3], [-0.4, u, u], [-0.5, u, u], [u, -0.8, u]])
    assert torch.equal(padded, expected)
    assert UNKNOWN_LOGP > 0  # no log-probability


def test_log_probabilities_must_be_as_many_as_tokens():
    with pytest.raises(ValueError, match="told 1 log-probabilities of a completion of 2 tokens"):
        pad_engine_logps([[-1.0]], [[5, 6]], CPU)


def test_what_an_engine_did_not_tell_does_not_make_a_group_look_bad():
    logps = torch.zeros(4, 3)
    logps[0, 0] = math.nan
    assert find_bad_groups(build_batch(), logps) == [0]


def test_log_probabilities_go_where_their_completions_go(tmp_path):
    batch = build_batch()
    selected = batch.select([1])
    assert torch.equal(selected.engine_per_token_logps, batch.engine_per_token_logps[2:, :2])
    assert torch.equal(batch.select_completions(0, 1, 2).engine_per_token_logps, batch.engine_per_token_logps[1:2, :1])
    idle = with_idle_group(batch, EncodedPrompt(input_ids=torch.arange(4)), 0)
    assert idle.engine_per_token_logps.shape == (6, 3) and idle.engine_per_token_logps.isfinite().all()
    save_round(Round(batch=batch, rows=[3, 1], pending=[[1], [0]]), tmp_path, rank=0)
    loaded = load_round(tmp_path, rank=0)
    assert loaded.values["engine_per_token_logps"].isfinite().all()
    assert torch.equal(loaded.build(batch.prompts, CPU).batch.engine_per_token_logps, batch.engine_per_token_logps)


def test_a_round_saved_without_them_is_resumed_without_them(tmp_path):
    values = {field.name: getattr(build_batch(), field.name) for field in fields(RolloutBatch)}
    batch = RolloutBatch(**(values | {"engine_per_token_logps": None}))
    save_round(Round(batch=batch, rows=[3, 1], pending=[[1], [0]]), tmp_path, rank=0)
    assert load_round(tmp_path, rank=0).build(batch.prompts, CPU).batch.engine_per_token_logps is None


def make_rollout(start: int, has_logps: bool = True) -> Rollout:
    values = [[start + i] for i in range(4)]
    return Rollout(
        groups=[None, None],
        prompts=[None, None],
        texts=[str(value) for value in values],
        token_ids=[list(value) for value in values],
        finish_reasons=["stop"] * 4,
        engine_per_token_logps=[[-float(value[0])] for value in values] if has_logps else None,
    )


def test_groups_are_exchanged_with_their_log_probabilities():
    rollout = make_rollout(0)
    rollout.exchange(1, make_rollout(10), 0)
    assert rollout.token_ids == [[0], [1], [10], [11]]
    assert rollout.engine_per_token_logps == [[0.0], [-1.0], [-10.0], [-11.0]]
    silent = make_rollout(0, has_logps=False)
    silent.exchange(0, make_rollout(10, has_logps=False), 1)
    assert silent.token_ids == [[12], [13], [2], [3]] and silent.engine_per_token_logps is None

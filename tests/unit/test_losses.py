"""The losses against numbers worked out by hand. Against TRL's code: test_losses_against_trl.py."""

import math

import pytest
import torch

from open_r1.trainer.entropy import compute_entropy_threshold, compute_entropy_weights, mask_high_entropy_tokens
from open_r1.trainer.loss_settings import LossSettings
from open_r1.trainer.losses import (
    LossInputs,
    LossOutput,
    compute_kl,
    compute_policy_loss,
    compute_ratio,
    compute_token_weights,
    mask_truncated,
)


def compute_loss(
    logps: torch.Tensor,
    mask: torch.Tensor,
    advantages: torch.Tensor,
    settings: LossSettings = LossSettings(),
    **inputs: torch.Tensor,
) -> LossOutput:
    """The loss of a whole micro-batch, every completion weighing the same."""
    weights = compute_token_weights("grpo", mask, max_completion_length=mask.shape[1])
    inputs = LossInputs(completion_mask=mask, advantages=advantages, token_weights=weights, **inputs)
    return compute_policy_loss(logps, torch.zeros_like(logps), inputs, settings)


def compute_token_loss(
    log_ratio: float, advantage: float, settings: LossSettings, logp: float = 0.0
) -> tuple[float, float, LossOutput]:
    """Loss and gradient of one completion of one token."""
    logps = torch.tensor([[logp]], requires_grad=True)
    old = torch.tensor([[logp - log_ratio]])
    mask = torch.ones(1, 1, dtype=torch.bool)
    output = compute_loss(logps, mask, torch.tensor([advantage]), settings, old_per_token_logps=old)
    output.loss.backward()
    return output.loss.item(), logps.grad.item(), output


def test_on_policy_the_loss_is_minus_the_mean_advantage():
    logps = torch.tensor([[-1.0, -2.0], [-0.5, -0.1]])
    output = compute_loss(logps, torch.ones(2, 2, dtype=torch.bool), torch.tensor([2.0, -1.0]))
    assert output.loss.item() == pytest.approx(-0.5)


def test_padding_carries_no_gradient():
    logps = torch.full((1, 3), -1.0, requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    compute_loss(logps, mask, torch.tensor([1.0])).loss.backward()
    assert logps.grad[0].tolist() == pytest.approx([-0.5, -0.5, 0.0])


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("grpo", [[1 / 8, 1 / 8, 1 / 8, 1 / 8], [1 / 2, 0, 0, 0]]),  # a completion counts once however long it is
        ("sapo", [[1 / 8, 1 / 8, 1 / 8, 1 / 8], [1 / 2, 0, 0, 0]]),
        ("bnpo", [[1 / 5, 1 / 5, 1 / 5, 1 / 5], [1 / 5, 0, 0, 0]]),  # 5 tokens
        ("dr_grpo", [[1 / 20, 1 / 20, 1 / 20, 1 / 20], [1 / 20, 0, 0, 0]]),  # 2 completions of at most 10
        ("dapo", [[1 / 8, 1 / 8, 1 / 8, 1 / 8], [1 / 8, 0, 0, 0]]),  # 8 tokens in the average micro-batch
        ("cispo", [[1 / 8, 1 / 8, 1 / 8, 1 / 8], [1 / 8, 0, 0, 0]]),
    ],
)
def test_how_much_a_token_counts(loss_type, expected):
    mask = torch.tensor([[True, True, True, True], [True, False, False, False]])
    weights = compute_token_weights(loss_type, mask, max_completion_length=10, tokens_per_micro_batch=8.0)
    assert torch.allclose(weights, torch.tensor(expected))


def test_weights_are_finite_where_no_completion_has_tokens():
    mask = torch.zeros(2, 3, dtype=torch.bool)
    for loss_type in ("grpo", "bnpo", "dr_grpo", "dapo"):
        weights = compute_token_weights(loss_type, mask, max_completion_length=3, tokens_per_micro_batch=0.0)
        assert weights.tolist() == torch.zeros(2, 3).tolist()


def test_weights_over_the_round_need_its_number_of_tokens():
    mask = torch.ones(1, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match="dapo needs tokens_per_micro_batch"):
        compute_token_weights("dapo", mask, max_completion_length=1)
    with pytest.raises(ValueError, match="No token weights are known for loss_type 'ppo'"):
        compute_token_weights("ppo", mask, max_completion_length=1)


@pytest.mark.parametrize(
    ("log_ratio", "advantage", "expected_loss", "expected_gradient"),
    [
        (0.1, 1.0, -math.exp(0.1), -math.exp(0.1)),  # inside the range: the ratio itself
        (0.5, 1.0, -1.28, 0.0),  # above 1 + 0.28, good completion: clipped, no gradient
        (0.5, -1.0, math.exp(0.5), math.exp(0.5)),  # above, bad completion: not clipped
        (-0.5, -1.0, 0.8, 0.0),  # below 1 - 0.2, bad completion: clipped
        (-0.5, 1.0, -math.exp(-0.5), -math.exp(-0.5)),  # below, good completion: not clipped
    ],
)
def test_the_ratio_is_clipped_only_where_clipping_makes_the_step_smaller(
    log_ratio: float, advantage: float, expected_loss: float, expected_gradient: float
):
    loss, gradient, output = compute_token_loss(log_ratio, advantage, LossSettings(epsilon_high=0.28))
    assert loss == pytest.approx(expected_loss)
    assert gradient == pytest.approx(expected_gradient)
    assert output.metrics["clip_ratio/region_mean"].tolist() == [expected_gradient == 0.0, 1.0]


def test_delta_bounds_the_ratio_of_bad_tokens():
    settings = LossSettings(delta=1.5)
    assert compute_token_loss(1.0, -2.0, settings)[:2] == pytest.approx((1.5 * 2.0, 0.0))
    assert compute_token_loss(0.3, -2.0, settings)[:2] == pytest.approx((math.exp(0.3) * 2.0, math.exp(0.3) * 2.0))


def test_cispo_caps_the_weight_of_a_token_and_keeps_its_gradient():
    settings = LossSettings(loss_type="cispo", epsilon_high=2.0)
    # log-probability -1, ratio e: loss -2 * 3 * -1, gradient -2 * 3
    loss, gradient, output = compute_token_loss(1.0, 3.0, settings, logp=-1.0)
    assert (loss, gradient) == pytest.approx((6.0, -6.0))
    assert output.metrics["cispo_clip_ratio"].tolist() == [1.0, 1.0]
    assert compute_token_loss(-1.0, 3.0, settings, logp=-1.0)[1] == pytest.approx(-3.0 * math.exp(-1.0))


def test_sapo_fades_out_where_clipping_would_cut_off():
    settings = LossSettings(loss_type="sapo", sapo_temperature_pos=2.0, sapo_temperature_neg=3.0)
    loss, gradient, output = compute_token_loss(0.0, 1.0, settings)
    assert (loss, gradient) == pytest.approx((-1.0, -1.0))  # on-policy: 4 / 2 * sigmoid(0), slope 4 * 1/4
    sigmoid = 1 / (1 + math.exp(-3.0 * (math.e - 1)))
    loss, gradient, _ = compute_token_loss(1.0, -1.0, settings)
    assert loss == pytest.approx(4 / 3 * sigmoid)
    assert gradient == pytest.approx(4 * sigmoid * (1 - sigmoid) * math.e, rel=1e-4)
    assert output.metrics.keys() == {"entropy"}


def test_the_ratio_of_a_sequence_is_the_geometric_mean_over_its_tokens():
    logps = torch.tensor([[0.1, 0.5, 9.0], [0.0, 0.0, 0.0]])
    mask = torch.tensor([[True, True, False], [False, False, False]])
    ratio = compute_ratio(logps, torch.zeros(2, 3), mask, "sequence")
    assert ratio.flatten().tolist() == pytest.approx([math.exp(0.3), 1.0])
    with pytest.raises(ValueError, match="token or sequence"):
        compute_ratio(logps, None, mask, "word")


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("k1", [0.0, -0.5, 1.0]),
        ("k2", [0.0, 0.125, 0.5]),
        ("k3", [0.0, math.exp(0.5) - 1.5, math.exp(-1)]),  # exp(d) - d - 1 for d = 0, 0.5, -1
    ],
)
def test_estimators_of_the_kl_are_zero_where_policy_and_reference_agree(estimator, expected):
    policy, reference = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-1.0, -0.5, -2.0])
    assert compute_kl(policy, reference, estimator).tolist() == pytest.approx(expected, abs=1e-6)


def test_an_unknown_estimator_is_refused():
    with pytest.raises(ValueError, match="k1, k2 or k3, not 'k4'"):
        compute_kl(torch.zeros(1), torch.zeros(1), "k4")


@pytest.mark.parametrize("estimator, is_unbiased", [("k1", True), ("k3", True), ("k2", False)])
def test_on_average_over_samples_k1_and_k3_are_the_kl(estimator, is_unbiased):
    policy, reference = torch.tensor([0.7, 0.2, 0.1]).log(), torch.tensor([0.2, 0.3, 0.5]).log()
    kl = (policy.exp() * (policy - reference)).sum()
    mean = (policy.exp() * compute_kl(policy, reference, estimator)).sum()
    assert torch.allclose(mean, kl) == is_unbiased


@pytest.mark.parametrize(
    ("estimator", "corrected", "is_exact"),
    [("k1", False, False), ("k2", False, True), ("k3", False, False), ("k1", True, True), ("k3", True, True)],
)
def test_on_average_over_samples_the_gradient_is_that_of_the_kl_with_k2_or_with_the_correction(
    estimator, corrected, is_exact
):
    """Expectation over three tokens, on-policy: each token's gradient weighed with its probability."""
    logits = torch.tensor([0.3, -0.2, 0.5], requires_grad=True)
    reference = torch.tensor([0.2, 0.3, 0.5]).log()
    policy = logits.log_softmax(0)
    (expected,) = torch.autograd.grad((policy.exp() * (policy - reference)).sum(), logits)

    policy = logits.log_softmax(0)
    settings = LossSettings(beta=1.0, kl_estimator=estimator, use_bias_correction_kl=corrected)
    inputs = LossInputs(
        completion_mask=torch.ones(1, 3, dtype=torch.bool),
        advantages=torch.zeros(1),
        token_weights=policy.detach().exp()[None],
        ref_per_token_logps=reference[None],
    )
    compute_policy_loss(policy[None], torch.zeros(1, 3), inputs, settings).loss.backward()
    assert torch.allclose(logits.grad, expected, atol=1e-6) == is_exact
    if (estimator, corrected) == ("k1", False):
        assert torch.allclose(logits.grad, torch.zeros(3), atol=1e-6)
    if (estimator, corrected) == ("k3", False):
        (reverse,) = torch.autograd.grad((reference.exp() * (reference - logits.log_softmax(0))).sum(), logits)
        assert torch.allclose(logits.grad, reverse, atol=1e-6)  # of KL(reference || policy)


def test_the_kl_term_is_added_with_weight_beta_and_reported():
    mask = torch.ones(1, 1, dtype=torch.bool)
    reference = torch.tensor([[-0.5]])
    settings = LossSettings(beta=0.1)
    output = compute_loss(torch.tensor([[-1.0]]), mask, torch.zeros(1), settings, ref_per_token_logps=reference)
    kl = math.exp(0.5) - 1.5
    assert output.loss.item() == pytest.approx(0.1 * kl)
    assert output.metrics["kl"].tolist() == pytest.approx([kl, 1.0])


def test_the_correction_for_another_engine_weighs_the_policy_term_only():
    mask, reference = torch.ones(1, 2, dtype=torch.bool), torch.full((1, 2), -0.5)
    for ratio in (torch.tensor([[0.5, 0.0]]), torch.tensor([[0.25]])):
        output = compute_loss(
            torch.full((1, 2), -1.0),
            mask,
            torch.tensor([4.0]),
            LossSettings(beta=1.0),
            importance_ratio=ratio,
            ref_per_token_logps=reference,
        )
        assert output.loss.item() == pytest.approx(-1.0 + math.exp(0.5) - 1.5)


def test_an_empty_completion_gives_a_finite_loss():
    output = compute_loss(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool), torch.tensor([1.0]))
    assert output.loss.item() == 0.0


def test_truncated_completions_lose_all_their_tokens():
    mask = torch.tensor([[True, True], [True, False]])
    assert mask_truncated(mask, torch.tensor([True, False])).tolist() == [[False, False], [True, False]]


def test_the_most_uncertain_tokens_are_kept():
    entropies = torch.tensor([[0.1, 0.9, 0.5], [0.3, 0.7, 5.0]])
    mask = torch.tensor([[True, True, True], [True, True, False]])
    # of 0.1 0.3 0.5 0.7 0.9 the upper 40 % : the quantile 0.6 lies at 0.54
    threshold = compute_entropy_threshold(entropies[mask], 0.4)
    kept = mask_high_entropy_tokens(entropies, mask, threshold)
    assert kept.tolist() == [[False, True, False], [False, True, False]]
    everything = compute_entropy_threshold(entropies[mask], 1.0)
    assert torch.equal(mask_high_entropy_tokens(entropies, mask, everything), mask)


def test_rounding_errors_drop_no_token():
    # (1 - 0.7) * 10 is 3.0000000000000004 in floating point: of 0 .. 10, those from 3 are kept
    assert compute_entropy_threshold(torch.arange(11.0), 0.7) == 3.0


def test_without_tokens_there_are_no_uncertain_ones():
    threshold = compute_entropy_threshold(torch.zeros(0), 0.2)
    assert not mask_high_entropy_tokens(torch.ones(1, 2), torch.ones(1, 2, dtype=torch.bool), threshold).any()


def test_the_entropy_bonus_raises_the_mean_entropy_of_the_tokens_it_acts_on():
    entropies = torch.tensor([[1.0, 3.0, 8.0]], requires_grad=True)
    mask, entropy_mask = torch.tensor([[True, True, False]]), torch.tensor([[False, True, True]])
    for chosen, mean, gradient in ((None, 2.0, [-0.05, -0.05, 0.0]), (entropy_mask, 3.0, [0.0, -0.1, 0.0])):
        entropies.grad = None
        inputs = LossInputs(
            completion_mask=mask,
            advantages=torch.zeros(1),
            token_weights=torch.zeros(1, 3),
            entropy_weights=compute_entropy_weights(mask, chosen),
        )
        logps = torch.zeros(1, 3, requires_grad=True)
        output = compute_policy_loss(logps, entropies, inputs, LossSettings(entropy_coef=0.1))
        output.loss.backward()
        assert output.loss.item() == pytest.approx(-0.1 * mean)
        assert output.policy_loss.item() == 0.0
        assert entropies.grad[0].tolist() == pytest.approx(gradient)
        assert output.metrics["entropy"].tolist() == [4.0, 2.0]  # of all completion tokens


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beta": 0.1}, "need ref_per_token_logps"),
        ({"top_entropy_quantile": 0.2}, "need entropy_mask"),
        ({"entropy_coef": 0.1}, "need entropy_weights"),
    ],
)
def test_a_term_without_its_tensor_is_refused_rather_than_dropped(settings, message):
    mask = torch.ones(1, 1, dtype=torch.bool)
    with pytest.raises(ValueError, match=message):
        compute_loss(torch.zeros(1, 1), mask, torch.zeros(1), LossSettings(**settings))


def test_a_bonus_on_entropies_without_gradient_is_refused():
    mask = torch.ones(1, 1, dtype=torch.bool)
    logps = torch.zeros(1, 1, requires_grad=True)
    with pytest.raises(ValueError, match="carry no gradient"):
        compute_loss(logps, mask, torch.zeros(1), LossSettings(entropy_coef=0.1), entropy_weights=mask.float())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_type": "ppo"}, "loss_type must be one of grpo, .*, not 'ppo'"),
        ({"importance_sampling_level": "word"}, "importance_sampling_level must be one of token, sequence"),
        ({"beta": 0.1, "kl_estimator": "k4"}, "kl_estimator must be one of k1, k2, k3"),
        ({"kl_estimator": "k2"}, "kl_estimator k2 would be ignored: there is no KL term"),
        ({"use_bias_correction_kl": True}, "use_bias_correction_kl would be ignored"),
        ({"delta": 1.2}, "delta must be above 1 . epsilon_high = 1.2"),
        ({"delta": float("nan")}, "delta must be above"),
        ({"loss_type": "cispo", "epsilon_high": 5.0, "delta": 9.0}, "delta 9.0 would be ignored: loss_type cispo"),
        ({"loss_type": "sapo", "delta": 2.0}, "delta 2.0 would be ignored: loss_type sapo"),
        ({"loss_type": "sapo", "epsilon_high": 0.3}, "epsilon_high 0.3 would be ignored"),
        ({"loss_type": "cispo", "epsilon_high": 5.0, "epsilon_low": 0.1}, "epsilon 0.1 would be ignored"),
        ({"loss_type": "cispo", "epsilon_high": 0.28}, "epsilon_high 0.28 is too low for loss_type cispo"),
        ({"sapo_temperature_neg": 2.0}, "sapo_temperature_neg 2.0 would be ignored: loss_type grpo"),
        ({"loss_type": "sapo", "sapo_temperature_pos": 0.0}, "sapo_temperature_pos must be positive"),
        ({"top_entropy_quantile": 0.0}, r"top_entropy_quantile must be in \(0, 1\]"),
        ({"top_entropy_quantile": 1.1}, r"top_entropy_quantile must be in \(0, 1\]"),
        ({"entropy_coef": float("inf")}, "entropy_coef must be finite"),
        ({"epsilon_low": -0.1}, "epsilon must not be negative"),
    ],
)
def test_settings_that_are_out_of_range_or_would_be_ignored_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LossSettings(**settings)

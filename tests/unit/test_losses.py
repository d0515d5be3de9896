"""The GRPO loss against numbers worked out by hand."""

import math

import pytest
import torch

from open_r1.trainer.losses import compute_grpo_loss, compute_k3_kl


def test_on_policy_the_loss_is_minus_the_mean_advantage():
    logps = torch.tensor([[-1.0, -2.0], [-0.5, -0.1]])
    output = compute_grpo_loss(logps, torch.ones(2, 2, dtype=torch.bool), torch.tensor([2.0, -1.0]))
    assert output.loss.item() == pytest.approx(-0.5)


def test_a_completion_counts_once_however_long_it_is():
    mask = torch.tensor([[True, True, True, True], [True, False, False, False]])
    output = compute_grpo_loss(torch.zeros(2, 4), mask, torch.tensor([1.0, 3.0]))
    assert output.loss.item() == pytest.approx(-2.0)


def test_padding_carries_no_gradient():
    logps = torch.full((1, 3), -1.0, requires_grad=True)
    mask = torch.tensor([[True, True, False]])
    compute_grpo_loss(logps, mask, torch.tensor([1.0])).loss.backward()
    assert logps.grad[0].tolist() == pytest.approx([-0.5, -0.5, 0.0])


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
    logps = torch.tensor([[log_ratio]], requires_grad=True)
    output = compute_grpo_loss(
        logps,
        torch.ones(1, 1, dtype=torch.bool),
        torch.tensor([advantage]),
        old_per_token_logps=torch.zeros(1, 1),
        epsilon_low=0.2,
        epsilon_high=0.28,
    )
    output.loss.backward()
    assert output.loss.item() == pytest.approx(expected_loss)
    assert logps.grad.item() == pytest.approx(expected_gradient)
    assert output.clip_low.item() + output.clip_high.item() == (expected_gradient == 0.0)


def test_k3_is_zero_where_policy_and_reference_agree_and_positive_elsewhere():
    policy, reference = torch.tensor([-1.0, -1.0, -1.0]), torch.tensor([-1.0, -0.5, -2.0])
    # exp(d) - d - 1 for d = 0, 0.5, -1
    expected = [0.0, math.exp(0.5) - 1.5, math.exp(-1)]
    assert compute_k3_kl(policy, reference).tolist() == pytest.approx(expected, abs=1e-6)


def test_the_kl_term_is_added_with_weight_beta_and_reported():
    logps, reference = torch.tensor([[-1.0]]), torch.tensor([[-0.5]])
    mask = torch.ones(1, 1, dtype=torch.bool)
    output = compute_grpo_loss(logps, mask, torch.zeros(1), ref_per_token_logps=reference, beta=0.1)
    kl = math.exp(0.5) - 1.5
    assert output.loss.item() == pytest.approx(0.1 * kl)
    assert output.mean_kl.item() == pytest.approx(kl)


def test_an_empty_completion_gives_a_finite_loss():
    output = compute_grpo_loss(torch.zeros(1, 2), torch.zeros(1, 2, dtype=torch.bool), torch.tensor([1.0]))
    assert output.loss.item() == 0.0

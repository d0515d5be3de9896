"""Our losses against TRL's own: `GRPOTrainer._compute_loss` on the same numbers, loss, gradient and metrics.

TRL's method is called on a stand-in for its trainer that has nothing but what the method reads.
"""

from collections import defaultdict
from dataclasses import replace
from itertools import product
from types import SimpleNamespace

import pytest
import torch
from trl import GRPOTrainer

from open_r1.trainer.entropy import compute_entropy_threshold, compute_entropy_weights, mask_high_entropy_tokens
from open_r1.trainer.loss_settings import CLIPPED_LOSS_TYPES, LOSS_TYPES, LossSettings
from open_r1.trainer.losses import LossInputs, compute_policy_loss, compute_ratio, compute_token_weights


LENGTHS = [5, 1, 7, 0, 3, 7]
MAX_COMPLETION_LENGTH = 11
COMMON = {"epsilon_low": 0.2, "epsilon_high": 0.28}


def choose_bounds(loss_type: str) -> dict[str, float]:
    """Bounds that the loss reads, tight enough to act on the random ratios below."""
    if loss_type == "cispo":
        return {"epsilon_high": 1.3}
    return COMMON if loss_type in CLIPPED_LOSS_TYPES else {}


def draw_tensors(seed: int = 4) -> dict[str, torch.Tensor]:
    """Log-probabilities of three policies some way apart, entropies and advantages of six ragged completions."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(LENGTHS), max(LENGTHS))

    def draw(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    mask = torch.arange(shape[1]) < torch.tensor(LENGTHS)[:, None]
    logps = (-1 + 0.5 * draw(*shape)) * mask
    return {
        "mask": mask,
        "logps": logps,
        "old": (logps + 0.4 * draw(*shape) + 0.5 * draw(shape[0], 1)) * mask,
        "ref": (logps + 0.4 * draw(*shape)) * mask,
        "entropies": draw(*shape).abs().float().double() * mask,  # TRL rounds its threshold to float32
        "advantages": draw(shape[0]),
        "importance_ratio": draw(*shape).exp(),
    }


def compute_trl_loss(
    tensors: dict[str, torch.Tensor],
    settings: LossSettings,
    *,
    accumulation_steps: int = 1,
    steps_per_generation: int = 1,
    num_processes: int = 1,
    num_items_in_batch: int | None = None,
) -> tuple[torch.Tensor, dict[str, float]]:
    """TRL's loss, the gradient left in `tensors`, and its metrics."""
    model = SimpleNamespace(training=True)
    trainer = SimpleNamespace(
        **vars(settings),
        args=SimpleNamespace(**vars(settings), steps_per_generation=steps_per_generation),
        accelerator=SimpleNamespace(
            num_processes=num_processes,
            sync_gradients=False,
            gather=lambda tensor: tensor,
            pad_across_processes=lambda tensor, **kwargs: tensor,
            reduce=lambda tensor, reduction: tensor,
        ),
        model=model,
        current_gradient_accumulation_steps=accumulation_steps,
        max_completion_length=MAX_COMPLETION_LENGTH,
        aux_loss_enabled=False,
        off_policy_mask_threshold=None,
        use_vllm="importance_ratio" in tensors,
        vllm_importance_sampling_correction=True,
        _entropy_bonus_enabled=settings.entropy_coef != 0,
        use_adaptive_entropy=False,
        _metrics={"train": defaultdict(list)},
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (tensors["logps"], tensors["entropies"], None),
    )
    trainer.get_high_entropy_mask = lambda *args: GRPOTrainer.get_high_entropy_mask(trainer, *args)
    mask = tensors["mask"].long()
    empty = torch.zeros(len(mask), 0, dtype=torch.long)
    inputs = {
        "prompt_ids": empty,
        "prompt_mask": empty,
        "completion_ids": mask,
        "completion_mask": mask,
        "advantages": tensors["advantages"],
        "num_items_in_batch": mask.sum() if num_items_in_batch is None else torch.tensor(num_items_in_batch),
        "old_per_token_logps": tensors.get("old"),
        "ref_per_token_logps": tensors.get("ref"),
        "importance_sampling_ratio": tensors.get("importance_ratio"),
    }
    loss = GRPOTrainer._compute_loss(trainer, model, inputs)
    return loss, {name: values[-1] for name, values in trainer._metrics["train"].items()}


def build_inputs(
    tensors: dict[str, torch.Tensor], settings: LossSettings, tokens_per_micro_batch: float | None = None
) -> LossInputs:
    mask, entropies = tensors["mask"], tensors["entropies"]
    entropy_mask = None
    if settings.top_entropy_quantile < 1:
        threshold = compute_entropy_threshold(entropies[mask], settings.top_entropy_quantile)
        entropy_mask = mask_high_entropy_tokens(entropies, mask, threshold)
    return LossInputs(
        completion_mask=mask,
        advantages=tensors["advantages"],
        token_weights=compute_token_weights(
            settings.loss_type,
            mask,
            max_completion_length=MAX_COMPLETION_LENGTH,
            tokens_per_micro_batch=float(mask.sum()) if tokens_per_micro_batch is None else tokens_per_micro_batch,
        ),
        old_per_token_logps=tensors.get("old"),
        ref_per_token_logps=tensors.get("ref"),
        importance_ratio=tensors.get("importance_ratio"),
        entropy_mask=entropy_mask,
        entropy_weights=compute_entropy_weights(mask, entropy_mask),
    )


def with_leaves(tensors: dict[str, torch.Tensor], *without: str) -> dict[str, torch.Tensor]:
    kept = {name: tensor for name, tensor in tensors.items() if name not in without}
    return kept | {name: tensors[name].clone().requires_grad_() for name in ("logps", "entropies")}


def take_gradients(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Gradients (2, B, C) with respect to log-probabilities and entropies."""
    gradients = [tensors[name].grad for name in ("logps", "entropies")]
    return torch.stack([torch.zeros_like(tensors["logps"]) if grad is None else grad for grad in gradients])


def assert_equal_to_trl(settings: LossSettings, without: tuple[str, ...], tensors: dict[str, torch.Tensor]) -> None:
    theirs, ours = with_leaves(tensors, *without), with_leaves(tensors, *without)
    expected, metrics = compute_trl_loss(theirs, settings)
    expected.backward()
    output = compute_policy_loss(ours["logps"], ours["entropies"], build_inputs(ours, settings), settings)
    output.loss.backward()
    torch.testing.assert_close(output.loss, expected, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(take_gradients(ours), take_gradients(theirs), rtol=1e-6, atol=1e-8)
    for name, (total, count) in output.metrics.items():
        assert (total / count.clamp(min=1)).item() == pytest.approx(metrics[name], abs=1e-6), name
    if settings.entropy_coef:
        assert output.policy_loss.item() == pytest.approx(metrics["policy_loss"], abs=1e-6)


@pytest.mark.parametrize("without", [("importance_ratio",), ("importance_ratio", "old"), ()], ids=str)
@pytest.mark.parametrize("beta", [0.0, 0.3])
@pytest.mark.parametrize("importance_sampling_level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_loss_gradient_and_metrics_are_those_of_trl(loss_type, importance_sampling_level, beta, without):
    deltas = [None, 1.4] if loss_type in CLIPPED_LOSS_TYPES else [None]
    corrections = [False, True] if beta else [False]
    for delta, correction, top_entropy_quantile, entropy_coef in product(deltas, corrections, [1, 0.5], [0, 0.1]):
        settings = LossSettings(
            loss_type=loss_type,
            importance_sampling_level=importance_sampling_level,
            beta=beta,
            delta=delta,
            use_bias_correction_kl=correction,
            top_entropy_quantile=top_entropy_quantile,
            entropy_coef=entropy_coef,
            **choose_bounds(loss_type),
        )
        assert_equal_to_trl(settings, without, draw_tensors())


@pytest.mark.parametrize("level", ["token", "sequence"])
def test_the_comparison_above_reaches_every_clip_bound(level):
    tensors = draw_tensors()
    mask = tensors["mask"]
    ratio = compute_ratio(tensors["logps"], tensors["old"], mask, level).expand(mask.shape)[mask]
    signs = tensors["advantages"][:, None].expand(mask.shape)[mask].sign()
    assert ((ratio < 0.8) & (signs < 0)).any()
    assert ((ratio > 1.28) & (signs > 0)).any()
    assert ((ratio > 1.4) & (signs < 0)).any()  # where delta acts


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_single_completion_without_tokens_gives_zero_as_in_trl(loss_type):
    tensors = {name: tensor[3:4] for name, tensor in draw_tensors().items()}
    settings = LossSettings(loss_type=loss_type, beta=0.1, **choose_bounds(loss_type))
    assert_equal_to_trl(settings, ("importance_ratio",), tensors)


@pytest.mark.parametrize("accumulation_steps, steps_per_generation", [(1, 1), (4, 4), (2, 4), (4, 2)])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_gradient_accumulation_divides_what_remains(loss_type, accumulation_steps, steps_per_generation):
    num_processes, num_items = 2, 317  # completion tokens of the round on all ranks
    tensors = with_leaves(draw_tensors(), "importance_ratio")
    settings = LossSettings(loss_type=loss_type, **choose_bounds(loss_type))
    expected, _ = compute_trl_loss(
        tensors,
        settings,
        accumulation_steps=accumulation_steps,
        steps_per_generation=steps_per_generation,
        num_processes=num_processes,
        num_items_in_batch=num_items,
    )
    inputs = build_inputs(tensors, settings, num_items / num_processes / steps_per_generation)
    loss = compute_policy_loss(tensors["logps"], tensors["entropies"], inputs, settings).loss / accumulation_steps
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-8)


def cut(inputs: LossInputs, rows: list[int], width: int) -> LossInputs:
    tensors = {name: tensor[rows] for name, tensor in vars(inputs).items() if tensor is not None}
    return replace(inputs, **{name: t[:, :width] if t.dim() == 2 else t for name, t in tensors.items()})


@pytest.mark.parametrize("importance_sampling_level", ["token", "sequence"])
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_the_parts_of_a_micro_batch_add_up_to_the_whole(loss_type, importance_sampling_level):
    settings = LossSettings(
        loss_type=loss_type,
        importance_sampling_level=importance_sampling_level,
        beta=0.2,
        top_entropy_quantile=0.5,
        entropy_coef=0.1,
        **choose_bounds(loss_type),
    )
    whole, parts = with_leaves(draw_tensors()), with_leaves(draw_tensors())
    inputs = build_inputs(whole, settings)
    expected = compute_policy_loss(whole["logps"], whole["entropies"], inputs, settings)
    expected.loss.backward()
    outputs = []
    for rows, width in (([3, 1, 4], 3), ([0], 5), ([2, 5], 7)):  # columns trimmed to the longest
        scores = (parts["logps"][rows, :width], parts["entropies"][rows, :width])
        output = compute_policy_loss(*scores, cut(inputs, rows, width), settings)
        output.loss.backward()
        outputs.append(output)
    torch.testing.assert_close(sum(output.loss for output in outputs), expected.loss)
    torch.testing.assert_close(sum(output.policy_loss for output in outputs), expected.policy_loss)
    torch.testing.assert_close(take_gradients(parts), take_gradients(whole))
    for name, value in expected.metrics.items():
        torch.testing.assert_close(sum(output.metrics[name] for output in outputs), value)


@pytest.mark.parametrize("top_entropy_quantile", [0.05, 0.2, 0.5, 0.8, 0.99])
def test_high_entropy_tokens_are_those_of_trl(top_entropy_quantile):
    for seed in range(20):
        tensors = draw_tensors(seed)
        mask, entropies = tensors["mask"], tensors["entropies"].float()
        if seed % 2:
            entropies = (entropies * 4).round()  # ties
        trainer = SimpleNamespace(
            accelerator=SimpleNamespace(gather=lambda t: t, pad_across_processes=lambda t, **kwargs: t)
        )
        expected = GRPOTrainer.get_high_entropy_mask(trainer, entropies, mask, 1 - top_entropy_quantile)
        threshold = compute_entropy_threshold(entropies[mask], top_entropy_quantile)
        assert torch.equal(mask_high_entropy_tokens(entropies, mask, threshold), expected)

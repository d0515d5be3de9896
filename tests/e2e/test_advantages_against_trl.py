"""Our advantages and engine corrections against TRL's: a round of `GRPOTrainer` and `RLOOTrainer` on the same numbers.

TRL computes both inside `_generate_and_score_completions`, which is called on a stand-in for its trainer that has
nothing but what the method reads; generation, scoring and rewards hand out fixed numbers.
"""

import math
from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from trl import GRPOTrainer, RLOOTrainer

from open_r1.trainer.advantages import AdvantageSettings, estimate_advantages
from open_r1.trainer.importance import IMPORTANCE_MODES, ImportanceSettings, compute_importance_ratio
from open_r1.trainer.losses import mask_truncated


NUM_GENERATIONS = 4
EOS = 9


def run_trl_round(
    trainer_class: type,
    rewards_per_func: torch.Tensor,
    weights: torch.Tensor,
    completion_ids: list[list[int]],
    **settings: Any,
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    """What TRL's method returns, and its metrics."""
    num_completions, num_funcs = rewards_per_func.shape
    width = max(len(ids) for ids in completion_ids)
    engine_logps = settings.pop("engine_logps", None)
    trainer_logps = settings.pop("trainer_logps", torch.zeros(num_completions, width))
    names = [f"reward_{i}" for i in range(num_funcs)]
    generated = ([[1]] * num_completions, completion_ids, None, ["text"] * num_completions, engine_logps, {}, None, [])
    if trainer_class is RLOOTrainer:
        generated = ([[1]] * num_completions, completion_ids, ["text"] * num_completions)
    trainer = SimpleNamespace(
        accelerator=SimpleNamespace(
            device=torch.device("cpu"), num_processes=1, process_index=0, gather=lambda tensor: tensor
        ),
        model=SimpleNamespace(training=True, is_gradient_checkpointing=False),
        args=SimpleNamespace(
            per_device_train_batch_size=num_completions,
            steps_per_generation=1,
            gradient_accumulation_steps=1,
            gradient_checkpointing_kwargs=None,
        ),
        environment_factories=None,
        environments=None,
        tools=None,
        _tokenizer=SimpleNamespace(pad_token_id=0),
        processing_class=SimpleNamespace(batch_decode=lambda ids, **kwargs: ["text"] * len(ids)),
        pad_to_multiple_of=None,
        eos_token_ids=[EOS],
        pad_token_id=0,
        num_iterations=1,
        num_generations=NUM_GENERATIONS,
        beta=0.0,
        use_vllm=engine_logps is not None,
        vllm_importance_sampling_correction=True,
        mask_truncated_completions=False,
        reward_clip_range=None,
        normalize_advantages=False,
        reward_weights=weights,
        reward_funcs=names,
        reward_func_names=names,
        log_multimodal=False,
        log_completions=False,
        _metrics={"train": defaultdict(list)},
        _logs=defaultdict(list, rewards=defaultdict(list), extra=defaultdict(list)),
        _pending_extra_logs={},
        _pending_metrics={},
        _generate=lambda prompts: generated,
        _calculate_rewards=lambda *args: rewards_per_func.clone(),
        _get_per_token_logps_and_entropies=lambda *args, **kwargs: (trainer_logps, None, None),
    )
    vars(trainer).update(settings)
    rows = [{"prompt": "text"} for _ in range(num_completions)]
    output = trainer_class._generate_and_score_completions(trainer, rows)
    return output, {name: values[-1] for name, values in trainer._metrics["train"].items()}


def draw_rewards(absent: float) -> tuple[torch.Tensor, torch.Tensor]:
    """Rewards of five groups under three functions of different scales, some absent, and their weights."""
    generator = torch.Generator().manual_seed(3)
    shape = (5 * NUM_GENERATIONS, 3)
    rewards = torch.randn(*shape, generator=generator, dtype=torch.float64) * torch.tensor([1.0, 10.0, 0.1])
    rewards[torch.rand(*shape, generator=generator) < absent] = math.nan
    rewards[NUM_GENERATIONS : 2 * NUM_GENERATIONS] = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    if absent:
        rewards[0] = math.nan  # no reward at all
    return rewards, torch.tensor([1.0, 0.5, 2.0], dtype=torch.float64)


@pytest.mark.parametrize("absent", [0.0, 0.3])
@pytest.mark.parametrize(
    "settings",
    [
        *({"scale_rewards": scale} for scale in ("group", "batch", "none")),
        {"multi_objective_aggregation": "normalize_then_sum"},
    ],
    ids=str,
)
def test_advantages_are_those_of_trl(settings, absent):
    rewards_per_func, weights = draw_rewards(absent)
    settings = AdvantageSettings(**settings)
    ours = estimate_advantages(rewards_per_func, weights, NUM_GENERATIONS, settings)
    completion_ids = [[EOS]] * len(rewards_per_func)
    theirs, metrics = run_trl_round(GRPOTrainer, rewards_per_func, weights, completion_ids, **vars(settings))
    torch.testing.assert_close(ours.advantages, theirs["advantages"], rtol=1e-6, atol=1e-8)
    assert ours.rewards.nanmean().item() == pytest.approx(metrics["reward"])


@pytest.mark.parametrize("absent", [0.0, 0.3])
def test_rloo_is_that_of_trl(absent):
    rewards_per_func, weights = draw_rewards(absent)
    settings = AdvantageSettings(advantage_estimator="rloo", scale_rewards="none")
    ours = estimate_advantages(rewards_per_func, weights, NUM_GENERATIONS, settings)
    theirs, _ = run_trl_round(RLOOTrainer, rewards_per_func, weights, [[EOS]] * len(rewards_per_func))
    torch.testing.assert_close(ours.advantages, theirs["advantages"], rtol=1e-6, atol=1e-8)


def test_truncated_completions_are_masked_as_in_trl():
    completion_ids = [[4, EOS], [5, 6], [EOS], [4, 4]]
    rewards, weights = torch.arange(4.0)[:, None], torch.ones(1)
    theirs, _ = run_trl_round(
        GRPOTrainer, rewards, weights, completion_ids, mask_truncated_completions=True, **vars(AdvantageSettings())
    )
    mask = torch.tensor([[True, True], [True, True], [True, False], [True, True]])
    masked = mask_truncated(mask, torch.tensor([False, True, False, True]))
    assert torch.equal(masked, theirs["completion_mask"].bool())
    assert masked.sum() == theirs["num_items_in_batch"]


@pytest.mark.parametrize("bounds", [(None, 1.2), (0.8, None), (0.8, 1.2)], ids=str)
@pytest.mark.parametrize("mode", IMPORTANCE_MODES)
def test_the_correction_for_another_engine_is_that_of_trl(mode, bounds):
    lengths = [3, 5, 1, 2]
    generator = torch.Generator().manual_seed(1)
    mask = torch.arange(5) < torch.tensor(lengths)[:, None]
    trainer_logps = torch.randn(4, 5, generator=generator)
    engine_logps = trainer_logps + 0.2 * torch.randn(4, 5, generator=generator)
    engine_logps[1, 2] = math.nan  # the engine had none
    clip_min, clip_max = bounds
    settings = ImportanceSettings(mode=mode, clip_min=clip_min, clip_max=clip_max)
    ours = compute_importance_ratio(trainer_logps, engine_logps, mask, settings)
    theirs, metrics = run_trl_round(
        GRPOTrainer,
        torch.arange(4.0)[:, None],
        torch.ones(1),
        [[4] * length for length in lengths],
        trainer_logps=trainer_logps,
        engine_logps=[row[:length].tolist() for row, length in zip(engine_logps, lengths)],
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_min=clip_min,
        vllm_importance_sampling_clip_max=clip_max,
        **vars(AdvantageSettings()),
    )
    torch.testing.assert_close(ours.ratio, theirs["importance_sampling_ratio"])
    for name, values in ours.distributions.items():
        summary = values.summarise()
        for what in ("min", "mean", "max"):
            if f"{name}/{what}" in metrics:
                assert summary[what] == pytest.approx(metrics[f"{name}/{what}"], abs=1e-6), f"{name}/{what}"
    told = [name for name in metrics if name.startswith("sampling/")]
    assert len(told) == 5 and {name.rpartition("/")[0] for name in told} == set(ours.distributions)


def test_a_correction_over_no_tokens_says_nothing():
    empty = torch.zeros(2, 0)
    correction = compute_importance_ratio(empty, empty, empty.bool(), ImportanceSettings(mode="token_mask"))
    assert correction.ratio.shape == (2, 0) and correction.weights is None
    assert all(value.tolist() == [0, 0] for value in correction.metrics.values())
    assert all(values.summarise() == {} for values in correction.distributions.values())

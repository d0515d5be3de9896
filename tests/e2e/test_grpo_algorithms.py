"""The trainer with every algorithm: each trains, rows of bounded length change nothing, guards act."""

import json
from pathlib import Path

import pytest
import torch
from test_grpo_trainer import build, copy_parameters, label_reward, letters_reward, read_metrics, read_rollouts

from open_r1.trainer.grpo_config import GRPOConfig


__all__ = ["build"]  # the fixture


ALGORITHMS = [
    {},
    {"loss_type": "dapo", "epsilon_high": 0.28},
    {"loss_type": "dr_grpo", "scale_rewards": "none"},
    {"loss_type": "bnpo", "delta": 2.0},
    {"loss_type": "cispo", "scale_rewards": "batch"},
    {"loss_type": "sapo", "kl_estimator": "k2"},
    {"importance_sampling_level": "sequence", "epsilon": 3e-4},
    {"entropy_coef": 0.01},
    {"advantage_estimator": "rloo", "kl_estimator": "k1"},
    {"advantage_estimator": "reinforce_plus_plus"},
]


def name_of(settings: dict) -> str:
    return "-".join(str(value) for value in settings.values()) or "grpo"


def train(trainer) -> list[float]:
    """Loss and gradient norm of every step."""
    trainer.train()
    return [line[name] for line in read_metrics(trainer) for name in ("loss", "grad_norm")]


@pytest.mark.parametrize("settings", ALGORITHMS, ids=name_of)
def test_rows_of_bounded_length_train_as_whole_micro_batches_do(build, tmp_path, settings):
    shared = {"num_iterations": 2, "max_steps": 2, **settings}
    whole = train(build(output_dir=str(tmp_path / "whole"), **shared))
    cut = build(output_dir=str(tmp_path / "cut"), max_packed_tokens=60, **shared)
    widths = []
    cut.model.model.language_model.layers[0].register_forward_hook(
        lambda module, args, output: widths.append(args[0].shape[1]) if module.training else None
    )
    assert train(cut) == pytest.approx(whole, rel=1e-4, abs=1e-6)
    assert max(widths) <= 60 and len(widths) > 2 * 2  # groups are cut, too
    assert any(norm > 0 for norm in whole[1::2])


def test_only_uncertain_tokens_are_learnt_from_where_that_is_asked_for(build, tmp_path):
    curves = [
        train(build(output_dir=str(tmp_path / str(share)), top_entropy_quantile=share, max_steps=1))
        for share in (1.0, 0.2)
    ]
    assert curves[0] != curves[1]


def test_completions_that_were_cut_off_teach_nothing_where_that_is_asked_for(build):
    trainer = build(mask_truncated_completions=True, beta=0.0, weight_decay=0.0, max_completion_length=1)
    trainer.generator.eos_token_ids = []  # nothing ends a completion, so all are cut off
    before = copy_parameters(trainer)
    trainer.train()
    assert all(torch.equal(before[name], parameter) for name, parameter in copy_parameters(trainer).items())
    assert read_metrics(trainer)[0]["completions/clipped_ratio"] == 1.0


def test_a_picture_runs_through_a_frozen_tower_once_per_round_whatever_uses_it(build):
    trainer = build(model_options={"freeze_vision_modules": True}, num_iterations=2, max_steps=4)
    towers = [trainer.model.model.visual, trainer.ref_model.model.visual]
    calls = []
    for tower in towers:
        tower.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
    encoded = []
    image_processor = trainer.processing_class.image_processor
    original = type(image_processor).__call__
    type(image_processor).__call__ = lambda self, *args, **kwargs: (
        encoded.append(len(kwargs["images"])) or original(self, *args, **kwargs)
    )
    try:
        trainer.train()
    finally:
        type(image_processor).__call__ = original
    pictures = {tuple(group["row"]["image_path"]) for group in read_rollouts(trainer)}
    assert len(pictures) == 4  # two rounds of two groups, each gone over twice with a reference
    patches = 16  # of a picture of 56 by 56 pixels
    assert sum(calls) == len(pictures) * patches
    assert sum(encoded) == len(pictures)


@pytest.mark.parametrize("offload", [False, True])
def test_features_that_are_kept_change_no_loss(build, tmp_path, offload):
    def run(name: str, **settings):
        trainer = build(
            model_options={"freeze_vision_modules": True}, output_dir=str(tmp_path / name), max_steps=2, **settings
        )
        if name == "plain":
            trainer.reuses_features = False
        return train(trainer)

    assert run("kept", offload_vision_features=offload) == pytest.approx(run("plain"), rel=1e-4, abs=1e-6)


def test_a_reference_with_another_tower_looks_at_the_pictures_itself(build, tmp_path):
    frozen = {"freeze_vision_modules": True}
    kls = {}
    for name in ("own", "shared"):
        trainer = build(model_options=frozen, output_dir=str(tmp_path / name), max_steps=1)
        with torch.no_grad():
            trainer.ref_model.model.visual.merger.mlp[2].bias.add_(1.0)
        trainer.ref_reuses_features = name == "shared"
        trainer.train()
        kls[name] = read_metrics(trainer)[0]["kl"]
    assert kls["shared"] == pytest.approx(0.0, abs=1e-6) and kls["own"] > 1e-3
    other = build(model_options=frozen).ref_model
    with torch.no_grad():
        other.model.visual.merger.mlp[2].bias.add_(1.0)
    assert not type(trainer)(
        build(model_options=frozen).model, other, [letters_reward], trainer.args, vlm_module=trainer.vlm_module,
        processing_class=trainer.processing_class, train_dataset=trainer.train_dataset,
    ).ref_reuses_features  # fmt: skip


def test_groups_of_equal_rewards_are_exchanged_for_other_prompts(build):
    def odd_rows_reward(id, num_generations, **kwargs):
        """Rows with an even id cannot be told apart."""
        return [float(int(row) % 2 * (i % num_generations)) for i, row in enumerate(id)]

    trainer = build(reward_funcs=[odd_rows_reward], dynamic_sampling=True, dynamic_sampling_max_refills=20)
    trainer.train()
    metrics = read_metrics(trainer)
    assert sum(line.get("dynamic_sampling/refilled_groups", 0) for line in metrics) > 0
    assert any(line["frac_reward_zero_std"] > 0 for line in metrics)
    assert all(line["dynamic_sampling/frac_reward_zero_std"] == 0 for line in metrics)
    assert all(int(group["row"]["id"]) % 2 for group in read_rollouts(trainer))


def test_refilling_gives_up_after_the_bound(build):
    trainer = build(reward_funcs=[label_reward], dynamic_sampling=True, dynamic_sampling_max_refills=2, max_steps=1)
    trainer.train()
    [line] = read_metrics(trainer)
    assert line["dynamic_sampling/refilled_groups"] == 2 * 2
    assert line["dynamic_sampling/frac_reward_zero_std"] == 1.0


def test_the_reference_follows_the_policy_where_that_is_asked_for(build):
    trainer = build(sync_ref_model=True, ref_model_sync_steps=2, ref_model_mixup_alpha=1.0, max_steps=3)
    trainer.train()
    kls = [line["kl"] for line in read_metrics(trainer)]
    assert kls[1] > 1e-6  # before it moved
    assert kls[2] == pytest.approx(0.0, abs=1e-6)  # generated after it had become the policy


def test_a_moving_reference_needs_one_of_its_own(build):
    with pytest.raises(ValueError, match="LoRA"):
        build(sync_ref_model=True, model_options={"use_peft": True})


def poison(trainer, step: int) -> None:
    """Makes one weight NaN just before an optimizer step's loss, and whole again after it."""
    weight = trainer.model.model.language_model.layers[0].mlp.down_proj.weight
    original = trainer.compute_loss

    def compute_loss(model, inputs, **kwargs):
        if trainer.state.global_step != step:
            return original(model, inputs, **kwargs)
        saved = weight.data.clone()
        weight.data[0, 0] = float("nan")
        loss = original(model, inputs, **kwargs)
        weight.data.copy_(saved)
        return loss

    trainer.compute_loss = compute_loss


def test_a_loss_that_is_not_finite_stops_the_run_and_its_groups_are_on_disk(build):
    trainer = build()
    poison(trainer, step=1)
    with pytest.raises(FloatingPointError, match="loss of step 1 is not finite"):
        trainer.train()
    [path] = (Path(trainer.args.output_dir) / "nonfinite").iterdir()
    groups = json.loads(path.read_text())
    assert len(groups) == 2 and all("train.jsonl:" in group["source"] for group in groups)
    assert groups[0]["per_token_logps"][0][0] != groups[0]["per_token_logps"][0][0]  # NaN
    assert len(groups[0]["completion_ids"]) == 4


def test_a_step_that_is_not_finite_is_skipped_on_request_and_counted(build):
    trainer = build(on_nonfinite="skip")
    poison(trainer, step=1)
    snapshots = []
    original = trainer._get_grad_norm
    trainer._get_grad_norm = lambda *args, **kwargs: (
        snapshots.append(copy_parameters(trainer)) or original(*args, **kwargs)
    )
    trainer.train()
    lines = read_metrics(trainer)
    assert [line.get("nonfinite/skipped_steps") for line in lines] == [None, 1, None]
    before, after = snapshots[1], snapshots[2]
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.isfinite().all() for parameter in copy_parameters(trainer).values())
    assert any(not torch.equal(snapshots[0][name], before[name]) for name in before)


@pytest.mark.parametrize("is_exact", [True, False])
def test_a_family_that_no_test_covers_is_checked_on_the_first_group(build, monkeypatch, caplog, is_exact):
    caplog.set_level("INFO")
    monkeypatch.setattr("open_r1.trainer.layout_check.PROVEN_MODEL_TYPES", ())
    if not is_exact:  # a completion that sees what comes after it
        monkeypatch.setattr(
            "open_r1.trainer.attention._build_segment_mask",
            lambda layout: torch.ones(1, 1, 1, 1, dtype=torch.bool),
        )
    trainer = build(max_steps=2)
    trainer.train()
    assert trainer.scorer.is_packed == is_exact
    assert ("packed rows, " in caplog.text) == is_exact
    assert ("replicated prompts" in caplog.text) == (not is_exact)
    assert caplog.text.count("from replicated ones") == 1


def test_a_kernel_for_ragged_segments_is_refused_without_a_gpu(build):
    with pytest.raises(ValueError, match="CUDA device.*--packed_attention concat"):
        build(packed_attention="varlen")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_packed_tokens": 500, "top_entropy_quantile": 0.5}, "whole micro-batch"),
        ({"max_packed_tokens": 500, "logps_mode": "replicated"}, "drop --logps_mode replicated"),
        ({"max_packed_tokens": 0}, "at least 1"),
        ({"sync_ref_model": True, "beta": 0.0}, "--beta above 0"),
        ({"dynamic_sampling_max_refills": 0}, "at least 1"),
    ],
)
def test_what_does_not_go_together_is_refused_at_start_up(settings, message):
    with pytest.raises(ValueError, match=message):
        GRPOConfig(output_dir="unused", use_cpu=True, num_generations=4, per_device_train_batch_size=8, **settings)

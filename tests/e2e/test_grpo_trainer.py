"""The trainer in this process: what a round does, what is trained, what is refused."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from open_r1.completions import get_answer_contract
from open_r1.configs import GRPOModelConfig
from open_r1.data.jsonl import load_jsonl_dataset
from open_r1.inference.generator import SamplingSettings
from open_r1.inference.hf_generator import HFGenerator
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.grpo_trainer import VLMGRPOTrainer
from open_r1.trainer.loading import load_policy, load_reference, load_vlm_module


def letters_reward(completions, **kwargs):
    """Something that an untrained model earns now and then, so that advantages are not zero."""
    return [sum(character.isalpha() for character in completion[0]["content"]) / 40 for completion in completions]


def label_reward(mos, **kwargs):
    """The same for all completions of a prompt."""
    return list(mos)


@pytest.fixture
def build(tiny_checkpoint, iqa_data, tmp_path):
    """Builds a trainer of three steps; keyword arguments change its settings."""

    def build_trainer(
        reward_funcs=(letters_reward,), model_options=None, with_eval=False, eval_metrics=None, **settings
    ):
        defaults = {
            "output_dir": str(tmp_path / "run"),
            "num_generations": 4,
            "per_device_train_batch_size": 8,
            "max_completion_length": 10,
            "learning_rate": 1e-3,
            "max_steps": 3,
            "report_to": "none",
            "save_strategy": "no",
            "use_cpu": True,
            "disable_tqdm": True,
        }
        args = GRPOConfig(**(defaults | settings))
        model_args = GRPOModelConfig(model_name_or_path=tiny_checkpoint, **(model_options or {}))
        dataset = load_jsonl_dataset(
            [str(iqa_data[0])], [str(iqa_data[1])], contract=get_answer_contract("scoring"), require_mos=True
        )
        torch.manual_seed(0)
        vlm_module = load_vlm_module(model_args)
        return VLMGRPOTrainer(
            load_policy(model_args, vlm_module),
            load_reference(model_args, vlm_module, args.beta),
            list(reward_funcs),
            args,
            vlm_module=vlm_module,
            processing_class=vlm_module.load_processor(tiny_checkpoint),
            train_dataset=dataset,
            eval_dataset=dataset.select(range(5)) if with_eval else None,
            eval_metrics=eval_metrics,
        )

    return build_trainer


def read_metrics(trainer: VLMGRPOTrainer) -> list[dict]:
    lines = (Path(trainer.args.output_dir) / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "loss" in line]


def read_rollouts(trainer: VLMGRPOTrainer) -> list[dict]:
    lines = (Path(trainer.args.output_dir) / "rollouts" / "rank0.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def copy_parameters(trainer: VLMGRPOTrainer) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}


def test_packed_and_replicated_training_give_the_same_losses(build, tmp_path):
    curves = {}
    for mode in ("packed", "replicated"):
        trainer = build(logps_mode=mode, output_dir=str(tmp_path / mode))
        assert trainer.scorer.is_packed == (mode == "packed")
        trainer.train()
        curves[mode] = [(line["loss"], line["kl"], line["entropy"]) for line in read_metrics(trainer)]
    for packed, replicated in zip(curves["packed"], curves["replicated"]):
        assert packed == pytest.approx(replicated, abs=1e-4)


def test_each_group_of_a_round_is_learnt_from_as_often_as_iterations_ask_for(build):
    seen = []
    trainer = build(
        num_iterations=2, steps_per_generation=2, gradient_accumulation_steps=2, per_device_train_batch_size=4
    )
    original = trainer.compute_loss

    def watch(model, inputs, **kwargs):
        seen.append(inputs.completion_ids[0].tolist())
        return original(model, inputs, **kwargs)

    trainer.compute_loss = watch
    trainer.train()
    # Three optimizer steps of two micro-batches of one group; a round is two groups, gone over twice.
    assert len(seen) == 6
    first_round, second_round = seen[:4], seen[4:]
    assert sorted(first_round[:2]) == sorted(first_round[2:4])
    assert not any(group in first_round for group in second_round)
    assert len(read_rollouts(trainer)) == 4


def test_going_over_a_round_again_moves_the_ratio_away_from_one(build):
    trainer = build(num_iterations=3, learning_rate=5e-2, beta=0.0)
    trainer.train()
    metrics = read_metrics(trainer)
    assert metrics[0]["clip_ratio/region_mean"] == 0.0
    assert metrics[2]["clip_ratio/region_mean"] > 0.0
    assert "time/old_logps_s" in metrics[0]


def test_rows_come_in_the_order_of_the_data_where_that_is_asked_for(build):
    trainer = build(train_sampling_strategy="sequential")
    trainer.train()
    assert [group["row"]["id"] for group in read_rollouts(trainer)] == ["1", "2", "3", "4", "5", "6"]


def test_data_loader_workers_change_no_loss(build, tmp_path):
    curves = []
    for num_workers in (0, 2):
        trainer = build(output_dir=str(tmp_path / str(num_workers)), dataloader_num_workers=num_workers)
        trainer.train()
        curves.append([line["loss"] for line in read_metrics(trainer)])
    assert curves[0] == curves[1]


def test_without_a_kl_term_no_reference_is_loaded(build):
    trainer = build(beta=0.0)
    assert trainer.ref_model is None
    trainer.train()
    assert "kl" not in read_metrics(trainer)[0]


def test_a_kl_term_without_a_reference_is_refused(build):
    trainer = build(beta=0.0)
    settings = {"vlm_module": trainer.vlm_module, "processing_class": trainer.processing_class}
    args = replace(trainer.args, beta=0.1)
    with pytest.raises(ValueError, match="a reference model is needed"):
        VLMGRPOTrainer(trainer.model, None, [letters_reward], args, train_dataset=trainer.train_dataset, **settings)


def test_lora_trains_adapters_of_the_language_model_and_is_its_own_reference(build):
    trainer = build(model_options={"use_peft": True, "lora_r": 4, "lora_dropout": 0.0})
    trainable = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
    assert trainable and all("lora_" in name and "visual" not in name for name in trainable)
    assert any("q_proj" in name for name in trainable) and any("down_proj" in name for name in trainable)
    assert trainer.ref_model is None
    trainer.train()
    metrics = read_metrics(trainer)
    assert metrics[0]["kl"] == pytest.approx(0.0, abs=1e-6)
    assert metrics[2]["kl"] > 1e-6


@pytest.mark.parametrize("model_options", [{}, {"use_peft": True, "lora_dropout": 0.0}])
def test_gradient_checkpointing_changes_no_loss(build, tmp_path, model_options):
    curves = []
    for checkpointing in (False, True):
        trainer = build(
            model_options=model_options,
            output_dir=str(tmp_path / str(checkpointing)),
            gradient_checkpointing=checkpointing,
        )
        trainer.train()
        curves.append([line["loss"] for line in read_metrics(trainer)])
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)


def test_bfloat16_autocast_trains_and_keeps_weights_in_float32(build):
    trainer = build(bf16=True)
    before = copy_parameters(trainer)
    trainer.train()
    after = copy_parameters(trainer)
    assert all(parameter.dtype == torch.float32 for parameter in after.values())
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert read_metrics(trainer)[0]["kl"] == pytest.approx(0.0, abs=1e-3)


def test_the_users_lora_targets_are_taken(build):
    trainer = build(model_options={"use_peft": True, "lora_target_modules": ["q_proj", "v_proj"]})
    adapted = {
        name.split(".lora_")[0].rsplit(".", 1)[1] for name, _ in trainer.model.named_parameters() if "lora_" in name
    }
    assert adapted == {"q_proj", "v_proj"}


def test_a_single_lora_target_works(build):
    trainer = build(model_options={"use_peft": True, "lora_target_modules": ["down_proj"]})
    assert any("down_proj.lora_" in name for name, _ in trainer.model.named_parameters())


def test_a_frozen_vision_tower_has_no_trainable_adapters_either(build):
    options = {"use_peft": True, "lora_target_modules": ["all-linear"], "freeze_vision_modules": True}
    trainer = build(model_options=options)
    trainable = [name for name, parameter in trainer.model.named_parameters() if parameter.requires_grad]
    assert trainable and not any(".visual." in name for name in trainable)


def test_adapters_can_be_scored_with_as_they_were_saved(build, tmp_path):
    trainer = build(model_options={"use_peft": True}, learning_rate=1e-2)
    trainer.train()
    trainer.save_model(str(tmp_path / "adapters"))
    generator = HFGenerator.from_pretrained(str(tmp_path / "adapters"), device="cpu")
    prompt = trainer.data_collator([trainer.train_dataset[0]])[0].prompt
    greedy = SamplingSettings(max_new_tokens=8, temperature=0.0)
    expected = trainer.generator.generate([prompt], 1, greedy)
    assert generator.generate([prompt], 1, greedy) == expected


def test_a_frozen_vision_tower_stays_as_it_was(build):
    trainer = build(model_options={"freeze_vision_modules": True})
    before = copy_parameters(trainer)
    trainer.train()
    after = copy_parameters(trainer)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved and not any(".visual." in name for name in moved)
    assert any(".visual." in name for name in before)


def test_groups_of_equal_rewards_teach_nothing(build):
    trainer = build(reward_funcs=[label_reward], beta=0.0, weight_decay=0.0)
    before = copy_parameters(trainer)
    trainer.train()
    assert all(torch.equal(before[name], parameter) for name, parameter in copy_parameters(trainer).items())
    assert read_metrics(trainer)[0]["frac_reward_zero_std"] == 1.0


def test_reward_weights_must_match_the_reward_functions(build):
    with pytest.raises(ValueError, match="2 values for 1 reward functions"):
        build(reward_weights=[1.0, 2.0])


def test_a_prompt_beyond_the_limit_is_refused_by_file_and_line(build):
    trainer = build(max_prompt_length=10)
    with pytest.raises(ValueError, match=r"train\.jsonl:\d+: the prompt has \d+ tokens"):
        trainer.train()


def test_evaluation_reports_greedy_rewards_and_leaves_training_untouched(build, tmp_path):
    plain = build(output_dir=str(tmp_path / "plain"))
    plain.train()
    evaluated = build(output_dir=str(tmp_path / "evaluated"), with_eval=True, eval_strategy="steps", eval_steps=1)
    evaluated.train()
    assert [line["loss"] for line in read_metrics(plain)] == [line["loss"] for line in read_metrics(evaluated)]
    lines = (tmp_path / "evaluated" / "metrics.jsonl").read_text().splitlines()
    evaluations = [line for line in map(json.loads, lines) if "eval_reward" in line]
    assert [line["step"] for line in evaluations] == [1, 2, 3]
    assert evaluations[0]["eval_rewards/letters_reward/mean"] == pytest.approx(evaluations[0]["eval_reward"])


def test_evaluation_without_data_says_so(build):
    with pytest.raises(ValueError, match="val_split_ratio"):
        build().evaluate()

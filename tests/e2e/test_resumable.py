"""A run that stops and goes on equals one that never stopped: weights, optimizer, metrics, rollouts, bit for bit."""

import json
import multiprocessing
import os
import shutil
import signal
from pathlib import Path

import pytest
import torch
from accelerate.data_loader import skip_first_batches
from safetensors.torch import load_file
from transformers import TrainerControl, TrainerState

from open_r1.completions import get_answer_contract
from open_r1.configs import GRPOModelConfig
from open_r1.data.jsonl import load_jsonl_dataset
from open_r1.trainer.checkpoints import UNFINISHED, find_damage
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.grpo_trainer import VLMGRPOTrainer
from open_r1.trainer.interruption import SIGNALS, InterruptionCallback
from open_r1.trainer.loading import load_policy, load_reference, load_vlm_module


def letters_reward(completions, **kwargs):
    """Something that an untrained model earns now and then, so that advantages are not zero."""
    return [sum(character.isalpha() for character in completion[0]["content"]) / 40 for completion in completions]


def choosy_reward(completions, mos, **kwargs):
    """Nothing for any completion about a bad image, so that its group teaches nothing."""
    return [reward * (label > 2) for reward, label in zip(letters_reward(completions), mos)]


# Six rows of data: a round is three groups, gone over twice in three optimizer steps; an epoch is two rounds.
SETTINGS = {
    "num_generations": 4,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "steps_per_generation": 3,
    "num_iterations": 2,
    "max_completion_length": 8,
    "learning_rate": 1e-3,
    "max_steps": 8,
    "report_to": "none",
    "save_strategy": "steps",
    "save_steps": 1,
    "use_cpu": True,
    "disable_tqdm": True,
}


@pytest.fixture
def build(tiny_checkpoint, iqa_data):
    """Builds a trainer; keyword arguments change its settings."""

    def build_trainer(output_dir, reward_func=letters_reward, model_options=None, num_rows=6, **settings):
        args = GRPOConfig(output_dir=str(output_dir), **(SETTINGS | settings))
        model_args = GRPOModelConfig(model_name_or_path=tiny_checkpoint, **(model_options or {}))
        dataset = load_jsonl_dataset(
            [str(iqa_data[0])], [str(iqa_data[1])], contract=get_answer_contract("scoring"), require_mos=True
        )
        torch.manual_seed(0)
        vlm_module = load_vlm_module(model_args)
        return VLMGRPOTrainer(
            load_policy(model_args, vlm_module),
            load_reference(model_args, vlm_module, args.beta),
            [reward_func],
            args,
            vlm_module=vlm_module,
            processing_class=vlm_module.load_processor(tiny_checkpoint),
            train_dataset=dataset.select(range(num_rows)),
            eval_dataset=dataset.select(range(6, 10)) if args.eval_strategy != "no" else None,
        )

    return build_trainer


def read_lines(path: Path) -> list[dict]:
    """Lines of a log without what depends on the clock."""
    lines = map(json.loads, path.read_text().splitlines())
    lines = ({name: value for name, value in line.items() if "time/" not in name} for line in lines)
    return [line for line in lines if "train_runtime" not in line]


def snapshot(trainer: VLMGRPOTrainer) -> dict:
    """What must not differ: weights, moments of the optimizer, learning rate, random numbers, logs."""
    output_dir = Path(trainer.args.output_dir)
    moments = trainer.optimizer.state_dict()["state"]
    reference = {} if trainer.ref_model is None else trainer.ref_model.state_dict()
    return {
        "weights": {name: value.detach().clone() for name, value in trainer.model.state_dict().items()},
        "reference": {name: value.detach().clone() for name, value in reference.items()},
        "optimizer": {f"{n}.{name}": value for n, state in moments.items() for name, value in state.items()},
        "scheduler": trainer.lr_scheduler.state_dict(),
        "random": {"cpu": torch.random.get_rng_state()},
        "metrics": read_lines(output_dir / "metrics.jsonl"),
        "rollouts": read_lines(output_dir / "rollouts" / "rank0.jsonl"),
        "counters": (trainer.num_tokens_seen, trainer.num_refills_drawn, trainer.state.global_step),
    }


LEARNT = ("weights", "reference", "optimizer", "scheduler")


def assert_equal(resumed: dict, whole: dict) -> None:
    for name, expected in whole.items():
        if isinstance(expected, dict) and any(isinstance(value, torch.Tensor) for value in expected.values()):
            assert resumed[name].keys() == expected.keys()
            assert [key for key in expected if not torch.equal(resumed[name][key], expected[key])] == [], name
        else:
            assert resumed[name] == expected, name


def train_in_two_parts(build, tmp_path: Path, steps: list[int], **settings) -> list[VLMGRPOTrainer]:
    """Compares a whole run with runs that go on from its checkpoints in a copy of its folder; returns the trainers."""
    trainer = build(tmp_path / "whole", **settings)
    trainer.train()
    whole = snapshot(trainer)
    trainers = [trainer]
    for step in steps:
        shutil.copytree(tmp_path / "whole", tmp_path / str(step))
        resumed = build(tmp_path / str(step), **settings)
        resumed.train(resume_from_checkpoint=str(tmp_path / str(step) / f"checkpoint-{step}"))
        assert_equal(snapshot(resumed), whole)
        trainers.append(resumed)
    return trainers


def has_round(tmp_path: Path, step: int) -> bool:
    return (tmp_path / "whole" / f"checkpoint-{step}" / "round_rank0.safetensors").is_file()


def test_from_the_middle_of_a_round_from_its_end_and_from_the_second_epoch(build, tmp_path):
    train_in_two_parts(build, tmp_path, [1, 3, 6, 7])
    assert [has_round(tmp_path, step) for step in (1, 3, 6, 7)] == [True, False, False, True]
    state = json.loads((tmp_path / "whole" / "checkpoint-6" / "trainer_state.json").read_text())
    assert state["epoch"] == 1.0  # so 6 is the end of an epoch, and 7 in the second one


def test_rounds_that_end_within_an_optimizer_step(build, tmp_path):
    # Three micro-steps per round, two per optimizer step, and a last step of one in an epoch of nine.
    train_in_two_parts(build, tmp_path, [1, 5], num_iterations=1, num_rows=9, max_steps=7)
    assert has_round(tmp_path, 1) and not has_round(tmp_path, 5)


def test_means_over_several_steps_span_the_interruption(build, tmp_path):
    trainers = train_in_two_parts(build, tmp_path, [2, 4], logging_steps=3, max_steps=6)
    lines = read_lines(Path(trainers[-1].args.output_dir) / "metrics.jsonl")
    assert [line["step"] for line in lines] == [3, 6]


def test_a_moving_reference(build, tmp_path):
    train_in_two_parts(build, tmp_path, [3], max_steps=5, sync_ref_model=True, ref_model_sync_steps=2)


def test_adapters_with_dropout(build, tmp_path):
    train_in_two_parts(build, tmp_path, [2], model_options={"use_peft": True, "lora_dropout": 0.2}, max_steps=4)


def test_image_features_of_a_frozen_vision_tower(build, tmp_path):
    trainers = train_in_two_parts(build, tmp_path, [2], model_options={"freeze_vision_modules": True}, max_steps=4)
    assert trainers[0].reuses_features


def test_groups_that_came_in_exchange_for_others(build, tmp_path):
    trainers = train_in_two_parts(
        build, tmp_path, [2, 3], reward_func=choosy_reward, dynamic_sampling=True, max_steps=5
    )
    assert trainers[0].num_refills_drawn > 0


def test_data_loader_workers_that_live_through_epochs(build, tmp_path):
    train_in_two_parts(build, tmp_path, [5, 6], dataloader_num_workers=1, dataloader_persistent_workers=True)


def test_evaluation_between_steps(build, tmp_path):
    train_in_two_parts(build, tmp_path, [2], eval_strategy="steps", eval_steps=2, max_steps=4)
    logs = [read_lines(tmp_path / name / "rollouts" / "eval_rank0.jsonl") for name in ("whole", "2")]
    assert logs[0] == logs[1] != []


def test_the_data_loader_draws_no_global_random_number(build, tmp_path):
    loader = build(tmp_path).get_train_dataloader()
    state = torch.random.get_rng_state()
    groups = [group.index for step in loader for group in step]
    rest = [group.index for step in skip_first_batches(loader, 6) for group in step]
    assert torch.equal(torch.random.get_rng_state(), state)
    assert sorted(groups) == list(range(6))
    assert rest == groups[3:]


# ---- ends and changes -------------------------------------------------------------------------------------------


def test_a_run_that_took_its_last_step_takes_no_other(build, tmp_path):
    whole = build(tmp_path, max_steps=2)  # less than an epoch, where transformers would go on
    whole.train()
    expected = snapshot(whole)
    again = build(tmp_path, max_steps=2)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 2
    found = snapshot(again)
    assert_equal({name: found[name] for name in LEARNT}, {name: expected[name] for name in LEARNT})


def test_a_finished_run_can_be_given_more_steps(build, tmp_path):
    settings = {"lr_scheduler_type": "constant"}
    build(tmp_path / "run", max_steps=3, **settings).train()
    longer = build(tmp_path / "run", max_steps=5, **settings)
    longer.train(resume_from_checkpoint=True)
    resumed = snapshot(longer)
    whole = build(tmp_path / "whole", max_steps=5, **settings)
    whole.train()
    assert_equal(resumed, snapshot(whole))


def test_other_settings_are_refused_before_anything_is_loaded(build, tmp_path):
    build(tmp_path / "run", max_steps=1).train()
    for settings, complaint in (
        ({"num_generations": 2}, "num_generations was 4, is 2"),
        ({"steps_per_generation": 6}, "steps_per_generation was 3, is 6"),
        ({"data_seed": 1}, "data_seed was 42, is 1"),
        ({"beta": 0.0}, "a KL term was True, is False"),
        ({"num_rows": 5}, "number of training rows was 6, is 5"),
    ):
        trainer = build(tmp_path / "run", **settings)
        with pytest.raises(ValueError, match=complaint):
            trainer.train(resume_from_checkpoint=True)


def test_a_new_run_in_an_old_folder_sets_the_old_logs_aside(build, tmp_path):
    for _ in range(2):
        build(tmp_path / "run", max_steps=1).train()
    assert [line["step"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")] == [1]
    assert [line["step"] for line in read_lines(tmp_path / "run" / "earlier" / "metrics.1.jsonl")] == [1]
    assert (tmp_path / "run" / "rollouts" / "earlier" / "rank0.1.jsonl").is_file()


def test_leftovers_go_and_old_checkpoints_rotate(build, tmp_path):
    (tmp_path / UNFINISHED / "checkpoint-7").mkdir(parents=True)
    build(tmp_path, max_steps=3, save_total_limit=1).train()
    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-3"]
    assert find_damage(tmp_path / "checkpoint-3") is None
    assert not (tmp_path / UNFINISHED).exists()


def test_the_best_checkpoint_is_known_by_its_final_place(build, tmp_path):
    settings = {"metric_for_best_model": "reward", "load_best_model_at_end": True, "save_total_limit": 1}
    trainer = build(tmp_path, eval_strategy="steps", eval_steps=1, max_steps=4, **settings)
    trainer.train()
    lines = read_lines(tmp_path / "metrics.jsonl")
    rewards = {line["step"]: line["eval_reward"] for line in lines if "eval_reward" in line}
    best = max(rewards, key=lambda step: (rewards[step], -step))
    assert trainer.state.best_model_checkpoint == str(tmp_path / f"checkpoint-{best}")
    state = json.loads((tmp_path / f"checkpoint-{best}" / "trainer_state.json").read_text())
    assert state["best_model_checkpoint"] == str(tmp_path / f"checkpoint-{best}")


# ---- signals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_signal_saves_after_the_step_and_ends_training(build, tmp_path, number):
    def signalling_reward(completions, trainer_state, **kwargs):
        if trainer_state.global_step == 3:
            os.kill(os.getpid(), number)
        return letters_reward(completions)

    handlers = [signal.getsignal(known) for known in SIGNALS]
    cut = build(tmp_path / "cut", signalling_reward, max_steps=5, save_strategy="no")
    cut.train()
    assert cut.interrupted_by == number
    assert [path.name for path in (tmp_path / "cut").glob("checkpoint-*")] == ["checkpoint-4"]
    assert [signal.getsignal(known) for known in SIGNALS] == handlers

    resumed = build(tmp_path / "cut", max_steps=5)
    resumed.train(resume_from_checkpoint=True)
    assert resumed.interrupted_by == 0
    found = snapshot(resumed)
    whole = build(tmp_path / "whole", max_steps=5)
    whole.train()
    expected = snapshot(whole)
    assert_equal({name: found[name] for name in LEARNT}, {name: expected[name] for name in LEARNT})


def test_a_run_that_is_to_go_on_keeps_its_last_checkpoint_beside_the_best(build, tmp_path):
    def falling_reward(completions, trainer_state, num_generations, **kwargs):
        if trainer_state.global_step == 3 and num_generations > 1:  # not in evaluation
            os.kill(os.getpid(), signal.SIGTERM)
        return [reward - 100 * trainer_state.global_step for reward in letters_reward(completions)]

    settings = {"metric_for_best_model": "reward", "load_best_model_at_end": True, "save_total_limit": 1}
    cut = build(tmp_path, falling_reward, eval_strategy="steps", eval_steps=1, **settings)
    cut.train()
    assert cut.state.best_model_checkpoint == str(tmp_path / "checkpoint-1")
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-1", "checkpoint-4"]
    saved = load_file(tmp_path / "checkpoint-4" / "model.safetensors")
    assert all(torch.equal(saved[name], value) for name, value in cut.model.state_dict().items() if name in saved)


def test_signals_are_given_back_when_training_fails(build, tmp_path):
    def failing_reward(completions, **kwargs):
        raise RuntimeError("no judge")

    handlers = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(RuntimeError, match="no judge"):
        build(tmp_path, failing_reward).train()
    assert [signal.getsignal(number) for number in SIGNALS] == handlers


def test_a_second_sigterm_ends_the_process_at_once():
    def wait_for_the_end(has_noted):
        callback = InterruptionCallback()
        callback.on_train_begin(None, TrainerState(), TrainerControl())
        os.kill(os.getpid(), signal.SIGUSR1)
        os.kill(os.getpid(), signal.SIGTERM)
        has_noted.set()
        os.kill(os.getpid(), signal.SIGTERM)

    context = multiprocessing.get_context("fork")
    has_noted = context.Event()
    process = context.Process(target=wait_for_the_end, args=(has_noted,))
    process.start()
    process.join(timeout=30)
    assert has_noted.is_set()
    assert process.exitcode == -signal.SIGTERM

"""Training with vLLM in the same process: the same completions and weights, each prompt and image once."""

import pytest
from processes import run_alone
from training_runs import Seen, fail_in_one_process, train


@pytest.fixture(scope="module")
def rows(iqa_data) -> tuple[str, str]:
    return str(iqa_data[0]), str(iqa_data[1])


@pytest.fixture(scope="module")
def run(tiny_checkpoint, rows, tmp_path_factory) -> Seen:
    """Six steps of all weights in one process."""
    folder = tmp_path_factory.mktemp("colocated")
    return run_alone(train, tiny_checkpoint, rows, str(folder), {}, {})


def test_greedy_completions_before_training_are_those_of_transformers_token_for_token(run):
    assert len(run.greedy_of_trainer) == 10
    assert run.greedy_of_engine == run.greedy_of_trainer


def test_the_engine_has_the_policy_s_weights_whenever_it_generates(run):
    assert len(run.largest_difference) == 6
    assert run.largest_difference == [0.0] * 6
    assert all(moved > 1e-4 for moved in run.movement[1:])  # and these are others each time


def test_log_probabilities_of_engine_and_trainer_agree(run):
    steps = [line for line in run.metrics if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5, 6]
    assert all(0 < line["sampling/sampling_logp_difference/max"] < 1e-3 for line in steps)
    assert all(line["sampling/importance_sampling_ratio/applied"] == 0 for line in steps)


def test_a_group_is_one_request_and_its_image_is_encoded_once(run):
    assert run.num_requests[1:] == run.num_groups[1:] == [2] * 6  # the first were drawn before training
    assert all(sizes == [4, 4] for sizes in run.num_generations[1:])
    assert run.num_images[1:] == run.num_different_images[1:] == [2] * 6


@pytest.mark.parametrize(
    "model_options",
    [
        {"use_peft": True, "lora_r": 4},
        pytest.param({"freeze_vision_modules": True}, marks=pytest.mark.slow),
    ],
    ids=["lora", "frozen tower"],
)
def test_what_is_trained_in_part_is_in_the_engine_too(model_options, tiny_checkpoint, rows, tmp_path):
    settings = {"max_steps": 3, "learning_rate": 1e-2}
    run = run_alone(train, tiny_checkpoint, rows, str(tmp_path), settings, model_options)
    assert len(run.largest_difference) == 3
    assert max(run.largest_difference) < 1e-6
    assert run.movement[-1] > 1e-6


ZERO3 = {"deepspeed": "zero3.json"}


@pytest.mark.parametrize(
    ("settings", "model_options"),
    [
        ({}, {}),
        (ZERO3, {}),
        pytest.param(ZERO3, {"use_peft": True, "lora_r": 4}, marks=pytest.mark.slow),
        pytest.param({"fsdp": "full_shard", "fsdp_config": {"version": 2}}, {}, marks=pytest.mark.slow),
    ],
    ids=["ddp", "zero3", "zero3 lora", "fsdp2"],
)
def test_each_of_two_processes_has_an_engine_with_the_policy_s_weights(
    settings, model_options, tiny_checkpoint, rows, tmp_path
):
    settings = settings | {"max_steps": 3, "learning_rate": 1e-2, "per_device_train_batch_size": 4}
    runs = run_alone(train, tiny_checkpoint, rows, str(tmp_path), settings, model_options, num_processes=2)
    for run in runs:
        assert len(run.largest_difference) == 3
        assert max(run.largest_difference) < 1e-6
        assert min(run.movement[1:]) > 1e-4
        assert run.num_requests == run.num_images == [1] * 3


@pytest.mark.slow
def test_two_processes_can_be_one_engine(tiny_checkpoint, rows, tmp_path):
    settings = {"vllm_tensor_parallel_size": 2, "max_steps": 3, "learning_rate": 1e-2}
    settings |= {"per_device_train_batch_size": 4, "eval_on_start": True, "eval_strategy": "steps", "eval_steps": 1}
    runs = run_alone(train, tiny_checkpoint, rows, str(tmp_path), settings, {}, False, num_processes=2)
    steps = [line for line in runs[0].metrics if "loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3]
    assert all(0 < line["sampling/sampling_logp_difference/max"] < 1e-3 for line in steps)
    assert len([line for line in runs[0].metrics if "eval_reward" in line]) == 4


@pytest.mark.slow
def test_an_engine_of_less_precision_is_corrected_for(tiny_checkpoint, rows, tmp_path):
    settings = {"bf16": True, "max_steps": 3}
    run = run_alone(train, tiny_checkpoint, rows, str(tmp_path), settings, {}, False)
    steps = [line for line in run.metrics if "loss" in line]
    assert all(line["sampling/sampling_logp_difference/max"] > 1e-3 for line in steps)
    assert any(line["sampling/importance_sampling_ratio/applied"] > 0 for line in steps)
    assert all(line["sampling/importance_sampling_ratio/max"] <= 3 for line in steps)


def test_an_engine_that_fails_in_one_process_ends_both_with_what_the_last_step_has_left(
    tiny_checkpoint, rows, tmp_path
):
    settings = {"per_device_train_batch_size": 4}
    messages = run_alone(fail_in_one_process, tiny_checkpoint, rows, str(tmp_path), settings, num_processes=2)
    assert messages == ["out of memory", "out of memory"]
    assert (tmp_path / "checkpoint-2" / "optimizer.pt").is_file()
    assert (tmp_path / "checkpoint-2" / "progress_rank1.json").is_file()

"""`--dry_run`: the plan that is told is the run that would be made."""

import pytest
from datasets import Dataset

from open_r1.configs import GRPOModelConfig
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.plan import Schedule, compute_schedule, describe_generation, describe_plan


def build_rows(**counts: int) -> Dataset:
    names = [name for name, count in counts.items() for _ in range(count)]
    return Dataset.from_dict({"dataset_name": names, "image_path": [[f"{i}.png"] for i in range(len(names))]})


@pytest.fixture
def build_args(tmp_path):
    return lambda **settings: GRPOConfig(output_dir=str(tmp_path), use_cpu=True, **settings)


def test_kadid_on_eight_gpus_takes_960_steps_of_64_images(build_args):
    args = build_args(num_generations=6, per_device_train_batch_size=48, num_train_epochs=10)
    # 8 x 48 completions are 64 groups of six; 6125 / 64 = 95.7
    expected = Schedule(prompts_per_step=64, completions_per_step=384, steps_per_epoch=96, num_steps=960)
    assert compute_schedule(args, build_rows(KADID=6125), 8) == expected


@pytest.mark.parametrize("num_iterations, num_rows, steps", [(2, 6, 6), (1, 9, 5)])
def test_iterations_and_rounds_that_end_within_a_step_count(build_args, num_iterations, num_rows, steps):
    args = build_args(
        num_generations=4,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        steps_per_generation=3,
        num_iterations=num_iterations,
        num_train_epochs=2,
    )
    # A round is three groups. Six rows: 2 rounds x 3 micro-batches x 2 iterations / 2; nine: 3 x 3 / 2, rounded up.
    schedule = compute_schedule(args, build_rows(A=num_rows), 1)
    assert (schedule.steps_per_epoch, schedule.num_steps) == (steps, 2 * steps)


def test_max_steps_wins_over_epochs(build_args):
    assert compute_schedule(build_args(max_steps=7), build_rows(A=100), 1).num_steps == 7


def test_devices_of_one_data_set_take_more_steps(build_args):
    settings = {"num_generations": 2, "per_device_train_batch_size": 8}
    rows = build_rows(A=5, B=5)  # blocks of four: two of A and two of B, where three of any kind would do
    mixed, homogeneous = (build_args(sampling=name, **settings) for name in ("mixed", "dataset_homogeneous"))
    assert compute_schedule(mixed, rows, 1).steps_per_epoch == 3
    assert compute_schedule(homogeneous, rows, 1).steps_per_epoch == 4


def test_rows_that_cannot_be_dealt_are_refused(build_args):
    args = build_args(sampling="dataset_homogeneous", group_by_prefix=True)
    with pytest.raises(ValueError, match="prefix"):
        compute_schedule(args, build_rows(A=5), 1)


def test_the_plan_names_what_is_trained_and_on_what(build_args):
    model_args = GRPOModelConfig(model_name_or_path="tiny", use_peft=True, lora_r=64, freeze_vision_modules=True)
    plan = describe_plan(
        build_args(max_steps=7),
        model_args,
        reward_names=["fidelity_reward", "format_reward"],
        train_dataset=build_rows(A=5, B=3),
        eval_dataset=None,
        prompt_length=31,
        checkpoint="checkpoint-3",
    )
    lines = dict(line.split(maxsplit=1) for line in plan.splitlines())
    assert lines["model"].endswith("LoRA of rank 64, projector and vision frozen")
    assert lines["rows"] == "5 of A, 3 of B"
    assert lines["rewards"] == "fidelity_reward, format_reward"
    assert lines["processes"].startswith("1 on cpu")
    assert lines["run"] == "7 steps, on from checkpoint-3"


@pytest.mark.parametrize(
    "settings, told",
    [
        ({}, "the policy itself"),
        ({"use_vllm": True}, "vLLM on the same devices, 30% of each one's memory"),
        (
            {"use_vllm": True, "vllm_tensor_parallel_size": 2, "vllm_enable_sleep_mode": True},
            "vLLM on the same devices, 30% of each one's memory, 2 processes to a copy, given back between rounds",
        ),
        ({"use_vllm": True, "vllm_mode": "server", "vllm_server_port": 9}, "vLLM at http://127.0.0.1:9"),
    ],
)
def test_the_plan_says_who_draws_the_completions(build_args, settings, told):
    assert describe_generation(build_args(**settings)) == told

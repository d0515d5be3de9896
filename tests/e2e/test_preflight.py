"""`open_r1.preflight`: go or no-go with the reason, without weights."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from builders import write_iqa_data

from open_r1 import preflight
from open_r1.configs import GRPOModelConfig
from open_r1.trainer.deepspeed_check import find_conflicts, read_sharding
from open_r1.trainer.grpo_config import GRPOConfig


ROOT = Path(__file__).parents[2]


@pytest.fixture
def command(tiny_checkpoint, iqa_data, tmp_path):
    """Arguments of a run that would work."""
    jsonl, images = iqa_data
    return [
        *("--model_name_or_path", tiny_checkpoint, "--output_dir", str(tmp_path / "run")),
        *("--data_file_paths", str(jsonl), "--image_folders", str(images), "--question_template", "scoring"),
        *("--num_generations", "4", "--per_device_train_batch_size", "8", "--max_completion_length", "16"),
        *("--num_gpus", "2", "--gpu_memory_gb", "4", "--num_samples", "4"),
    ]


@pytest.fixture
def build_args(tmp_path):
    return lambda **settings: GRPOConfig(output_dir=str(tmp_path), use_cpu=True, **settings)


def run(arguments: list[str], capsys) -> tuple[int, str, dict[str, str]]:
    """Exit code, what was printed, and the table of it."""
    code = preflight.main(arguments)
    text = capsys.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return code, text, {row[0].strip(): row[-1].strip() for row in rows}


def test_a_run_that_would_work_is_a_go(command, capsys):
    code, text, table = run(command, capsys)
    assert (code, text.splitlines()[-1]) == (0, "go"), text
    # ten rows, two prompts on each of two GPUs: three rounds, two prompts to fill up, three epochs
    assert table["prompts per epoch"] == "12, 2 of them a second time"
    assert (table["rounds per epoch"], table["optimizer steps"]) == ("3", "9")
    assert table["completions per optimizer step"] == "16"
    assert table["reward fidelity_reward"] == "1.001 for the solution, 0.000 for no answer"
    assert table["reward format_reward"] == "1.000 for the solution, 0.000 for no answer"
    assert table["partners of an image in the ranking"] == "3.0 on average"
    assert "compared with 3.0 others on average" in text


def test_no_weights_are_read_and_nothing_is_written(command, tiny_checkpoint, capsys, tmp_path, monkeypatch):
    from safetensors import torch as safetensors_torch

    monkeypatch.setattr(safetensors_torch, "load_file", None)
    assert run([*command, "--beta", "0.04"], capsys)[0] == 0
    assert list((tmp_path / "run").glob("*")) == []


def test_a_gpu_that_is_too_small_is_a_no_go_with_a_remedy(command, capsys):
    code, text, _ = run([*command, "--gpu_memory_gb", "1"], capsys)
    assert code == 1
    assert "problem: 1.5 GiB are needed" in text
    assert text.splitlines()[-1] == "no-go"


def test_bad_rows_are_a_no_go_and_the_other_checks_go_on(command, tmp_path, capsys):
    jsonl, images = write_iqa_data(tmp_path, num_rows=3)
    (images / "1.png").write_bytes(b"no image")
    command[command.index("--data_file_paths") + 1] = str(jsonl)
    command[command.index("--image_folders") + 1] = str(images)
    code, text, _ = run([*command, "--deepspeed", "nowhere.json"], capsys)
    assert code == 1
    assert f"problem: data: 1 row cannot be used:\n{jsonl}:2: image" in text
    assert "problem: DeepSpeed: --deepspeed nowhere.json: there is no such file" in text


def test_arguments_that_do_not_go_together_are_a_no_go(command, capsys):
    code, text, _ = run([*command, "--num_generations", "3"], capsys)
    assert code == 1
    assert "problem: arguments: per_device_train_batch_size (8) counts completions" in text


def test_prompts_that_are_too_long_are_a_no_go(command, capsys):
    code, text, _ = run([*command, "--max_prompt_length", "20"], capsys)
    assert code == 1
    assert "more than --max_prompt_length 20" in text


@pytest.mark.parametrize(
    "body, code, message",
    [
        ("return [1 / 0 for _ in completions]", 1, "problem: rewards: Reward my_reward failed"),
        ("return [0.5]", 1, "returned 1 values for 8 completions"),
        ("return [0.5 for _ in completions]", 0, "warning: the rewards do not prefer the solution to no answer"),
        ("return [None for _ in completions]", 0, "warning: my_reward abstains on all rows"),
    ],
)
def test_rewards_are_tried_out(command, tmp_path, capsys, body, code, message):
    path = tmp_path / "mine.py"
    path.write_text(f"def my_reward(prompts, completions, completion_ids=None, **columns):\n    {body}\n")
    found, text, _ = run([*command, "--reward_funcs", f"{path}:my_reward"], capsys)
    assert message in text
    assert found == code


def test_zero3_shares_out_what_one_gpu_would_hold(command, capsys):
    with_zero = ["--deepspeed", str(ROOT / "local_scripts" / "zero3.json"), "--bf16"]
    code, text, table = run([*command, *with_zero], capsys)
    assert code == 0, text
    assert table["GPUs"] == "2, DeepSpeed ZeRO-3"
    assert "gathered weights in generation" in table


@pytest.mark.parametrize(
    "options, code, share",
    [
        ([], 0, "1.2 GiB"),  # 0.3 of 4 GiB
        (["--vllm_gpu_memory_utilization", "0.9"], 1, "3.6 GiB"),  # more than the trainer leaves
        (["--vllm_gpu_memory_utilization", "0.0003"], 1, "1.2 MiB"),  # less than vLLM's weights
        (["--vllm_mode", "server"], 0, None),
    ],
)
def test_vllm_has_its_share_of_the_memory(options, code, share, command, capsys):
    found, text, table = run([*command, "--use_vllm", *options], capsys)
    assert found == code, text
    assert table.get("vLLM of one GPU") == share
    assert "KV cache in generation" not in table
    assert ("vLLM's share of one GPU" in table) == (share is not None)
    if share == "3.6 GiB":
        assert "most of it is for vLLM (3.6 GiB): take --vllm_enable_sleep_mode" in text
    if share == "1.2 MiB":
        assert "raise --vllm_gpu_memory_utilization" in text


def test_settings_of_the_machine_may_stand_in_the_configuration(command, tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text(f"deepspeed: {ROOT / 'local_scripts' / 'zero2.json'}\ntf32: true\nbf16: true\n")
    code, text, table = run([*command, "--config", str(path)], capsys)
    assert code == 0, text
    assert table["GPUs"] == "2, DeepSpeed ZeRO-2"


def test_help_answers_without_the_heavy_imports():
    script = "import sys; from open_r1 import preflight\ntry: preflight.main(['--help'])\n"
    script += "except SystemExit: print(sorted({'torch', 'transformers', 'trl', 'deepspeed'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[]"
    assert "--gpu_memory_gb" in shown


@pytest.mark.parametrize("name", ["zero2.json", "zero2_offload.json", "zero3.json", "zero3_offload.json"])
def test_the_shipped_settings_have_no_conflict(name, build_args):
    settings = json.loads((ROOT / "local_scripts" / name).read_text())
    model_args = GRPOModelConfig(model_name_or_path="model")
    args = build_args(bf16=True)
    assert list(find_conflicts(settings, args, model_args, num_gpus=8)) == []
    sharding = read_sharding(settings, 8, 64, args)
    assert sharding.stage == int(name[4])
    assert sharding.offloads_optimizer == name.endswith("offload.json")


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"zero_optimization": {"stage": 4}}, "stage is 4"),
        ({"train_batch_size": 8}, "train_batch_size is 8, completions of a step on 2 GPUs is 16"),
        ({"train_micro_batch_size_per_gpu": 2}, "--per_device_train_batch_size is 8"),
        ({"bf16": {"enabled": True}}, "bf16.enabled is True, --bf16 is False"),
        ({"gradient_clipping": 0.5}, "gradient_clipping is 0.5, --max_grad_norm is 1.0"),
        ({"zero_optimization": {"stage": 3}}, "no checkpoint would hold the model"),
        ({"zero_optimization": {"stage": 3, "gather_16bit_weights_on_model_save": True}}, "is no option"),
        ({"zero_optimization": {"stage": 2, "offload_param": {"device": "cpu"}}}, "stage 3 only"),
        ({"zero_optimization": {"stage": 0, "offload_optimizer": {"device": "cpu"}}}, "does nothing in stage 0"),
    ],
)
def test_settings_that_contradict_the_run_are_named(settings, message, build_args):
    args = build_args(num_generations=4, per_device_train_batch_size=8)
    model_args = GRPOModelConfig(model_name_or_path="model")
    found = list(find_conflicts(settings, args, model_args, num_gpus=2))
    assert len(found) == 1
    assert message in found[0]


def test_quantised_weights_and_zero3_do_not_go_together(build_args):
    model_args = GRPOModelConfig(model_name_or_path="model", use_peft=True)
    model_args.load_in_4bit = True
    settings = {"zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": True}}
    assert "take ZeRO-2" in next(find_conflicts(settings, build_args(), model_args, num_gpus=2))

"""Options of earlier versions are renamed, left out in words, or refused with what to use."""

from dataclasses import fields

import pytest

from open_r1.configs import GRPOModelConfig, GRPOScriptArguments
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.utils.old_options import _LEFT_OUT, _REFUSED_UNLESS, _RENAMED, replace_old_options


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--evaluation_strategy steps --seed 1", "--eval_strategy steps --seed 1"),
        ("--warmup-ratio 0.1", "--warmup_steps 0.1"),
        ("--warmup_ratio=0.1", "--warmup_steps 0.1"),
        ("--overwrite_output_dir --seed 1", "--seed 1"),
        ("--save_safetensors true --bf16", "--bf16"),
        ("--group_by_length False --bf16", "--bf16"),
        ("--use_vllm False --vllm_mode server", "--use_vllm False --vllm_mode server"),
        ("--vllm_max_model_len 2048 --bf16", "--vllm_max_model_length 2048 --bf16"),
        ("--vllm_importance_sampling_cap=2.0", "--vllm_importance_sampling_clip_max 2.0"),
        ("--vllm_device auto --vllm_dtype auto --vllm-model-impl=vllm --use_vllm", "--use_vllm"),
        ("--vllm_enable_prefix_caching True --bf16", "--bf16"),
        ("--reward_funcs accuracy format --lora_alpha=3", "--reward_funcs accuracy format --lora_alpha=3"),
        ("file.yaml --bf16", "file.yaml --bf16"),
    ],
)
def test_old_options_become_what_the_parser_knows(words, expected, caplog):
    assert replace_old_options(words.split(), {}) == expected.split()
    changed = words.replace(" ", "") != expected.replace(" ", "")
    assert bool(caplog.text) == changed


def test_the_folder_of_tensorboard_goes_where_transformers_looks_for_it():
    environment = {}
    assert replace_old_options(["--logging_dir", "out/logs", "--tf32", "true"], environment) == ["--tf32", "true"]
    assert environment == {"TENSORBOARD_LOGGING_DIR": "out/logs"}


@pytest.mark.parametrize(
    ("words", "remedy"),
    [
        ("--group_by_length=True", "--group_by_length True: .*leave it out"),
        ("--jit_mode_eval", "leave it out"),
        ("--vllm_device cuda:7", "cuda:7: .*--vllm_mode server"),
        ("--vllm_dtype half", "--vllm_dtype half: .*--dtype"),
        ("--vllm_model_impl transformers", "leave it out"),
        ("--vllm_guided_decoding_regex <think>.*", "reward the form"),
        ("--vllm_structured_outputs_regex=<think>.*", "reward the form"),
    ],
)
def test_what_does_not_exist_here_is_refused_with_the_remedy(words, remedy):
    with pytest.raises(ValueError, match=remedy):
        replace_old_options(words.split(), {})


@pytest.mark.parametrize("name", [*_RENAMED, *_LEFT_OUT, *_REFUSED_UNLESS])
def test_no_option_of_today_is_taken_for_an_old_one(name):
    names = {field.name for config in (GRPOConfig, GRPOScriptArguments, GRPOModelConfig) for field in fields(config)}
    assert name not in names and _RENAMED.get(name, "seed") in names

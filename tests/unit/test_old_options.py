"""Options of earlier versions are renamed, left out in words, or refused with what to use."""

import pytest

from open_r1.utils.old_options import replace_old_options


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--evaluation_strategy steps --seed 1", "--eval_strategy steps --seed 1"),
        ("--warmup-ratio 0.1", "--warmup_steps 0.1"),
        ("--warmup_ratio=0.1", "--warmup_steps 0.1"),
        ("--overwrite_output_dir --seed 1", "--seed 1"),
        ("--save_safetensors true --bf16", "--bf16"),
        ("--use_vllm False", ""),
        ("--vllm_gpu_memory_utilization 0.5 --bf16", "--bf16"),
        ("--reward_funcs accuracy format --lora_alpha=3", "--reward_funcs accuracy format --lora_alpha=3"),
        ("file.yaml --bf16", "file.yaml --bf16"),
    ],
)
def test_old_options_become_what_the_parser_knows(words, expected, caplog):
    assert replace_old_options(words.split(), {}) == expected.split()
    changed = words.replace(" ", "") != expected.replace(" ", "")
    assert bool(caplog.text) == (changed and "use_vllm" not in words)


def test_the_folder_of_tensorboard_goes_where_transformers_looks_for_it():
    environment = {}
    assert replace_old_options(["--logging_dir", "out/logs", "--tf32", "true"], environment) == ["--tf32", "true"]
    assert environment == {"TENSORBOARD_LOGGING_DIR": "out/logs"}


@pytest.mark.parametrize("words", [["--use_vllm"], ["--use_vllm", "true"], ["--group_by_length=True"]])
def test_what_does_not_exist_here_is_refused_with_the_remedy(words):
    with pytest.raises(ValueError, match="leave it out"):
        replace_old_options(words, {})

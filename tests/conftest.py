"""Marks every test by its tier, and holds what several tiers share: a tiny checkpoint, a data set of real images."""

import os
import tempfile
from pathlib import Path

import pytest
from builders import write_iqa_data
from capabilities import render_outcomes
from families import FAMILIES, VIDEO_FAMILIES, build_checkpoint


os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads than cores spin; child processes inherit this
MODULES_CACHE = tempfile.TemporaryDirectory()  # where transformers copies code that comes with checkpoints
os.environ["HF_MODULES_CACHE"] = MODULES_CACHE.name  # every process has its own


# Folder -> marker. A folder called vllm would pass for the library where it is not installed.
TIERS = {"unit": "unit", "e2e": "e2e", "gpu": "gpu", "with_vllm": "vllm"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A test gets the marker of the folder that it lies in."""
    for item in items:
        folder = item.path.relative_to(Path(__file__).parent).parts[0]
        if folder in TIERS:
            item.add_marker(TIERS[folder])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The table of families, where tests of their contract ran."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.stats.get(kind, [])]
    table = render_outcomes(reports)
    if table is not None:
        terminalreporter.section("families")
        terminalreporter.write_line(table)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of an untrained Qwen2.5-VL of under a million parameters."""
    from open_r1.tiny import build_tiny_vlm

    folder = tmp_path_factory.mktemp("tiny") / "checkpoint"
    build_tiny_vlm(str(folder), preset="test", seed=0)
    return str(folder)


@pytest.fixture(scope="session", params=FAMILIES)
def family_checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a tiny checkpoint of a family, built once; a test that asks for it runs for every family."""
    return build_checkpoint(request.param, tmp_path_factory.mktemp(request.param))


# Of these every layout is compared on the first group of a run anyway (`auto`), and LLaVA-OneVision is built alike.
RARELY_PACKED = ("llava", "llava_next")
PACKED = [
    *(pytest.param(name, marks=pytest.mark.slow) if name in RARELY_PACKED else name for name in FAMILIES),
    "internvl_chat",
]


@pytest.fixture(scope="session", params=PACKED)
def packed_checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same, and a checkpoint that brings its own code: it loads with `trust_remote_code` only."""
    from remote_family import build_remote_checkpoint

    folder = tmp_path_factory.mktemp(f"packed_{request.param}")
    if request.param == "internvl_chat":
        return build_remote_checkpoint(folder / "checkpoint")
    return build_checkpoint(request.param, folder)


@pytest.fixture(scope="session", params=VIDEO_FAMILIES)
def video_family_checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The same for every family that takes videos."""
    return build_checkpoint(request.param, tmp_path_factory.mktemp(f"video_{request.param}"))


@pytest.fixture(scope="session")
def iqa_data(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A JSONL file of ten labelled images, and their folder."""
    return write_iqa_data(tmp_path_factory.mktemp("iqa"), num_rows=10)

"""Writes results with what they depend on: versions, processor, commit, settings."""

import json
import os
from pathlib import Path
from typing import Any

import torch

from open_r1.utils.provenance import describe_commit, list_versions


RESULTS = Path(__file__).parent / "results"


def describe_environment(device: str = "cpu") -> dict[str, Any]:
    """Versions, commit, and the processor in general terms."""
    if torch.device(device).type == "cuda":
        processor = torch.cuda.get_device_name(device)
    else:
        kind = torch.backends.cpu.get_cpu_capability()
        processor = f"{torch.get_num_threads()} thread on a machine of {os.cpu_count()} cores, {kind}"
    return {"processor": processor, "versions": list_versions(), "code": describe_commit()}


def write_results(path: Path, content: dict[str, Any], device: str = "cpu") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"environment": describe_environment(device)} | content
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_results(path: Path) -> dict[str, Any] | None:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

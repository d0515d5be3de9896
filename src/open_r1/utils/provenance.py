"""What a run was: arguments, data, code and library versions, in `run.json` of its output folder."""

import hashlib
import importlib.metadata
import json
import platform
import subprocess
import sys
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


_PACKAGES = ("open_r1", "torch", "torchvision", "transformers", "trl", "accelerate", "peft", "datasets", "numpy")
# Settings whose values must not be written down.
_SECRET_ENDINGS = ("_token", "api_key", "password")


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def describe_commit() -> dict[str, Any]:
    """Commit of the checkout this package runs from, and whether it has uncommitted changes; None outside of git."""

    def run_git(*arguments: str) -> str | None:
        try:
            result = subprocess.run(
                ["git", *arguments], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return result.stdout.strip()

    status = run_git("status", "--porcelain", "--untracked-files=no")
    return {"commit": run_git("rev-parse", "HEAD"), "is_dirty": None if status is None else bool(status)}


def list_versions() -> dict[str, str | None]:
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _to_plain(config: Any) -> dict[str, Any]:
    values = config.to_dict() if hasattr(config, "to_dict") else asdict(config)
    return {
        name: "<hidden>" if value is not None and name.endswith(_SECRET_ENDINGS) else value
        for name, value in values.items()
    }


def _hide_secrets(words: list[str]) -> list[str]:
    """A command line without the values of options such as `--hub_token X` and `--hub_token=X`."""
    hidden = list(words)
    for i, word in enumerate(words):
        option, has_value, _ = word.partition("=")
        if option.startswith("--") and option.replace("-", "_").endswith(_SECRET_ENDINGS):
            if has_value:
                hidden[i] = f"{option}=<hidden>"
            elif i + 1 < len(words):
                hidden[i + 1] = "<hidden>"
    return hidden


def write_run_info(output_dir: str, configs: dict[str, Any], data_files: list[str]) -> Path:
    """Writes `run.json` and returns its path.

    Args:
        output_dir: Folder of the run.
        configs: The resolved arguments, by name.
        data_files: Files the run reads; each is recorded with its SHA-256.
    """
    import torch

    info = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": _hide_secrets(sys.argv),
        "code": describe_commit(),
        "versions": list_versions(),
        "devices": [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or [platform.processor()],
        "data": {str(path): hash_file(path) for path in data_files},
        "config": {name: _to_plain(config) for name, config in configs.items()},
    }
    path = Path(output_dir) / "run.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(info, indent=2, default=str) + "\n", encoding="utf-8")
    return path

"""Checkpoint folders: written whole or not at all, recognised when they are torn, and never lost to a younger one.

    OUTPUT_DIR/unfinished/checkpoint-20      while it is written; whatever lies here is removed by the next run
    OUTPUT_DIR/checkpoint-20                 renamed to this once `manifest.json` names all its files and sizes

`manifest.json` is the last file written. Its `serial` counts the checkpoints of the output folder, so that the newest
one is known even where an earlier run left higher steps.
"""

import hashlib
import json
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any


logger = logging.getLogger(__name__)

MANIFEST = "manifest.json"
UNFINISHED = "unfinished"
MAX_HASHED_BYTES = 1 << 20  # larger files are compared by size alone
_CHECKPOINT_NAME = re.compile(r"checkpoint-\d+")


# ---- recognising ------------------------------------------------------------------------------------------------


def list_checkpoints(run_dir: str | Path) -> list[Path]:
    """Every `checkpoint-N` of a run, torn ones too: newest first, by serial, then by step."""
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        return []
    found = [path for path in run_dir.iterdir() if _CHECKPOINT_NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: (_read_serial(path), int(path.name.split("-")[1])), reverse=True)


def find_damage(folder: str | Path) -> str | None:
    """What shows that a checkpoint was not written to its end, or changed later; None where it is complete."""
    folder = Path(folder)
    try:
        manifest = _read_manifest(folder)
    except FileNotFoundError:
        return f"there is no {MANIFEST}, which is written last"
    except ValueError:
        return f"{MANIFEST} is not whole"
    for name, expected in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["size"]:
            return f"{name} has {path.stat().st_size} bytes instead of {expected['size']}"
        if "sha256" in expected and _hash(path) != expected["sha256"]:
            return f"{name} is not the file that was written"
    return None


def find_last_complete(run_dir: str | Path) -> Path | None:
    """The newest checkpoint that is complete, with a warning for each younger one that is not."""
    for folder in list_checkpoints(run_dir):
        damage = find_damage(folder)
        if damage is None:
            return folder
        logger.warning("%s is torn and passed over: %s.", folder, damage)
    return None


def _read_manifest(folder: Path) -> dict[str, Any]:
    manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    if not isinstance(manifest, dict) or not {"serial", "files"} <= set(manifest):
        raise ValueError(f"{folder / MANIFEST} is not the manifest of a checkpoint.")
    return manifest


def _read_serial(folder: Path) -> int:
    """0 for a checkpoint without a readable manifest."""
    try:
        return _read_manifest(folder)["serial"]
    except (FileNotFoundError, ValueError):
        return 0


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


# ---- writing ----------------------------------------------------------------------------------------------------


def write_manifest(folder: Path, serial: int) -> None:
    """Closes a checkpoint: brings its files to the disk and then writes down which they are."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    files = {}
    for path in paths:
        _sync(path)
        size = path.stat().st_size
        files[path.relative_to(folder).as_posix()] = {"size": size} | (
            {"sha256": _hash(path)} if size <= MAX_HASHED_BYTES else {}
        )
    manifest = folder / MANIFEST
    manifest.write_text(json.dumps({"serial": serial, "files": files}, indent=1) + "\n", encoding="utf-8")
    _sync(manifest)
    for directory in {path.parent for path in [*paths, manifest]}:
        _sync(directory)


def publish(written: Path, run_dir: Path) -> None:
    """Closes a checkpoint in `run_dir/unfinished` and gives it its place, where it replaces one of the same step."""
    newest = list_checkpoints(run_dir)[:1]
    write_manifest(written, serial=1 + (_read_serial(newest[0]) if newest else 0))
    target = run_dir / written.name
    if target.exists():
        _hide(target)
    os.rename(written, target)
    _sync(run_dir)
    shutil.rmtree(run_dir / UNFINISHED)


def rotate(run_dir: Path, limit: int | None, best: str | None) -> None:
    """Removes the oldest complete checkpoints beyond `limit`; never the newest one and never the best one.

    Torn ones neither count nor are they removed.
    """
    if not limit or limit < 1:
        return
    complete = [path for path in list_checkpoints(run_dir) if _read_serial(path) > 0]
    protected = {path.resolve() for path in complete[:1]} | ({Path(best).resolve()} if best else set())
    disposable = [path for path in complete if path.resolve() not in protected]
    num_kept = max(0, limit - (len(complete) - len(disposable)))
    for path in disposable[num_kept:]:
        _hide(path)
    remove_leftovers(run_dir)


def move_files(source: Path, target: Path) -> None:
    """Puts files into a folder one by one, each of them whole, weights after everything else."""
    paths = [path for path in source.rglob("*") if path.is_file()]
    for path in sorted(paths, key=lambda path: (path.suffix == ".safetensors", path.name)):
        _sync(path)
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        os.replace(path, place)
    shutil.rmtree(source)


def remove_leftovers(run_dir: str | Path) -> None:
    """Removes what a killed process was writing."""
    shutil.rmtree(Path(run_dir) / UNFINISHED, ignore_errors=True)


def _hide(folder: Path) -> None:
    """Takes a folder out of sight in one step, before its files go one by one."""
    trash = folder.parent / UNFINISHED / f"old-{folder.name}"
    trash.parent.mkdir(exist_ok=True)
    os.rename(folder, trash)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


# ---- logs -------------------------------------------------------------------------------------------------------


def rewind_log(path: Path, last_step: int) -> None:
    """Drops the lines of later steps, the closing summary and what is not whole, so that a resumed run can go on."""
    if not path.is_file():
        return
    temporary = path.with_name(f"{path.name}.rewound")
    with path.open("rb") as source, temporary.open("wb") as target:
        for line in source:
            content = _parse_line(line)
            if content is not None and content["step"] <= last_step and "train_runtime" not in content:
                target.write(line)
    _sync(temporary)
    os.replace(temporary, path)


def set_log_aside(path: Path) -> None:
    """Moves the log of an earlier run to `earlier/NAME.1.jsonl`, or the next number that is free."""
    if not path.is_file():
        return
    folder = path.parent / "earlier"
    folder.mkdir(exist_ok=True)
    taken = {other.name for other in folder.iterdir()}
    numbered = (f"{path.stem}.{number}{path.suffix}" for number in range(1, len(taken) + 2))
    os.replace(path, folder / next(name for name in numbered if name not in taken))


def _parse_line(line: bytes) -> dict[str, Any] | None:
    """The object of a line; None where a kill or a loss of power cut it off."""
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None

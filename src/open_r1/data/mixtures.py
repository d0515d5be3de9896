"""YAML files that name several data files and how much of each is taken, as VLM-R1's `grpo_rec` reads them.

datasets:
  - json_path: refcoco/train.jsonl
    sampling_strategy: random:5000        # all, first:N, end:N, random:N, N%
    image_root: coco/train2014            # further keys, all optional: dataset_name, reward_method
"""

from pathlib import Path
from typing import Any

from open_r1.data.subsets import parse_sampling


_SUFFIXES = (".yaml", ".yml")
_KEYS = ("json_path", "sampling_strategy", "image_root", "dataset_name", "reward_method")


def is_mixture(file: str) -> bool:
    return file.lower().endswith(_SUFFIXES)


def read_mixture(path: str, seed: int) -> list[dict[str, Any]]:
    """What the file says about each data file: fields of `RowSource`.

    A `json_path` that does not exist from here is looked for beside the YAML file.

    Args:
        path: The YAML file.
        seed: Of random choices; each entry has a stream of its own.

    Raises:
        ValueError: the file is something else; the message names the entry.
    """
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not YAML: {error}") from error
    entries = content.get("datasets") if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{path}: it must have a list `datasets` of entries with a json_path")
    sources = []
    for number, entry in enumerate(entries, start=1):
        try:
            sources.append(_read_entry(entry, Path(path).parent, f"{seed}/{number}"))
        except ValueError as error:
            raise ValueError(f"{path}: entry {number} of datasets: {error}") from error
    return sources


def _read_entry(entry: Any, folder: Path, seed: str) -> dict[str, Any]:
    if not isinstance(entry, dict) or "json_path" not in entry:
        raise ValueError(f"it needs a json_path: {entry!r}")
    unknown = sorted(set(map(str, entry)) - set(_KEYS))
    if unknown:
        raise ValueError(f"unknown keys {', '.join(unknown)}; known: {', '.join(_KEYS)}")
    texts = {key: entry[key] for key in _KEYS if entry.get(key) is not None and key != "sampling_strategy"}
    wrong = [key for key, value in texts.items() if not isinstance(value, str) or not value.strip()]
    if wrong:
        raise ValueError(f"{wrong[0]} must be a text, not {entry[wrong[0]]!r}")
    path = texts.pop("json_path")
    if not Path(path).exists() and (folder / path).exists():
        path = str(folder / path)
    return {"file": path, "sampling": parse_sampling(str(entry.get("sampling_strategy", "all")), seed), **texts}

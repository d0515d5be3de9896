"""Which files a run reads, where their images lie, and which of their rows it takes.

--data_file_paths, --image_folders -> resolve_sources -> [RowSource] -> jsonl.load_sources
a .yaml among the files            -> mixtures.read_mixture
"""

import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from open_r1.data.mixtures import is_mixture, read_mixture
from open_r1.data.paths import split_paths
from open_r1.data.subsets import Sampling


JSON_SUFFIXES = (".json", ".jsonl")


@dataclass(frozen=True, kw_only=True)
class RowSource:
    """A JSON or JSONL file and what is said about its rows."""

    file: str
    image_root: str  # names of images and videos are relative to it
    dataset_name: str  # of rows that carry none
    reward_method: str | None = None  # likewise
    sampling: Sampling = Sampling()


@dataclass(frozen=True, kw_only=True)
class FileOptions:
    """Options that say which files are read."""

    image_root: str | None = None
    dataset_name: str | None = None
    reward_methods: tuple[str, ...] = ()
    seed: int = 0


def resolve_sources(
    files: Sequence[str], folders: Sequence[str], options: FileOptions = FileOptions()
) -> list[RowSource]:
    """The files of a run with what belongs to each.

    Args:
        files: JSONL and JSON files, and YAML mixtures of them.
        folders: Of images, one per file; may be missing where there is an `image_root`.
        options: For all files.

    Raises:
        ValueError: files, folders and reward methods that do not match in number; what does not exist or is no data.
    """
    if not files:
        raise ValueError("no data file was named")
    _check_count(
        "image folders", folders, files, is_optional=options.image_root is not None or all(map(is_mixture, files))
    )
    _check_count("reward methods", options.reward_methods, files, is_optional=True)
    _refuse([f"the data file {file} does not exist" for file in files if not os.path.isfile(file)])
    roots = list(folders) or [options.image_root] * len(files)
    methods = list(options.reward_methods) or [None] * len(files)
    entries: list[dict] = []
    for file, root, method in zip(files, roots, methods, strict=True):
        own = {"file": file, "image_root": root, "reward_method": method, "sampling": Sampling()}
        given = read_mixture(file, options.seed) if is_mixture(file) else [{}]
        entries += [own | {name: value for name, value in entry.items() if value is not None} for entry in given]
    _check_entries(entries)
    names = name_files([entry["file"] for entry in entries])
    for entry, name in zip(entries, names, strict=True):
        entry.setdefault("dataset_name", options.dataset_name or name)
    return [RowSource(**entry) for entry in entries]


def list_data_files(values: Sequence[str]) -> list[str]:
    """Every file that a run reads rows from: mixtures and what they name, and what describes a data set on disk.

    Args:
        values: Files, perhaps joined with ':', and data sets of Hugging Face.
    """
    files: list[str] = []
    for path in split_paths(values):
        if os.path.isdir(path):
            files += sorted(str(found) for found in Path(path).rglob("*.json"))
        elif os.path.isfile(path):
            files.append(path)
            files += [entry["file"] for entry in (read_mixture(path, seed=0) if is_mixture(path) else [])]
    return files


def name_files(files: Sequence[str]) -> list[str]:
    """A data set name for each file: its stem, with as much of the path before it as tells the files apart.

    Images of two data sets must never be compared with each other, so two files named train.jsonl must not share one.
    """
    paths = [Path(os.path.abspath(file)).with_suffix("") for file in files]
    depth = 1
    while True:
        names = ["/".join(path.parts[-depth:]) for path in paths]
        if len(set(names)) == len(set(paths)):
            return names
        depth += 1


def _check_count(what: str, values: Sequence[str], files: Sequence[str], *, is_optional: bool) -> None:
    if len(values) != len(files) and not (is_optional and not values):
        raise ValueError(
            f"there are {len(files)} data files and {len(values)} {what}; each file needs its own: "
            f"{', '.join(files)} against {', '.join(values) or 'none'}"
        )


def _check_entries(entries: Sequence[dict]) -> None:
    files = [entry["file"] for entry in entries]
    repeated = [file for file, count in Counter(map(os.path.abspath, files)).items() if count > 1]
    problems = [f"the data file {file} is named twice" for file in repeated]
    problems += [f"the data file {file} does not exist" for file in files if not os.path.isfile(file)]
    problems += [
        f"the data file {file} is of no known kind: take .jsonl, .json (a list), a .yaml mixture, or "
        "--use_huggingface_dataset with a folder that save_to_disk wrote"
        for file in files
        if os.path.isfile(file) and not file.lower().endswith(JSON_SUFFIXES)
    ]
    problems += [
        f"{entry['file']}: no folder of images is named; give --image_root, or image_root in the YAML file"
        for entry in entries
        if entry["image_root"] is None
    ]
    roots = dict.fromkeys(entry["image_root"] for entry in entries)
    problems += [f"the image folder {root} does not exist" for root in roots if root and not os.path.isdir(root)]
    _refuse(problems)


def _refuse(problems: Sequence[str]) -> None:
    if problems:
        raise ValueError("; ".join(problems))

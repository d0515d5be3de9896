"""The rows of a run by its options, whatever they lie in; what entry scripts call.

DataArguments -> load_rows -> jsonl.load_sources           JSONL, JSON lists, YAML mixtures of them
                           -> huggingface.load_huggingface_rows
"""

import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from open_r1.completions import get_answer_contract
from open_r1.data.hub_reader import HubSource
from open_r1.data.huggingface import load_huggingface_rows
from open_r1.data.jsonl import load_sources
from open_r1.data.paths import split_paths
from open_r1.data.reading import LoadOptions
from open_r1.data.schema import RowRules
from open_r1.data.sources import FileOptions, resolve_sources
from open_r1.data.splits import read_media
from open_r1.templates import EMOTION_QUESTION


if TYPE_CHECKING:
    from datasets import Dataset

    from open_r1.data_arguments import DataArguments


def load_rows(
    args: "DataArguments",
    files: Sequence[str],
    folders: Sequence[str],
    *,
    split: str,
    seed: int,
    require_mos: bool,
    reward_methods: Iterable[str] | None = None,
) -> "Dataset":
    """Loads and checks rows.

    Args:
        args: How.
        files: Data files, perhaps joined with ':'. With `--use_huggingface_dataset` there is none.
        folders: Of their images, likewise.
        split: Of a Hugging Face data set.
        seed: Of the random choices of a mixture.
        require_mos: Whether every row must have an image and a number as its answer.
        reward_methods: Values that `accu_reward_method` and `--reward_method` may have. None: any.

    Returns:
        The columns of `columns.build_features`, and `image` where pictures lie in the data set.

    Raises:
        BadDataError: rows that cannot be used, all of them.
        ValueError: options that do not fit the data.
    """
    known = None if reward_methods is None else frozenset(reward_methods)
    options = LoadOptions(
        contract=get_answer_contract(args.question_template),
        rules=RowRules(
            require_mos=require_mos,
            default_question=EMOTION_QUESTION if args.task_type == "emotion" else None,
            reward_methods=known,
        ),
        on_bad_data=args.on_bad_data,
        verify_images=args.verify_images,
        video_audio=args.video_audio,
        arrow_cache_dir=args.arrow_cache_dir,
    )
    methods = split_paths(args.reward_method or [])
    unknown = sorted(set(methods) - known) if known is not None else []
    if unknown:
        raise ValueError(f"--reward_method {', '.join(unknown)} is unknown; known: {', '.join(sorted(known))}")
    if args.use_huggingface_dataset:
        if len(methods) > 1:
            raise ValueError(f"--reward_method names {len(methods)} methods for one data set: give one.")
        source = HubSource(
            name=args.dataset_name,
            split=split,
            config=args.dataset_config,
            image_root=args.image_root,
            reward_method=methods[0] if methods else None,
        )
        return load_huggingface_rows(source, options)
    file_options = FileOptions(
        image_root=args.image_root, dataset_name=args.dataset_name, reward_methods=tuple(methods), seed=seed
    )
    return load_sources(resolve_sources(split_paths(files), split_paths(folders), file_options), options)


def count_shared_images(dataset: "Dataset", other: "Dataset") -> int:
    """How many rows of the second data set show an image or video of the first, by their real paths."""
    known = {os.path.realpath(path) for path in _list_distinct(dataset)}
    shared = {path for path in _list_distinct(other) if os.path.realpath(path) in known}
    return sum(any(path in shared for path in paths) for paths in read_media(other))


def _list_distinct(dataset: "Dataset") -> set[str]:
    return {path for paths in read_media(dataset) for path in paths}

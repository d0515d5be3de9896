"""Turns the official lists of DFEW and MAFW (clips with one emotion each, five folds) into JSONL rows.

    python -m open_r1.data.emotion --dataset DFEW --root DFEW --fold 1 --split train --output dfew_1.jsonl
    python -m open_r1.data.emotion --dataset MAFW --root MAFW --fold 1 2 3 4 5 --split test --output mafw_test.jsonl

    {"id": "DFEW_00001", "dataset_name": "DFEW", "fold": "1", "video": "Clip/original/00001.mp4",
     "conversations": [{"from": "human", "value": "<video>As an emotional …"}, {"from": "gpt", "value": "happiness"}]}

Lists: `EmoLabel_DataSplit/{train,test}(single-labeled)/set_1.csv` of DFEW (`video_name,label`, labels 1 to 7), and
`Train & Test Set/single/no_caption/set_1/{train,test}.txt` of MAFW (`00001.mp4 anger`). Clips lie anywhere below the
root, or below `--clip_folder`, under the name that the list has: a video file, or a folder of frames, which has no
sound. The root is the folder to train with (`--image_folders`).

WAR and UAR are means over the folds' test lists, which share no clip: `evaluate --task emotion` takes them by `fold`.
"""

import argparse
import csv
import json
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_r1.data.media import IMAGE_SUFFIXES
from open_r1.data.schema import BadDataError, BadRow
from open_r1.templates import EMOTION_QUESTION
from open_r1.utils.emotions import get_labels


logger = logging.getLogger(__name__)

SPLITS, FOLDS = ("train", "test"), ("1", "2", "3", "4", "5")
LISTS = {
    "DFEW": "EmoLabel_DataSplit/{split}(single-labeled)/set_{fold}.csv",
    "MAFW": "Train & Test Set/single/no_caption/set_{fold}/{split}.txt",
}
VIDEO_SUFFIXES = (".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm")


@dataclass(frozen=True, kw_only=True)
class ListedClip:
    """A line of a list. Example: `1,7` of DFEW is the clip `00001` with the label `fear`."""

    line: int  # from 1
    name: str  # of the clip, without a suffix
    label: str


def create_jsonl(
    dataset: str,
    root: str,
    folds: Sequence[str],
    split: str,
    output_file: str,
    clip_folder: str = ".",
    on_bad_data: str = "error",
) -> int:
    """Writes the rows of one or more folds.

    Args:
        dataset: One of `LISTS`.
        root: Folder of the data set, as it is unpacked.
        folds: Of `FOLDS`.
        split: train, or test.
        output_file: To write.
        clip_folder: Below the root, where clips are looked for.
        on_bad_data: "error", or "skip" to leave clips out that are not there and log how many.

    Returns:
        The number of rows.

    Raises:
        BadDataError: clips that are not there or stand in two folds, labels that the data set does not have.
        ValueError: no such list or folder.
    """
    clips = find_clips(root, clip_folder)
    rows: dict[str, dict[str, Any]] = {}
    bad_rows: list[BadRow] = []
    for fold in folds:
        path = Path(root) / LISTS[dataset].format(split=split, fold=fold)
        for clip in read_list(path, dataset):
            key = f"{dataset}_{clip.name}"
            problems = [] if clip.label in get_labels(dataset) else [f"{dataset} has no emotion {clip.label!r}"]
            problems += [] if clip.name in clips else [f"no clip {clip.name} below {Path(root, clip_folder)}"]
            problems += [f"clip {clip.name} stands in the list twice, or in that of another fold"] * (key in rows)
            if problems:
                bad_rows.append(BadRow(str(path), clip.line, "; ".join(problems)))
            else:
                rows[key] = build_row(dataset, fold, clip, clips[clip.name])
    if bad_rows:
        error = BadDataError(bad_rows, "Correct them, or leave them out with --on_bad_data skip.")
        if on_bad_data == "error" or not rows:
            raise error
        logger.warning("left out %d of %d clips. %s", len(bad_rows), len(bad_rows) + len(rows), error)
    Path(output_file).parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows.values())
    Path(output_file).write_text("".join(lines), encoding="utf-8")
    return len(rows)


def build_row(dataset: str, fold: str, clip: ListedClip, video: str) -> dict[str, Any]:
    """One clip as a row; `video` is its path below the root."""
    return {
        "id": f"{dataset}_{clip.name}",
        "dataset_name": dataset,
        "fold": fold,
        "video": video,
        "conversations": [
            {"from": "human", "value": f"<video>{EMOTION_QUESTION}"},
            {"from": "gpt", "value": clip.label},
        ],
    }


def read_list(path: Path, dataset: str) -> Iterator[ListedClip]:
    """The clips of a list, in its order; names are text, of five digits where they are numbers.

    Raises:
        ValueError: no such file, or a line of another form.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist: --root is the folder that holds {path.parts[-2]} as it is unpacked.")
    text = path.read_text(encoding="utf-8-sig")
    # MAFW's lines are names and labels with a blank between them, DFEW's have a comma and a head.
    fields = csv.reader(text.splitlines()) if dataset == "DFEW" else (line.split() for line in text.splitlines())
    for line, values in enumerate(fields, start=1):
        if not values or values[:2] == ["video_name", "label"]:
            continue
        if len(values) != 2:
            raise ValueError(f"{path}:{line}: it must be a clip and its label, not {' '.join(values)!r}")
        name, label = values[0].strip().rpartition("/")[2], values[1].strip()
        stem, suffix = os.path.splitext(name)
        stem = stem if suffix.lower() in VIDEO_SUFFIXES else name
        yield ListedClip(line=line, name=stem.zfill(5), label=_name_label(dataset, label))


def find_clips(root: str, clip_folder: str = ".") -> dict[str, str]:
    """Paths of clips below the root by their names: video files, and folders of frames for what has no file.

    Raises:
        ValueError: no such folder, nothing in it, or two files of one name.
    """
    start = Path(root, clip_folder)
    if not start.is_dir():
        raise ValueError(f"{start}: no such folder")
    files: dict[str, str] = {}
    folders: dict[str, str] = {}
    for folder, _, names in os.walk(start):
        place = os.path.relpath(folder, root)
        for name in sorted(names):
            stem, suffix = os.path.splitext(name)
            if suffix.lower() in IMAGE_SUFFIXES:
                folders.setdefault(os.path.basename(folder).zfill(5), place)
            if suffix.lower() not in VIDEO_SUFFIXES or name.startswith("."):
                continue
            path = os.path.normpath(os.path.join(place, name))
            if files.setdefault(stem.zfill(5), path) != path:
                raise ValueError(
                    f"{stem} is both {files[stem.zfill(5)]} and {path} below {root}: say which folder is meant with "
                    "--clip_folder."
                )
    if not files and not folders:
        raise ValueError(f"{start}: no video file and no folder of frames in it")
    return folders | files


def _name_label(dataset: str, label: str) -> str:
    """The emotion that a label of DFEW, a number, stands for; others are names already."""
    labels = get_labels(dataset)
    if dataset == "DFEW" and label.isdecimal() and 1 <= int(label) <= len(labels):
        return labels[int(label) - 1]
    return label.lower()


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="open_r1.data.emotion", description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", required=True, choices=LISTS)
    parser.add_argument("--root", required=True, help="folder of the data set, as it is unpacked")
    parser.add_argument("--fold", required=True, nargs="+", choices=FOLDS, help="one; several for the test lists")
    parser.add_argument("--split", default="train", choices=SPLITS)
    parser.add_argument("--output", help="default: output/data/DATASET_FOLD_SPLIT.jsonl")
    parser.add_argument("--clip_folder", default=".", help="below the root, where clips are looked for")
    parser.add_argument("--on_bad_data", default="error", choices=["error", "skip"])
    args = parser.parse_args(argv)
    folds = list(dict.fromkeys(args.fold))
    if args.split == "train" and len(folds) > 1:
        parser.error("the training lists of two folds share clips: give one --fold")
    output = args.output or f"output/data/{args.dataset}_{''.join(folds)}_{args.split}.jsonl"
    count = create_jsonl(args.dataset, args.root, folds, args.split, output, args.clip_folder, args.on_bad_data)
    logger.info("wrote %d rows to %s", count, output)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")

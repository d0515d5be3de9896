"""Turns ViVQA-X (Vietnamese questions on COCO images, answers with explanations) into JSONL rows.

    python -m open_r1.data.vivqa --vivqa_root ViVQA-X --split train --output output/data/ViVQA-X_train_grpo.jsonl

    {"id": 1, "dataset_name": "ViVQA-X", "image": "val2014/COCO_val2014_000000262284.jpg",
     "conversations": [{"from": "human", "value": "<image>đây là gì?"}, {"from": "gpt", "value": the answer and the
     first explanation, each in its tags}], "explanations": [all of them]}

Images lie in COCO's folders `train2014` and `val2014`; the folder above both is the image folder of every split. What
the model is told to write is added by `--task_type vivqa`.
"""

import argparse
import json
import logging
import sys
import unicodedata
from pathlib import Path
from typing import Any

from open_r1.completions import AnswerContract
from open_r1.data.records import decode_line
from open_r1.data.schema import BadDataError, BadRow, shorten


logger = logging.getLogger(__name__)

SPLITS = ("train", "val", "test")
_FOLDERS = ("train2014", "val2014")


def create_jsonl_for_grpo(
    split: str = "train",
    output_file: str | None = None,
    vivqa_root: str = "ViVQA-X",
    image_root: str | None = None,
    on_bad_data: str = "error",
) -> str:
    """Writes the rows of a split.

    Args:
        split: train, val or test.
        output_file: Default: `data/processed/ViVQA-X_{split}_grpo.jsonl`.
        vivqa_root: Folder of `ViVQA-X_{split}.json`.
        image_root: Folder that has train2014 and val2014. Where it is given, every image is looked for.
        on_bad_data: "error", or "skip" to leave items out that lack something and log how many.

    Returns:
        The file that was written.

    Raises:
        BadDataError: items that lack something, named by their number from 1.
        ValueError: no such split or file, or a file of another form.
    """
    if split not in SPLITS or on_bad_data not in ("error", "skip"):
        raise ValueError(f"the split must be {', '.join(SPLITS)}, not {split!r}; on_bad_data error or skip")
    source = Path(vivqa_root) / f"ViVQA-X_{split}.json"
    items = _read_items(source)
    rows: list[dict[str, Any]] = []
    bad_rows: list[BadRow] = []
    for number, item in enumerate(items, start=1):
        try:
            rows.append(build_row(item, number, split, image_root))
        except ValueError as error:
            bad_rows.append(BadRow(str(source), number, str(error)))
    if bad_rows:
        error = BadDataError(bad_rows, "Correct them, or leave them out with --on_bad_data skip.")
        if on_bad_data == "error" or not rows:
            raise error
        logger.warning("left out %d of %d items. %s", len(bad_rows), len(items), error)
    path = Path(output_file or f"data/processed/ViVQA-X_{split}_grpo.jsonl")
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) for row in rows)
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


def build_row(item: Any, number: int, split: str, image_root: str | None = None) -> dict[str, Any]:
    """One item as a row.

    Args:
        item: With question, answer, image_name or image_id, and explanation (a list, or one text).
        number: Of the item in its file, from 1; the row's id.
        split: Of the file, where the image's name does not tell its folder.
        image_root: Where the image is looked for; None: nowhere.

    Raises:
        ValueError: all that it lacks.
    """
    if not isinstance(item, dict):
        raise ValueError(f"an item must be an object, not {shorten(item)}")
    problems: list[str] = []
    question, answer = (_read_text(item, key, problems) for key in ("question", "answer"))
    given = item.get("explanation")
    texts = [given] if isinstance(given, str) else given if isinstance(given, list) else []
    explanations = list(dict.fromkeys(_normalise(text) for text in texts if isinstance(text, str) and text.strip()))
    if not explanations:
        problems.append("no explanation")
    image = _find_image(item, split, image_root, problems)
    if problems:
        raise ValueError("; ".join(problems))
    gold = AnswerContract(name="gold", template="{Question}", sections=("answer", "explain"))
    return {
        "id": number,
        "dataset_name": "ViVQA-X",
        "image": image,
        "conversations": [
            {"from": "human", "value": f"<image>{question}"},
            {"from": "gpt", "value": gold.compose(answer=answer, explain=explanations[0])},
        ],
        "explanations": explanations,
    }


def _read_items(source: Path) -> list[Any]:
    if not source.is_file():
        raise ValueError(f"{source} does not exist: --vivqa_root is the folder of ViVQA-X_train.json and the others")
    try:
        items = decode_line(source.read_bytes().removeprefix(b"\xef\xbb\xbf"))
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from error
    if not isinstance(items, list) or not items:
        raise ValueError(f"{source}: it must be a list of items")
    return items


def _normalise(text: str) -> str:
    """Composed characters (NFC), so that equal words are equal strings, and single spaces."""
    return " ".join(unicodedata.normalize("NFC", text).split())


def _read_text(item: dict[str, Any], key: str, problems: list[str]) -> str:
    value = item.get(key)
    text = _normalise(str(value)) if isinstance(value, str | int | float) and not isinstance(value, bool) else ""
    if not text:
        problems.append(f"no {key}")
    return text


def _find_image(item: dict[str, Any], split: str, image_root: str | None, problems: list[str]) -> str:
    """The image with its folder, `val2014/COCO_val2014_000000262284.jpg`.

    The folder is in COCO's names. For any other name it is where the image is found, else that of the split: ViVQA-X
    takes its training images from train2014 and the others from val2014.
    """
    name = str(item.get("image_name") or "").strip()
    by_split = "train2014" if split == "train" else "val2014"
    if not name and str(item.get("image_id", "")).isdigit():
        name = f"COCO_{by_split}_{int(item['image_id']):012d}.jpg"
    if not name:
        problems.append("no image_name")
        return ""
    bare = name.replace("\\", "/").rpartition("/")[2]
    folders = [folder for folder in _FOLDERS if folder in name] or [by_split, *_FOLDERS]
    if image_root is None:
        return f"{folders[0]}/{bare}"
    found = next((folder for folder in folders if (Path(image_root) / folder / bare).is_file()), None)
    if found is None:
        problems.append(f"no image {bare} in {' or '.join(dict.fromkeys(folders))} of {image_root}")
    return f"{found}/{bare}"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="open_r1.data.vivqa", description=__doc__.split("\n")[0])
    parser.add_argument("--vivqa_root", required=True, help="folder of ViVQA-X_train.json and the others")
    parser.add_argument("--split", default="train", choices=SPLITS)
    parser.add_argument("--output", help="default: data/processed/ViVQA-X_SPLIT_grpo.jsonl")
    parser.add_argument("--image_root", help="folder of train2014 and val2014; where given, images are looked for")
    parser.add_argument("--on_bad_data", default="error", choices=["error", "skip"])
    args = parser.parse_args(argv)
    path = create_jsonl_for_grpo(args.split, args.output, args.vivqa_root, args.image_root, args.on_bad_data)
    logger.info("wrote %s", path)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    try:
        main()
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")

"""Makes training data from the label files of an image quality data set.

    python datasets/make_data.py --dataset KADID-10K --labels KADID-10K_mos.txt --output_dir output/data

reads the labels by the data set's card (configs/data/), normalises them to 1..5 (higher is better), splits them by
reference image and writes into output/data/KADID-10K/

    RL-KADID-10K_{train,val,test}_scoring.jsonl    rows for training (image names relative to the image folder)
    KADID-10K_{train,val,test}_set.txt             the same as text, with references, for evaluation
    manifest.json                                  seed, references of each part, hashes of the label files

Other ways: `--columns "dis mos std" --dataset_name MINE` for a data set without a card, `--manifest FILE` for a stored
split, `--split_files TRAIN VAL TEST` for labels that are split and normalised already. See docs/data.md.
"""

import argparse
import contextlib
import hashlib
import json
import logging
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from open_r1.completions import IQA_QUESTION
from open_r1.data.cards import DatasetCard, load_card
from open_r1.data.mos import HIGHEST_MOS, LOWEST_MOS, TOLERANCE, MosRecord, load_labels, normalise_records
from open_r1.data.splits import (
    SPLITS,
    SplitManifest,
    get_group_key,
    read_manifest,
    split_by_reference,
    write_manifest,
)
from open_r1.data.tables import quote_name


logger = logging.getLogger("make_data")


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", help="name of a card in configs/data/, or a card's YAML file")
    parser.add_argument("--dataset_name", help="dataset_name of the rows; default: the card's name")
    parser.add_argument("--labels", nargs="+", metavar="FILE", help="label files; normalised together")
    parser.add_argument(
        "--split_files", nargs=3, metavar=("TRAIN", "VAL", "TEST"),
        help="use these normalised label files as they are, instead of --labels",
    )  # fmt: skip
    parser.add_argument("--columns", help='columns in order, such as "ref dis mos std"; default: by the card')
    parser.add_argument(
        "--direction", choices=["mos", "dmos"], default="mos", help="with --columns: dmos is lower-is-better"
    )
    parser.add_argument("--output_dir", type=Path, required=True, help="folder in which one of the data set is made")
    parser.add_argument(
        "--ratios", nargs=3, type=float, default=[0.6, 0.2, 0.2], metavar=("TRAIN", "VAL", "TEST"),
        help="shares of the references (default: 0.6 0.2 0.2)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=42, help="seed of the split (default: 42)")
    parser.add_argument("--manifest", type=Path, help="split as in this manifest.json, instead of by --seed")
    args = parser.parse_args(argv)
    if (args.labels is None) == (args.split_files is None):
        parser.error("give either --labels or --split_files")
    if args.dataset is None and (args.columns is None or args.dataset_name is None):
        parser.error("give --dataset, the name of a card; or --columns and --dataset_name for a data set without one")
    if args.dataset_name is not None and Path(args.dataset_name).name != args.dataset_name:
        parser.error(f"--dataset_name becomes part of file names and cannot be {args.dataset_name!r}")
    if args.direction == "dmos" and (args.columns is None or args.split_files is not None):
        parser.error("--direction goes with --columns and --labels; a card knows it, and split files are normalised")
    if args.manifest is not None and args.split_files is not None:
        parser.error("--manifest and --split_files both say how to split; give one")
    return args


def load_records(paths: Sequence[str], args: argparse.Namespace, card: DatasetCard | None) -> list[MosRecord]:
    """The records of all files, without those that the card excludes; ValueError where an image is in two files."""
    records: list[MosRecord] = []
    for path in paths:
        records += load_labels(path, columns=args.columns, card=card, direction=args.direction)
        check_hash(path, card)
    repeated = [image for image, count in Counter(record.image for record in records).items() if count > 1]
    if repeated:
        raise ValueError(f"{len(repeated)} images are labelled in more than one file, the first is {repeated[0]}")
    excluded = set(card.exclude if card is not None else ())
    kept = [record for record in records if record.image not in excluded]
    if len(kept) < len(records):
        logger.info("left out %d images that the card of %s excludes", len(records) - len(kept), card.name)
    if card is not None and card.num_items not in (None, len(kept)):
        logger.warning(
            "%d labels, the card of %s has %d: a part of the data is normalised by its own range, not by that of the "
            "whole", len(kept), card.name, card.num_items,
        )  # fmt: skip
    return kept


def compute_hash(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def check_hash(path: str | Path, card: DatasetCard | None) -> None:
    """Warns where a file has the name, but not the content of one that the card describes."""
    layout = card.find_layout(Path(path).name) if card is not None else None
    if layout is not None and layout.sha256 not in (None, compute_hash(path)):
        logger.warning("%s differs from the file that the card of %s describes (SHA-256)", path, card.name)


def get_unit(records: Sequence[MosRecord], card: DatasetCard | None) -> str:
    """What is split: "reference" where all records have one, "image" where none has; ValueError in between."""
    has_reference = [record.reference is not None for record in records]
    if all(has_reference):
        return "reference"
    if any(has_reference) or (card is not None and card.kind == "fr"):
        image = records[has_reference.index(False)].image
        raise ValueError(f"{image} has no reference image; a split that tears versions of one image apart is refused")
    return "image"


def get_name(record: MosRecord) -> str:
    """What must stay in one part."""
    return record.image if record.reference is None else record.reference


def split_records(records: Sequence[MosRecord], args: argparse.Namespace) -> dict[str, list[MosRecord]]:
    """The records by part, in the order of the labels."""
    keys = [get_group_key(get_name(record)) for record in records]
    if args.manifest is None:
        split_of = split_by_reference(keys, args.ratios, args.seed)
    else:
        split_of = read_manifest(args.manifest).split_of
        unknown = [record for record, key in zip(records, keys, strict=True) if key not in split_of]
        if unknown:
            raise ValueError(f"{args.manifest} has no part for {len(unknown)} labels, the first is {unknown[0].image}")
    return {split: [rec for rec, key in zip(records, keys, strict=True) if split_of[key] == split] for split in SPLITS}


def load_split_files(args: argparse.Namespace, card: DatasetCard | None) -> dict[str, list[MosRecord]]:
    """The records of files that are split and normalised already, checked for both."""
    parts = {}
    for split, path in zip(SPLITS, args.split_files, strict=True):
        parts[split] = load_labels(path, columns=args.columns, card=card)
        check_hash(path, card)
        for record in parts[split]:
            if not LOWEST_MOS - TOLERANCE <= record.mos <= HIGHEST_MOS + TOLERANCE:
                raise ValueError(
                    f"{path}: the MOS {record.mos:g} of {record.image} lies outside 1 to 5; split files are used as "
                    "they are and must be normalised. For raw labels use --labels"
                )
    return parts


def build_row(row_id: int, record: MosRecord, dataset_name: str) -> dict:
    """A row of the training file; see datasets/README.md."""
    conversations = [{"from": "human", "value": IQA_QUESTION}, {"from": "gpt", "value": record.mos}]
    return {"id": row_id, "dataset_name": dataset_name, "image": [record.image], "conversations": conversations}


def write_rows(path: Path, records: Sequence[MosRecord], dataset_name: str) -> None:
    """Writes the training file, ids from 1."""
    rows = [build_row(number, record, dataset_name) for number, record in enumerate(records, start=1)]
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def write_labels(path: Path, records: Sequence[MosRecord]) -> None:
    """Writes a label file: reference, image, MOS and standard deviation, as far as there are any.

    It has no header, as the files of other projects have none, unless its columns would not be recognised without.
    """
    roles = {"ref": "reference", "dis": "image", "mos": "mos", "std": "mos_std"}
    used = {role: key for role, key in roles.items() if all(getattr(rec, key) is not None for rec in records)}
    table = [[getattr(record, key) for key in used.values()] for record in records]
    lines = [" ".join(quote_name(cell) if isinstance(cell, str) else repr(cell) for cell in row) for row in table]
    for header in ([], [" ".join(used)]):
        path.write_text("".join(line + "\n" for line in header + lines), encoding="utf-8")
        with contextlib.suppress(ValueError):
            if [[getattr(record, key) for key in used.values()] for record in load_labels(path)] == table:
                return
    raise ValueError(f"{path}: the names of these images cannot be written as a label file")


def make_data(args: argparse.Namespace) -> SplitManifest:
    """Writes the files of one data set and returns what the manifest says of them."""
    card = load_card(args.dataset) if args.dataset is not None else None
    name = args.dataset_name or card.name
    if args.split_files is not None:
        parts = load_split_files(args, card)
        unit = get_unit([record for split in SPLITS for record in parts[split]], card)
    else:
        records = load_records(args.labels, args, card)
        unit = get_unit(records, card)
        parts = split_records(normalise_records(records), args)
    if unit == "image":
        logger.info("there are no references: the split is by image")
    is_drawn = args.split_files is None and args.manifest is None
    manifest = SplitManifest(
        dataset_name=name,
        unit=unit,
        splits={split: list_names(parts[split]) for split in SPLITS},
        seed=args.seed if is_drawn else None,
        ratios=args.ratios if is_drawn else None,
        num_rows={split: len(parts[split]) for split in SPLITS},
        label_files={Path(path).name: compute_hash(path) for path in args.labels or args.split_files},
    )
    folder = args.output_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        row_path, label_path = folder / f"RL-{name}_{split}_scoring.jsonl", folder / f"{name}_{split}_set.txt"
        row_path.unlink(missing_ok=True)  # an empty part must not leave that of another split behind
        label_path.unlink(missing_ok=True)
        if parts[split]:
            write_rows(row_path, parts[split], name)
            write_labels(label_path, parts[split])
    write_manifest(folder / "manifest.json", manifest)
    return manifest


def list_names(records: Sequence[MosRecord]) -> list[str]:
    """The distinct names of references (or images), one spelling each, sorted."""
    spellings = {get_group_key(name): name for name in sorted(map(get_name, records), reverse=True)}
    return sorted(spellings.values())


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    manifest = make_data(args)
    print(f"wrote {args.output_dir / manifest.dataset_name}:")
    for split in SPLITS:
        print(f"  {split:5} {manifest.num_rows[split]:6} rows of {len(manifest.splits[split]):5} {manifest.unit}s")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")

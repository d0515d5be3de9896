"""Makes training data from the labels of image quality data sets.

    python datasets/make_data.py --dataset KADID-10K --root kadid10k --output_dir output/data

finds the label files of an unpacked official release by the data set's card (configs/data/), normalises the labels to
1..5 (higher is better), splits them by reference image and writes into output/data/KADID-10K/

    RL-KADID-10K_{train,val,test}_scoring.jsonl    rows for training; images are named relative to --root
    KADID-10K_{train,val,test}_set.txt             the same as text, with references, for evaluation
    manifest.json                                  seed, references of each part, scale and hashes of the label files

Several data sets at once are written one by one and together: --dataset KADID-10K TID2013 --root kadid10k tid2013
Other ways: `--labels FILE` instead of a release; `--columns "dis mos std" --dataset_name MINE` for a data set without
a card; `--split official`; `--manifest FILE` for a stored split; `--split_files TRAIN VAL TEST` for labels that are
split and normalised already. See docs/data.md.
"""

import argparse
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_r1.data.cards import DatasetCard, load_card
from open_r1.data.export import build_row, write_jsonl, write_labels
from open_r1.data.label_sets import (
    compute_hash,
    get_name,
    get_unit,
    list_names,
    load_label_files,
    load_split_files,
)
from open_r1.data.mos import MosRecord, get_raw_mos, normalise_records
from open_r1.data.releases import Release, find_image_folder, find_release, load_official_split, place_images
from open_r1.data.splits import (
    SPLITS,
    SplitManifest,
    get_group_key,
    read_manifest,
    split_by_reference,
    write_manifest,
)


logger = logging.getLogger("make_data")


@dataclass(frozen=True, kw_only=True)
class Source:
    """One data set and where it lies."""

    name: str
    card: DatasetCard | None
    root: Path | None  # to which names of images are relative; None: names are as the label file has them


@dataclass(frozen=True, kw_only=True)
class Result:
    """What was made of one data set: its manifest, and its rows by part."""

    source: Source
    manifest: SplitManifest
    rows: dict[str, list[dict[str, Any]]]


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--dataset", nargs="+", help="names of cards in configs/data/, or cards' YAML files")
    parser.add_argument("--root", nargs="+", type=Path, metavar="DIR", help="unpacked release, one for each --dataset")
    parser.add_argument("--dataset_name", help="dataset_name of the rows; default: the card's name")
    parser.add_argument("--combined_name", help="of several data sets together; default: their names, joined by -")
    parser.add_argument("--labels", nargs="+", metavar="FILE", help="label files, normalised together")
    parser.add_argument(
        "--split_files", nargs=3, metavar=("TRAIN", "VAL", "TEST"),
        help="use these normalised label files as they are, instead of --labels",
    )  # fmt: skip
    parser.add_argument("--columns", help='columns in order, such as "ref dis mos std"; default: by the card')
    parser.add_argument(
        "--direction", choices=["mos", "dmos"], default="mos", help="with --columns: dmos is lower-is-better"
    )
    parser.add_argument("--check_images", action="store_true", help="stop where images are missing below --root")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder in which one of the data set is made")
    parser.add_argument(
        "--split", choices=["reference", "official"], default="reference", help="draw by reference, or as published"
    )
    parser.add_argument(
        "--ratios", nargs=3, type=float, default=[0.6, 0.2, 0.2], metavar=("TRAIN", "VAL", "TEST"),
        help="shares of the references (default: 0.6 0.2 0.2)",
    )  # fmt: skip
    parser.add_argument("--split_seed", "--seed", type=int, default=42, help="seed of the split (default: 42)")
    parser.add_argument("--manifest", type=Path, help="split as in this manifest.json, instead of by --split_seed")
    args = parser.parse_args(argv)
    problem = check_arguments(args)
    if problem:
        parser.error(problem)
    return args


def check_arguments(args: argparse.Namespace) -> str | None:
    """What is wrong with the combination of arguments, if anything is."""
    names, roots = args.dataset or [], args.root or []
    has_both = args.labels is not None and args.split_files is not None
    if has_both or not (roots or args.labels or args.split_files):
        return "give --root, --labels or --split_files"
    if not names and (args.columns is None or args.dataset_name is None):
        return "give --dataset, the name of a card; or --columns and --dataset_name for a data set without one"
    if not names and args.labels is None and args.split_files is None:
        return "a data set without a card needs --labels"
    if len(roots) not in (0, 1, max(1, len(names))):
        return f"there are {len(roots)} roots for {len(names)} data sets; give one for each, or one for all"
    if len(names) > 1 and (args.labels or args.split_files or args.columns or args.dataset_name or args.manifest):
        return "several data sets are read from their releases, by --dataset and --root alone"
    chosen = [name for name in (args.dataset_name, args.combined_name) if name is not None]
    if any(Path(name).name != name for name in chosen):
        return f"names become part of file names and cannot be {' or '.join(map(repr, chosen))}"
    if args.direction == "dmos" and (args.columns is None or args.split_files is not None):
        return "--direction goes with --columns and --labels; a card knows it, and split files are normalised"
    if sum((args.manifest is not None, args.split_files is not None, args.split == "official")) > 1:
        return "--manifest, --split_files and --split official all say how to split; give one"
    if args.check_images and not roots:
        return "--check_images needs --root, the folder of the images"
    return "--split official needs --dataset" if args.split == "official" and not names else None


def list_sources(args: argparse.Namespace) -> list[Source]:
    cards = [load_card(name) for name in args.dataset] if args.dataset else [None]
    roots = args.root or [None]
    roots = roots * len(cards) if len(roots) == 1 else roots
    names = [args.dataset_name or card.name for card in cards]
    folders = [*names, args.combined_name] if len(names) > 1 else names
    if len(set(folders)) < len(folders):
        raise ValueError(f"each name can be that of one folder only: {', '.join(map(str, folders))}")
    missing = [str(root) for root in roots if root is not None and not root.is_dir()]
    if missing:
        raise ValueError(f"--root must be folders; there is no {' and no '.join(missing)}")
    return [Source(name=name, card=card, root=root) for name, card, root in zip(names, cards, roots, strict=True)]


def read_records(args: argparse.Namespace, source: Source) -> tuple[list[MosRecord], Release]:
    """The normalised records of a data set, and where they come from."""
    if args.split_files is not None:
        release = Release(label_files=[Path(path) for path in args.split_files], folder=source.root)
        return load_split_files(args.split_files, source.card, args.columns), release
    if args.labels is not None:
        release = Release(label_files=[Path(path) for path in args.labels], folder=source.root)
    else:
        release = find_release(source.card, source.root)
        logger.info("%s: labels of %s", source.name, ", ".join(map(str, release.label_files[:3])))
    records = load_label_files(release.label_files, source.card, args.columns, args.direction)
    return normalise_records(records), release


def assign_parts(records: Sequence[MosRecord], args: argparse.Namespace, source: Source) -> list[str]:
    """The part of each record."""
    if args.split_files is not None:
        return [record.part for record in records]
    if args.split == "official":
        return load_official_split(records, source.card, source.root)
    keys = [get_group_key(get_name(record)) for record in records]
    if args.manifest is None:
        split_of = split_by_reference(keys, args.ratios, args.split_seed)
        return [split_of[key] for key in keys]
    split_of = read_manifest(args.manifest).split_of
    unknown = [record.image for record, key in zip(records, keys, strict=True) if key not in split_of]
    if unknown:
        raise ValueError(f"{args.manifest} has no part for {len(unknown)} labels, the first is {unknown[0]}")
    return [split_of[key] for key in keys]


def build_manifest(
    parts: dict[str, list[MosRecord]], args: argparse.Namespace, source: Source, release: Release
) -> SplitManifest:
    records = [record for split in SPLITS for record in parts[split]]
    is_drawn = args.split_files is None and args.manifest is None and args.split == "reference"
    raw = [record.mos_raw for record in records if record.mos_raw is not None]
    return SplitManifest(
        dataset_name=source.name,
        unit=get_unit(records, source.card),
        splits={split: list_names(parts[split]) for split in SPLITS},
        seed=args.split_seed if is_drawn else None,
        ratios=args.ratios if is_drawn else None,
        num_rows={split: len(parts[split]) for split in SPLITS},
        label_files={path.name: compute_hash(path) for path in release.label_files},
        raw_range=[min(raw), max(raw)] if raw else None,
        direction="mos" if is_rising(records) else "dmos",
    )


def is_rising(records: Sequence[MosRecord]) -> bool:
    """Whether a higher label of the files is better."""
    best, worst = max(records, key=lambda record: record.mos), min(records, key=lambda record: record.mos)
    return get_raw_mos(best) >= get_raw_mos(worst)


def name_images(
    records: Sequence[MosRecord], args: argparse.Namespace, source: Source, release: Release
) -> list[MosRecord]:
    """The records with images named relative to the root, if there is one; says how many are missing."""
    if source.root is None:
        return list(records)
    folder = find_image_folder(source.card, release, source.root)
    placed, missing = place_images(records, folder, source.root)
    if missing:
        found = f"{len(missing)} of {len(placed)} images are missing below {source.root}, the first is {missing[0]}"
        if args.check_images:
            raise ValueError(f"{source.name}: {found}")
        logger.warning("%s: %s", source.name, found)
    return placed


def make_data(args: argparse.Namespace, source: Source) -> Result:
    """Writes the files of one data set."""
    records, release = read_records(args, source)
    if get_unit(records, source.card) == "image" and args.split == "reference":
        logger.info("%s: there are no references: the split is by image", source.name)
    part_of = assign_parts(records, args, source)
    manifest = build_manifest(group_by_part(records, part_of), args, source, release)
    parts = group_by_part(name_images(records, args, source, release), part_of)
    rows = {split: [build_row(n, record, source.name) for n, record in enumerate(parts[split], 1)] for split in SPLITS}
    folder = args.output_dir / source.name
    write_parts(folder, rows)
    for split in SPLITS:
        path = folder / f"{source.name}_{split}_set.txt"
        path.unlink(missing_ok=True)
        if parts[split]:
            write_labels(path, parts[split])
    write_manifest(folder / "manifest.json", manifest)
    return Result(source=source, manifest=manifest, rows=rows)


def group_by_part(records: Sequence[MosRecord], part_of: Sequence[str]) -> dict[str, list[MosRecord]]:
    """The records by part, in the order of the labels."""
    return {split: [rec for rec, part in zip(records, part_of, strict=True) if part == split] for split in SPLITS}


def write_parts(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> None:
    """Writes the JSONL file of each part; an empty part must not leave that of another split behind."""
    folder.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        path = folder / f"RL-{folder.name}_{split}_scoring.jsonl"
        path.unlink(missing_ok=True)
        if rows[split]:
            write_jsonl(path, rows[split])


def combine(args: argparse.Namespace, results: Sequence[Result]) -> None:
    """Writes the rows of all data sets into one file for each part, with new ids and images from a common folder."""
    folder = args.output_dir / (args.combined_name or "-".join(result.source.name for result in results))
    roots = [result.source.root.absolute() for result in results]
    common = Path(os.path.commonpath(roots))
    combined = {}
    for split in SPLITS:
        rows = [
            row | {"image": [(root.relative_to(common) / name).as_posix() for name in row["image"]]}
            for result, root in zip(results, roots, strict=True)
            for row in result.rows[split]
        ]
        combined[split] = [row | {"id": number} for number, row in enumerate(rows, start=1)]
    write_parts(folder, combined)
    print(f"wrote {folder}, all data sets together: {' '.join(f'{split} {len(combined[split])}' for split in SPLITS)}")
    print(f"  --image_folders {common}")


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_arguments(argv)
    results = []
    for source in list_sources(args):
        result = make_data(args, source)
        results.append(result)
        manifest = result.manifest
        print(f"wrote {args.output_dir / source.name}:")
        for split in SPLITS:
            print(f"  {split:5} {manifest.num_rows[split]:6} rows of {len(manifest.splits[split]):5} {manifest.unit}s")
        if source.root is not None:
            print(f"  --image_folders {source.root}")
    if len(results) > 1:
        combine(args, results)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s: %(message)s")
    try:
        main()
    except (ValueError, ImportError) as error:
        sys.exit(f"error: {error}")

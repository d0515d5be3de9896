"""Loads a million JSONL rows: seconds and peak memory of the process that does, the first time and the second.

    python benchmarks/load_rows.py [--num_rows 1000000] [--verify_images none] [--output_dir output/load_rows]

Rows have pictures' names, which are not opened. The first load reads and checks every row and stores the table; the
second maps what is stored. Each runs in a process of its own, on one core.
"""

import argparse
import json
import multiprocessing
import os
import resource
import shutil
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any


_NUM_IMAGES = 50_000
_QUESTION = "Which of these is closest to the camera in picture {number}, and how can that be told from it?"


def write_rows(path: Path, num_rows: int) -> None:
    """Rows of about 400 bytes: one picture, options, two reference steps, an answer of one letter."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(num_rows):
            row = {
                "id": number,
                "dataset_name": f"SET-{number % 4}",
                "image": [f"{number % _NUM_IMAGES:06d}.jpg"],
                "choices": ["the red car", "the tree on the left", "the house"],
                "reference_steps": ["The car covers part of the tree.", "The house is behind both of them."],
                "conversations": [
                    {"from": "human", "value": "<image>" + _QUESTION.format(number=number)},
                    {"from": "gpt", "value": "ABC"[number % 3]},
                ],
            }
            file.write(json.dumps(row) + "\n")


def load_rows(path: Path, verify_images: str, cache_dir: Path, results: Connection) -> None:
    """Loads the file and sends what that took."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    from open_r1.completions import get_answer_contract
    from open_r1.data.jsonl import load_sources
    from open_r1.data.reading import LoadOptions
    from open_r1.data.sources import resolve_sources

    options = LoadOptions(
        contract=get_answer_contract("default"), verify_images=verify_images, arrow_cache_dir=str(cache_dir)
    )
    start, start_cpu = time.perf_counter(), time.process_time()
    dataset = load_sources(resolve_sources([str(path)], [str(path.parent)]), options)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - start_cpu
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024  # bytes; Linux counts in KiB
    result = {"num_rows": len(dataset), "seconds": seconds, "cpu_seconds": cpu_seconds}
    results.send(result | {"peak_rss_gib": peak / 2**30})


def measure(path: Path, verify_images: str, cache_dir: Path) -> dict[str, Any]:
    """Loads the file in a fresh process."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=load_rows, args=(path, verify_images, cache_dir, sender))
    process.start()
    sender.close()
    result = receiver.recv()
    process.join()
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--num_rows", type=int, default=1_000_000)
    parser.add_argument("--verify_images", default="none", choices=["none", "exists"])
    parser.add_argument("--output_dir", type=Path, default=Path("output/load_rows"))
    parser.add_argument("--json", action="store_true", help="one JSON object per load and nothing else")
    args = parser.parse_args()
    args.output_dir.mkdir(parents=True, exist_ok=True)
    path, cache_dir = args.output_dir / "rows.jsonl", args.output_dir / "cache"
    write_rows(path, args.num_rows)
    if args.verify_images == "exists":
        for number in range(min(_NUM_IMAGES, args.num_rows)):
            (args.output_dir / f"{number:06d}.jpg").touch()
    shutil.rmtree(cache_dir, ignore_errors=True)
    for name in ("first load", "second load"):
        result = measure(path, args.verify_images, cache_dir)
        text = "{num_rows} rows  {seconds:.1f} s ({cpu_seconds:.1f} s of CPU)  {peak_rss_gib:.2f} GiB peak"
        shown = json.dumps({"load": name} | result) if args.json else f"{name:<12} {text.format(**result)}"
        print(shown, flush=True)


if __name__ == "__main__":
    main()

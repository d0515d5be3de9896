"""Writes the report page of a run with many completions: seconds, and the size of the page.

python benchmarks/report_page.py [--num_completions 100000] [--output_dir output/report_page]
"""

import argparse
import json
import random
import subprocess
import sys
import time
from pathlib import Path


_GENERATIONS = 8
_SENTENCE = "the image shows a blurred scene with strong noise and visible blocks around the edges of a building"


def write_run(folder: Path, num_groups: int) -> None:
    """Groups of eight completions of about 420 characters, and 500 lines of metrics."""
    rng, words = random.Random(0), _SENTENCE.split()
    (folder / "rollouts").mkdir(parents=True, exist_ok=True)
    with (folder / "rollouts" / "rank0.jsonl").open("w", encoding="utf-8") as file:
        for index in range(num_groups):
            texts = [
                f"<think>{' '.join(rng.choices(words, k=70))}</think><answer>{rng.uniform(1, 5):.2f}</answer>"
                for _ in range(_GENERATIONS)
            ]
            values = [rng.random() for _ in texts]
            record = {
                "step": index // 25,
                "row": {"id": str(index), "dataset_name": "NOISE", "image_path": [f"{index % 4000}.png"], "mos": 3.0},
                "completions": texts,
                "rewards": {"fidelity_reward": values},
                "advantages": values,
                "finish_reasons": ["stop"] * _GENERATIONS,
            }
            file.write(json.dumps(record) + "\n")
    lines = [json.dumps({"step": step, "reward": rng.random(), "kl": rng.random()}) for step in range(1, 501)]
    (folder / "metrics.jsonl").write_text("\n".join(lines) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_completions", type=int, default=100_000)
    parser.add_argument("--output_dir", type=Path, default=Path("output/report_page"))
    args = parser.parse_args()
    write_run(args.output_dir, args.num_completions // _GENERATIONS)
    start = time.perf_counter()
    command = [sys.executable, "-m", "open_r1.report", str(args.output_dir), "--max_thumbnails", "0"]
    subprocess.run(command, check=True)
    print(f"{args.num_completions} completions: {time.perf_counter() - start:.1f} s")


if __name__ == "__main__":
    main()

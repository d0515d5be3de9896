"""How long the fidelity reward takes on one core: reading scores out of texts, pairs, and the mean over partners.

    python benchmarks/reward_speed.py

Prints the median and the spread of several calls for a few batch sizes.
"""

import os


os.environ["OMP_NUM_THREADS"] = "1"

import statistics
import time

import numpy as np

from open_r1.rewards import build_reward_funcs


NUM_CALLS = 9
SIZES = ((24, 8), (64, 16), (512, 8), (1024, 16))  # groups, generations
THOUGHT = "The picture is slightly blurred, with some noise in the darker parts. " * 8


def build_batch(num_groups: int, num_generations: int) -> tuple[list, dict]:
    """Completions with a thought of 560 characters and a score, and the columns that the reward reads."""
    rng = np.random.default_rng(0)
    mos = rng.uniform(1, 5, num_groups).repeat(num_generations)
    scores = np.clip(mos + rng.normal(0, 1, len(mos)), 1, 5)
    texts = [f"<think>{THOUGHT}</think><answer>{score:.2f}</answer>" for score in scores]
    names = [f"{i // num_generations}.png" for i in range(len(mos))]
    columns = {
        "mos": mos.tolist(),
        "dataset_name": ["BENCHMARK"] * len(mos),
        "image_path": [[name] for name in names],
        "num_generations": num_generations,
    }
    return [[{"role": "assistant", "content": text}] for text in texts], columns


def main() -> None:
    (reward,) = build_reward_funcs(["fidelity"], task_type="iqa")
    print("| groups | generations | completions | median ms | min ms | max ms |")
    print("|---|---|---|---|---|---|")
    for num_groups, num_generations in SIZES:
        completions, columns = build_batch(num_groups, num_generations)
        reward(prompts=[], completions=completions, **columns)  # imports
        times = []
        for _ in range(NUM_CALLS):
            start = time.perf_counter()
            reward(prompts=[], completions=completions, **columns)
            times.append(1000 * (time.perf_counter() - start))
        cells = (num_groups, num_generations, len(completions), statistics.median(times), min(times), max(times))
        print("| {} | {} | {} | {:.1f} | {:.1f} | {:.1f} |".format(*cells))


if __name__ == "__main__":
    main()

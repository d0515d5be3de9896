"""One of the processes of `test_rewards_ranking_ranks.py`: rewards of its share of a batch, over torch.distributed."""

import json
import os
import pickle
import sys
from pathlib import Path

import torch.distributed as dist

from open_r1.completions import wrap_answer
from open_r1.rewards.ranking import fidelity_reward


NUM_GENERATIONS = 5
SHARES = (9, 1, 6, 7)  # groups per rank
SAME = {20: 0, 10: 1, 13: 11}  # groups that show the picture of another one, on another rank or on theirs


def make_groups() -> list[dict]:
    """23 groups of two data sets with duplicates, ties, unreadable scores and missing labels."""
    groups = []
    for i in range(sum(SHARES)):
        image = SAME.get(i, i)
        scores = [1 + (image * 7 + 3 * g * (i + 1)) % 40 / 10 for g in range(NUM_GENERATIONS)]
        texts = [wrap_answer("none" if (i * 5 + g) % 11 == 0 else str(score)) for g, score in enumerate(scores)]
        groups.append(
            {
                "dataset_name": "AB"[image % 2],
                "image_path": [f"{image}.png"],
                "mos": None if image == 4 else 1 + image % 9 / 2,
                "texts": texts,
            }
        )
    return groups


def score(groups: list[dict], scope: str, **columns) -> dict:
    """Rewards of these groups and what was logged."""
    logged = {}
    repeated = {
        name: [group[name] for group in groups for _ in range(NUM_GENERATIONS)]
        for name in ("dataset_name", "image_path", "mos")
    }
    completions = [[{"role": "assistant", "content": text}] for group in groups for text in group["texts"]]
    rewards = fidelity_reward(
        prompts=[None] * len(completions),
        completions=completions,
        num_generations=NUM_GENERATIONS,
        ranking_scope=scope,
        log_metric=logged.__setitem__,
        **repeated,
        **columns,
    )
    return {"rewards": rewards, "logged": logged}


def main() -> None:
    dist.init_process_group("gloo")
    rank, num_calls, num_bytes = dist.get_rank(), 0, 0

    def all_gather(values: list) -> list:
        nonlocal num_calls, num_bytes
        everywhere = [None] * dist.get_world_size()
        dist.all_gather_object(everywhere, values)
        num_calls, num_bytes = num_calls + 1, sum(len(pickle.dumps(part)) for part in everywhere)
        return [value for part in everywhere for value in part]

    start = sum(SHARES[:rank])
    own = make_groups()[start : start + SHARES[rank]]
    for scope in ("global", "device"):
        num_calls = 0
        result = score(own, scope, all_gather=all_gather, process_index=rank)
        result |= {"num_calls": num_calls, "pickled_bytes": num_bytes}
        Path(sys.argv[1], f"{scope}_{rank}.json").write_text(json.dumps(result), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    main()

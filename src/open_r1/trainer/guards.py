"""What happens when a loss or a gradient is not finite: the groups go to disk, and the run stops or skips the step."""

import json
from pathlib import Path

import torch

from open_r1.trainer.batch import RolloutBatch


def find_bad_groups(batch: RolloutBatch, per_token_logps: torch.Tensor) -> list[int]:
    """Groups with a value that is not finite in a tensor or in the log-probabilities (B, C); all, if none has."""
    floats = [tensor for tensor in [*batch.tensors.values(), per_token_logps] if tensor.is_floating_point()]
    is_bad = torch.stack([~tensor.detach().isfinite().view(len(batch.prompts), -1).all(dim=1) for tensor in floats])
    return torch.nonzero(is_bad.any(dim=0)).flatten().tolist() or list(range(len(batch.prompts)))


def dump_groups(path: Path, batch: RolloutBatch, groups: list[int], per_token_logps: torch.Tensor | None) -> Path:
    """Writes groups of a micro-batch to a JSON file: where each row came from, token ids and every per-row value.

    Args:
        path: The file.
        batch: The micro-batch.
        groups: Which of its groups.
        per_token_logps: (B, C) of the policy, where they are known.
    """
    size = batch.num_generations
    tensors = batch.tensors | ({} if per_token_logps is None else {"per_token_logps": per_token_logps.detach()})
    records = [
        {
            "source": batch.prompts[n].source,
            "prompt_ids": batch.prompts[n].input_ids.tolist(),
            **{name: tensor[n * size : (n + 1) * size].tolist() for name, tensor in tensors.items()},
        }
        for n in groups
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(records, indent=1), encoding="utf-8")  # NaN and Infinity as Python's json reads them
    return path

"""A round as the trainer holds it: what was generated, from which rows, and which micro-batches are still to come.

A round may outlive optimizer steps and so checkpoints. Two files of a checkpoint hold it, for each rank by itself:
`round_rank0.safetensors` has every tensor of the `RolloutBatch` and the prompts' token ids, `round_rank0.json` has the
rest. Images are not saved: their rows are encoded again, and the token ids show whether that gave the same prompts.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from open_r1.trainer.batch import RolloutBatch
from open_r1.vlm_modules.vlm_module import EncodedPrompt


_PROMPT_IDS = "prompt_ids."


@dataclass(kw_only=True)
class Round:
    """A generated batch that the loss goes over in micro-batches of whole groups.

    Example: four groups, micro-batches of two, two iterations: `rows` [7, 2, 9, 4] and, at the beginning, `pending`
    [[3, 0], [1, 2], [2, 0], [3, 1]].
    """

    batch: RolloutBatch
    rows: list[int]  # N, the row of the data set behind each group
    pending: list[list[int]]  # groups of each micro-batch to come, in order

    def __post_init__(self):
        if len(self.rows) != len(self.batch.prompts):
            raise ValueError(f"{len(self.rows)} rows do not belong to {len(self.batch.prompts)} groups.")

    def take(self) -> RolloutBatch:
        """The next micro-batch."""
        return self.batch.select(self.pending.pop(0))


def split_into_micro_batches(num_groups: int, groups_per_step: int, num_iterations: int) -> list[list[int]]:
    """Groups of every micro-batch: each iteration goes over all of the round's groups once, in a new order.

    The orders come from torch's global random numbers.
    """
    orders = [torch.randperm(num_groups).tolist() for _ in range(num_iterations)]
    return [order[i : i + groups_per_step] for order in orders for i in range(0, num_groups, groups_per_step)]


@dataclass(frozen=True, kw_only=True)
class SavedRound:
    """A round out of a checkpoint, on the CPU, whose prompts are to be encoded again from `rows`."""

    rows: list[int]
    pending: list[list[int]]
    values: dict[str, Any]  # every field of the batch but `prompts`
    prompt_ids: list[torch.Tensor]  # N times (P,)

    def build(self, prompts: list[EncodedPrompt], device: torch.device) -> Round:
        """The round as it was, around prompts that were prepared anew.

        Raises:
            ValueError: a row encodes to other tokens than it did.
        """
        for row, prompt, expected in zip(self.rows, prompts, self.prompt_ids, strict=True):
            if not torch.equal(prompt.input_ids.cpu(), expected):
                raise ValueError(
                    f"Row {row} of the training data has another prompt than when the checkpoint was saved in the "
                    "middle of its round. Resume with the same data, question template, and bounds of images and "
                    "videos (--min_pixels, --max_pixels, --video_*)."
                )
        values = {
            name: value.to(device) if isinstance(value, torch.Tensor) else value for name, value in self.values.items()
        }
        return Round(batch=RolloutBatch(prompts=prompts, **values), rows=self.rows, pending=self.pending)


def save_round(current: Round, folder: Path, rank: int) -> None:
    """Writes the files of one rank."""
    from safetensors.torch import save_file

    values = {field.name: getattr(current.batch, field.name) for field in fields(current.batch)}
    prompts = values.pop("prompts")
    tensors = {name: value for name, value in values.items() if isinstance(value, torch.Tensor)}
    plain = {name: value for name, value in values.items() if name not in tensors}
    tensors |= {f"{_PROMPT_IDS}{n}": prompt.input_ids for n, prompt in enumerate(prompts)}
    # Clones, since safetensors refuses tensors that share memory.
    save_file({name: tensor.cpu().clone().contiguous() for name, tensor in tensors.items()}, _path(folder, rank))
    content = {"rows": current.rows, "pending": current.pending, "values": plain}
    _path(folder, rank).with_suffix(".json").write_text(json.dumps(content), encoding="utf-8")


def load_round(folder: Path, rank: int) -> SavedRound | None:
    """The round that a rank was in, or None where the checkpoint was saved between two rounds."""
    from safetensors.torch import load_file

    path = _path(folder, rank)
    if not path.is_file():
        return None
    content = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    tensors = load_file(path)
    num_groups = len(content["rows"])
    prompt_ids = [tensors.pop(f"{_PROMPT_IDS}{n}") for n in range(num_groups)]
    return SavedRound(
        rows=content["rows"],
        pending=content["pending"],
        values=content["values"] | {name: tensor.clone() for name, tensor in tensors.items()},
        prompt_ids=prompt_ids,
    )


def _path(folder: Path, rank: int) -> Path:
    return folder / f"round_rank{rank}.safetensors"

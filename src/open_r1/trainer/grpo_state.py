"""What `VLMGRPOTrainer` holds between two optimizer steps, into a checkpoint and out of it."""

import hashlib
import json
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from open_r1.trainer.batch import PromptGroup
from open_r1.trainer.resumable import ResumableMixin
from open_r1.trainer.rounds import Round, load_round, save_round
from open_r1.trainer.samplers import IndexedCollator


# Without the same values a checkpoint's step is another place in the data, or its round lacks something.
_ARRANGEMENT = (
    "per_device_train_batch_size",
    "num_generations",
    "gradient_accumulation_steps",
    "steps_per_generation",
    "num_iterations",
    "train_sampling_strategy",
    "sampling",
    "dataset_weighting",
    "group_by_prefix",
    "prefix_pattern",
    "sync_ref_model",
)
_LAYOUT = ("is_packed", "is_varlen")
_COUNTERS = ("num_tokens_seen", "num_refills_drawn", "must_check_layout")


class GRPOStateMixin(ResumableMixin):
    """The round at hand, metrics that wait for a log line, and counters of the run."""

    def _encode_rows(self, indices: list[int]) -> list[PromptGroup]:
        """Groups of these rows of the training data, as the data loader makes them."""
        return IndexedCollator(self.data_collator)([(index, self.train_dataset[index]) for index in indices])

    @cached_property
    def _order_of_rows(self) -> str:
        """Fingerprint of this rank's first epoch, whatever options it comes from."""
        steps = list(self.get_train_dataloader().batch_sampler)
        return hashlib.sha256(json.dumps(steps).encode()).hexdigest()[:12]

    def _get_fixed_settings(self) -> dict[str, Any]:
        args = self.args
        return {name: getattr(args, name) for name in _ARRANGEMENT} | {
            "data_seed": args.seed if args.data_seed is None else args.data_seed,
            "a KL term": args.beta > 0,
            "number of processes": self.accelerator.num_processes,
            "number of training rows": len(self.train_dataset),
            "order of the training rows": self._order_of_rows,
        }

    def _get_extra_modules(self) -> dict[str, torch.nn.Module]:
        return {"reference": self.ref_model} if self.args.sync_ref_model else {}

    def _save_progress(self, folder: Path) -> dict[str, Any]:
        if self._round is not None and self._round.pending:
            save_round(self._round, folder, self.accelerator.process_index)
        layout = {name: getattr(self.scorer, name) for name in _LAYOUT}  # that of the first round's check
        counters = {name: getattr(self, name) for name in _COUNTERS}
        return {"metrics": self.metrics.state(), "layout": layout, "counters": counters}

    def _load_progress(self, folder: Path, values: dict[str, Any]) -> None:
        self._round = self._rebuild_round(folder)
        self.metrics.restore(values["metrics"])
        self.scorer = replace(self.scorer, **values["layout"])
        for name, value in values["counters"].items():
            setattr(self, name, value)

    def _rebuild_round(self, folder: Path) -> Round | None:
        """The round that the checkpoint was saved in, its prompts encoded and prepared as those of a new one."""
        saved = load_round(folder, self.accelerator.process_index)
        if saved is None:
            return None
        with self._whole_weights():
            prompts = self._prepare_prompts(self._encode_rows(saved.rows))
        return saved.build(prompts, self.accelerator.device)

    def _list_logs(self, step: int) -> dict[Path, int]:
        """A round is logged with the number of steps before it: that of step N is generated after checkpoint N."""
        log = self.rollout_log
        return super()._list_logs(step) | {log.rollout_path: step - 1, log.eval_path: step}

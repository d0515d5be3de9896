"""What makes any trainer of ours resumable: whole checkpoints, all that it holds between two steps, an end on request.

A resumed run equals one that was never interrupted. What transformers does not save for that is in two kinds of files:
`progress_rank0.json` (sums that are not logged yet, settings that must stay) and what subclasses add.
"""

import functools
import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from open_r1.trainer import fsdp
from open_r1.trainer.checkpoints import (
    UNFINISHED,
    find_last_complete,
    move_files,
    publish,
    remove_leftovers,
    rewind_log,
    rotate,
    set_log_aside,
)
from open_r1.trainer.interruption import InterruptionCallback
from open_r1.trainer.saved_settings import note_settings, with_settings
from open_r1.trainer.sharding import gathered
from open_r1.trainer.watchdog import StageWatch
from open_r1.utils.model_card import write_model_card


if TYPE_CHECKING:
    from transformers import PreTrainedModel
    from transformers.trainer_utils import TrainOutput


class ResumableMixin:
    """Put before a transformers `Trainer`. Subclasses override the methods of the first section."""

    _staging: Path | None = None  # where transformers writes a checkpoint at the moment
    _interruption: InterruptionCallback | None = None
    _loaded_dtype: torch.dtype | None = None  # of the model before FSDP keeps its slices in float32

    def __init__(self, model: "PreTrainedModel", *args: Any, **kwargs: Any):
        self._loaded_settings = note_settings(model)
        super().__init__(model, *args, **kwargs)

    # ---- what a subclass holds --------------------------------------------------------------------------------

    def _get_fixed_settings(self) -> dict[str, Any]:
        """Settings, as JSON, without which a checkpoint's position in the data means something else."""
        return {}

    def _get_extra_modules(self) -> dict[str, torch.nn.Module]:
        """Modules whose weights change beside the policy's, by the name of their file."""
        return {}

    def _save_progress(self, folder: Path) -> dict[str, Any]:
        """What this rank holds between two steps, as JSON; tensors go to files of its own in the folder."""
        return {}

    def _load_progress(self, folder: Path, values: dict[str, Any]) -> None:
        """Takes up what `_save_progress` wrote; model, optimizer and data loader are in place already."""

    def _list_logs(self, step: int) -> dict[Path, int]:
        """The logs that this rank writes, with the last step that they know of when checkpoint `step` is saved."""
        return {Path(self.args.output_dir) / "metrics.jsonl": step} if self.is_world_process_zero() else {}

    # ---- training ---------------------------------------------------------------------------------------------

    @functools.cached_property
    def watch(self) -> StageWatch:
        """Where this process is, for the others to see while it trains."""
        return StageWatch(self.args.process_index, self.args.world_size, self.args.ddp_timeout)

    @property
    def interrupted_by(self) -> int:
        """Number of the signal that ended the last call of `train`, the same on every rank; 0 without one."""
        return 0 if self._interruption is None else self._interruption.received

    def train(
        self, resume_from_checkpoint: str | bool | None = None, trial: Any = None, ignore_keys_for_eval: Any = None
    ) -> "TrainOutput":
        """As in transformers, but True takes the last checkpoint that is whole.

        Raises:
            ValueError: the checkpoint belongs to a run with other settings, of those that must stay.
        """
        if resume_from_checkpoint is True:
            resume_from_checkpoint = find_last_complete(self.args.output_dir)
            if resume_from_checkpoint is None:
                raise ValueError(f"There is no complete checkpoint in {self.args.output_dir}.")
            resume_from_checkpoint = str(resume_from_checkpoint)
        step = 0
        if resume_from_checkpoint:
            self._check_settings(Path(resume_from_checkpoint))
            step = json.loads((Path(resume_from_checkpoint) / "trainer_state.json").read_text())["global_step"]
        if self.args.should_save:
            remove_leftovers(self.args.output_dir)
        for path, last_step in self._list_logs(step).items():
            if resume_from_checkpoint:
                rewind_log(path, last_step)
            else:
                set_log_aside(path)
        if self._interruption is None:
            self._interruption = InterruptionCallback()
            self.add_callback(self._interruption)
        try:
            with self.watch:
                return super().train(resume_from_checkpoint, trial, ignore_keys_for_eval)
        finally:
            self._interruption.release()

    def _run_epoch(self, **kwargs: Any) -> None:
        """Nothing where the checkpoint is that of the last step: transformers would take one step more."""
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(**kwargs)

    def _finalize_training(self, *args: Any) -> "TrainOutput":
        """A run that is to go on neither loads its best model nor gives up its last checkpoint for it."""
        best = self.state.best_model_checkpoint
        if self.interrupted_by:
            self.state.best_model_checkpoint = None
        result = super()._finalize_training(*args)
        self.state.best_model_checkpoint = best
        return result

    def create_accelerator_and_postprocess(self) -> None:
        super().create_accelerator_and_postprocess()
        if self.is_fsdp_enabled:
            fsdp.keep_precise(self.accelerator)

    def _wrap_model(self, model: torch.nn.Module, *args: Any, **kwargs: Any) -> torch.nn.Module:
        if not fsdp.is_sharded(model):
            self._loaded_dtype = model.dtype
        return super()._wrap_model(model, *args, **kwargs)

    # ---- saving -----------------------------------------------------------------------------------------------

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As in transformers; under FSDP an ordinary folder of the whole model too, in the dtype it was loaded in.

        Settings of generation are written as they came.
        """
        with with_settings(self.model, self._loaded_settings):
            self._write_model(output_dir, _internal_call)

    def _write_model(self, output_dir: str | None, _internal_call: bool) -> None:
        if not fsdp.is_sharded(self.model):
            super().save_model(output_dir, _internal_call)
            return
        dtype = None if hasattr(self.model, "disable_adapter") else self._loaded_dtype
        weights = fsdp.collect_weights(self.model, dtype)
        if self.args.should_save:
            self._save(output_dir, state_dict=weights)
            if dtype is not None:  # transformers has written down that of the slices
                self.model.config.dtype = dtype
                self.model.config.save_pretrained(output_dir or self.args.output_dir)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _get_output_dir(self, trial: Any) -> str:
        return super()._get_output_dir(trial) if self._staging is None else str(self._staging)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        with self.watch.stage("save"):
            self._save_whole_checkpoint(model, trial)

    def _save_whole_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        run_dir = Path(self._get_output_dir(trial))
        name = f"checkpoint-{self.state.global_step}"
        best = self.state.best_model_checkpoint
        self._staging = run_dir / UNFINISHED
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._staging = None
        written = run_dir / UNFINISHED / name
        self._write_progress(written)
        if self.state.best_global_step:
            chosen = run_dir / f"checkpoint-{self.state.best_global_step}"
            self.state.best_model_checkpoint = str(chosen) if chosen.name == name or chosen.is_dir() else best
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            self.state.save_to_json(str(written / "trainer_state.json"))  # with the best checkpoint's final place
            publish(written, run_dir)
            rotate(run_dir, self.args.save_total_limit, self.state.best_model_checkpoint)
        self.accelerator.wait_for_everyone()
        if self.args.push_to_hub:
            self._push_from_checkpoint(str(run_dir / name))

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        if self._staging is None:
            super()._push_from_checkpoint(checkpoint_folder)

    def _write_progress(self, folder: Path) -> None:
        if self.args.save_only_model:
            return
        progress = {
            "settings": self._get_fixed_settings(),
            "loss_sum": self._tr_loss.item(),
            "last_logged_step": self._globalstep_last_logged,
            "values": self._save_progress(folder),
        }
        self._progress_path(folder).write_text(json.dumps(progress), encoding="utf-8")
        from safetensors.torch import save_model

        for name, module in self._get_extra_modules().items():
            module, path = self.accelerator.unwrap_model(module), str(folder / f"{name}.safetensors")
            if fsdp.is_sharded(module):
                fsdp.save_weights(module, path)
                continue
            with gathered(module.parameters()):
                if self.args.should_save:
                    save_model(module, path)

    def save_final_model(self) -> None:
        """Saves the model to the output folder so that a kill leaves no half-written file there."""
        target = Path(self.args.output_dir)
        source = target / UNFINISHED / "model"
        with self.watch, self.watch.stage("save"):
            self.save_model(str(source), _internal_call=True)
            self.accelerator.wait_for_everyone()
        if self.args.should_save:
            (source / "README.md").unlink(missing_ok=True)  # peft's, a form to be filled in
            move_files(source, target)
            shutil.rmtree(source.parent)
            self.create_model_card()
        if self.args.push_to_hub:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def create_model_card(self, *args: Any, **kwargs: Any) -> None:
        """Ours, out of what the run wrote down; transformers calls this before it pushes, TRL with each checkpoint."""
        if self.is_world_process_zero():
            write_model_card(self.args.output_dir)

    # ---- restoring --------------------------------------------------------------------------------------------

    def _progress_path(self, folder: Path) -> Path:
        return folder / f"progress_rank{self.args.process_index}.json"

    def _read_progress(self, folder: Path) -> dict[str, Any] | None:
        path = self._progress_path(folder)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def _check_settings(self, folder: Path) -> None:
        expected = self._get_fixed_settings()
        progress = self._read_progress(folder)
        saved = {} if progress is None else progress["settings"]
        changed = [
            f"{name} was {saved.get(name)}, is {value}" for name, value in expected.items() if saved.get(name) != value
        ]
        if changed:
            raise ValueError(
                f"{folder} belongs to a run with other settings: {'; '.join(changed)}. Resume with the same values, "
                "or start a new run with it as --model_name_or_path."
            )

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """transformers calls this once, when everything else is in place and no random number has been drawn since."""
        progress = None if checkpoint is None else self._read_progress(Path(checkpoint))
        if progress is not None:
            self._tr_loss += progress["loss_sum"]
            self._globalstep_last_logged = progress["last_logged_step"]
            self._load_extra_modules(Path(checkpoint))
            self._load_progress(Path(checkpoint), progress["values"])
        super()._load_rng_state(checkpoint)

    def _load_extra_modules(self, folder: Path) -> None:
        from safetensors.torch import load_model

        for name, module in self._get_extra_modules().items():
            module, path = self.accelerator.unwrap_model(module), str(folder / f"{name}.safetensors")
            if fsdp.is_sharded(module):
                fsdp.load_weights(module, path)
                continue
            with gathered(module.parameters(), writes=True):
                load_model(module, path)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """All weights or none.

        transformers matches names of the file with names of the model and goes on where they differ. For families
        whose checkpoints keep older names (Qwen2-VL, Qwen2.5-VL) none match, and training would silently start anew.
        Adapters have no such names, and under FSDP each process reads its slices.
        """
        if hasattr(self.model, "disable_adapter") or self.is_fsdp_enabled:
            super()._load_from_checkpoint(resume_from_checkpoint, model)
            return
        restored = type(self.model).from_pretrained(resume_from_checkpoint, dtype=self.model.dtype)
        self.model.load_state_dict(restored.state_dict())

    def _load_best_model(self) -> None:
        if self.is_deepspeed_enabled or self.is_fsdp_enabled:
            super()._load_best_model()
        else:
            self._load_from_checkpoint(self.state.best_model_checkpoint)

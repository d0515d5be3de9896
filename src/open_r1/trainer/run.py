"""A run from its first to its last step: what it goes on from, what it writes down, what it leaves."""

import logging
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from open_r1.configs import DataArguments, GRPOModelConfig
from open_r1.data.sources import list_data_files
from open_r1.trainer.checkpoints import find_damage, find_last_complete
from open_r1.utils.provenance import write_run_info


if TYPE_CHECKING:
    from open_r1.trainer.resumable import ResumableMixin

logger = logging.getLogger(__name__)

# What tells that optimizer states were saved: of torch, DeepSpeed and FSDP.
_OPTIMIZER_FILES = ("optimizer.pt", "latest", "optimizer_0", "optimizer.bin")


def find_checkpoint(option: str | bool | None, output_dir: str) -> str | None:
    """Turns `--resume_from_checkpoint` into a folder.

    Args:
        option: `true` (the last complete checkpoint of the run; there must be one), `auto` (the last complete one, if
            any), `false` or None (start anew), or a path.
        output_dir: Folder of the run.

    Raises:
        ValueError: there is no complete checkpoint where one is demanded, or it holds the model alone.
    """
    choice = str(option).lower()
    if option is None or choice == "false":
        return None
    found = find_last_complete(output_dir) if choice in ("true", "auto") else Path(option)
    if found is None:
        if choice == "true":
            raise ValueError(
                f"--resume_from_checkpoint true: there is no complete checkpoint in {output_dir}. Use auto."
            )
        return None
    if not (found / "trainer_state.json").is_file():
        raise ValueError(f"--resume_from_checkpoint: {found} is no checkpoint of a training run.")
    damage = find_damage(found)
    if damage is not None:
        raise ValueError(f"--resume_from_checkpoint: {found} is torn: {damage}. Take the one before it, or auto.")
    if not any((found / name).exists() for name in _OPTIMIZER_FILES):
        raise ValueError(
            f"--resume_from_checkpoint: {found} holds no optimizer state (--save_only_model), so the run cannot go on "
            "from it. Start a new run with it as --model_name_or_path."
        )
    return str(found)


def train_and_save(
    trainer: "ResumableMixin", checkpoint: str | None, script_args: DataArguments, model_args: GRPOModelConfig
) -> None:
    """Writes `run.json`, trains, and saves model, processor and trainer state to the output folder.

    A run that was asked to stop (SIGTERM, SIGUSR1) leaves its checkpoint alone and exits with 128 plus the number of
    the signal, on all ranks.

    Args:
        trainer: Ready to train.
        checkpoint: Folder to go on from, or None.
        script_args: For `run.json`, as `model_args`.
    """
    if trainer.is_world_process_zero():
        configs = {"script": script_args, "training": trainer.args, "model": model_args}
        write_run_info(trainer.args.output_dir, configs, list_data_files(script_args.all_file_paths))
    trainer.train(resume_from_checkpoint=checkpoint)
    if trainer.interrupted_by:
        name = signal.Signals(trainer.interrupted_by).name
        logger.warning(
            "Stopped by %s after step %d. Go on with --resume_from_checkpoint auto.", name, trainer.state.global_step
        )
        sys.exit(128 + trainer.interrupted_by)
    trainer.save_final_model()
    trainer.save_state()

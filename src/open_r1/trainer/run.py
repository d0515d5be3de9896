"""A run from its first to its last step: what it goes on from, what it writes down, what it leaves."""

from pathlib import Path
from typing import TYPE_CHECKING

from transformers.trainer_utils import get_last_checkpoint

from open_r1.configs import DataArguments, GRPOModelConfig
from open_r1.data.jsonl import split_paths
from open_r1.utils.provenance import write_run_info


if TYPE_CHECKING:
    from transformers import Trainer


def find_checkpoint(option: str | None, output_dir: str) -> str | None:
    """Turns `--resume_from_checkpoint` into a folder.

    Args:
        option: `true` (the last checkpoint of the run; there must be one), `auto` (the last one, if any), `false` or
            None (start anew), or a path.
        output_dir: Folder of the run.

    Raises:
        ValueError: there is no checkpoint where one is demanded, or it holds the model alone.
    """
    choice = str(option).lower()
    if option is None or choice == "false":
        return None
    if choice in ("true", "auto"):
        found = get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None
        if found is None and choice == "true":
            raise ValueError(f"--resume_from_checkpoint true: there is no checkpoint in {output_dir}. Use auto.")
    else:
        found = option
    if found is not None and not (Path(found) / "trainer_state.json").is_file():
        raise ValueError(f"--resume_from_checkpoint: {found} is no checkpoint of a training run.")
    if found is not None and not (Path(found) / "optimizer.pt").is_file():
        raise ValueError(
            f"--resume_from_checkpoint: {found} holds no optimizer state (--save_only_model), so the run cannot go on "
            "from it. Start a new run with it as --model_name_or_path."
        )
    return found


def train_and_save(
    trainer: "Trainer", checkpoint: str | None, script_args: DataArguments, model_args: GRPOModelConfig
) -> None:
    """Writes `run.json`, trains, and saves model, processor and trainer state to the output folder.

    Args:
        trainer: Ready to train.
        checkpoint: Folder to go on from, or None.
        script_args: For `run.json`, as `model_args`.
    """
    if trainer.is_world_process_zero():
        configs = {"script": script_args, "training": trainer.args, "model": model_args}
        write_run_info(trainer.args.output_dir, configs, split_paths(script_args.data_file_paths))
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_model(trainer.args.output_dir)
    trainer.save_state()

"""Many processes: how they are connected, and DeepSpeed's settings. Those of FSDP are in `fsdp.py`."""

import copy
import json
import os
import socket
import warnings
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from open_r1.trainer.fsdp import connect_fsdp_on_cpu, prepare_fsdp, uses_fsdp


if TYPE_CHECKING:
    from transformers import TrainingArguments


_REPOSITORY = Path(__file__).parents[3]
_CONFIG_FOLDERS = ("local_scripts", "configs")
_ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}


# ---- DeepSpeed's settings ---------------------------------------------------------------------------------------


def find_deepspeed_config(path: str) -> Path:
    """The file behind `--deepspeed`: as given, else by its name in `local_scripts` or `configs`.

    `deepspeed_zero3.json` and `zero3.json` are the same name.

    Raises:
        ValueError: there is none; the message lists those that there are.
    """
    if Path(path).is_file():
        return Path(path)
    folders = [root / name for root in (Path.cwd(), _REPOSITORY) for name in _CONFIG_FOLDERS]
    known = {file.name: file for folder in reversed(folders) for file in sorted(folder.glob("*.json"))}
    name = Path(path).name
    for candidate in (name, name.removeprefix("deepspeed_"), f"deepspeed_{name}"):
        if candidate in known:
            return known[candidate]
    shown = ", ".join(sorted(map(str, known.values()))) or f"no JSON file in {', '.join(map(str, folders))}"
    raise ValueError(f"--deepspeed {path}: there is no such file. There are: {shown}.")


def load_deepspeed_config(option: str | dict[str, Any]) -> dict[str, Any]:
    """Settings of `--deepspeed`: a path, JSON text, or settings already; ValueError where they cannot be read."""
    if isinstance(option, dict):
        return _complete(copy.deepcopy(option))
    text = option if option.lstrip().startswith("{") else find_deepspeed_config(option).read_text(encoding="utf-8")
    try:
        return _complete(json.loads(text))
    except json.JSONDecodeError as error:
        raise ValueError(f"--deepspeed {option}: not valid JSON: {error}") from error


def _complete(config: dict[str, Any]) -> dict[str, Any]:
    """Settings with what the options of the run ask for, where they leave it open.

    Raises:
        ValueError: they contradict what a run here must do.
    """
    stage = config.setdefault("zero_optimization", {}).get("stage", 0)
    if stage not in (1, 2, 3):
        raise ValueError(f"--deepspeed: ZeRO stage {stage} spreads nothing over devices; take 1, 2 or 3, or torchrun.")
    if stage == 3 and not config["zero_optimization"].setdefault("stage3_gather_16bit_weights_on_model_save", True):
        raise ValueError(
            "--deepspeed: without stage3_gather_16bit_weights_on_model_save the run would leave no model that can be "
            "loaded: set it to true."
        )
    for name in ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"):
        config.setdefault(name, "auto")
    config.setdefault("gradient_clipping", "auto")  # or --max_grad_norm would do nothing
    for precision in ("bf16", "fp16"):
        config.setdefault(precision, {"enabled": "auto"})
    return config


def adapt_to_cpu(config: dict[str, Any]) -> dict[str, Any]:
    """The same settings for processes without an accelerator.

    DeepSpeed's own optimizer would be compiled for minutes, so torch's takes its place unless it is offloaded;
    communication cannot overlap with computation.
    """
    config = copy.deepcopy(config)
    zero = config.setdefault("zero_optimization", {})
    zero["overlap_comm"] = False
    offload = zero.get("offload_optimizer") or {}
    if offload.get("device", "none") == "none":
        config.pop("optimizer", None)
        config["zero_allow_untested_optimizer"] = True
    for part in ("offload_optimizer", "offload_param"):
        if part in zero:
            zero[part] = {**zero[part], "pin_memory": False}
    return config


# ---- processes --------------------------------------------------------------------------------------------------


def prepare_processes(args: "TrainingArguments") -> None:
    """What must be in place before transformers sets the devices up, in its `__post_init__`.

    Raises:
        ValueError: DeepSpeed's settings are not there, or it is to run on the CPU of a machine with an accelerator;
            settings of FSDP that cannot work.
    """
    if args.use_cpu or not has_accelerator():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # or DeepSpeed, where it is installed, warns at every save
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0" and torch.cuda.is_available() and not args.use_cpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        connect("nccl", args.ddp_timeout)
    if uses_fsdp(args):
        prepare_fsdp(args, int(os.environ.get("WORLD_SIZE", "1")))
    if not args.deepspeed and _is_set("ACCELERATE_USE_DEEPSPEED"):  # `accelerate launch` with a file of settings
        args.deepspeed = os.environ.get("ACCELERATE_DEEPSPEED_CONFIG_FILE")
    if args.deepspeed:
        args.deepspeed = load_deepspeed_config(args.deepspeed)
        # DeepSpeed calls by older names what torch would have called otherwise, some thousand times per step.
        warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
        if has_accelerator():
            if args.use_cpu:
                raise ValueError("--deepspeed with --use_cpu: DeepSpeed takes this machine's accelerator; drop one.")
            stand_alone()
            return
        args.deepspeed, args.use_cpu = adapt_to_cpu(args.deepspeed), False
        args.accelerator_config = connect_deepspeed_on_cpu(args.ddp_timeout)
    elif is_one_of_many() and not uses_deepspeed(args) and (args.use_cpu or not has_accelerator()):
        args.use_cpu = True
        connect("gloo", args.ddp_timeout)
        if uses_fsdp(args):
            args.accelerator_config = connect_fsdp_on_cpu()


def uses_deepspeed(args: "TrainingArguments") -> bool:
    """Whether DeepSpeed is asked for, by option or by `accelerate launch`."""
    return bool(args.deepspeed) or _is_set("ACCELERATE_USE_DEEPSPEED")


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1")


def has_accelerator() -> bool:
    """Whether this machine has a GPU or the like."""
    return torch.accelerator.is_available()


def is_one_of_many() -> bool:
    """Whether a launcher started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def meet() -> tuple[torch.distributed.Store, int, int]:
    """The store that all processes share, the number of this one, and how many they are.

    torchrun keeps the store of an attempt for the next (`--max_restarts`), where what the dead have left in it would
    mislead those that come after them: each attempt has its own part of it.
    """
    store, rank, world_size = next(torch.distributed.rendezvous("env://"))
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return torch.distributed.PrefixStore(f"attempt {attempt}", store), rank, world_size


def has_launcher() -> bool:
    """Whether the environment says where the processes meet."""
    return all(name in os.environ for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"))


def connect(backend: str, timeout_s: int) -> None:
    """Connects the processes, with a timeout that transformers leaves out on CPUs."""
    if has_launcher() and not torch.distributed.is_initialized():
        store, rank, world_size = meet()
        torch.distributed.init_process_group(
            backend, store=store, rank=rank, world_size=world_size, timeout=timedelta(seconds=timeout_s)
        )


def connect_deepspeed_on_cpu(timeout_s: int) -> dict[str, bool]:
    """Arranges for DeepSpeed to run on CPU processes over gloo, before `TrainingArguments` do it wrongly.

    Returns:
        What `TrainingArguments` must have as `accelerator_config`, with `use_cpu` False, which turns DeepSpeed off.
    """
    from accelerate import PartialState
    from accelerate.state import AcceleratorState

    os.environ["DS_ACCELERATOR"] = "cpu"
    os.environ.pop("ACCELERATE_USE_CPU", None)
    import deepspeed

    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # a C++ extension in place of gloo: minutes
    stand_alone()
    connect("gloo", timeout_s)
    AcceleratorState._reset_state(reset_partial_state=True)
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    PartialState(backend="gloo", timeout=timedelta(seconds=timeout_s))
    del os.environ["ACCELERATE_USE_DEEPSPEED"]
    return {"use_configured_state": True}


def stand_alone() -> None:
    """Gives a process that no launcher started the variables of a group of one; DeepSpeed does not run without."""
    if "LOCAL_RANK" in os.environ or "RANK" in os.environ:
        return
    with socket.socket() as probe:
        probe.bind((_ALONE["MASTER_ADDR"], 0))
        os.environ.update(_ALONE, MASTER_PORT=str(probe.getsockname()[1]))

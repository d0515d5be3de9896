"""FSDP2: which settings can work here, and models whose weights torch spreads over devices.

Each process holds a slice of every parameter, as a `DTensor`. The hooks of `fully_shard` gather the weights of a layer
for as long as it runs; between them and a pass that a process makes alone stands `unsharded`. accelerate shards the
policy when training begins (`Accelerator.prepare`), the reference is sharded here by the same settings.
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch


if TYPE_CHECKING:
    from accelerate import Accelerator
    from torch.distributed.fsdp import FSDPModule
    from transformers import TrainingArguments


SWITCH = "ACCELERATE_USE_FSDP"  # set by `accelerate launch`, whose other settings are variables FSDP_…
_TRUE = ("true", "1", "yes")

# Settings that are off by default, and what to do in their place.
_REFUSED = {
    "cpu_ram_efficient_loading": "models that rewards load would have no weights on all processes but one; leave it "
    "out, or load in slices with --deepspeed zero3.json.",
    "activation_checkpointing": "take --gradient_checkpointing.",
    "cpu_offload": "take --deepspeed zero3_offload.json.",
}
_VARIABLES = {"cpu_offload": "FSDP_OFFLOAD_PARAMS"}  # others are the name in capitals


# ---- settings ---------------------------------------------------------------------------------------------------


def is_fsdp() -> bool:
    """Whether the models of this process will be spread by FSDP."""
    return os.environ.get(SWITCH, "").lower() in _TRUE


def uses_fsdp(args: "TrainingArguments") -> bool:
    """Whether FSDP is asked for, by option or by `accelerate launch`."""
    return bool(args.fsdp) or is_fsdp()


def read_fsdp_settings(args: "TrainingArguments") -> dict[str, Any]:
    """Settings of `--fsdp_config`, or those of `accelerate launch`, names without `fsdp_`."""
    if not args.fsdp:
        names = ("version", "state_dict_type", *_REFUSED)
        variables = {name: os.environ.get(_VARIABLES.get(name, f"FSDP_{name.upper()}")) for name in names}
        return {"version": 1} | {name: value for name, value in variables.items() if value is not None}
    config = args.fsdp_config or {}
    if isinstance(config, str):
        config = json.loads(config if config.lstrip().startswith("{") else Path(config).read_text(encoding="utf-8"))
    settings = {name.removeprefix("fsdp_"): value for name, value in config.items()}
    words = args.fsdp.split() if isinstance(args.fsdp, str) else args.fsdp
    return ({"cpu_offload": True} if words is not True and "offload" in words else {}) | settings


def prepare_fsdp(args: "TrainingArguments", num_processes: int) -> None:
    """Completes the settings of FSDP, before transformers reads them.

    Raises:
        ValueError: they ask for something that does not work here.
    """
    settings = read_fsdp_settings(args)
    if int(settings.get("version", 2)) != 2:
        raise ValueError(
            f"FSDP version {settings['version']} is not supported: take version 2 (fsdp_version: 2 in the file of "
            'accelerate launch, "version": 2 in --fsdp_config), or --deepspeed zero3.json.'
        )
    if args.deepspeed:
        raise ValueError("--deepspeed and FSDP both spread the weights over devices: leave one of them out.")
    if num_processes < 2:
        raise ValueError("FSDP spreads the weights over several processes, and there is one: leave it out.")
    for name, remedy in _REFUSED.items():
        if str(settings.get(name, "")).lower() in _TRUE:
            raise ValueError(f"FSDP with {name} is refused: {remedy}")
    # A checkpoint holds the whole model anyway. Beside it, for going on, stands what each process holds in its slices.
    kind = "FULL_STATE_DICT" if args.save_only_model else "SHARDED_STATE_DICT"
    if args.fsdp:
        args.fsdp_config = settings | {"state_dict_type": kind}
    os.environ.update({SWITCH: "true", "FSDP_VERSION": "2", "FSDP_STATE_DICT_TYPE": kind})
    if args.accelerator_config is None:  # gradients of micro-batches are added up in slices, not whole
        args.accelerator_config = {"gradient_accumulation_kwargs": {"sync_each_batch": True}}


def connect_fsdp_on_cpu() -> dict[str, Any]:
    """Lets accelerate shard models of CPU processes, which it does for devices alone; gloo is connected already.

    Returns:
        What `TrainingArguments` must have as `accelerator_config`.
    """
    from accelerate import PartialState
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedType

    AcceleratorState._reset_state(reset_partial_state=True)
    PartialState(cpu=True, backend="gloo")
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
    return {"use_configured_state": True, "gradient_accumulation_kwargs": {"sync_each_batch": True}}


def keep_precise(accelerator: "Accelerator") -> None:
    """Gradients are reduced in float32, and outputs stay as they are: log-probabilities have no meaning in 16 bits."""
    from torch.distributed.fsdp import MixedPrecisionPolicy

    plugin = accelerator.state.fsdp_plugin
    if plugin.mixed_precision_policy is not None:
        plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=plugin.mixed_precision_policy.param_dtype, reduce_dtype=torch.float32
        )


# ---- weights ----------------------------------------------------------------------------------------------------


def is_sharded(model: torch.nn.Module) -> bool:
    """Whether FSDP2 has spread the weights of this model."""
    from torch.distributed.fsdp import FSDPModule

    return isinstance(model, FSDPModule)


def shard_frozen(model: torch.nn.Module, accelerator: "Accelerator") -> torch.nn.Module:
    """Spreads a model that is not trained, by the settings of the one that is; in evaluation mode."""
    from accelerate.utils.fsdp_utils import fsdp2_prepare_model

    return fsdp2_prepare_model(accelerator, model).eval()


def _list_units(model: torch.nn.Module) -> list["FSDPModule"]:
    """The modules whose weights are gathered together, the model itself first."""
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _list_own_parameters(unit: "FSDPModule") -> list[torch.nn.Parameter]:
    """Those that are gathered with this unit, not with one inside it."""
    groups = unit._get_fsdp_state()._fsdp_param_groups
    return [parameter.sharded_param for group in groups for parameter in group.fsdp_params]


def reshard(model: torch.nn.Module) -> None:
    """Lets go of weights that a pass without gradient has left whole: those of the head and of what is no layer."""
    for unit in _list_units(model):
        unit.reshard()


@contextlib.contextmanager
def unsharded(model: torch.nn.Module, parameters: Iterable[torch.nn.Parameter] | None = None) -> Iterator[None]:
    """Whole weights on every process, in the precision of the forward pass; all processes must come here.

    Inside, a process runs the model any number of times without waiting for the others. Without gradient.

    Args:
        model: A sharded one.
        parameters: Those that are needed; others of the same layers come with them. None: all.
    """
    units = _list_units(model)
    if parameters is not None:
        wanted = {id(parameter) for parameter in parameters}
        units = [unit for unit in units if any(id(parameter) in wanted for parameter in _list_own_parameters(unit))]
    model._get_fsdp_state()._lazy_init()  # or the first layer that runs would take itself for the whole model
    groups = [group for unit in units for group in unit._get_fsdp_state()._fsdp_param_groups]
    after_forward = [group.post_forward_mesh_info for group in groups]
    hooked_generate = model.__dict__.pop("generate", None)  # transformers', which lets go of weights at its end
    try:
        for unit in units:
            unit.set_reshard_after_forward(False, recurse=False)
            unit.unshard()
        yield
    finally:
        for group, info in zip(groups, after_forward, strict=True):
            group.post_forward_mesh_info = info
        if hooked_generate is not None:
            model.generate = hooked_generate
        for unit in units:
            unit.reshard()


def collect_weights(model: torch.nn.Module, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """Whole weights in CPU memory of the first process, nothing on the others; all processes must come here.

    Of the names that share a weight (tied embeddings) it has the first.

    Args:
        model: A sharded one.
        dtype: What floating-point weights are rounded to. None: they stay as they are.
    """
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    weights = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    first_names = {name for name, _ in model.named_parameters()}
    repeated = {name for name, _ in model.named_parameters(remove_duplicate=False)} - first_names
    return {
        name: tensor.to(dtype) if dtype is not None and tensor.is_floating_point() else tensor
        for name, tensor in weights.items()
        if name not in repeated
    }


def save_weights(model: torch.nn.Module, path: str) -> None:
    """Writes whole weights into one file of safetensors; all processes must come here."""
    from safetensors.torch import save_file

    weights = collect_weights(model)
    if torch.distributed.get_rank() == 0:
        save_file(weights, path)


def load_weights(model: torch.nn.Module, path: str) -> None:
    """Gives each process its slices of what `save_weights` has written; all processes must come here."""
    from safetensors.torch import load_file
    from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

    weights = load_file(path) if torch.distributed.get_rank() == 0 else {}
    options = StateDictOptions(
        full_state_dict=True, broadcast_from_rank0=True, strict=False
    )  # second names are missing
    set_model_state_dict(model, weights, options=options)

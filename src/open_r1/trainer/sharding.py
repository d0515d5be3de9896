"""Weights that are spread over devices, by DeepSpeed (ZeRO-3) or by torch (FSDP2).

Each process holds a slice of every parameter. Hooks on the modules gather the weights of a layer for as long as it
runs, which suits passes that all processes make together. Whatever a process does alone, or a number of times of its
own (generation, the features of images), goes between `whole_weights`, which gathers once and lets the hooks be.
"""

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import torch

from open_r1.trainer import fsdp


if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel


def is_zero3() -> bool:
    """Whether models are loaded in slices, one for each process."""
    from transformers.integrations.deepspeed import is_deepspeed_zero3_enabled

    return is_deepspeed_zero3_enabled()


def count_weights(parameter: torch.nn.Parameter) -> int:
    """Elements of the whole parameter, of which this process may hold a slice."""
    return getattr(parameter, "ds_numel", parameter.numel())


def get_own_slice(parameter: torch.nn.Parameter) -> torch.Tensor:
    """What this process holds of a parameter."""
    return getattr(parameter, "ds_tensor", parameter).data


@contextlib.contextmanager
def gathered(parameters: Iterable[torch.nn.Parameter], writes: bool = False) -> Iterator[None]:
    """Brings whole parameters to every process, as they are slices outside; all processes must come here.

    Args:
        parameters: Those that are whole already are left alone.
        writes: Rank 0 changes them, and all take over what it wrote.
    """
    slices = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    if not slices:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(slices, modifier_rank=0 if writes else None):
        yield


@contextlib.contextmanager
def whole_weights(
    model: torch.nn.Module, wrapped: torch.nn.Module, parameters: Iterable[torch.nn.Parameter] | None = None
) -> Iterator[None]:
    """Lets each process run the model by itself, any number of times, without gradient; all must come here.

    Args:
        model: The bare model.
        wrapped: DeepSpeed's engine around it, whose hooks would let go of the weights after the first pass.
        parameters: Those that are needed. None: all.
    """
    if fsdp.is_sharded(model):
        with fsdp.unsharded(model, parameters):
            yield
        return
    parameters = list(model.parameters() if parameters is None else parameters)
    if not any(hasattr(parameter, "ds_id") for parameter in parameters):
        yield
        return
    from trl.models.utils import add_hooks, remove_hooks

    with gathered(parameters):
        if wrapped is not model:
            remove_hooks(wrapped)
        try:
            yield
        finally:
            if wrapped is not model:
                add_hooks(wrapped)


def prepare_reference(model: "PreTrainedModel", accelerator: "Accelerator") -> torch.nn.Module:
    """The frozen reference on its device: in slices under ZeRO-3 and FSDP, in DeepSpeed's precision, else whole."""
    if accelerator.is_fsdp2:
        return fsdp.shard_frozen(model, accelerator)
    if accelerator.state.deepspeed_plugin is None:
        return accelerator.prepare_model(model, evaluation_mode=True).eval()
    from trl.models.utils import prepare_deepspeed

    return prepare_deepspeed(model, accelerator)

"""The policy's weights as another engine takes them: whole, adapters merged, under their names in checkpoints.

    for name, tensor in PolicyWeights(model):      layer by layer, whatever holds the weights
        …                                          ZeRO-3, FSDP2: all processes gather the same layer, then let it go
                                                   LoRA: the layer's weights plus its adapters', the model unchanged

No more than one layer is in memory beside what the model itself holds.
"""

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING

import torch

from open_r1.trainer import fsdp
from open_r1.trainer.sharding import gathered


if TYPE_CHECKING:
    from peft.tuners.tuners_utils import BaseTunerLayer

_PEFT_PREFIX = "base_model.model."
_BASE, _SAVED, _ORIGINAL = ".base_layer", ".modules_to_save.", ".original_module."
_OWN = re.compile(r"\.(?:base_layer|lora_|modules_to_save|original_module)")  # what PEFT puts behind a module's name


@dataclass(frozen=True, kw_only=True)
class WeightInfo:
    """What is known of a weight before it is gathered."""

    name: str  # in checkpoints
    dtype: torch.dtype  # in which it comes
    shape: tuple[int, ...]


class PolicyWeights:
    """Named weights of a model, as often as they are asked for; all processes must iterate together.

    Args:
        model: The bare model, adapters allowed; not one with quantised weights.
        is_wanted: Which, by their names in checkpoints. None: all.
        dtype: Floating-point weights are rounded to it. None: they come as they are.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        is_wanted: Callable[[str], bool] | None = None,
        dtype: torch.dtype | None = None,
    ):
        self.model = model
        self.dtype = dtype
        names = [(name, _find_checkpoint_name(model, name)) for name, _ in model.named_parameters()]
        self._names = {
            own: known for own, known in names if known is not None and (is_wanted is None or is_wanted(known))
        }
        self._running: Iterator[tuple[str, torch.Tensor]] = iter(())

    def metadata(self) -> list[WeightInfo]:
        """Names, types and whole shapes, in the order in which the weights come; nothing is gathered."""
        found = dict(self.model.named_parameters())
        return [
            WeightInfo(name=name, dtype=self._get_dtype(found[own]), shape=_get_whole_shape(found[own]))
            for own, name in self._names.items()
        ]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        self._running = self._generate()
        return self._running

    def finish(self) -> None:
        """Goes through what an error has left of the last iteration, where other processes wait for this one."""
        for _ in self._running:
            pass

    @torch.no_grad()
    def _generate(self) -> Iterator[tuple[str, torch.Tensor]]:
        for _, names in groupby(self._names, key=_find_layer):
            bucket = list(names)
            with self._whole(bucket), _merged(self.model, bucket):
                for own in bucket:
                    value = self.model.get_parameter(own).detach()
                    # FSDP takes back the storage that it gathered into, whoever still looks at it.
                    yield self._names[own], value.to(self._get_dtype(value), copy=fsdp.is_sharded(self.model))

    def _whole(self, bucket: list[str]) -> contextlib.AbstractContextManager[None]:
        """Every parameter that the layer's weights are made of, whole on every process."""
        layers = {_find_layer(own) for own in bucket}
        parameters = [value for name, value in self.model.named_parameters() if _find_layer(name) in layers]
        if fsdp.is_sharded(self.model):
            return fsdp.unsharded(self.model, parameters)
        return gathered(parameters)

    def _get_dtype(self, parameter: torch.Tensor) -> torch.dtype:
        return self.dtype if self.dtype is not None and parameter.is_floating_point() else parameter.dtype


def _find_checkpoint_name(model: torch.nn.Module, name: str) -> str | None:
    """The name of a parameter in checkpoints; None for adapters, and for what one of their modules stands in for."""
    if not hasattr(model, "disable_adapter"):
        return name
    if _ORIGINAL in name or model.prefix in name:
        return None
    name = name.removeprefix(_PEFT_PREFIX).replace(_BASE, "")
    if _SAVED in name:
        before, _, after = name.partition(_SAVED)
        name = f"{before}.{after.partition('.')[2]}"  # behind the name of the adapter
    return name


def _find_layer(name: str) -> str:
    """The layer that a parameter belongs to: up to the first number in its name, or else its module."""
    module = _OWN.split(name)[0]
    if module == name:
        module = name.rpartition(".")[0]
    parts = module.split(".")
    number = next((i for i, part in enumerate(parts) if part.isdigit()), len(parts))
    return ".".join(parts[: number + 1])


def _get_whole_shape(parameter: torch.Tensor) -> tuple[int, ...]:
    return tuple(getattr(parameter, "ds_shape", parameter.shape))


@contextlib.contextmanager
def _merged(model: torch.nn.Module, bucket: list[str]) -> Iterator[None]:
    """Adapters of these parameters' layers added to their weights; afterwards the weights are as they were, bit for
    bit. PEFT's own way back would subtract what it has added."""
    if not hasattr(model, "disable_adapter"):
        yield
        return
    wanted = {_find_layer(name) for name in bucket}
    layers = [layer for name, layer in _list_adapted(model) if _find_layer(f"{name}.base_layer") in wanted]
    kept = [(parameter, parameter.data) for layer in layers for parameter in _list_base_parameters(layer)]
    try:
        for layer in layers:
            layer.merge(safe_merge=True)  # which makes new tensors
        yield
    finally:
        for parameter, data in kept:
            parameter.data = data
        for layer in layers:
            layer.merged_adapters.clear()


def _list_adapted(model: torch.nn.Module) -> "list[tuple[str, BaseTunerLayer]]":
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [(name, module) for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]


def _list_base_parameters(layer: "BaseTunerLayer") -> list[torch.nn.Parameter]:
    return list(layer.get_base_layer().parameters())

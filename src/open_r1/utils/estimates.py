"""Memory of one GPU in GRPO, as arithmetic on sizes: what is held all the time, and what each phase adds.

    weights of the policy, reference, optimizer state          always (`Sharding` says which share of it)
    + gradients, activations of the loss pass                  loss
    + KV cache, logits of one token, gathered weights          generation
    + what vLLM takes in their place                           always; generation only, where it sleeps in between

Sizes are bytes, `gib` turns them into text. `open_r1.preflight` puts them together; what they leave out is in
docs/preflight.md.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


GIB = 2**30
# CUDA context, NCCL's buffers and cuBLAS's work space, whatever the model.
FIXED_OVERHEAD = 3 * GIB // 2
# What the caching allocator loses to fragmentation, as a share of everything else.
FRAGMENTATION = 0.06
_FULL_PRECISION = 4  # bytes
_STATES_PER_WEIGHT = {"adam": 2, "sgd": 0, "lion": 1, "rmsprop": 1, "adagrad": 1}
# Bytes per weight of bitsandbytes, beside the numbers themselves one float32 (or 8 bits, nested) per block of 64.
BYTES_IN_4BIT, BYTES_IN_4BIT_NESTED, BYTES_IN_8BIT = 0.5 + 4 / 64, 0.5 + 1 / 64 + 4 / 64 / 256, 1.0


@dataclass(frozen=True, kw_only=True)
class Sharding:
    """Who holds what. Example: `Sharding(stage=2, num_gpus=8)`; stage 0 without DeepSpeed is DDP."""

    stage: int = 0  # of ZeRO
    num_gpus: int = 1
    is_deepspeed: bool = False
    offloads_optimizer: bool = False
    offloads_weights: bool = False
    gathers_for_generation: bool = True  # ZeRO-3
    bucket_size: int = 0  # weights that are reduced at a time
    max_live_weights: int = 0  # ZeRO-3: weights that are whole at a time

    def share(self, size: float, from_stage: int) -> int:
        """What this GPU holds of something that is spread over GPUs from a stage on."""
        return int(size / self.num_gpus) if self.stage >= from_stage else int(size)


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """The weights of a policy. LoRA on a 7B model has 8.3e9 weights, of which 4e7 are trained."""

    weight_bytes: int  # all of them, as they are stored
    trained_weights: int
    trained_bytes: int  # as they are stored; a gradient has the same size
    trained_tensors: int = 0
    reference_bytes: int = 0  # 0: none, or the policy without its adapters
    largest_weight_bytes: int = 2  # per weight, of the policy when it is whole


@dataclass(frozen=True, kw_only=True)
class EngineShare:
    """What an engine beside the trainer takes of a GPU, weights and cache; nothing where it has GPUs of its own."""

    bytes_taken: int = 0
    sleeps: bool = False  # gives it back between rounds


@dataclass(frozen=True, kw_only=True)
class MemoryEstimate:
    """Bytes on one GPU by what they are for."""

    held: Mapping[str, int] = field(default_factory=dict)  # all the time
    loss: Mapping[str, int] = field(default_factory=dict)  # and during the loss pass
    generation: Mapping[str, int] = field(default_factory=dict)  # and during generation

    def peak(self, phase: str) -> int:
        """Bytes at the peak of `loss` or `generation`, overhead included."""
        tensors = sum(self.held.values()) + sum(getattr(self, phase).values())
        return int(tensors * (1 + FRAGMENTATION)) + FIXED_OVERHEAD

    @property
    def highest(self) -> int:
        return max(self.peak("loss"), self.peak("generation"))


def count_optimizer_bytes(size: ModelSize, optimizer: str, sharding: Sharding) -> int:
    """State of the optimizer, of the whole model.

    Args:
        size: Of the model.
        optimizer: transformers' `--optim`, or the type in DeepSpeed's settings.
        sharding: DeepSpeed keeps float32 copies of the trained weights beside the states.
    """
    name = optimizer.lower()
    states = next((count for family, count in _STATES_PER_WEIGHT.items() if family in name), 2)
    if sharding.is_deepspeed:
        return size.trained_weights * (states + 1) * _FULL_PRECISION
    if "8bit" in name:
        return size.trained_weights * states
    step_counts = size.trained_tensors * _FULL_PRECISION if states else 0
    return size.trained_bytes * states + step_counts


def estimate_memory(
    size: ModelSize,
    sharding: Sharding,
    *,
    optimizer: str,
    activations: int,
    kv_cache: int,
    logits: int,
    engine: EngineShare | None = None,
) -> MemoryEstimate:
    """Puts the parts together.

    Args:
        size: Of the model.
        sharding: Who holds what.
        optimizer: transformers' `--optim`.
        activations: Bytes at the peak of the loss pass, weights and gradients left out.
        kv_cache: Bytes of the keys and values of all completions of a round at their end.
        logits: Bytes for the choice of one token of each completion.
        engine: What draws the completions, with a cache of its own. None: the policy itself.
    """
    bytes_per_weight = max(1, size.largest_weight_bytes)
    weights = sharding.share(size.weight_bytes, from_stage=3)
    whole = size.weight_bytes if sharding.stage == 3 and sharding.gathers_for_generation else 0
    held = {
        "weights": 0 if sharding.offloads_weights else weights,
        "reference": 0 if sharding.offloads_weights else sharding.share(size.reference_bytes, from_stage=3),
        "optimizer": 0 if sharding.offloads_optimizer else sharding.share(
            count_optimizer_bytes(size, optimizer, sharding), from_stage=1
        ),
    }  # fmt: skip
    loss = {"gradients": 0 if sharding.offloads_optimizer else sharding.share(size.trained_bytes, from_stage=2)}
    if sharding.is_deepspeed:
        loss["buckets"] = 2 * min(sharding.bucket_size, size.trained_weights) * bytes_per_weight
    elif sharding.num_gpus > 1:
        loss["buckets"] = size.trained_bytes  # DDP reduces copies of the gradients
    if sharding.stage == 3:
        loss["gathered weights"] = min(sharding.max_live_weights * bytes_per_weight, size.weight_bytes)
    loss["activations"] = activations
    generation = {"KV cache": kv_cache, "logits": logits}
    if sharding.stage == 3:
        generation["gathered weights"] = max(0, whole - held["weights"]) or loss["gathered weights"]
    if engine is not None:
        generation = {"gathered weights": loss["gathered weights"]} if sharding.stage == 3 else {}  # layer by layer
        if engine.bytes_taken:
            (generation if engine.sleeps else held)["vLLM"] = engine.bytes_taken
    return MemoryEstimate(held=held, loss=loss, generation=generation)


def count_kv_bytes(num_rows: int, num_tokens: int, num_layers: int, key_value_width: int, bytes_per_value: int) -> int:
    """Keys and values of a decoder's cache.

    >>> count_kv_bytes(num_rows=48, num_tokens=1000, num_layers=28, key_value_width=512, bytes_per_value=2) / 2**30
    2.563...

    Args:
        num_rows: Completions.
        num_tokens: Prompt and completion.
        num_layers: Of the decoder.
        key_value_width: Key-value heads times their size.
        bytes_per_value: Of the dtype.
    """
    return 2 * num_rows * num_tokens * num_layers * key_value_width * bytes_per_value


def count_sampling_bytes(num_rows: int, vocab_size: int, bytes_per_value: int) -> int:
    """Logits of one token of each row, their float32 copy, and the scores, order and probabilities of sampling."""
    return num_rows * vocab_size * (bytes_per_value + 4 * _FULL_PRECISION)


def gib(size: float) -> str:
    """`12.3 GiB`; smaller sizes in MiB.

    >>> gib(3 * 2**30), gib(5 * 2**20)
    ('3.0 GiB', '5.0 MiB')
    """
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / 2**20:.1f} MiB"

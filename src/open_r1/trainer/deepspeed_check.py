"""What in DeepSpeed's settings contradicts the run's own arguments, said before any GPU is rented."""

from collections.abc import Iterator
from typing import Any

from open_r1.configs import GRPOModelConfig
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.utils.estimates import Sharding


_DEFAULT_BUCKET_SIZE = 500_000_000  # DeepSpeed's own defaults
_DEFAULT_MAX_LIVE = 1_000_000_000


def find_conflicts(
    settings: dict[str, Any], args: GRPOConfig, model_args: GRPOModelConfig, num_gpus: int
) -> Iterator[str]:
    """Everything that DeepSpeed or transformers would refuse, or that would train something else than asked for.

    Args:
        settings: The content of DeepSpeed's file.
        args: The run's own.
        model_args: Likewise.
        num_gpus: On all nodes together.
    """
    zero = settings.get("zero_optimization") or {}
    stage = zero.get("stage", 0)
    if stage not in (0, 1, 2, 3):
        yield f"zero_optimization.stage is {stage!r}: take 1, 2 or 3"
        return
    completions = args.per_device_train_batch_size * args.gradient_accumulation_steps * num_gpus
    expected = {
        "train_micro_batch_size_per_gpu": ("--per_device_train_batch_size", args.per_device_train_batch_size),
        "gradient_accumulation_steps": ("--gradient_accumulation_steps", args.gradient_accumulation_steps),
        "train_batch_size": (f"completions of a step on {num_gpus} GPUs", completions),
        "gradient_clipping": ("--max_grad_norm", args.max_grad_norm),
        "bf16.enabled": ("--bf16", args.bf16),
        "fp16.enabled": ("--fp16", args.fp16),
        "optimizer.params.lr": ("--learning_rate", args.learning_rate),
        "optimizer.params.weight_decay": ("--weight_decay", args.weight_decay),
    }
    for key, (name, value) in expected.items():
        found = _look_up(settings, key)
        if found not in (None, "auto") and found != value:
            yield f'{key} is {found!r}, {name} is {value!r}: write "auto"'
    if stage == 3 and (model_args.load_in_4bit or model_args.load_in_8bit):
        yield "quantised weights cannot be spread over devices (ZeRO-3): take ZeRO-2"
    if _is_offloaded(zero, "offload_param") and stage != 3:
        yield f"offload_param works with stage 3 only, not with {stage}"
    if _is_offloaded(zero, "offload_optimizer") and stage == 0:
        yield "offload_optimizer does nothing in stage 0"
    if "gather_16bit_weights_on_model_save" in zero:
        yield (
            "zero_optimization.gather_16bit_weights_on_model_save is no option: it is called "
            "stage3_gather_16bit_weights_on_model_save, and without it no checkpoint holds the model"
        )
    elif stage == 3 and not zero.get("stage3_gather_16bit_weights_on_model_save"):
        yield "stage3_gather_16bit_weights_on_model_save is not set: no checkpoint would hold the model"


def read_sharding(settings: dict[str, Any] | None, num_gpus: int, hidden_size: int, args: GRPOConfig) -> Sharding:
    """Who holds what under these settings; None is data parallelism without DeepSpeed.

    Args:
        settings: Without conflicts.
        num_gpus: On all nodes together.
        hidden_size: Of the decoder, which transformers fills `auto` in by.
        args: The run's own.
    """
    if settings is None:
        return Sharding(num_gpus=num_gpus)
    zero = settings.get("zero_optimization") or {}
    bucket_size = zero.get("reduce_bucket_size", _DEFAULT_BUCKET_SIZE)
    return Sharding(
        stage=zero.get("stage", 0),
        num_gpus=num_gpus,
        is_deepspeed=True,
        offloads_optimizer=_is_offloaded(zero, "offload_optimizer"),
        offloads_weights=_is_offloaded(zero, "offload_param"),
        gathers_for_generation=args.ds3_gather_for_generation,
        bucket_size=hidden_size**2 if bucket_size == "auto" else int(bucket_size),
        max_live_weights=int(zero.get("stage3_max_live_parameters", _DEFAULT_MAX_LIVE)),
    )


def _is_offloaded(zero: dict[str, Any], part: str) -> bool:
    return (zero.get(part) or {}).get("device", "none") != "none"


def _look_up(settings: dict[str, Any], key: str) -> Any:
    value: Any = settings
    for name in key.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value

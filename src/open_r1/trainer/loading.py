"""Loads the policy and its reference, and decides what is trained.

`--model_name_or_path` is a model or a folder of adapters. With `--use_peft` training goes on with those adapters,
without it they are merged first; the reference of the KL term is in both cases the policy that training starts from.
"""

import copy
import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING

from trl import get_peft_config, get_quantization_config

from open_r1.configs import GRPOModelConfig
from open_r1.trainer.fsdp import is_fsdp
from open_r1.trainer.parts import (
    describe_trainable,
    find_adapter_targets,
    find_linears,
    find_modules,
    freeze_parts,
    freeze_unused,
    get_part,
    summarise_trainable,
)
from open_r1.trainer.sharding import is_zero3
from open_r1.utils.adapters import (
    ModelSource,
    attach_adapters,
    check_output_head,
    find_model_source,
    load_adapter_config,
    load_base_config,
    merge_adapters,
)
from open_r1.vlm_modules import select_vlm_module
from open_r1.vlm_modules.processors import ImageBounds
from open_r1.vlm_modules.processors import load_processor as load_bounded_processor
from open_r1.vlm_modules.vlm_module import VLMBaseModule


if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel
    from transformers import BitsAndBytesConfig, PretrainedConfig, PreTrainedModel, ProcessorMixin


logger = logging.getLogger(__name__)

# Options of new adapters, and what they are called in a folder of adapters.
_SHAPE_OPTIONS = {"lora_r": "r", "lora_alpha": "lora_alpha", "use_rslora": "use_rslora", "use_dora": "use_dora"}
_TARGET_OPTIONS = ("lora_modules", "lora_target_modules", "lora_target_parameters", "lora_modules_to_save")


def load_vlm_module(model_args: GRPOModelConfig) -> VLMBaseModule:
    return select_vlm_module(load_base_config(find_source(model_args)), model_args.vlm_module)


def load_processor(
    model_args: GRPOModelConfig, vlm_module: VLMBaseModule, bounds: Mapping[str, int | None] | None = None
) -> "ProcessorMixin":
    """The checkpoint's processor, with other bounds of images where given, by their names in `ImageBounds`."""
    return load_bounded_processor(vlm_module, find_source(model_args), ImageBounds(**(bounds or {})))


def load_policy(
    model_args: GRPOModelConfig, vlm_module: VLMBaseModule, *, keep_dropout: bool = False
) -> "PreTrainedModel | PeftModel":
    """The model to train: adapters added on request, parts frozen on request.

    Args:
        model_args: Which model, and which part of it is trained.
        vlm_module: Its family.
        keep_dropout: Otherwise all dropout is off, so that the loss is that of the policy that generated.

    Raises:
        ValueError: nothing is left to train, or an option would do nothing.
    """
    model_args = copy.copy(model_args)
    if not keep_dropout and model_args.lora_dropout > 0:
        _log_once("LoRA dropout is set to 0: the loss must be that of the policy that generated.", logging.WARNING)
        model_args.lora_dropout = 0.0
    model = _load_adapted(model_args, vlm_module) if model_args.use_peft else _load_plain(model_args, vlm_module)
    freeze_parts(model, vlm_module, model_args.frozen_parts)
    freeze_unused(model, vlm_module)
    if not keep_dropout:
        disable_dropout(model)
    counts = summarise_trainable(model, vlm_module)
    _check_trained_parts(model_args, counts)
    _log_once(describe_trainable(counts))
    return model


def load_reference(
    model_args: GRPOModelConfig, vlm_module: VLMBaseModule, beta: float
) -> "PreTrainedModel | PeftModel | None":
    """A frozen copy of the policy at its start, for the KL term.

    None where there is no such term, and where the policy without its adapters serves, because they are new.
    """
    source = find_source(model_args)
    if beta == 0 or (model_args.use_peft and source.adapters_path is None):
        return None
    if model_args.use_peft:
        model = attach_adapters(_load_base(model_args, vlm_module, source), source.adapters_path)
    else:
        model = _load_plain(model_args, vlm_module)
    return model.requires_grad_(False)


def disable_dropout(model: "torch.nn.Module") -> None:
    """Sets the probability of every dropout layer to 0."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0


def find_source(model_args: GRPOModelConfig) -> ModelSource:
    """Where the model lies that is trained."""
    return find_model_source(
        model_args.model_name_or_path, model_args.model_revision, trust_remote_code=model_args.trust_remote_code
    )


def _load_plain(model_args: GRPOModelConfig, vlm_module: VLMBaseModule) -> "PreTrainedModel":
    """The model as it is, adapters merged into it where the folder is one of adapters."""
    source = find_source(model_args)
    model = _load_base(model_args, vlm_module, source)
    if source.adapters_path is None:
        return model
    _log_once(f"The adapters in {source.adapters_path} are merged into {source.base_path}, all of which is trained.")
    if is_zero3():
        raise ValueError(
            f"{source.adapters_path} is a folder of adapters, which cannot be merged while weights are spread over "
            "devices (ZeRO-3): merge them first (python -m open_r1.merge), or go on with them (--use_peft)."
        )
    return merge_adapters(model, source.adapters_path)


def _load_base(model_args: GRPOModelConfig, vlm_module: VLMBaseModule, source: ModelSource) -> "PreTrainedModel":
    """The base in the dtype and with the attention that were asked for, quantised on request."""
    config = load_base_config(source)
    model_class, dtype = vlm_module.get_model_class(config), model_args.dtype
    options = {}
    if model_args.load_in_4bit or model_args.load_in_8bit:
        from accelerate import PartialState

        if is_zero3() or is_fsdp():
            raise ValueError("Quantised weights cannot be spread over devices (ZeRO-3, FSDP): take ZeRO-2.")
        dtype = _choose_compute_dtype(dtype, config)
        quantization_config = build_quantization_config(
            model_args, dtype, find_skipped(model_class, config, vlm_module)
        )
        # Quantised weights are made on the device that they stay on.
        options = {"quantization_config": quantization_config, "device_map": {"": PartialState().device}}
    attention = model_args.attn_implementation
    model = model_class.from_pretrained(
        source.base_path,
        config=config,
        revision=source.revision,
        dtype=dtype,
        attn_implementation=attention,
        **options,
    )
    if options:
        _keep_weights_differentiable(model)
    return model


def _keep_weights_differentiable(model: "PreTrainedModel") -> None:
    """Stops bitsandbytes from repacking 4-bit weights at the first pass without gradient.

    It does so on CPUs with AVX512-BF16, for good, and the repacked weights pass no gradient on.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _choose_compute_dtype(dtype: str | None, config: "PretrainedConfig") -> str:
    """The dtype that quantised weights are unpacked to; `auto` is the checkpoint's."""
    if dtype not in (None, "auto"):
        return dtype
    return str(config.dtype or config.get_text_config().dtype or "bfloat16").removeprefix("torch.")


def build_quantization_config(model_args: GRPOModelConfig, dtype: str, skipped: list[str]) -> "BitsAndBytesConfig":
    """Settings of bitsandbytes.

    Args:
        model_args: 4 or 8 bits, and of which kind.
        dtype: What 4-bit weights are unpacked to.
        skipped: Names of linear layers that stay as they are.
    """
    model_args = copy.copy(model_args)
    model_args.dtype = dtype
    quantization_config = get_quantization_config(model_args)
    quantization_config.llm_int8_skip_modules = skipped  # named for 8 bits, meant for both
    return quantization_config


def find_skipped(
    model_class: type["PreTrainedModel"], config: "PretrainedConfig", vlm_module: VLMBaseModule
) -> list[str]:
    """Linear layers that are never quantised: vision tower, projector and output head. They are a small share of the
    weights, and what they lose cannot be made up for by adapters of the language model."""
    import torch

    with torch.device("meta"):
        model = model_class(copy.deepcopy(config))
    kept = set(find_linears(model, vlm_module, ["language"]))
    linears = (name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear))
    return [name for name in linears if name not in kept]


def _load_adapted(model_args: GRPOModelConfig, vlm_module: VLMBaseModule) -> "PeftModel":
    """The base with new adapters, or with those of the folder."""
    from peft import get_peft_model

    source = find_source(model_args)
    if source.adapters_path is not None:
        adapter_config = load_adapter_config(source.adapters_path)
        _check_same_adapters(model_args, adapter_config)
        adapter_config.inference_mode = False
        adapter_config.lora_dropout = model_args.lora_dropout
        _log_once(f"Training goes on with the adapters in {source.adapters_path}, on {source.base_path}.")
        return attach_adapters(_load_base(model_args, vlm_module, source), source.adapters_path, adapter_config)
    model = _load_base(model_args, vlm_module, source)
    peft_config = get_peft_config(model_args)
    if model_args.adapts_layers:
        peft_config.target_modules = find_adapter_targets(
            model, vlm_module, model_args.lora_target_modules, model_args.adapted_parts, model_args.frozen_parts
        )
    _check_saved_modules(model, vlm_module, model_args)
    adapted = get_peft_model(model, peft_config, revision=None if source.revision == "main" else source.revision)
    check_output_head(adapted, peft_config)
    return adapted


def _check_same_adapters(model_args: GRPOModelConfig, adapter_config: "LoraConfig") -> None:
    """Refuses options that ask for other adapters than the folder holds."""
    remedy = "leave it out, or merge the adapters first (python -m open_r1.merge) and train new ones on the result."
    for option in _TARGET_OPTIONS:
        if getattr(model_args, option) is not None:
            raise ValueError(
                f"--{option}: --model_name_or_path is a folder of adapters, which stay as they are; {remedy}"
            )
    for option, attribute in _SHAPE_OPTIONS.items():
        asked, found = getattr(model_args, option), getattr(adapter_config, attribute)
        if asked not in (found, getattr(GRPOModelConfig, option)):
            raise ValueError(f"--{option} {asked}: the adapters to go on with have {found}; {remedy}")


def _check_saved_modules(model: "PreTrainedModel", vlm_module: VLMBaseModule, model_args: GRPOModelConfig) -> None:
    names = model_args.lora_modules_to_save or []
    for name in find_modules(model, names, "--lora_modules_to_save"):
        part = get_part(name, vlm_module)
        if part in model_args.frozen_parts:
            raise ValueError(f"--lora_modules_to_save: {name} is of the {part}, which is frozen.")


def _check_trained_parts(model_args: GRPOModelConfig, counts: dict[str, tuple[int, int]]) -> None:
    if not any(trainable for trainable, _ in counts.values()):
        raise ValueError("Nothing is left to train: what is not frozen has no adapters.")
    if model_args.use_peft and model_args.freeze_projector is False and counts["projector"][0] == 0:
        raise ValueError(
            "--freeze_projector false trains nothing beside --use_peft by itself: give the projector adapters "
            "(--lora_modules language projector) or train it whole (--lora_modules_to_save with its name)."
        )


def _log_once(message: str, level: int = logging.INFO) -> None:
    from accelerate import PartialState

    if PartialState().is_main_process:
        logger.log(level, message)

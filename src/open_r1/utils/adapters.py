"""Folders of adapters (PEFT's LoRA): which model they belong to, and how they get onto it or into it.

find_model_source   "output/run" -> base "Qwen/…", adapters "output/run"
attach_adapters     model -> model with adapters, every weight of the folder in its place
merge_adapters      model -> ordinary model, the adapters added to its weights
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import torch
    from peft import LoraConfig, PeftModel
    from transformers import PretrainedConfig, PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class ModelSource:
    """Where the weights of a model lie.

    Example: the output of a LoRA run is `ModelSource(base_path="Qwen/Qwen2.5-VL-7B-Instruct",
    adapters_path="output/run")`; an ordinary checkpoint is a base without adapters.
    """

    base_path: str
    revision: str = "main"  # of the base
    adapters_path: str | None = None
    trust_remote_code: bool = False  # whether code that comes with the base may run

    @property
    def processor_path(self) -> str:
        """The folder of adapters where it holds a processor, as those of our runs do; else the base."""
        names = ("processor_config.json", "preprocessor_config.json")
        has_own = self.adapters_path is not None and any((Path(self.adapters_path) / name).is_file() for name in names)
        return self.adapters_path if has_own else self.base_path


def find_model_source(
    path: str, revision: str = "main", base: str | None = None, trust_remote_code: bool = False
) -> ModelSource:
    """Tells a folder of adapters from a model.

    Args:
        path: A folder of adapters (it has an `adapter_config.json`), a checkpoint folder, or a model of the hub.
        revision: Of the model, where `path` is none of adapters; those name their base's revision themselves.
        base: The base model of the adapters, in place of the one that they name.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        ValueError: the adapters are no LoRA, or name no base.
    """
    if not (Path(path) / "adapter_config.json").is_file():
        return ModelSource(base_path=path, revision=revision, trust_remote_code=trust_remote_code)
    config = load_adapter_config(path)
    base_path = base or config.base_model_name_or_path
    if not base_path:
        raise ValueError(f"The adapters in {path} name no base model: {_describe_merge(path)}")
    own_revision = config.revision if base is None else None
    return ModelSource(
        base_path=str(base_path),
        revision=own_revision or "main",
        adapters_path=str(path),
        trust_remote_code=trust_remote_code,
    )


def load_adapter_config(path: str) -> "LoraConfig":
    """The settings of the adapters in a folder; ValueError where they are no LoRA."""
    from peft import LoraConfig, PeftConfig

    config = PeftConfig.from_pretrained(path)
    if not isinstance(config, LoraConfig):
        raise ValueError(
            f"The adapters in {path} are of type {config.peft_type}; only LoRA and its kin are supported."
        )
    return config


def load_base_config(source: ModelSource) -> "PretrainedConfig":
    """The configuration of the base model; ValueError where adapters name one that is not there, or where it takes
    code that may not run."""
    from open_r1.vlm_modules.remote_code import load_config

    try:
        return load_config(source.base_path, source.revision, source.trust_remote_code)
    except OSError as error:
        if source.adapters_path is None:
            raise
        raise ValueError(
            f"The adapters in {source.adapters_path} belong to {source.base_path}, which cannot be loaded: "
            f"{_describe_merge(source.adapters_path)}"
        ) from error


def _describe_merge(path: str) -> str:
    return f"say where it is with `python -m open_r1.merge --adapters {path} --base MODEL --output DIR`."


def attach_adapters(model: "PreTrainedModel", path: str, config: "LoraConfig | None" = None) -> "PeftModel":
    """Puts the adapters of a folder on their base model.

    Args:
        model: The base; it is changed.
        path: The folder.
        config: Settings to use in place of the folder's; `inference_mode` says whether the adapters stay frozen.

    Raises:
        ValueError: a weight of the folder has no place in the model, or the other way round. (peft itself would go on
            with what fits.)
    """
    from peft import get_peft_model, load_peft_weights, set_peft_model_state_dict

    config = load_adapter_config(path) if config is None else config
    config.base_model_name_or_path = model.name_or_path
    adapted = get_peft_model(model, config)
    check_output_head(adapted, config)
    weights = load_peft_weights(path, device="cpu", key_mapping=getattr(model, "_checkpoint_conversion_mapping", None))
    result = set_peft_model_state_dict(adapted, weights)
    missing = [name for name in result.missing_keys if re.search(r"\.(lora_\w+|modules_to_save)\.", name)]
    if missing or result.unexpected_keys:
        example = [*result.unexpected_keys, *missing][0]
        raise ValueError(
            f"The adapters in {path} do not fit {model.name_or_path}: {len(result.unexpected_keys)} of their weights "
            f"have no place in it and {len(missing)} are missing (as {example}). They were trained on another model, "
            "or with a version of transformers that names its layers otherwise."
        )
    return adapted


def check_output_head(model: "PeftModel", config: "LoraConfig") -> None:
    """Refuses adapters on an output head that shares its weight with the input embedding.

    Merged, they would change the embedding too; saved, they would be lost.

    Raises:
        ValueError: there are such adapters, and `config.ensure_weight_tying` does not provide for them.
    """
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    is_adapted = head is not _get_original(head) or embedding is not _get_original(embedding)
    is_tied = _get_original(head).weight is _get_original(embedding).weight
    if is_adapted and is_tied and not config.ensure_weight_tying:
        raise ValueError(
            "The model's output head shares its weight with the input embedding, so neither can have adapters or be "
            "saved apart: leave both out of --lora_target_modules and --lora_modules_to_save."
        )


def _get_original(layer: "torch.nn.Module") -> "torch.nn.Module":
    """The layer below its adapters, or below its trained copy."""
    layer = getattr(layer, "original_module", layer)
    return layer.get_base_layer() if hasattr(layer, "get_base_layer") else layer


def merge_adapters(model: "PreTrainedModel", path: str) -> "PreTrainedModel":
    """Adds the adapters of a folder to the weights of their base; the result is an ordinary model.

    The sum is taken in float32 and rounded once, to the precision that the layer had.

    Args:
        model: The base, not quantised; it is changed.
        path: The folder.
    """
    import torch

    adapted = attach_adapters(model, path)
    layers = [layer.get_base_layer() for layer in adapted.modules() if hasattr(layer, "get_delta_weight")]
    dtypes = [next(layer.parameters()).dtype for layer in layers]
    for layer in layers:
        layer.to(torch.float32)
    merged = adapted.merge_and_unload(safe_merge=True)
    for layer, dtype in zip(layers, dtypes, strict=True):
        layer.to(dtype)
    return merged.requires_grad_(True)

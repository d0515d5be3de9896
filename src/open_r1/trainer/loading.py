"""Loads the policy and its reference, and decides what is trained."""

from typing import TYPE_CHECKING

from trl import get_peft_config

from open_r1.configs import GRPOModelConfig
from open_r1.vlm_modules import select_vlm_module
from open_r1.vlm_modules.vlm_module import VLMBaseModule


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin


def load_vlm_module(model_args: GRPOModelConfig) -> VLMBaseModule:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model_args.model_name_or_path, revision=model_args.model_revision)
    return select_vlm_module(config)


def load_model(model_args: GRPOModelConfig, vlm_module: VLMBaseModule) -> "PreTrainedModel":
    """The checkpoint as it is, in the dtype and with the attention that were asked for."""
    from transformers import AutoConfig

    path, revision = model_args.model_name_or_path, model_args.model_revision
    model_class = vlm_module.get_model_class(AutoConfig.from_pretrained(path, revision=revision))
    return model_class.from_pretrained(
        path, revision=revision, dtype=model_args.dtype, attn_implementation=model_args.attn_implementation
    )


def load_processor(
    model_args: GRPOModelConfig, vlm_module: VLMBaseModule, min_pixels: int | None, max_pixels: int | None
) -> "ProcessorMixin":
    """The checkpoint's processor, with other pixel bounds where given."""
    path, revision = model_args.model_name_or_path, model_args.model_revision
    return vlm_module.load_processor(path, min_pixels, max_pixels, revision=revision)


def load_policy(model_args: GRPOModelConfig, vlm_module: VLMBaseModule) -> "PreTrainedModel":
    """The model to train: vision parameters frozen on request, adapters added on request."""
    model = load_model(model_args, vlm_module)
    if model_args.freeze_vision_modules:
        freeze_vision(model, vlm_module)
    peft_config = get_peft_config(model_args)
    if peft_config is None:
        return model
    from peft import get_peft_model

    if peft_config.target_modules is None and peft_config.target_parameters is None:
        peft_config.target_modules = find_language_linears(model, vlm_module)
    model = get_peft_model(model, peft_config)
    if model_args.freeze_vision_modules:
        freeze_vision(model, vlm_module)  # adapters of the tower, where the targets reach it
    return model


def load_reference(model_args: GRPOModelConfig, vlm_module: VLMBaseModule, beta: float) -> "PreTrainedModel | None":
    """A frozen copy for the KL term; None where there is no such term, or where the policy without adapters serves."""
    if beta == 0 or model_args.use_peft:
        return None
    return load_model(model_args, vlm_module).requires_grad_(False)


def freeze_vision(model: "torch.nn.Module", vlm_module: VLMBaseModule) -> None:
    """Freezes vision tower and projector.

    Raises:
        ValueError: no parameter belongs to them, so that nothing would be frozen.
    """
    frozen = [parameter for name, parameter in model.named_parameters() if vlm_module.is_vision_parameter(name)]
    if not frozen:
        raise ValueError(f"--freeze_vision_modules found no parameter of {vlm_module.get_vision_modules_keywords()}.")
    for parameter in frozen:
        parameter.requires_grad_(False)


def find_language_linears(model: "torch.nn.Module", vlm_module: VLMBaseModule) -> list[str]:
    """Names of every linear layer of the language model, the output head left out: LoRA's default targets."""
    import torch

    head = model.get_output_embeddings()
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module is not head and not vlm_module.is_vision_parameter(name)
    ]

"""Families of vision-language models, chosen by a checkpoint's `config.model_type` (a folder may have any name)."""

from typing import TYPE_CHECKING

from open_r1.vlm_modules.aria_module import AriaModule
from open_r1.vlm_modules.generic_module import GenericModule
from open_r1.vlm_modules.glm_module import GLMVModule
from open_r1.vlm_modules.idefics_module import IdeficsModule, SmolVLMModule
from open_r1.vlm_modules.internvl_chat_module import InternVLChatModule
from open_r1.vlm_modules.internvl_module import InternVLModule
from open_r1.vlm_modules.llava_module import LlavaOnevisionModule
from open_r1.vlm_modules.qwen_module import Qwen3VLModule, QwenVLModule
from open_r1.vlm_modules.vlm_module import EncodedMedia, EncodedPrompt, VLMBaseModule


if TYPE_CHECKING:
    from transformers import PretrainedConfig


# config.model_type -> module. Adding a family is one file and one line here per model type.
VLM_MODULES: dict[str, type[VLMBaseModule]] = {
    "qwen2_vl": QwenVLModule,
    "qwen2_5_vl": QwenVLModule,
    "qwen3_vl": Qwen3VLModule,
    "internvl": InternVLModule,
    "internvl_chat": InternVLChatModule,
    "glm4v": GLMVModule,
    "idefics3": IdeficsModule,
    "smolvlm": SmolVLMModule,
    "aria": AriaModule,
    "llava": GenericModule,
    "llava_next": GenericModule,
    "llava_onevision": LlavaOnevisionModule,
}


def select_vlm_module(config: "PretrainedConfig") -> VLMBaseModule:
    """The module for a loaded configuration.

    Raises:
        ValueError: no module knows this model type; the message lists the known ones.
    """
    return _get_module_class(config.model_type)()


def _get_module_class(model_type: str | None) -> type[VLMBaseModule]:
    if model_type not in VLM_MODULES:
        raise ValueError(
            f"Unsupported model type {model_type!r}: known are {', '.join(sorted(VLM_MODULES))}. "
            "A family is added by one file in open_r1/vlm_modules and one line in its registry."
        )
    return VLM_MODULES[model_type]


def get_vlm_module(model_name_or_path: str) -> type[VLMBaseModule]:
    """The module class for a checkpoint, by the `model_type` in its configuration; no code of a checkpoint runs."""
    from transformers import PretrainedConfig

    config, _ = PretrainedConfig.get_config_dict(model_name_or_path)
    return _get_module_class(config.get("model_type"))


__all__ = ["VLM_MODULES", "EncodedMedia", "EncodedPrompt", "VLMBaseModule", "get_vlm_module", "select_vlm_module"]

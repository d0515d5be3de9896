"""Families of vision-language models, chosen by a checkpoint's `config.model_type` (a folder may have any name)."""

from typing import TYPE_CHECKING

from open_r1.vlm_modules.aria_module import AriaModule
from open_r1.vlm_modules.generic_module import GenericModule
from open_r1.vlm_modules.glm_module import GLMVModule
from open_r1.vlm_modules.idefics_module import IdeficsModule, SmolVLMModule
from open_r1.vlm_modules.internvl_chat_module import InternVLChatModule
from open_r1.vlm_modules.internvl_module import InternVLModule
from open_r1.vlm_modules.llava_module import LlavaOnevisionModule
from open_r1.vlm_modules.omni_module import FULL_MODEL_TYPE, QwenOmniModule
from open_r1.vlm_modules.qwen_module import Qwen3VLModule, QwenVLModule
from open_r1.vlm_modules.unsupported import describe_unsupported
from open_r1.vlm_modules.user_file import load_module_class
from open_r1.vlm_modules.vlm_module import EncodedMedia, EncodedPrompt, VLMBaseModule


if TYPE_CHECKING:
    from transformers import PretrainedConfig


# config.model_type -> module. Adding a family is one file and one line here per model type.
VLM_MODULES: dict[str, type[VLMBaseModule]] = {
    "qwen2_vl": QwenVLModule,
    "qwen2_5_vl": QwenVLModule,
    "qwen3_vl": Qwen3VLModule,
    "qwen2_5_omni_thinker": QwenOmniModule,
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


def select_vlm_module(config: "PretrainedConfig", name: str | None = None) -> VLMBaseModule:
    """The module for a loaded configuration.

    Args:
        config: Of the checkpoint.
        name: `--vlm_module`, in place of the configuration's model type: a model type that is known, the name of a
            family, or `path/to/file.py:Class`.

    Raises:
        ValueError: no module knows this model type or name; the message lists the known ones.
    """
    return (_get_module_class(config.model_type) if name is None else _find_module_class(name))()


def _get_module_class(model_type: str | None) -> type[VLMBaseModule]:
    if model_type not in VLM_MODULES:
        raise ValueError(
            describe_unsupported(model_type)
            or f"Unsupported model type {model_type!r}: known are {', '.join(sorted(VLM_MODULES))}. "
            "--vlm_module generic tries a model that transformers knows as image-text-to-text; a family is added by "
            "one file and one line (docs/add-a-model.md)."
        )
    return VLM_MODULES[model_type]


def _find_module_class(name: str) -> type[VLMBaseModule]:
    if ":" in name:
        return load_module_class(name)
    by_name = dict(VLM_MODULES)
    for module_class in VLM_MODULES.values():
        by_name.setdefault(module_class().get_vlm_key(), module_class)
    if name not in by_name:
        raise ValueError(
            f"--vlm_module {name}: known are {', '.join(sorted(by_name))}, and path/to/file.py:Class "
            "(docs/add-a-model.md)."
        )
    return by_name[name]


def get_vlm_module(model_name_or_path: str) -> type[VLMBaseModule]:
    """The module class for a checkpoint, by the `model_type` in its configuration; no code of a checkpoint runs."""
    from transformers import PretrainedConfig

    config, _ = PretrainedConfig.get_config_dict(model_name_or_path)
    is_full = config.get("model_type") == FULL_MODEL_TYPE
    return QwenOmniModule if is_full else _get_module_class(config.get("model_type"))


__all__ = ["VLM_MODULES", "EncodedMedia", "EncodedPrompt", "VLMBaseModule", "get_vlm_module", "select_vlm_module"]

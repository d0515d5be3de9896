"""GLM-4.1V and GLM-4.6V-Flash (`glm4v`): patches of dynamic resolution and M-RoPE, as Qwen2-VL has them.

The older `glm-4v-9b` (`chatglm`) is another architecture, which transformers does not have.
"""

from typing import TYPE_CHECKING

from open_r1.vlm_modules.qwen_module import QwenVLModule


if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin


class GLMVModule(QwenVLModule):
    def get_vlm_key(self) -> str:
        return "glm"

    def get_model_class(self, config: "PretrainedConfig") -> type["PreTrainedModel"]:
        from transformers import Glm4vForConditionalGeneration

        return Glm4vForConditionalGeneration

    def get_projector_keywords(self) -> list[str]:
        return ["visual.merger", "visual.downsample"]

    def get_media_token_ids(self, config: "PretrainedConfig", processor: "ProcessorMixin") -> list[int]:
        names = ("image", "video", "image_start", "image_end", "video_start", "video_end")
        return [getattr(config, f"{name}_token_id") for name in names]

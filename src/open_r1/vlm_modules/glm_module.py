"""GLM-4.1V and GLM-4.6V-Flash (`glm4v`): patches of dynamic resolution and M-RoPE, as Qwen2-VL has them.

A video is a row of images of two frames each, with their times in the text. Its placeholders are those of images, and
the model cannot tell features of both kinds apart; so all go to it as images.

The older `glm-4v-9b` (`chatglm`) is another architecture, which transformers does not have.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, ClassVar

import torch

from open_r1.vlm_modules.qwen_module import QwenVLModule
from open_r1.vlm_modules.vlm_module import EncodedMedia


if TYPE_CHECKING:
    import numpy as np
    from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin


class GLMVModule(QwenVLModule):
    feature_names: ClassVar[dict[str, str]] = {"image": "image", "video": "image"}
    vllm_media: ClassVar[frozenset[str]] = frozenset({"image", "video"})
    bounds_whole_video: ClassVar[bool] = True

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

    def encode_video(
        self,
        processor: "ProcessorMixin",
        frames: "np.ndarray",
        timestamps: Sequence[float],
        seconds_per_frame: float,
        max_pixels: int | None = None,
    ) -> EncodedMedia:
        item = super().encode_video(processor, frames, timestamps, seconds_per_frame, max_pixels)
        [[steps, height, width]] = item.inputs["video_grid_thw"].tolist()
        grids = torch.tensor([[1, height, width]] * steps)
        return replace(item, inputs={"pixel_values": item.inputs["pixel_values_videos"], "image_grid_thw": grids})

    def check_engine_config(self, config: "PretrainedConfig") -> None:
        if not getattr(config.get_text_config(), "attention_bias", False):
            raise ValueError(
                "vLLM would leave out the biases of this GLM-4V's attention, which transformers always has: its "
                'configuration lacks `attention_bias`. Write `"attention_bias": true` into `text_config` of its '
                "config.json, or leave out --use_vllm (score: --engine vllm)."
            )

    def build_engine_inputs(self, processor: "ProcessorMixin", item: EncodedMedia) -> dict[str, torch.Tensor]:
        if item.kind != "video":
            return item.inputs
        grids = item.inputs["image_grid_thw"]
        grid = torch.tensor([[len(grids), *grids[0, 1:].tolist()]])
        return {"pixel_values_videos": item.inputs["pixel_values"], "video_grid_thw": grid}

    def build_token_inputs(self, processor: "ProcessorMixin", input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        inputs = super().build_token_inputs(processor, input_ids)
        return {name: kinds.clamp(max=1) for name, kinds in inputs.items()}  # videos are images to the model

"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: patches of dynamic resolution, multimodal rotary positions (M-RoPE).

Qwen3-VL adds features of deeper levels of the vision tower to the first layers of the language model (DeepStack); they
travel with an image's features.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from open_r1.vlm_modules.vlm_module import (
    EncodedImage,
    EncodedPrompt,
    ImageFeatures,
    VLMBaseModule,
    get_bare_model,
    join_image_inputs,
)


if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin
    from transformers.modeling_outputs import BaseModelOutputWithPooling


class QwenVLModule(VLMBaseModule):
    def get_vlm_key(self) -> str:
        return "qwen"

    def get_model_class(self, config: "PretrainedConfig") -> type["PreTrainedModel"]:
        from transformers import (
            Qwen2_5_VLForConditionalGeneration,
            Qwen2VLForConditionalGeneration,
            Qwen3VLForConditionalGeneration,
        )

        classes = {
            "qwen2_vl": Qwen2VLForConditionalGeneration,
            "qwen2_5_vl": Qwen2_5_VLForConditionalGeneration,
            "qwen3_vl": Qwen3VLForConditionalGeneration,
        }
        return classes[config.model_type]

    def load_processor(
        self,
        model_name_or_path: str,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        revision: str = "main",
    ) -> "ProcessorMixin":
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(model_name_or_path, revision=revision)
        size = dict(processor.image_processor.size)
        size["shortest_edge"] = min_pixels if min_pixels is not None else size["shortest_edge"]
        size["longest_edge"] = max_pixels if max_pixels is not None else size["longest_edge"]
        if size["shortest_edge"] > size["longest_edge"]:
            raise ValueError(
                f"min_pixels ({size['shortest_edge']}) exceeds max_pixels ({size['longest_edge']}): "
                "give both --min_pixels and --max_pixels so that the first is not the larger."
            )
        # Named "edge" by transformers, but both are pixel counts (height times width) for this family.
        processor.image_processor.size = size
        return processor

    def get_vision_modules_keywords(self) -> list[str]:
        return ["visual"]

    def get_projector_keywords(self) -> list[str]:
        return ["visual.merger", "visual.deepstack_merger_list"]  # the second is Qwen3-VL's

    def get_media_token_ids(self, config: "PretrainedConfig", processor: "ProcessorMixin") -> list[int]:
        names = ("image_token_id", "video_token_id", "vision_start_token_id", "vision_end_token_id")
        return [getattr(config, name) for name in names if getattr(config, name, None) is not None]

    def get_box_format(self, config: "PretrainedConfig") -> str:
        """Pixels of the resized picture for Qwen2.5-VL, else relative, 0 to 1000.

        Technical reports: Qwen2-VL arXiv 2409.12191, Qwen2.5-VL 2502.13923, Qwen3-VL 2511.21631; for GLM-V, which
        shares this, the grounding notes of its authors.
        """
        return "input_pixel" if config.model_type == "qwen2_5_vl" else "relative_1000"

    def get_input_size(self, processor: "ProcessorMixin", inputs: dict[str, torch.Tensor]) -> tuple[int, int]:
        _, rows, columns = inputs["image_grid_thw"][0].tolist()  # in patches
        patch_size = processor.image_processor.patch_size
        return columns * patch_size, rows * patch_size

    def build_token_inputs(self, processor: "ProcessorMixin", input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"mm_token_type_ids": torch.tensor(processor.create_mm_token_type_ids([input_ids.tolist()])[0])}

    def compute_image_features(self, model: "PreTrainedModel", images: Sequence[EncodedImage]) -> list[ImageFeatures]:
        inputs = {name: tensor.to(model.device) for name, tensor in join_image_inputs(images).items()}
        outputs = get_bare_model(model).get_image_features(**inputs, return_dict=True)
        return list(zip(outputs.pooler_output, *(getattr(outputs, "deepstack_features", None) or ())))

    def join_image_features(self, features: Sequence[ImageFeatures]) -> "BaseModelOutputWithPooling":
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        pooled, *levels = zip(*features)
        if not levels:
            return BaseModelOutputWithPooling(pooler_output=pooled)
        from transformers.models.qwen3_vl.modeling_qwen3_vl import BaseModelOutputWithDeepstackFeatures

        return BaseModelOutputWithDeepstackFeatures(pooler_output=pooled, deepstack_features=levels)

    def compute_position_ids(self, model: "PreTrainedModel", prompt: EncodedPrompt) -> torch.Tensor:
        names, media_inputs = ("image_grid_thw", "video_grid_thw", "second_per_grid_ts"), prompt.media_inputs
        position_ids, _ = get_bare_model(model).model.get_rope_index(
            prompt.input_ids[None],
            mm_token_type_ids=prompt.token_inputs["mm_token_type_ids"][None],
            **{name: media_inputs[name] for name in names if name in media_inputs},
        )
        return position_ids[:, 0]  # (3, P)

    def set_decode_offsets(self, model: "PreTrainedModel", offsets: torch.Tensor) -> None:
        get_bare_model(model).model.rope_deltas = offsets

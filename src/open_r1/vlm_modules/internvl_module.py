"""InternVL in the layout of transformers (`InternVL*-hf`): square tiles of a fixed size, one-dimensional positions.

A video is a row of images of one tile each, numbered in the text.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch

from open_r1.vlm_modules.vlm_module import (
    EncodedMedia,
    EncodedPrompt,
    MediaFeatures,
    VLMBaseModule,
    compute_image_key,
    compute_video_key,
    get_bare_model,
    join_media_inputs,
)


if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin
    from transformers.modeling_outputs import BaseModelOutputWithPooling


class InternVLModule(VLMBaseModule):
    feature_names: ClassVar[dict[str, str]] = {"image": "image", "video": "image"}
    vllm_media: ClassVar[frozenset[str]] = frozenset({"image", "video"})
    vllm_pixels: ClassVar[str] = "pixel_values"  # vLLM's name for tiles

    def get_vlm_key(self) -> str:
        return "internvl"

    def get_model_class(self, config: "PretrainedConfig") -> type["PreTrainedModel"]:
        from transformers import InternVLForConditionalGeneration

        return InternVLForConditionalGeneration

    def load_processor(
        self,
        model_name_or_path: str,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        revision: str = "main",
    ) -> "ProcessorMixin":
        from transformers import AutoProcessor

        self.refuse_pixel_bounds(min_pixels, max_pixels)
        return AutoProcessor.from_pretrained(model_name_or_path, revision=revision)

    def refuse_pixel_bounds(self, min_pixels: int | None, max_pixels: int | None) -> None:
        """ValueError where there are bounds: tiles have a fixed size."""
        if min_pixels is not None or max_pixels is not None:
            raise ValueError(
                f"min_pixels ({min_pixels}) and max_pixels ({max_pixels}) do not apply to InternVL, which cuts images "
                "into tiles of a fixed size: bound their number with --max_anyres_num (the image processor's "
                "`max_patches`), and leave out --min_pixels and --max_pixels."
            )

    def bound_tiles(self, processor: "ProcessorMixin", max_tiles: int) -> None:
        processor.image_processor.max_patches = max_tiles

    def get_vision_modules_keywords(self) -> list[str]:
        return ["vision_tower", "multi_modal_projector"]

    def get_projector_keywords(self) -> list[str]:
        return ["multi_modal_projector"]

    def get_media_token_ids(self, config: "PretrainedConfig", processor: "ProcessorMixin") -> list[int]:
        video_token_id = processor.tokenizer.convert_tokens_to_ids(processor.video_token)
        return sorted({config.image_token_id, *processor.image_token_ids, video_token_id})

    def encode_image(self, processor: "ProcessorMixin", image: "Image.Image") -> EncodedMedia:
        # What the processor does by itself, whatever `crop_to_patches` its image processor was saved with.
        inputs = processor.image_processor(images=[image], crop_to_patches=True, return_tensors="pt")
        pixel_values = inputs["pixel_values"]  # (tiles, 3, height, width)
        return EncodedMedia(
            key=compute_image_key(image),
            text=processor.replace_image_token({"num_patches": [len(pixel_values)]}, 0),
            inputs={"pixel_values": pixel_values},
            image_size=image.size,
        )

    def get_box_format(self, config: "PretrainedConfig") -> str:
        """Relative, 0 to 1000 (InternVL's documentation, "Chat Data Format", grounding and detection data)."""
        return "relative_1000"

    def encode_video(
        self,
        processor: "ProcessorMixin",
        frames: "np.ndarray",
        timestamps: Sequence[float],
        seconds_per_frame: float,
        max_pixels: int | None = None,
    ) -> EncodedMedia:
        self.refuse_frame_bound(max_pixels)
        videos = [torch.from_numpy(frames).permute(0, 3, 1, 2)]
        inputs = processor.video_processor(videos=videos, do_sample_frames=False, return_tensors="pt")
        text = processor.replace_video_token(inputs, 0)
        pixel_values = inputs["pixel_values_videos"][0]  # (frames, 3, height, width)
        key = compute_video_key(frames, timestamps)
        return EncodedMedia(key=key, kind="video", text=text, inputs={"pixel_values": pixel_values})

    def refuse_frame_bound(self, max_pixels: int | None) -> None:
        """ValueError where there is one: a frame has the fixed size of a tile."""
        if max_pixels is not None:
            raise ValueError(
                f"video_max_pixels ({max_pixels}) does not apply to InternVL, whose frames have the fixed size of a "
                "tile: leave out --video_max_pixels, and bound the number of frames by --video_max_frames."
            )

    def build_engine_inputs(self, processor: "ProcessorMixin", item: EncodedMedia) -> dict[str, torch.Tensor]:
        tiles, tokenizer = item.inputs["pixel_values"], processor.tokenizer
        return {
            self.vllm_pixels: tiles,
            "image_num_patches": torch.tensor([len(tiles)]),
            "image_token_id": torch.tensor([tokenizer.convert_tokens_to_ids(processor.image_token)]),
        }

    def compute_features(self, model: "PreTrainedModel", media: Sequence[EncodedMedia]) -> list[MediaFeatures]:
        pixel_values = join_media_inputs(media)["pixel_values"].to(model.device)  # (tiles, 3, height, width)
        outputs = get_bare_model(model).get_image_features(pixel_values, return_dict=True)
        tiles = [len(item.inputs["pixel_values"]) for item in media]
        return [(features,) for features in outputs.pooler_output.split(tiles)]  # (tiles, tokens, width) each

    def join_features(self, features: Sequence[MediaFeatures]) -> "BaseModelOutputWithPooling":
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        return BaseModelOutputWithPooling(pooler_output=torch.cat([pooled for (pooled,) in features]))

    def compute_position_ids(self, model: "PreTrainedModel", prompt: EncodedPrompt) -> torch.Tensor:
        return torch.arange(prompt.num_tokens, device=prompt.input_ids.device)

    def set_decode_offsets(self, model: "PreTrainedModel", offsets: torch.Tensor) -> None:
        """Nothing to tell: positions are token counts."""

"""LLaVA-OneVision: a picture that is its prompt's only one is cut into tiles, others are padded to one tile each.

A video is its frames, pooled to a quarter of their tokens each, and one token for the end.
"""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from open_r1.vlm_modules.generic_module import GenericModule
from open_r1.vlm_modules.vlm_module import (
    EncodedMedia,
    EncodedPrompt,
    MediaFeatures,
    compute_video_key,
    get_bare_model,
)


if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from transformers import PreTrainedModel, ProcessorMixin
    from transformers.modeling_outputs import BaseModelOutputWithPooling


class LlavaOnevisionModule(GenericModule):
    def get_vlm_key(self) -> str:
        return "llava_onevision"

    def encode_image(self, processor: "ProcessorMixin", image: "Image.Image") -> EncodedMedia:
        item = super().encode_image(processor, image)
        padded = processor.image_processor(images=[[image, image]], return_tensors="pt")  # as one of several
        tile = padded["pixel_values"].flatten(0, 1)[:1]
        whole = replace(
            item,
            key=f"{item.key} padded",
            text=processor.replace_image_token(padded, 0),
            inputs=item.inputs | {"pixel_values": tile},
        )
        return replace(item, beside_others=whole)

    def encode_prompt(
        self,
        processor: "ProcessorMixin",
        messages: list[dict[str, Any]],
        images: Sequence[EncodedMedia],
        videos: Sequence[EncodedMedia] = (),
    ) -> EncodedPrompt:
        if len(images) > 1:
            images = [item.beside_others for item in images]
        return super().encode_prompt(processor, messages, images, videos)

    def encode_video(
        self,
        processor: "ProcessorMixin",
        frames: "np.ndarray",
        timestamps: Sequence[float],
        seconds_per_frame: float,
        max_pixels: int | None = None,
    ) -> EncodedMedia:
        if max_pixels is not None:
            raise ValueError(
                f"video_max_pixels ({max_pixels}) does not apply to LLaVA-OneVision, whose frames have a fixed size: "
                "leave out --video_max_pixels, and bound the number of frames by --video_max_frames."
            )
        videos = [torch.from_numpy(frames).permute(0, 3, 1, 2)]
        inputs = dict(processor.video_processor(videos=videos, do_sample_frames=False, return_tensors="pt"))
        text = processor.replace_video_token(inputs, 0)
        return EncodedMedia(key=compute_video_key(frames, timestamps), kind="video", text=text, inputs=inputs)

    def join_inputs(self, media: Sequence[EncodedMedia]) -> dict[str, torch.Tensor]:
        """The model is told how many images each prompt has, and cuts those that are alone; so runs of padded images
        count as prompts.

        Raises:
            ValueError: the videos differ in their number of frames, which the model's tower takes one by one only.
        """
        lengths = sorted({len(item.inputs["pixel_values_videos"][0]) for item in media if item.kind == "video"})
        if len(lengths) > 1:
            raise ValueError(
                f"LLaVA-OneVision takes videos of one length at a time, not of {lengths} frames: leave its tower as "
                "it is (--freeze_vision_modules), or take as many frames of each by --video_min_frames and "
                "--video_max_frames."
            )
        runs = itertools.groupby(_is_cut(item) for item in media if item.kind == "image")
        counts = []
        for is_cut, size in ((is_cut, len(list(run))) for is_cut, run in runs):
            counts += [1] * size if is_cut else [size]
        inputs = super().join_inputs(media)
        return inputs | {"batch_num_images": torch.tensor(counts)} if counts else inputs

    def compute_features(self, model: "PreTrainedModel", media: Sequence[EncodedMedia]) -> list[MediaFeatures]:
        images = [item for item in media if item.kind == "image"]
        # Padded images in front, in one run. A single one would be taken for a prompt's only image: it goes in twice.
        padded, cut = [item for item in images if not _is_cut(item)], [item for item in images if _is_cut(item)]
        doubled = padded[:1] if len(padded) == 1 else []
        found = super().compute_features(model, [*doubled, *padded, *cut])[len(doubled) :] if images else []
        of_padded, of_cut = iter(found[: len(padded)]), iter(found[len(padded) :])
        return [
            self._compute_video(model, item) if item.kind == "video" else next(of_cut if _is_cut(item) else of_padded)
            for item in media
        ]

    def _compute_video(self, model: "PreTrainedModel", item: EncodedMedia) -> MediaFeatures:
        pixels = item.inputs["pixel_values_videos"].to(model.device, model.dtype)
        return (get_bare_model(model).get_video_features(pixels, return_dict=True).pooler_output,)

    def join_features(self, features: Sequence[MediaFeatures]) -> "BaseModelOutputWithPooling":
        if features[0][0].ndim == 2:  # of images
            return super().join_features(features)
        return super().join_features([(torch.cat([pooled for (pooled,) in features], dim=1),)])  # (1, tokens, width)


def _is_cut(item: EncodedMedia) -> bool:
    return len(item.inputs["pixel_values"]) > 1

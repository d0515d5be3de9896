"""Idefics3 and SmolVLM: square tiles in rows and columns, each named in the text, and the whole picture at the end.

SmolVLM takes videos, too: frames of one tile each, with their times in the text.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from open_r1.vlm_modules.generic_module import GenericModule
from open_r1.vlm_modules.vlm_module import EncodedMedia, compute_video_key


if TYPE_CHECKING:
    import numpy as np
    from transformers import ProcessorMixin


class IdeficsModule(GenericModule):
    feature_names: ClassVar[dict[str, str]] = {"image": "image", "video": "image"}
    vllm_media: ClassVar[frozenset[str]] = frozenset({"image"})
    nests_pixels: ClassVar[bool] = True

    def get_vlm_key(self) -> str:
        return "idefics"

    def get_vision_modules_keywords(self) -> list[str]:
        return ["vision_model", "connector"]

    def get_projector_keywords(self) -> list[str]:
        return ["connector"]

    def get_frame_tokens(self, processor: "ProcessorMixin") -> list[str]:
        places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
        return [processor.fake_image_token, _get_global_token(processor), *places]

    def get_image_options(self, processor: "ProcessorMixin") -> dict[str, Any]:
        return {"return_row_col_info": True}

    def bound_pixels(self, processor: "ProcessorMixin", min_pixels: int | None, max_pixels: int | None) -> None:
        """`max_pixels` bounds the square of the longer edge, by whole tiles; there is no lower bound."""
        tile = processor.image_processor.max_image_size["longest_edge"]
        if min_pixels is not None or max_pixels < tile**2:
            raise ValueError(
                f"min_pixels ({min_pixels}) does not apply to Idefics3 and SmolVLM, and max_pixels ({max_pixels}) "
                f"must be at least one tile, {tile**2}: a picture's longer edge is resized to a number of tiles."
            )
        processor.image_processor.size = {"longest_edge": int(max_pixels**0.5) // tile * tile}

    def build_engine_inputs(self, processor: "ProcessorMixin", item: EncodedMedia) -> dict[str, torch.Tensor]:
        return item.inputs | {"num_patches": torch.tensor([len(item.inputs["pixel_values"])])}


class SmolVLMModule(IdeficsModule):
    vllm_media: ClassVar[frozenset[str]] = frozenset({"image", "video"})

    def get_vlm_key(self) -> str:
        return "smolvlm"

    def prepare_prompt(self, processor: "ProcessorMixin", messages: list[dict[str, Any]]) -> str:
        # Without options of its own the processor adds some that transformers warns of, at each prompt.
        options = {"tokenize": False, "add_generation_prompt": True, "processor_kwargs": {"do_sample_frames": False}}
        return processor.apply_chat_template(messages, **options)

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
                f"video_max_pixels ({max_pixels}) does not apply to SmolVLM, whose frames have the fixed size of a "
                "tile: leave out --video_max_pixels, and bound the number of frames by --video_max_frames."
            )
        from transformers.video_utils import VideoMetadata

        videos = [torch.from_numpy(frames).permute(0, 3, 1, 2)]
        encoded = processor.video_processor(videos=videos, do_sample_frames=False, return_tensors="pt")
        # Times are numbers of frames over their rate; the length is that of all frames.
        times = VideoMetadata(
            total_num_frames=len(frames),
            fps=1.0,
            frames_indices=list(timestamps),
            duration=timestamps[-1] + seconds_per_frame,
        )
        text = processor.replace_video_token({**encoded, "video_metadata": [times]}, 0)
        names = ("pixel_values", "pixel_attention_mask")
        inputs = {name: encoded[name][0] for name in names}  # (frames, ...)
        return EncodedMedia(key=compute_video_key(frames, timestamps), kind="video", text=text, inputs=inputs)


def _get_global_token(processor: "ProcessorMixin") -> str:
    return getattr(processor, "global_image_tag", None) or processor.global_image_token

"""InternVL as its authors publish it (`InternVLChatModel`: InternVL 2.5 and 3, Vintern), with code of its own.

The same models are there in the layout of transformers, under names that end in `-hf` (`internvl_module.py`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from open_r1.vlm_modules.internvl_chat_model import load_model_class
from open_r1.vlm_modules.internvl_chat_processor import InternVLChatProcessor
from open_r1.vlm_modules.internvl_module import InternVLModule
from open_r1.vlm_modules.vlm_module import EncodedMedia, compute_image_key, compute_video_key


if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel


_ANSWER = "answer"


class InternVLChatModule(InternVLModule):
    vllm_media: ClassVar[frozenset[str]] = frozenset({"image", "video"})
    vllm_pixels: ClassVar[str] = "pixel_values_flat"

    def get_vlm_key(self) -> str:
        return "internvl_chat"

    def get_model_class(self, config: "PretrainedConfig") -> type["PreTrainedModel"]:
        return load_model_class(config)

    def load_processor(
        self,
        model_name_or_path: str,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        revision: str = "main",
        trust_remote_code: bool = False,
    ) -> InternVLChatProcessor:
        self.refuse_pixel_bounds(min_pixels, max_pixels)
        return InternVLChatProcessor.from_pretrained(model_name_or_path, revision, trust_remote_code)

    def bound_tiles(self, processor: InternVLChatProcessor, max_tiles: int) -> None:
        processor.max_tiles = max_tiles

    def get_vision_modules_keywords(self) -> list[str]:
        return ["vision_model", "mlp1"]

    def get_projector_keywords(self) -> list[str]:
        return ["mlp1"]

    def get_media_token_ids(self, config: "PretrainedConfig", processor: InternVLChatProcessor) -> list[int]:
        tokens = [processor.start_token, processor.image_token, processor.end_token]
        return sorted(processor.tokenizer.convert_tokens_to_ids(tokens))

    def get_eos_token_ids(self, generation_config: "GenerationConfig", processor: InternVLChatProcessor) -> list[int]:
        """Also the token that the chat format puts behind an answer: published generation configs lack it."""
        ids = set(super().get_eos_token_ids(generation_config, processor))
        written = processor.apply_chat_template([_build_turn("user", "?"), _build_turn("assistant", _ANSWER)])
        ending = written.rpartition(_ANSWER)[2].strip()
        return sorted(ids | {id for token, id in processor.tokenizer.get_added_vocab().items() if token == ending})

    def encode_image(self, processor: InternVLChatProcessor, image: "Image.Image") -> EncodedMedia:
        pixel_values = processor.encode_image(image)
        return EncodedMedia(
            key=compute_image_key(image),
            text=processor.write_image(len(pixel_values)),
            inputs=_build_inputs(pixel_values),
            image_size=image.size,
        )

    def encode_video(
        self,
        processor: InternVLChatProcessor,
        frames: "np.ndarray",
        timestamps: Sequence[float],
        seconds_per_frame: float,
        max_pixels: int | None = None,
    ) -> EncodedMedia:
        self.refuse_frame_bound(max_pixels)
        return EncodedMedia(
            key=compute_video_key(frames, timestamps),
            kind="video",
            text=processor.write_video(len(frames)),
            inputs=_build_inputs(processor.encode_frames(frames)),
        )

    def get_temporal_patch_size(self, processor: Any) -> int:
        return 1


def _build_turn(role: str, text: str) -> dict[str, str]:
    return {"role": role, "content": text}


def _build_inputs(pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"pixel_values": pixel_values, "image_flags": torch.ones(len(pixel_values), 1, dtype=torch.long)}

"""Qwen2-VL, Qwen2.5-VL and Qwen3-VL: patches of dynamic resolution, multimodal rotary positions (M-RoPE).

Qwen3-VL adds features of deeper levels of the vision tower to the first layers of the language model (DeepStack); they
travel with the features of an image or video.

Time in a video: Qwen2-VL counts pairs of frames, Qwen2.5-VL places them by the seconds between them, and Qwen3-VL
writes the time of each pair into the prompt.
"""

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import torch

from open_r1.vlm_modules.vlm_module import (
    EncodedMedia,
    EncodedPrompt,
    MediaFeatures,
    VLMBaseModule,
    compute_video_key,
    get_bare_model,
)


if TYPE_CHECKING:
    import numpy as np
    from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin
    from transformers.modeling_outputs import BaseModelOutputWithPooling
    from transformers.video_utils import VideoMetadata


DEFAULT_FRAME_PIXELS = 256 * 28 * 28  # 256 visual tokens for two frames of Qwen2.5-VL


class QwenVLModule(VLMBaseModule):
    vllm_media: ClassVar[frozenset[str]] = frozenset({"image", "video"})
    bounds_whole_video: ClassVar[bool] = False  # whether the video processor's bounds are for all frames together

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

    def encode_video(
        self,
        processor: "ProcessorMixin",
        frames: "np.ndarray",
        timestamps: Sequence[float],
        seconds_per_frame: float,
        max_pixels: int | None = None,
    ) -> EncodedMedia:
        inputs = dict(
            processor.video_processor(
                videos=[torch.from_numpy(frames).permute(0, 3, 1, 2)],
                video_metadata=[_describe_times(timestamps)],
                return_tensors="pt",
                **self.get_video_options(processor, len(frames), max_pixels),
            )
        )
        text = processor.replace_video_token(inputs | {"video_metadata": [_describe_times(timestamps)]}, 0)
        if "second_per_grid_ts" in processor.model_input_names:
            seconds = seconds_per_frame * self.get_temporal_patch_size(processor)
            # Positions are cut to whole numbers: in float64 as vLLM counts, where float32 makes 51 or 52 of 5 * 10.4.
            inputs["second_per_grid_ts"] = torch.tensor([seconds], dtype=torch.float64)
        return EncodedMedia(key=compute_video_key(frames, timestamps), kind="video", text=text, inputs=inputs)

    def get_video_options(
        self, processor: "ProcessorMixin", num_frames: int, max_pixels: int | None
    ) -> dict[str, bool | dict[str, int]]:
        """What the video processor is told at each call: no sampling of its own, and the bounds of the frames."""
        most = (max_pixels or DEFAULT_FRAME_PIXELS) * (num_frames if self.bounds_whole_video else 1)
        # Half of what one frame may have: some versions enlarge to a little more than the lower bound.
        least = min(processor.video_processor.size["shortest_edge"], (max_pixels or DEFAULT_FRAME_PIXELS) // 2)
        options = {"do_sample_frames": False, "size": {"shortest_edge": least, "longest_edge": most}}
        if hasattr(processor.video_processor, "cap_pixels_per_frame"):
            options["cap_pixels_per_frame"] = False  # a bound that grows with the length of the video
        return options

    def compute_features(self, model: "PreTrainedModel", media: Sequence[EncodedMedia]) -> list[MediaFeatures]:
        pixels, grids = zip(*map(_get_tower_inputs, media))
        # The same tower for both kinds: `get_video_features` differs in the names of its arguments only.
        outputs = get_bare_model(model).get_image_features(
            torch.cat(pixels).to(model.device), torch.cat(grids).to(model.device), return_dict=True
        )
        levels = [outputs.pooler_output, *(getattr(outputs, "deepstack_features", None) or ())]
        per_grid = zip(*levels)
        return [tuple(map(torch.cat, zip(*itertools.islice(per_grid, len(own))))) for own in grids]

    def join_features(self, features: Sequence[MediaFeatures]) -> "BaseModelOutputWithPooling":
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
        # (3, P)
        return _restart_after_media(position_ids[:, 0], prompt.token_inputs["mm_token_type_ids"])

    def set_decode_offsets(self, model: "PreTrainedModel", offsets: torch.Tensor) -> None:
        get_bare_model(model).model.rope_deltas = offsets


class Qwen3VLModule(QwenVLModule):
    vllm_media: ClassVar[frozenset[str]] = frozenset({"image", "video"})
    bounds_whole_video: ClassVar[bool] = True


def _get_tower_inputs(item: EncodedMedia) -> tuple[torch.Tensor, torch.Tensor]:
    """Patches, and the grids that they lie on."""
    is_video = "pixel_values_videos" in item.inputs
    names = ("pixel_values_videos", "video_grid_thw") if is_video else ("pixel_values", "image_grid_thw")
    return tuple(item.inputs[name] for name in names)


def _describe_times(timestamps: Sequence[float]) -> "VideoMetadata":
    """Times for a processor that divides the numbers of frames by their rate."""
    from transformers.video_utils import VideoMetadata

    return VideoMetadata(total_num_frames=len(timestamps), fps=1.0, frames_indices=list(timestamps))


def _restart_after_media(position_ids: torch.Tensor, token_types: torch.Tensor) -> torch.Tensor:
    """Lets each run of text, image or video begin at one more than the largest position before it, on any axis.

    So Qwen2-VL defines positions (arXiv 2409.12191, section 2.1), and so the checkpoints were trained. transformers
    goes on after height and width alone, which places the text behind a long video among its frames.

    Args:
        position_ids: (3, P), each run's own positions being right.
        token_types: (P,) 0 for text, else the kind of medium.
    """
    _, lengths = torch.unique_consecutive(token_types, return_counts=True)
    runs, first = [], 0
    for run in position_ids.split(lengths.tolist(), dim=1):
        runs.append(run - run.min() + first)
        first = int(runs[-1].max()) + 1
    return torch.cat(runs, dim=1)

"""From dataset rows to encoded prompts, in the data loader's workers: each image and video is encoded once a round."""

from dataclasses import dataclass, replace
from typing import Any

from open_r1.data.media import ImageSource, list_image_sources, load_image
from open_r1.data.video import VideoSettings, load_sound, load_video
from open_r1.trainer.batch import PromptGroup
from open_r1.vlm_modules.vlm_module import (
    EncodedMedia,
    EncodedPrompt,
    VLMBaseModule,
    compute_image_key,
    compute_video_key,
)


@dataclass(frozen=True)
class GroupCollator:
    """Encodes the prompts of a round; rows that show the same file, or files with the same picture, share the work.

    A row gets two more columns, which rewards of boxes need: `image_size`, width and height of each of its pictures,
    and `input_size`, the same after resizing.

    An empty list of rows (a micro-step that goes on with the round at hand) stays an empty list.

    Raises:
        ValueError: an image or video cannot be encoded, or a prompt is longer than `max_prompt_length`; the message
            names the row and the remedy.
    """

    vlm_module: VLMBaseModule
    processor: Any
    max_prompt_length: int | None = None
    video_settings: VideoSettings = VideoSettings()

    def __post_init__(self):
        if self.video_settings.audio and self.vlm_module.get_sampling_rate(self.processor) is None:
            raise ValueError(
                f"--video_audio true: models of the family {self.vlm_module.get_vlm_key()} take no sound. Leave it "
                "out, or take one that does, as Qwen/Qwen2.5-Omni-3B."
            )

    def __call__(self, rows: list[dict[str, Any]]) -> list[PromptGroup]:
        by_path: dict[tuple[str, str], EncodedMedia] = {}  # kind and path
        by_key: dict[str, EncodedMedia] = {}
        return [self._encode(row, by_path, by_key) for row in rows]

    def _encode(
        self, row: dict[str, Any], by_path: dict[tuple[str, str], EncodedMedia], by_key: dict[str, EncodedMedia]
    ) -> PromptGroup:
        video_path = row.get("video_path") or []
        try:
            for path, source in zip(row["image_path"], list_image_sources(row), strict=True):
                if ("image", path) not in by_path:
                    by_path["image", path] = self._encode_image(source, by_key)
            for path in video_path:
                if ("video", path) not in by_path:
                    by_path["video", path] = self._encode_video(path, by_key)
            images = [by_path["image", path] for path in row["image_path"]]
            videos = [by_path["video", path] for path in video_path]
            prompt = self.vlm_module.encode_prompt(self.processor, row["prompt"], images, videos)
        except ValueError as error:
            paths = [*row["image_path"], *video_path]
            raise ValueError(f"{row.get('source', 'row')}: {paths} cannot be encoded: {error}") from error
        if self.max_prompt_length is not None and prompt.num_tokens > self.max_prompt_length:
            raise ValueError(
                f"{row.get('source', 'row')}: the prompt has {prompt.num_tokens} tokens, more than max_prompt_length "
                f"({self.max_prompt_length}). Lower {_name_bounds(prompt)}, or raise --max_prompt_length."
            )
        sizes = {name: [getattr(image, name) for image in prompt.images] for name in ("image_size", "input_size")}
        return PromptGroup(prompt=replace(prompt, source=str(row.get("source", ""))), row=row | sizes)

    def _encode_image(self, source: ImageSource, by_key: dict[str, EncodedMedia]) -> EncodedMedia:
        image = load_image(source)
        key = compute_image_key(image)
        if key not in by_key:
            by_key[key] = self.vlm_module.encode_image(self.processor, image)
        return by_key[key]

    def _encode_video(self, path: str, by_key: dict[str, EncodedMedia]) -> EncodedMedia:
        settings = self.video_settings
        clip = load_video(path, settings, self.vlm_module.get_temporal_patch_size(self.processor))
        sound = None
        if settings.audio:
            sound = load_sound(path, self.vlm_module.get_sampling_rate(self.processor))
        key = compute_video_key(clip.frames, clip.timestamps, sound)
        if key not in by_key:
            by_key[key] = self.vlm_module.encode_video(
                *(self.processor, clip.frames, clip.timestamps, clip.seconds_per_frame, settings.max_pixels),
                **({} if sound is None else {"sound": sound}),
            )
        return by_key[key]


def _name_bounds(prompt: EncodedPrompt) -> str:
    """The options that bound the tokens of what a prompt shows."""
    options = {
        "image": "--max_pixels (InternVL: --max_anyres_num)",
        "video": "--video_max_frames or --video_max_pixels",
    }
    kinds = {item.kind for item in prompt.media}
    return " or ".join(option for kind, option in options.items() if kind in kinds) or "--max_pixels"

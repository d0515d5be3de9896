"""Qwen2.5-Omni: images, videos with or without their sound, and sounds; the thinker alone, which writes text.

A full checkpoint (`qwen2_5_omni`) holds a thinker, and a talker with its vocoder, which speak. The thinker is loaded
out of it, and what is saved is a checkpoint of a thinker (`qwen2_5_omni_thinker`), which loads again.

    video alone       <vision_bos> v v v v v v v v <vision_eos>
    with its sound    <vision_bos><audio_bos> v v v v a a | v v v v a a | ... <audio_eos><vision_eos>

Frames and sound take turns in chunks of two seconds, and share a clock of 25 positions per second (TMRoPE, arXiv
2503.20215). A video with its sound is one medium: `inputs` and features of both, frames first.

The audio tower counts as vision. It is never trained: devices whose batch has no sound would wait for its gradients.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from open_r1.vlm_modules.media_keys import compute_sound_key, compute_video_key
from open_r1.vlm_modules.qwen_module import QwenVLModule
from open_r1.vlm_modules.vlm_module import (
    EncodedMedia,
    EncodedPrompt,
    MediaFeatures,
    get_bare_model,
    join_media_inputs,
)


if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin


FULL_MODEL_TYPE = "qwen2_5_omni"  # of checkpoints that hold a talker, too
POSITIONS_PER_SECOND, SECONDS_PER_CHUNK = 25, 2  # of every checkpoint of the family
MIN_FRAMES = 4  # of a spectrogram, 10 ms each: what one token is made of


class QwenOmniModule(QwenVLModule):
    def get_vlm_key(self) -> str:
        return "qwen_omni"

    def get_model_class(self, config: "PretrainedConfig") -> type["PreTrainedModel"]:
        from open_r1.vlm_modules.omni_model import Qwen2_5OmniThinkerForConditionalGeneration

        return Qwen2_5OmniThinkerForConditionalGeneration

    def get_vision_modules_keywords(self) -> list[str]:
        return ["visual", "audio_tower"]

    def get_projector_keywords(self) -> list[str]:
        return ["visual.merger"]

    def is_unused_parameter(self, config: "PretrainedConfig", name: str) -> bool:
        """Those of the audio tower, which stays as it is: not every batch has a sound."""
        return "audio_tower" in name.split(".")

    def get_media_token_ids(self, config: "PretrainedConfig", processor: "ProcessorMixin") -> list[int]:
        names = ("image", "video", "audio", "vision_start", "vision_end", "audio_start", "audio_end")
        return [getattr(config, f"{name}_token_id") for name in names]

    def get_box_format(self, config: "PretrainedConfig") -> None:
        return None

    def get_sampling_rate(self, processor: "ProcessorMixin") -> int:
        return processor.feature_extractor.sampling_rate

    # ---- encoding ---------------------------------------------------------------------------------------------

    def build_token_inputs(self, processor: "ProcessorMixin", input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        return {}

    def encode_image(self, processor: "ProcessorMixin", image: "Image.Image") -> EncodedMedia:
        return super().encode_image(_WithPlaceholders(processor), image)

    def encode_video(
        self,
        processor: "ProcessorMixin",
        frames: "np.ndarray",
        timestamps: Sequence[float],
        seconds_per_frame: float,
        max_pixels: int | None = None,
        sound: "np.ndarray | None" = None,
    ) -> EncodedMedia:
        """As in other families; `sound` (samples,) is mono at `get_sampling_rate`, from the first frame on."""
        item = super().encode_video(_WithPlaceholders(processor), frames, timestamps, seconds_per_frame, max_pixels)
        seconds = torch.tensor([seconds_per_frame * self.get_temporal_patch_size(processor)])
        inputs = item.inputs | {"video_second_per_grid": seconds}
        if sound is None:
            return replace(item, inputs=inputs)
        inputs |= _encode_sound(processor, sound)
        return replace(
            item,
            key=compute_video_key(frames, timestamps, sound),
            text=_interleave(processor, inputs),
            inputs=inputs,
            has_sound=True,
        )

    def encode_sound(self, processor: "ProcessorMixin", samples: "np.ndarray") -> EncodedMedia:
        """A sound that is no video's: (samples,), mono, at `get_sampling_rate`."""
        inputs = _encode_sound(processor, samples)
        text = processor.audio_token * _count_sound_tokens(inputs)
        return EncodedMedia(key=compute_sound_key(samples), kind="audio", text=text, inputs=inputs, has_sound=True)

    # ---- what the model takes ---------------------------------------------------------------------------------

    def join_inputs(self, media: Sequence[EncodedMedia]) -> dict[str, torch.Tensor]:
        """Spectrograms are padded to the longest one: (N, mel bins, frames), and a mask (N, frames)."""
        inputs = join_media_inputs(media)
        if "sound_frames" not in inputs:
            return inputs
        lengths = inputs.pop("sound_length")
        sounds = inputs.pop("sound_frames").split(lengths.tolist())
        padded = torch.nn.utils.rnn.pad_sequence(sounds, batch_first=True).transpose(1, 2).contiguous()
        mask = torch.arange(padded.shape[-1]) < lengths[:, None]
        return inputs | {"input_features": padded, "feature_attention_mask": mask.long()}

    def compute_features(self, model: "PreTrainedModel", media: Sequence[EncodedMedia]) -> list[MediaFeatures]:
        """Of each image and video one tensor, of a video with its sound two, of a sound one."""
        shown, heard = [item for item in media if item.kind != "audio"], [item for item in media if item.has_sound]
        seen = iter(super().compute_features(model, shown) if shown else ())
        sounds = iter(self._compute_sounds(model, heard) if heard else ())
        found = []
        for item in media:
            levels = next(seen) if item.kind != "audio" else ()
            found.append((*levels, next(sounds)) if item.has_sound else levels)
        return found

    def _compute_sounds(self, model: "PreTrainedModel", media: Sequence[EncodedMedia]) -> Sequence[torch.Tensor]:
        inputs = self.join_inputs([replace(item, inputs=_keep_sound(item.inputs)) for item in media])
        given = (inputs[name].to(model.device) for name in ("input_features", "feature_attention_mask"))
        features = get_bare_model(model).get_audio_features(*given, return_dict=True).last_hidden_state
        return features.split([_count_sound_tokens(item.inputs) for item in media])

    def build_media_inputs(self, media: Sequence[EncodedMedia], device: torch.device) -> dict[str, Any]:
        has_features = bool(media) and all(item.features is not None for item in media)
        if not has_features:
            return super().build_media_inputs(media, device)
        seen = [replace(item, features=item.features[:1]) for item in media if item.kind != "audio"]
        inputs = super().build_media_inputs(seen, device) if seen else {}
        sounds = [item.features[-1].to(device) for item in media if item.has_sound]
        return inputs | ({"input_features": torch.cat(sounds)} if sounds else {})

    # ---- positions --------------------------------------------------------------------------------------------

    def compute_position_ids(self, model: "PreTrainedModel", prompt: EncodedPrompt) -> torch.Tensor:
        """The model's own, medium by medium: it takes videos with their sound or without, not both in one call."""
        bare, ids, runs, start, first = get_bare_model(model), prompt.input_ids, [], 0, 0
        for item, end in zip(prompt.media, _find_ends(bare.config, prompt), strict=True):
            runs.append(_place_medium(bare, ids[start:end], item) + first)
            start, first = end, int(runs[-1][0, -1]) + 1
        rest = torch.arange(len(ids) - start, device=ids.device) + first
        return torch.cat([*runs, rest.expand(3, -1)], dim=1)  # (3, P)

    def set_decode_offsets(self, model: "PreTrainedModel", offsets: torch.Tensor) -> None:
        get_bare_model(model).rope_deltas = offsets


class _WithPlaceholders:
    """The family's processor with what those of its relatives have: texts that stand for an image or a video."""

    def __init__(self, processor: "ProcessorMixin"):
        self._processor = processor

    def __getattr__(self, name: str) -> Any:
        return getattr(self._processor, name)

    def replace_image_token(self, inputs: dict[str, Any], index: int) -> str:
        return self.image_token * _count_seen_tokens(inputs, self.image_processor.merge_size)

    def replace_video_token(self, inputs: dict[str, Any], index: int) -> str:
        return self.video_token * _count_seen_tokens(inputs, self.video_processor.merge_size)


def _keep_sound(inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: inputs[name] for name in ("sound_frames", "sound_length")}


def _count_seen_tokens(inputs: dict[str, torch.Tensor], merge_size: int) -> int:
    """Tokens of one image or of the frames of one video."""
    grid = inputs["video_grid_thw"] if "video_grid_thw" in inputs else inputs["image_grid_thw"]
    return int(grid.prod()) // merge_size**2


def _count_sound_tokens(inputs: dict[str, torch.Tensor]) -> int:
    """One for four frames of the spectrogram: a convolution of stride 2, then a pooling by 2."""
    halved = (int(inputs["sound_length"]) - 1) // 2 + 1
    return (halved - 2) // 2 + 1


def _encode_sound(processor: "ProcessorMixin", samples: "np.ndarray") -> dict[str, torch.Tensor]:
    """The log-mel spectrogram, `sound_frames` (frames, mel bins), and its `sound_length`.

    The checkpoint's processor pads every sound to five minutes, and cuts it there. Padding by one window gives the
    same spectrogram.
    """
    import numpy as np

    extractor = processor.feature_extractor
    samples = samples[: extractor.n_samples].astype(np.float32)
    length = max(MIN_FRAMES, -(-len(samples) // extractor.hop_length))
    padded = np.zeros(length * extractor.hop_length + extractor.n_fft, dtype=np.float32)
    padded[: len(samples)] = samples
    rate = extractor.sampling_rate
    encoded = extractor(padded, sampling_rate=rate, padding="do_not_pad", truncation=False, return_tensors="pt")
    return {
        "sound_frames": encoded["input_features"][0].T[:length].contiguous(),
        "sound_length": torch.tensor([length]),
    }


def _interleave(processor: "ProcessorMixin", inputs: dict[str, torch.Tensor]) -> str:
    """Placeholders of a video with its sound, in turns, between the marks of a sound.

    Both are cut where their positions in time reach the next chunk, by the rule of the family's processor.
    """
    [[steps, height, width]] = inputs["video_grid_thw"].tolist()
    per_step = height * width // processor.video_processor.merge_size**2
    # Rounded as the model does when it finds the same chunks again.
    times = torch.arange(steps) * inputs["video_second_per_grid"].float() * POSITIONS_PER_SECOND
    times_of_tokens = times.long().repeat_interleave(per_step).numpy()
    size = POSITIONS_PER_SECOND * SECONDS_PER_CHUNK
    seen = processor.get_chunked_index(times_of_tokens, size)
    heard = processor.get_chunked_index(range(_count_sound_tokens(inputs)), size)
    text = processor.audio_bos_token
    for number in range(max(len(seen), len(heard))):
        for token, chunks in ((processor.video_token, seen), (processor.audio_token, heard)):
            first, end = chunks[number] if number < len(chunks) else (0, 0)
            text += token * (end - first)
    return text + processor.audio_eos_token


def _find_ends(config: "PretrainedConfig", prompt: EncodedPrompt) -> list[int]:
    """For each medium the place behind its end mark; a video with its sound has two."""
    placeholders = torch.tensor([config.image_token_id, config.video_token_id, config.audio_token_id])
    places = torch.isin(prompt.input_ids, placeholders.to(prompt.input_ids.device)).nonzero()[:, 0].tolist()
    ends, passed = [], 0
    for item in prompt.media:
        passed += (
            0 if item.kind == "audio" else _count_seen_tokens(item.inputs, config.vision_config.spatial_merge_size)
        )
        passed += _count_sound_tokens(item.inputs) if item.has_sound else 0
        ends.append(places[passed - 1] + 1 + (2 if item.kind == "video" and item.has_sound else 1))
    return ends


def _place_medium(model: "PreTrainedModel", input_ids: torch.Tensor, item: EncodedMedia) -> torch.Tensor:
    """Positions (3, L) of a text that ends in a medium, from 0."""
    names = {"image_grid_thw": "image_grid_thw", "video_grid_thw": "video_grid_thw"}
    names |= {"video_second_per_grid": "second_per_grids", "sound_length": "audio_seqlens"}
    position_ids, _ = model.get_rope_index(
        input_ids[None],
        attention_mask=torch.ones_like(input_ids)[None],
        use_audio_in_video=item.kind == "video" and item.has_sound,
        **{name: item.inputs[own] for own, name in names.items() if own in item.inputs},
    )
    return position_ids[:, 0]

"""Runs a frozen vision tower once per image or video and round; its features then serve every pass over the round.

Prefill, old policy, reference and each iteration of the loss take the same features. What several groups show is
recognised by its key (`vlm_module.compute_image_key`, `compute_video_key`). A tower that is trained runs inside the
model's forward instead, once per group and pass (`packing.py`).

There all devices must run the tower equally often, since they exchange its weights (ZeRO-3) and its gradients; some
models run it once for images and once more for videos. A batch that lacks a kind which the data has gets a group that
shows it, and that counts for nothing.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from open_r1.data.columns import read_column
from open_r1.inference.batching import list_media
from open_r1.inference.hf_generator import eval_mode
from open_r1.trainer.batch import RolloutBatch
from open_r1.trainer.sharding import get_own_slice
from open_r1.vlm_modules.vlm_module import EncodedMedia, EncodedPrompt, MediaFeatures, VLMBaseModule


if TYPE_CHECKING:
    from transformers import PreTrainedModel


def is_vision_frozen(model: torch.nn.Module, vlm_module: VLMBaseModule) -> bool:
    """Whether no parameter of tower and projector is trained."""
    parameters = model.named_parameters()
    return not any(parameter.requires_grad for name, parameter in parameters if vlm_module.is_vision_parameter(name))


def has_same_vision(model: torch.nn.Module, other: torch.nn.Module, vlm_module: VLMBaseModule) -> bool:
    """Whether tower and projector of two models hold the same weights, so that features of one serve the other.

    Where weights are spread over devices each compares its own slices.
    """

    def collect(owner: torch.nn.Module) -> list[torch.Tensor]:
        return [
            get_own_slice(value) for name, value in owner.named_parameters() if vlm_module.is_vision_parameter(name)
        ]

    pairs = list(zip(collect(model), collect(other), strict=True))
    return all(mine.dtype == theirs.dtype and torch.equal(mine, theirs) for mine, theirs in pairs)


@torch.no_grad()
def attach_media_features(
    model: "PreTrainedModel",
    vlm_module: VLMBaseModule,
    prompts: list[EncodedPrompt],
    *,
    images_per_pass: int,
    offload: bool = False,
) -> list[EncodedPrompt]:
    """The prompts with features on their images and videos, each of which is encoded once.

    Args:
        model: The bare model.
        vlm_module: Its family.
        prompts: Prompts of a round.
        images_per_pass: Images that the tower takes at a time; bounds its memory. A video goes by itself.
        offload: Keep the features in CPU memory; each pass then copies what it needs.
    """
    different = list({item.key: item for item in list_media(prompts)}.values())
    features: dict[str, MediaFeatures] = {}
    with eval_mode(model):
        for part in _split_into_passes(different, images_per_pass):
            for item, levels in zip(part, vlm_module.compute_features(model, part), strict=True):
                features[item.key] = tuple(level.cpu() if offload else level for level in levels)

    def attach(item: EncodedMedia) -> EncodedMedia:
        return replace(item, features=features[item.key])

    return [replace(prompt, media=tuple(attach(item) for item in prompt.media)) for prompt in prompts]


def _split_into_passes(media: Sequence[EncodedMedia], images_per_pass: int) -> Iterator[list[EncodedMedia]]:
    images = [item for item in media if item.kind == "image"]
    yield from (images[start : start + images_per_pass] for start in range(0, len(images), images_per_pass))
    yield from ([item] for item in media if item.kind != "image")


def list_towers(media: Sequence[EncodedMedia]) -> set[str]:
    """Kinds of media whose towers run over these: "audio" also where a video comes with its sound."""
    return {item.kind for item in media} | {"audio" for item in media if item.has_sound}


def find_media_kinds(dataset: Any, has_sound: bool = False) -> tuple[str, ...]:
    """The kinds that the rows of a data set show, the same on every device; images where they show nothing.

    Args:
        dataset: Rows with paths.
        has_sound: Whether videos come with their sound, which makes another kind, "audio".
    """
    columns = {"image": "image_path", "video": "video_path"}
    names = dataset.column_names
    found = [kind for kind, name in columns.items() if name in names and any(read_column(dataset, name))]
    if has_sound and "video" in found:
        found.append("audio")
    return tuple(found) or ("image",)


def build_idle_prompt(vlm_module: VLMBaseModule, processor: Any, kinds: Sequence[str] = ("image",)) -> EncodedPrompt:
    """A short prompt with a small image, a small video or both, positions still to be set.

    A video stands for the kind "audio", too, and then has a sound.
    """
    from PIL import Image

    images, videos = [], []
    if "image" in kinds:
        images = [vlm_module.encode_image(processor, Image.new("RGB", (56, 56)))]
    if "video" in kinds or "audio" in kinds:
        rate = vlm_module.get_sampling_rate(processor) if "audio" in kinds else None
        sound = {} if rate is None else {"sound": np.zeros(rate // 10, dtype=np.float32)}
        num_frames = vlm_module.get_temporal_patch_size(processor)
        frames = np.zeros((num_frames, 56, 56, 3), dtype=np.uint8)
        videos = [vlm_module.encode_video(processor, frames, [0.0] * num_frames, seconds_per_frame=1.0, **sound)]
    shown = ["image"] * len(images) + ["video"] * len(videos)
    messages = [{"role": "user", "content": [{"type": kind} for kind in shown]}]
    return vlm_module.encode_prompt(processor, messages, images, videos)


def with_idle_group(batch: RolloutBatch, prompt: EncodedPrompt, pad_token_id: int) -> RolloutBatch:
    """The batch and one more group behind it, with completions of one token that weigh nothing."""
    size = batch.num_generations
    tensors = {
        name: torch.cat([tensor, torch.zeros_like(tensor[:1]).expand(size, *tensor.shape[1:])])
        for name, tensor in batch.tensors.items()
    }
    tensors["completion_ids"][-size:] = pad_token_id
    tensors["completion_mask"][-size:, 0] = True
    return replace(batch, prompts=[*batch.prompts, prompt], **tensors)


def drop_media_features(prompt: EncodedPrompt) -> EncodedPrompt:
    """The prompt for a model with another vision tower."""
    return replace(prompt, media=tuple(replace(item, features=None) for item in prompt.media))

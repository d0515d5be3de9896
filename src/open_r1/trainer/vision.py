"""Runs a frozen vision tower once per picture and round; its features then serve every pass over the round.

Prefill, old policy, reference and each iteration of the loss take the same features. Pictures that several groups show
are recognised by their key (`vlm_module.compute_image_key`). A tower that is trained runs inside the model's forward
instead, once per group and pass (`packing.py`).

There all devices must run the tower or none, since they exchange its weights (ZeRO-3) and its gradients. A batch that
shows no picture gets a group that does, and that counts for nothing.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from open_r1.inference.batching import list_images
from open_r1.inference.hf_generator import eval_mode
from open_r1.trainer.batch import RolloutBatch
from open_r1.trainer.distributed import get_own_slice
from open_r1.vlm_modules.vlm_module import EncodedImage, EncodedPrompt, ImageFeatures, VLMBaseModule


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
def attach_image_features(
    model: "PreTrainedModel",
    vlm_module: VLMBaseModule,
    prompts: list[EncodedPrompt],
    *,
    images_per_pass: int,
    offload: bool = False,
) -> list[EncodedPrompt]:
    """The prompts with features on their images, each picture encoded once.

    Args:
        model: The bare model.
        vlm_module: Its family.
        prompts: Prompts of a round.
        images_per_pass: Pictures that the tower takes at a time; bounds its memory.
        offload: Keep the features in CPU memory; each pass then copies what it needs.
    """
    images = list({image.key: image for image in list_images(prompts)}.values())
    features: dict[str, ImageFeatures] = {}
    with eval_mode(model):
        for start in range(0, len(images), images_per_pass):
            part = images[start : start + images_per_pass]
            for image, levels in zip(part, vlm_module.compute_image_features(model, part), strict=True):
                features[image.key] = tuple(level.cpu() if offload else level for level in levels)

    def attach(image: EncodedImage) -> EncodedImage:
        return replace(image, features=features[image.key])

    return [replace(prompt, images=tuple(attach(image) for image in prompt.images)) for prompt in prompts]


def build_idle_prompt(vlm_module: VLMBaseModule, processor: Any) -> EncodedPrompt:
    """A short prompt with one small picture, positions still to be set."""
    from PIL import Image

    image = vlm_module.encode_image(processor, Image.new("RGB", (56, 56)))
    messages = [{"role": "user", "content": [{"type": "image"}]}]
    return vlm_module.encode_prompt(processor, messages, [image])


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


def drop_image_features(prompt: EncodedPrompt) -> EncodedPrompt:
    """The prompt for a model with another vision tower."""
    return replace(prompt, images=tuple(replace(image, features=None) for image in prompt.images))

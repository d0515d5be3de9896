"""What a family of vision-language models must answer so that the rest of the repo need not know it.

A `VLMBaseModule` knows how messages and images become tensors, where positions come from, which token ids end a
completion or may never be sampled, and which parameters belong to the vision tower. Everything else (padding, cutting
batches, repeating a prompt for its G completions) is generic, because a prompt is encoded on its own, once, into an
`EncodedPrompt`.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch


if TYPE_CHECKING:
    from PIL import Image
    from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin
    from transformers.modeling_outputs import BaseModelOutputWithPooling


# What the vision tower made of one image: its tokens' features, then those of deeper levels where a family has them.
ImageFeatures = tuple[torch.Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """One image as the vision tower takes it.

    Example: a 112-pixel image of Qwen2.5-VL has `inputs = {"pixel_values": (64, 1176), "image_grid_thw": (1, 3)}`.
    """

    key: str  # equal for equal pictures, whatever file they come from
    inputs: dict[str, torch.Tensor]  # name -> (m, ...), concatenated over the images of a batch
    image_size: tuple[int, int] | None = None  # width and height of the picture itself
    input_size: tuple[int, int] | None = None  # the same after resizing; None where the family cuts tiles
    features: ImageFeatures | None = None  # where the tower has run already; they then stand in for `inputs`


@dataclass(frozen=True, kw_only=True)
class EncodedPrompt:
    """One prompt with its images as tensors, unpadded, without a batch dimension.

    Example: a question of 40 tokens about one 112-pixel image of Qwen2.5-VL has `input_ids (56,)`,
    `token_inputs = {"mm_token_type_ids": (56,)}` and one image.
    """

    input_ids: torch.Tensor  # (P,) token ids, image placeholders expanded
    token_inputs: dict[str, torch.Tensor] = field(default_factory=dict)  # name -> (P,), one value per token
    images: tuple[EncodedImage, ...] = ()  # in order of appearance
    position_ids: torch.Tensor | None = None  # (P,), or (3, P) for M-RoPE; set by `with_positions`
    source: str = ""  # the row that it comes from, for messages

    @property
    def num_tokens(self) -> int:
        return self.input_ids.shape[0]

    @property
    def media_inputs(self) -> dict[str, torch.Tensor]:
        """The inputs of the prompt's images, concatenated."""
        return join_image_inputs(self.images)

    def to(self, device: torch.device | str) -> "EncodedPrompt":
        """Moves what there is per token; images stay where they are until a pass needs them."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            token_inputs={name: tensor.to(device) for name, tensor in self.token_inputs.items()},
            position_ids=None if self.position_ids is None else self.position_ids.to(device),
        )


def join_image_inputs(images: Sequence[EncodedImage]) -> dict[str, torch.Tensor]:
    """Tower inputs of several images, concatenated by name."""
    names = sorted({name for image in images for name in image.inputs})
    return {name: torch.cat([image.inputs[name] for image in images if name in image.inputs]) for name in names}


def compute_image_key(image: "Image.Image") -> str:
    """A digest of the pixels: equal pictures have equal keys."""
    digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()


def get_bare_model(model: "PreTrainedModel") -> "PreTrainedModel":
    """The model of transformers, below a PEFT wrapper where there is one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class VLMBaseModule(ABC):
    """One family of models. Stateless: models and processors are passed in."""

    @abstractmethod
    def get_vlm_key(self) -> str:
        """Name of the family, as `--vlm_module` takes it."""

    @abstractmethod
    def get_model_class(self, config: "PretrainedConfig") -> type["PreTrainedModel"]:
        """The transformers class that loads a checkpoint with this configuration."""

    @abstractmethod
    def load_processor(
        self,
        model_name_or_path: str,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        revision: str = "main",
    ) -> "ProcessorMixin":
        """Loads the processor; pixel bounds (height times width after resizing) override the checkpoint's own."""

    @abstractmethod
    def get_vision_modules_keywords(self) -> list[str]:
        """Dotted-name components that mark the parameters of the vision tower (projector included)."""

    @abstractmethod
    def get_projector_keywords(self) -> list[str]:
        """Runs of dotted-name components (`visual.merger`) that mark the projector among those parameters."""

    @abstractmethod
    def get_media_token_ids(self, config: "PretrainedConfig", processor: "ProcessorMixin") -> list[int]:
        """Ids that stand for media in a prompt. A completion must never contain one: the model would look for
        features that are not there."""

    @abstractmethod
    def compute_position_ids(self, model: "PreTrainedModel", prompt: EncodedPrompt) -> torch.Tensor:
        """Positions of the prompt's tokens: (P,), or (3, P) for M-RoPE. A completion goes on at their maximum + 1."""

    @abstractmethod
    def set_decode_offsets(self, model: "PreTrainedModel", offsets: torch.Tensor) -> None:
        """Tells the model how far positions lie from token counts when it goes on decoding after a prefilled prompt.

        Args:
            offsets: (B, 1), next position minus number of prompt tokens, per row.
        """

    def prepare_prompt(self, processor: "ProcessorMixin", messages: list[dict[str, Any]]) -> str:
        """The conversation as the text that the model sees, ready for a completion."""
        return processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)

    def encode_image(self, processor: "ProcessorMixin", image: "Image.Image") -> EncodedImage:
        """Resizes and normalises one image (on the CPU)."""
        inputs = dict(processor.image_processor(images=[image], return_tensors="pt"))
        return EncodedImage(
            key=compute_image_key(image),
            inputs=inputs,
            image_size=image.size,
            input_size=self.get_input_size(processor, inputs),
        )

    def get_box_format(self, config: "PretrainedConfig") -> str | None:
        """The coordinates in which the family was trained to write boxes: one of `open_r1.utils.boxes.BOX_FORMATS`;
        None where that is not known."""
        return None

    def get_input_size(self, processor: "ProcessorMixin", inputs: dict[str, torch.Tensor]) -> tuple[int, int] | None:
        """Width and height of one image after resizing, by what it was encoded to; None where it is cut into tiles."""
        return None

    def encode_prompt(
        self, processor: "ProcessorMixin", messages: list[dict[str, Any]], images: Sequence[EncodedImage]
    ) -> EncodedPrompt:
        """Turns one conversation into tensors, around images that are encoded already.

        Args:
            processor: The family's processor.
            messages: The conversation.
            images: Its images, in order of appearance.

        Raises:
            ValueError: the conversation speaks of another number of images.
        """
        text = self.prepare_prompt(processor, messages)
        num_placeholders = text.count(processor.image_token)
        if num_placeholders != len(images):
            raise ValueError(f"The conversation has places for {num_placeholders} images, not for {len(images)}.")
        expanded = [self.build_image_text(processor, image) for image in images]
        [text], _ = processor.get_text_with_replacements([text], images_replacements=expanded)
        input_ids = processor.tokenizer(text, return_tensors="pt")["input_ids"][0]
        return EncodedPrompt(
            input_ids=input_ids, token_inputs=self.build_token_inputs(processor, input_ids), images=tuple(images)
        )

    def build_image_text(self, processor: "ProcessorMixin", image: EncodedImage) -> str:
        """What stands for an image in the text: as many placeholders as it has features, and what goes around them."""
        return processor.replace_image_token(image.inputs, 0)

    def build_token_inputs(self, processor: "ProcessorMixin", input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the family takes per token beside `input_ids` (P,): nothing, where it is not overridden."""
        return {}

    @abstractmethod
    def compute_image_features(self, model: "PreTrainedModel", images: Sequence[EncodedImage]) -> list[ImageFeatures]:
        """Runs vision tower and projector over images, one forward pass for all; on the model's device."""

    @abstractmethod
    def join_image_features(self, features: Sequence[ImageFeatures]) -> "BaseModelOutputWithPooling":
        """Features of several images as the model takes them back (`mm_encoder_outputs`)."""

    def build_media_inputs(self, images: Sequence[EncodedImage], device: torch.device) -> dict[str, Any]:
        """Model inputs for the images of a batch, in order of appearance: features where all have them, else pixels.

        A new object at each call: transformers changes `mm_encoder_outputs` in place.
        """
        if images and all(image.features is not None for image in images):
            features = [tuple(level.to(device) for level in image.features) for image in images]
            return {"mm_encoder_outputs": {"image": self.join_image_features(features)}}
        return {name: tensor.to(device) for name, tensor in join_image_inputs(images).items()}

    def with_positions(self, model: "PreTrainedModel", prompt: EncodedPrompt) -> EncodedPrompt:
        return replace(prompt, position_ids=self.compute_position_ids(model, prompt))

    def get_eos_token_ids(self, model: "PreTrainedModel", processor: "ProcessorMixin") -> list[int]:
        """Every id that ends a completion: those of the model's generation config and the tokenizer's."""
        configured = model.generation_config.eos_token_id
        ids = set(configured if isinstance(configured, list) else [configured]) | {processor.tokenizer.eos_token_id}
        return sorted(token_id for token_id in ids if token_id is not None)

    def is_projector_parameter(self, name: str) -> bool:
        return any(f".{keyword}." in f".{name}." for keyword in self.get_projector_keywords())

    def is_vision_parameter(self, name: str) -> bool:
        return any(keyword in name.split(".") for keyword in self.get_vision_modules_keywords())

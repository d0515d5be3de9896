"""What a family of vision-language models must answer so that the rest of the repo need not know it.

A `VLMBaseModule` knows how messages, images and videos become tensors, where positions come from, which token ids end
a completion or may never be sampled, and which parameters belong to the vision tower. Everything else (padding,
cutting batches, repeating a prompt for its G completions) is generic, because a prompt is encoded on its own, once,
into an `EncodedPrompt`.
"""

import re
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from open_r1.vlm_modules.encoded import EncodedMedia as EncodedMedia
from open_r1.vlm_modules.encoded import EncodedPrompt as EncodedPrompt
from open_r1.vlm_modules.encoded import MediaFeatures as MediaFeatures
from open_r1.vlm_modules.encoded import join_media_inputs as join_media_inputs
from open_r1.vlm_modules.media_keys import compute_image_key as compute_image_key
from open_r1.vlm_modules.media_keys import compute_video_key as compute_video_key


if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel, ProcessorMixin
    from transformers.modeling_outputs import BaseModelOutputWithPooling


def get_bare_model(model: "PreTrainedModel") -> "PreTrainedModel":
    """The model of transformers, below a PEFT wrapper where there is one."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


class VLMBaseModule(ABC):
    """One family of models. Stateless: models and processors are passed in."""

    # By which name a model takes the features of each kind (`mm_encoder_outputs`).
    feature_names: ClassVar[dict[str, str]] = {"image": "image", "video": "video"}
    # What vLLM takes of it ("image", "video", "audio"); a subclass says so itself, or has nothing.
    vllm_media: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, **kwargs: Any):
        super().__init_subclass__(**kwargs)
        cls.vllm_media = vars(cls).get("vllm_media", frozenset())

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

    def bound_tiles(self, processor: "ProcessorMixin", max_tiles: int) -> None:
        """Sets the most tiles of an image, a thumbnail not counted; ValueError where the family has no such bound."""
        key = self.get_vlm_key()
        raise ValueError(f"--max_anyres_num {max_tiles} does nothing for the family {key}: leave it out.")

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

    def encode_image(self, processor: "ProcessorMixin", image: "Image.Image") -> EncodedMedia:
        """Resizes and normalises one image (on the CPU)."""
        inputs = dict(processor.image_processor(images=[image], return_tensors="pt"))
        return EncodedMedia(
            key=compute_image_key(image),
            text=processor.replace_image_token(inputs, 0),
            inputs=inputs,
            image_size=image.size,
            input_size=self.get_input_size(processor, inputs),
        )

    def encode_video(
        self,
        processor: "ProcessorMixin",
        frames: "np.ndarray",
        timestamps: Sequence[float],
        seconds_per_frame: float,
        max_pixels: int | None = None,
    ) -> EncodedMedia:
        """Resizes and normalises the frames of one video (on the CPU); all of them are taken.

        Args:
            processor: The family's processor.
            frames: (T, H, W, 3) uint8, T a multiple of `get_temporal_patch_size`.
            timestamps: T times in seconds from the beginning of the video.
            seconds_per_frame: Mean distance of two frames.
            max_pixels: Bound of height times width of a frame after resizing. None: the family's.

        Raises:
            ValueError: the family takes no videos, or no such bound.
        """
        raise ValueError(f"videos are not supported for the family {self.get_vlm_key()}: leave such rows out.")

    def get_temporal_patch_size(self, processor: "ProcessorMixin") -> int:
        """How many frames make one step in time of the tower."""
        return getattr(getattr(processor, "video_processor", None), "temporal_patch_size", 1)

    def get_sampling_rate(self, processor: "ProcessorMixin") -> int | None:
        """Samples per second of the sound that the family takes; None where it takes none."""
        return None

    def get_box_format(self, config: "PretrainedConfig") -> str | None:
        """The coordinates of boxes that the family was trained on, of `utils.boxes.BOX_FORMATS`; None if not known."""
        return None

    def get_input_size(self, processor: "ProcessorMixin", inputs: dict[str, torch.Tensor]) -> tuple[int, int] | None:
        """Width and height of one image after resizing, by what it was encoded to; None where it is cut into tiles."""
        return None

    def encode_prompt(
        self,
        processor: "ProcessorMixin",
        messages: list[dict[str, Any]],
        images: Sequence[EncodedMedia],
        videos: Sequence[EncodedMedia] = (),
        sounds: Sequence[EncodedMedia] = (),
    ) -> EncodedPrompt:
        """Turns one conversation into tensors, around images, videos and sounds that are encoded already.

        Args:
            processor: The family's processor.
            messages: The conversation; images, videos and sounds may come in any order.
            images: Its images, in order of appearance.
            videos: Its videos, in order of appearance.
            sounds: Its sounds, videos' own not among them, in order of appearance.

        Raises:
            ValueError: the conversation speaks of another number of images, videos or sounds.
        """
        media = {"image": images, "video": videos, "audio": sounds}
        tokens = {getattr(processor, f"{kind}_token", f"\0{kind}"): given for kind, given in media.items()}
        parts = re.split("(" + "|".join(map(re.escape, tokens)) + ")", self.prepare_prompt(processor, messages))
        places = parts[1::2]  # what stands between the texts
        for kind, (token, given) in zip(("images", "videos", "sounds"), tokens.items()):
            found = places.count(token)
            if found != len(given):
                raise ValueError(f"The conversation has places for {found} {kind}, not for {len(given)}.")
        following = {token: iter(given) for token, given in tokens.items()}
        media = tuple(next(following[token]) for token in places)
        parts[1::2] = [item.text for item in media]
        input_ids = self.tokenize(processor, "".join(parts))
        return EncodedPrompt(
            input_ids=input_ids, token_inputs=self.build_token_inputs(processor, input_ids), media=media
        )

    def tokenize(self, processor: "ProcessorMixin", text: str) -> torch.Tensor:
        """Ids (P,) of a rendered conversation; no second beginning of text where the template wrote one."""
        tokenizer = processor.tokenizer
        has_start = tokenizer.bos_token is not None and text.startswith(tokenizer.bos_token)
        return tokenizer(text, add_special_tokens=not has_start, return_tensors="pt")["input_ids"][0]

    def build_token_inputs(self, processor: "ProcessorMixin", input_ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the family takes per token beside `input_ids` (P,): nothing, where it is not overridden."""
        return {}

    @abstractmethod
    def compute_features(self, model: "PreTrainedModel", media: Sequence[EncodedMedia]) -> list[MediaFeatures]:
        """Runs vision tower and projector over images and videos, one forward pass for all; on the model's device."""

    @abstractmethod
    def join_features(self, features: Sequence[MediaFeatures]) -> "BaseModelOutputWithPooling":
        """Features of several images or videos as the model takes them back (`mm_encoder_outputs`)."""

    def join_inputs(self, media: Sequence[EncodedMedia]) -> dict[str, torch.Tensor]:
        """Tower inputs of several images and videos, as the model's forward pass takes them."""
        return join_media_inputs(media)

    def build_media_inputs(self, media: Sequence[EncodedMedia], device: torch.device) -> dict[str, Any]:
        """Model inputs for the media of a batch, in order of appearance: features where all have them, else pixels.

        A new object at each call: transformers changes `mm_encoder_outputs` in place.
        """
        if not media or any(item.features is None for item in media):
            return {name: tensor.to(device) for name, tensor in self.join_inputs(media).items()}
        by_name: dict[str, list[MediaFeatures]] = defaultdict(list)
        for item in media:
            by_name[self.feature_names[item.kind]].append(tuple(level.to(device) for level in item.features))
        return {"mm_encoder_outputs": {name: self.join_features(features) for name, features in by_name.items()}}

    def check_engine_config(self, config: "PretrainedConfig") -> None:  # noqa: B027 (most have nothing to check)
        """ValueError where vLLM would build another model from this configuration than transformers does."""

    def build_engine_inputs(self, processor: "ProcessorMixin", item: EncodedMedia) -> dict[str, torch.Tensor]:
        """Tower inputs of one image or video under vLLM's names; where vLLM wants one entry per medium, (1, ...)."""
        return item.inputs

    def with_positions(self, model: "PreTrainedModel", prompt: EncodedPrompt) -> EncodedPrompt:
        return replace(prompt, position_ids=self.compute_position_ids(model, prompt))

    def get_eos_token_ids(self, generation_config: "GenerationConfig", processor: "ProcessorMixin") -> list[int]:
        """Every id that ends a completion: those of the model's generation config and the tokenizer's."""
        configured = generation_config.eos_token_id
        ids = set(configured if isinstance(configured, list) else [configured]) | {processor.tokenizer.eos_token_id}
        return sorted(token_id for token_id in ids if token_id is not None)

    def is_projector_parameter(self, name: str) -> bool:
        return any(f".{keyword}." in f".{name}." for keyword in self.get_projector_keywords())

    def is_unused_parameter(self, config: "PretrainedConfig", name: str) -> bool:
        """Whether no forward pass reaches a parameter, as layers of the tower behind the one that features are of."""
        return False

    def is_vision_parameter(self, name: str) -> bool:
        return any(keyword in name.split(".") for keyword in self.get_vision_modules_keywords())

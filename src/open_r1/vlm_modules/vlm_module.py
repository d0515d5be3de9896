"""What a family of vision-language models must answer so that the rest of the repo need not know it.

A `VLMBaseModule` knows how messages and images become tensors, where positions come from, which token ids end a
completion or may never be sampled, and which parameters belong to the vision tower. Everything else (padding, cutting
batches, repeating a prompt for its G completions) is generic, because a prompt is encoded on its own, once, into an
`EncodedPrompt`.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch


if TYPE_CHECKING:
    from PIL import Image
    from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin


@dataclass(frozen=True, kw_only=True)
class EncodedPrompt:
    """One prompt with its images as tensors, unpadded, without a batch dimension.

    Example: a question of 40 tokens about one 112-pixel image of Qwen2.5-VL has `input_ids (56,)`,
    `token_inputs = {"mm_token_type_ids": (56,)}` and
    `media_inputs = {"pixel_values": (64, 1176), "image_grid_thw": (1, 3)}`.
    """

    input_ids: torch.Tensor  # (P,) token ids, image placeholders expanded
    token_inputs: dict[str, torch.Tensor] = field(default_factory=dict)  # name -> (P,), one value per token
    media_inputs: dict[str, torch.Tensor] = field(default_factory=dict)  # name -> (m, ...), concatenated over prompts
    position_ids: torch.Tensor | None = None  # (P,), or (3, P) for M-RoPE; set by `with_positions`

    @property
    def num_tokens(self) -> int:
        return self.input_ids.shape[0]

    def to(self, device: torch.device | str) -> "EncodedPrompt":
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            token_inputs={name: tensor.to(device) for name, tensor in self.token_inputs.items()},
            media_inputs={name: tensor.to(device) for name, tensor in self.media_inputs.items()},
            position_ids=None if self.position_ids is None else self.position_ids.to(device),
        )


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
    def get_media_token_ids(self, config: "PretrainedConfig") -> list[int]:
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

    def encode_prompt(
        self, processor: "ProcessorMixin", messages: list[dict[str, Any]], images: list["Image.Image"]
    ) -> EncodedPrompt:
        """Turns one conversation and its images, in order of appearance, into tensors (on the CPU)."""
        text = self.prepare_prompt(processor, messages)
        inputs = dict(processor(text=[text], images=images or None, return_tensors="pt"))
        input_ids = inputs.pop("input_ids")
        inputs.pop("attention_mask", None)
        per_token = {name: tensor for name, tensor in inputs.items() if tensor.shape == input_ids.shape}
        return EncodedPrompt(
            input_ids=input_ids[0],
            token_inputs={name: tensor[0] for name, tensor in per_token.items()},
            media_inputs={name: tensor for name, tensor in inputs.items() if name not in per_token},
        )

    def with_positions(self, model: "PreTrainedModel", prompt: EncodedPrompt) -> EncodedPrompt:
        return replace(prompt, position_ids=self.compute_position_ids(model, prompt))

    def get_eos_token_ids(self, model: "PreTrainedModel", processor: "ProcessorMixin") -> list[int]:
        """Every id that ends a completion: those of the model's generation config and the tokenizer's."""
        configured = model.generation_config.eos_token_id
        ids = set(configured if isinstance(configured, list) else [configured]) | {processor.tokenizer.eos_token_id}
        return sorted(token_id for token_id in ids if token_id is not None)

    def is_vision_parameter(self, name: str) -> bool:
        return any(keyword in name.split(".") for keyword in self.get_vision_modules_keywords())

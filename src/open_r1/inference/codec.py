"""What all generators share: conversations into prompts, token ids into texts."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from open_r1.vlm_modules.vlm_module import EncodedMedia, EncodedPrompt, VLMBaseModule


if TYPE_CHECKING:
    from PIL import Image
    from transformers import GenerationConfig, PretrainedConfig, ProcessorMixin


def find_special_tokens(
    vlm_module: VLMBaseModule,
    config: "PretrainedConfig",
    generation_config: "GenerationConfig",
    processor: "ProcessorMixin",
) -> tuple[list[int], list[int]]:
    """Tokens of a model that end a completion, and those that are never drawn: those that stand for images."""
    eos_token_ids = vlm_module.get_eos_token_ids(generation_config, processor)
    media_token_ids = vlm_module.get_media_token_ids(config, processor)
    return eos_token_ids, sorted(set(media_token_ids) - set(eos_token_ids))


class PromptCodec:
    """Encodes and decodes for one model.

    Args:
        processor: Its processor, with a tokenizer that has a padding token.
        vlm_module: The family it belongs to.
        eos_token_ids: Tokens that end a completion.
        suppressed_token_ids: Tokens that are never drawn: those that stand for images.
    """

    def __init__(
        self,
        processor: "ProcessorMixin",
        vlm_module: VLMBaseModule,
        eos_token_ids: list[int],
        suppressed_token_ids: list[int],
    ):
        self.processor = processor
        self.vlm_module = vlm_module
        self.eos_token_ids = eos_token_ids
        self.suppressed_token_ids = suppressed_token_ids
        self.pad_token_id = processor.tokenizer.pad_token_id

    def encode(
        self,
        messages: list[dict[str, Any]],
        images: list["Image.Image"],
        videos: Sequence[EncodedMedia] = (),
    ) -> EncodedPrompt:
        """Encodes one conversation with its images and its videos, which are encoded already, in their order."""
        encoded = [self.vlm_module.encode_image(self.processor, image) for image in images]
        return self.vlm_module.encode_prompt(self.processor, messages, encoded, videos)

    def decode(self, token_ids: list[list[int]]) -> list[str]:
        """Texts of completions, special tokens left out."""
        return self.processor.tokenizer.batch_decode(token_ids, skip_special_tokens=True)

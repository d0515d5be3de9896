"""What a prompt and its images, videos and sounds are once they are tensors; the same for every family."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch


# Features of one image or video: those of its tokens, then those of deeper levels where a family has them.
MediaFeatures = tuple[torch.Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class EncodedMedia:
    """One image or video as the vision tower takes it.

    Example: a 112-pixel image of Qwen2.5-VL has `inputs = {"pixel_values": (64, 1176), "image_grid_thw": (1, 3)}` and
    16 placeholders as its `text`.
    """

    key: str  # equal for equal pictures, whatever file they come from
    kind: str = "image"  # or "video", or "audio"; a video may come with its sound
    text: str  # what stands for it in the prompt: as many placeholders as it has features, and what goes around them
    inputs: dict[str, torch.Tensor]  # name -> (m, ...), concatenated over the images and videos of a batch
    image_size: tuple[int, int] | None = None  # width and height of the picture itself
    input_size: tuple[int, int] | None = None  # the same after resizing; None where the family cuts tiles
    beside_others: "EncodedMedia | None" = None  # the same image where its prompt has several, if that is otherwise
    has_sound: bool = False  # whether sound is part of it
    features: MediaFeatures | None = None  # where the tower has run already; they then stand in for `inputs`


@dataclass(frozen=True, kw_only=True)
class EncodedPrompt:
    """One prompt with its images and videos as tensors, unpadded, without a batch dimension.

    Example: a question of 40 tokens about one 112-pixel image of Qwen2.5-VL has `input_ids (56,)`,
    `token_inputs = {"mm_token_type_ids": (56,)}` and one medium.
    """

    input_ids: torch.Tensor  # (P,) token ids, placeholders expanded
    token_inputs: dict[str, torch.Tensor] = field(default_factory=dict)  # name -> (P,), one value per token
    media: tuple[EncodedMedia, ...] = ()  # images and videos, in order of appearance
    position_ids: torch.Tensor | None = None  # (P,), or (3, P) for M-RoPE; set by `with_positions`
    source: str = ""  # the row that it comes from, for messages

    @property
    def num_tokens(self) -> int:
        return self.input_ids.shape[0]

    @property
    def images(self) -> tuple[EncodedMedia, ...]:
        return tuple(item for item in self.media if item.kind == "image")

    @property
    def media_inputs(self) -> dict[str, torch.Tensor]:
        """The inputs of the prompt's images and videos, concatenated."""
        return join_media_inputs(self.media)

    def to(self, device: torch.device | str) -> "EncodedPrompt":
        """Moves what there is per token; images and videos stay where they are until a pass needs them."""
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            token_inputs={name: tensor.to(device) for name, tensor in self.token_inputs.items()},
            position_ids=None if self.position_ids is None else self.position_ids.to(device),
        )


def join_media_inputs(media: Sequence[EncodedMedia]) -> dict[str, torch.Tensor]:
    """Tower inputs of several images and videos, concatenated by name."""
    names = sorted({name for item in media for name in item.inputs})
    return {name: torch.cat([item.inputs[name] for item in media if name in item.inputs]) for name in names}

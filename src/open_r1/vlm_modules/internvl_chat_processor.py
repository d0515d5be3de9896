"""Tokenizer, tiles and chat format of an InternVL checkpoint that brings its own code: it has no processor.

Saved beside a trained model, it is read again without the model's configuration, as folders of adapters have none.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from open_r1.vlm_modules.tiles import IMAGENET_MEAN, IMAGENET_STD, cut_into_tiles, normalise_tiles


if TYPE_CHECKING:
    import numpy as np
    from PIL import Image
    from transformers import PreTrainedTokenizerBase


DEFAULT_MAX_TILES = 12
FILE_NAME = "preprocessor_config.json"
_OWN_SETTINGS = ("tile_size", "tokens_per_tile", "max_tiles", "has_thumbnail", "template")

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
PHI = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
# `template` in a checkpoint's configuration -> chat format, for tokenizers that have none.
CHAT_TEMPLATES = {"Hermes-2": CHATML, "internlm2-chat": CHATML, "internvl2_5": CHATML, "phi3-chat": PHI}


@dataclass(kw_only=True)
class InternVLChatProcessor:
    """What `VLMBaseModule` asks of a processor."""

    image_token: ClassVar[str] = "<IMG_CONTEXT>"  # also the placeholder of a feature
    video_token: ClassVar[str] = "<VIDEO_CONTEXT>"  # of conversations alone: a video goes in as images
    start_token: ClassVar[str] = "<img>"
    end_token: ClassVar[str] = "</img>"

    tokenizer: "PreTrainedTokenizerBase"
    tile_size: int  # pixels of a side
    tokens_per_tile: int
    max_tiles: int = DEFAULT_MAX_TILES  # of an image, the thumbnail not counted
    has_thumbnail: bool = True
    template: str | None = None  # name of the conversation format
    image_mean: tuple[float, ...] = IMAGENET_MEAN
    image_std: tuple[float, ...] = IMAGENET_STD

    @classmethod
    def from_pretrained(
        cls, path: str, revision: str = "main", trust_remote_code: bool = False
    ) -> "InternVLChatProcessor":
        """Reads tokenizer and settings of a checkpoint, or of a folder that `save_pretrained` wrote.

        Raises:
            ValueError: the checkpoint has neither a chat template nor a conversation format that is known here.
        """
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(path, revision=revision, trust_remote_code=trust_remote_code)
        saved = _read_saved(path, revision)
        settings = {name: saved[name] for name in _OWN_SETTINGS if name in saved} or _read_config(path, revision)
        for name in ("image_mean", "image_std"):
            if name in saved:
                settings[name] = tuple(saved[name])
        processor = cls(tokenizer=tokenizer, **settings)
        processor.get_chat_template()
        return processor

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes the tokenizer and the settings; the names of the statistics are those of transformers."""
        self.tokenizer.save_pretrained(folder)
        names = (*_OWN_SETTINGS, "image_mean", "image_std")
        settings = {name: getattr(self, name) for name in names}
        path = Path(folder) / FILE_NAME
        path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")

    def get_chat_template(self) -> str:
        """The tokenizer's chat template, else that of the conversation format which the checkpoint names."""
        if self.tokenizer.chat_template is not None:
            return self.tokenizer.chat_template
        if self.template not in CHAT_TEMPLATES:
            raise ValueError(
                f"The tokenizer has no chat template, and the conversation format {self.template!r} is not one of "
                f"{', '.join(CHAT_TEMPLATES)}: give the tokenizer a `chat_template`."
            )
        return CHAT_TEMPLATES[self.template]

    def apply_chat_template(
        self, messages: list[dict[str, Any]], tokenize: bool = False, add_generation_prompt: bool = False
    ) -> str:
        """The conversation as text; an image or video is its placeholder and a line break, as in `-hf` checkpoints."""
        if tokenize:
            raise ValueError("apply_chat_template writes text only: tokenize=False.")
        turns = [message | {"content": self._write_content(message["content"])} for message in messages]
        return self.tokenizer.apply_chat_template(
            turns,
            chat_template=self.get_chat_template(),
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
        )

    def _write_content(self, content: str | list[dict[str, Any]]) -> str:
        if isinstance(content, str):
            return content
        media = {"image": f"{self.image_token}\n", "video": f"{self.video_token}\n"}
        return "".join(media.get(part["type"]) or part["text"] for part in content)

    def write_image(self, num_tiles: int) -> str:
        """What stands for an image of so many tiles."""
        return self.start_token + self.image_token * (self.tokens_per_tile * num_tiles) + self.end_token

    def write_video(self, num_frames: int) -> str:
        """What stands for a video: its frames, numbered from 1, an image of one tile each."""
        return "\n".join(f"Frame{number}: {self.write_image(1)}" for number in range(1, num_frames + 1))

    def encode_image(self, image: "Image.Image") -> torch.Tensor:
        """(tiles, 3, height, width)"""
        tiles = cut_into_tiles(image, self.tile_size, self.max_tiles, self.has_thumbnail)
        return normalise_tiles(tiles, self.image_mean, self.image_std)

    def encode_frames(self, frames: "np.ndarray") -> torch.Tensor:
        """(T, H, W, 3) uint8 -> (T, 3, height, width), each frame resized to one tile."""
        from PIL import Image

        tiles = [cut_into_tiles(Image.fromarray(frame), self.tile_size, max_tiles=1)[0] for frame in frames]
        return normalise_tiles(tiles, self.image_mean, self.image_std)


def _read_saved(path: str, revision: str) -> dict[str, Any]:
    """The image processor's settings of a checkpoint; none where it has no such file."""
    from transformers.utils import cached_file

    file = cached_file(path, FILE_NAME, revision=revision, _raise_exceptions_for_missing_entries=False)
    return {} if file is None else json.loads(Path(file).read_text(encoding="utf-8"))


def _read_config(path: str, revision: str) -> dict[str, Any]:
    """Our settings, out of the model's configuration, which is read as data: no code runs."""
    from transformers import PretrainedConfig

    config, _ = PretrainedConfig.get_config_dict(path, revision=revision)
    vision = config["vision_config"]
    tile_size = config.get("force_image_size") or vision["image_size"]
    side = tile_size // vision.get("patch_size", 14) * config.get("downsample_ratio", 0.5)
    return {
        "tile_size": tile_size,
        "tokens_per_tile": int(side**2),
        "has_thumbnail": config.get("use_thumbnail", True),
        "template": config.get("template"),
    }

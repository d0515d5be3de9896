"""Data of the benchmarks: noise pictures on disk, one question about each, completions of given lengths."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image


QUESTION = "You are doing the image quality assessment task. How good is this picture? Answer with a number."
PIXELS_PER_TOKEN = 28  # side of the square of pixels that one image token stands for
NUM_TEXT_IDS = 680  # ids that completions are drawn from; all are ordinary text of the tokenizer
FIRST_TEXT_ID = 20


@dataclass(frozen=True, kw_only=True)
class Workload:
    """Sizes of one comparison.

    Example: `Workload(image_tokens=256, completion_tokens=50)` is a prompt of about 290 tokens with 8 completions of
    38 to 62 tokens.
    """

    num_generations: int = 8
    num_groups: int = 1
    image_tokens: int = 256
    completion_tokens: int = 50  # on average
    raggedness: float = 0.25  # lengths are spread evenly over (1 +- this) of the average

    @property
    def patches_per_image(self) -> int:
        return 4 * self._rows * self._columns

    @property
    def _rows(self) -> int:
        return max(row for row in range(1, int(self.image_tokens**0.5) + 1) if self.image_tokens % row == 0)

    @property
    def _columns(self) -> int:
        return self.image_tokens // self._rows

    def build_lengths(self) -> list[int]:
        """Tokens of the G completions of a group; their mean is the average asked for."""
        spread = np.linspace(1 - self.raggedness, 1 + self.raggedness, self.num_generations)
        return [max(1, round(self.completion_tokens * share)) for share in spread]

    def build_completions(self) -> list[list[int]]:
        """B lists of token ids, group-major, without an end token; the same on every call."""
        rng = np.random.default_rng(0)
        lengths = self.build_lengths() * self.num_groups
        return [rng.integers(FIRST_TEXT_ID, FIRST_TEXT_ID + NUM_TEXT_IDS, length).tolist() for length in lengths]

    def build_advantages(self) -> torch.Tensor:
        """(B,), of mean 0 and variance 1 in every group."""
        values = torch.linspace(-1, 1, self.num_generations)
        return ((values - values.mean()) / values.std()).repeat(self.num_groups)

    def write_images(self, folder: Path, num_images: int) -> list[str]:
        """Writes PNG files of noise that take exactly `image_tokens` tokens; returns their paths."""
        size = (self._rows * PIXELS_PER_TOKEN, self._columns * PIXELS_PER_TOKEN, 3)
        paths = []
        for i in range(num_images):
            path = folder / f"{self.image_tokens}_{i}.png"
            Image.fromarray(np.random.default_rng(i).integers(0, 256, size, dtype=np.uint8)).save(path)
            paths.append(str(path))
        return paths


def build_our_dataset(paths: list[str]) -> Any:
    """Rows as `open_r1.data` makes them."""
    from datasets import Dataset

    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    return Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": content}], "image_path": [path], "source": f"row {i}"}
            for i, path in enumerate(paths)
        ]
    )


def build_trl_dataset(paths: list[str]) -> Any:
    """The same rows as TRL takes them: a conversation, and an image that is decoded when a row is read."""
    from datasets import Dataset
    from datasets import Image as ImageFeature

    prompt = [{"role": "user", "content": QUESTION}]
    rows = Dataset.from_dict({"prompt": [prompt] * len(paths), "image": paths})
    return rows.cast_column("image", ImageFeature())


def letters_reward(completions: list, **kwargs: Any) -> list[float]:
    """Share of letters in a completion: differs between completions, costs nothing."""
    texts = [completion[0]["content"] for completion in completions]
    return [sum(letter.isalpha() for letter in text) / max(1, len(text)) for text in texts]

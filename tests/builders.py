"""Small things that tests of several tiers build: images, conversations, data sets."""

import json
from pathlib import Path

import numpy as np
from PIL import Image

from open_r1.completions import IQA_QUESTION


def make_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise of this size in pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def ask(text: str, num_images: int) -> list[dict]:
    """A conversation of one question about this many images."""
    return [{"role": "user", "content": [{"type": "image"}] * num_images + [{"type": "text", "text": text}]}]


def write_iqa_data(folder: Path, num_rows: int, name: str = "train.jsonl") -> tuple[Path, Path]:
    """Writes labelled images of 56 by 56 pixels as real data sets have them; returns JSONL file and image folder."""
    lines = []
    for i in range(num_rows):
        make_image(56, 56, seed=i).save(folder / f"{i}.png")
        turns = [{"from": "human", "value": IQA_QUESTION}, {"from": "gpt", "value": 1 + 4 * i / num_rows}]
        lines.append(json.dumps({"id": i + 1, "dataset_name": "NOISE", "image": [f"{i}.png"], "conversations": turns}))
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path, folder

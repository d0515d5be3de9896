"""Warms up the vision tower of the demo's random model: naming distortions through a throw-away linear head.

    python -m open_r1.warm_up --model_name_or_path output/demo/model \
        --data_file_paths output/demo/data/demo_train.jsonl --image_folders output/demo/data/images \
        --output_dir output/demo/warm

A checkpoint that people use has a trained vision tower; the demo's has random weights, and a tower is learnt far more
slowly through a language model than directly. So, before the cold start, the mean of each picture's visual tokens is
asked, through one linear layer that is then thrown away, which distortion it shows and at what level (1 to 5). No
score is shown, but levels go with quality (SRCC .88 with the label over all distortions), so the features come to hold
it in some form. The language model is not touched. Real checkpoints have no use for this.
"""

import argparse
import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np


if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, ProcessorMixin


HEAD_RATE_FACTOR = 4.0  # the head starts at zero and is to be ahead of the tower
RAMP_STEPS = 10


def load_rows(path: str, image_folder: str) -> list[dict]:
    """Rows with `image` (path), `distortion` and `level`; KeyError where the data is not the demo's."""
    with open(path, encoding="utf-8") as file:
        records = [json.loads(line) for line in file if line.strip()]
    keys = ("distortion", "level")
    return [
        {"image": Path(image_folder) / record["image"][0], **{key: record[key] for key in keys}} for record in records
    ]


def embed_pictures(model: "PreTrainedModel", processor: "ProcessorMixin", paths: list[Path]) -> "torch.Tensor":
    """The mean visual token of each picture, (number of pictures, text width)."""
    import torch
    from PIL import Image

    pictures = [Image.open(path).convert("RGB") for path in paths]
    inputs = processor.image_processor(images=pictures, return_tensors="pt")
    features = model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output
    return torch.stack([tokens.mean(dim=0) for tokens in features])


def compute_loss(outputs: "torch.Tensor", names: "torch.Tensor", levels: "torch.Tensor") -> "torch.Tensor":
    """Cross entropy of the distortion (columns 1 and up of `outputs`) plus squared error of the level (column 0)."""
    from torch.nn import functional

    level_error = functional.mse_loss(outputs[:, 0], (levels - 3.0) / math.sqrt(2.0))  # levels 1..5: variance 2
    return functional.cross_entropy(outputs[:, 1:], names) + level_error


def warm_up(
    model: "PreTrainedModel",
    processor: "ProcessorMixin",
    rows: list[dict],
    *,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
) -> list[float]:
    """Trains the vision tower in place and returns the loss of every step."""
    import torch
    from tqdm.auto import tqdm

    rng = np.random.default_rng(seed)
    vocabulary = sorted({row["distortion"] for row in rows})
    head = torch.nn.Linear(model.config.text_config.hidden_size, 1 + len(vocabulary))
    torch.nn.init.zeros_(head.weight)
    tower = list(model.model.visual.parameters())
    groups = [{"params": tower}, {"params": head.parameters(), "lr": HEAD_RATE_FACTOR * learning_rate}]
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.0)

    def schedule(step: int) -> float:
        decay = 0.1 + 0.45 * (1.0 + math.cos(math.pi * step / num_steps))
        return min(1.0, (step + 1) / RAMP_STEPS) * decay

    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    losses, order = [], []
    progress = tqdm(range(num_steps), desc="warm-up of the vision tower")
    for _ in progress:
        if len(order) < batch_size:
            order.extend(rng.permutation(len(rows)).tolist())
        batch, order = [rows[index] for index in order[:batch_size]], order[batch_size:]
        names = torch.tensor([vocabulary.index(row["distortion"]) for row in batch])
        levels = torch.tensor([float(row["level"]) for row in batch])
        loss = compute_loss(head(embed_pictures(model, processor, [row["image"] for row in batch])), names, levels)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(tower, 1.0)
        optimizer.step()
        scheduler.step()
        losses.append(loss.item())
        progress.set_postfix(loss=f"{np.mean(losses[-10:]):.3f}")
    return losses


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model_name_or_path", required=True, help="a model made by open_r1.tiny")
    parser.add_argument("--data_file_paths", required=True, help="the demo's training JSONL")
    parser.add_argument("--image_folders", required=True, help="the folder of its images")
    parser.add_argument("--output_dir", required=True, help="folder to write to")
    parser.add_argument("--max_steps", type=int, default=240, help="optimiser steps")
    parser.add_argument("--batch_size", type=int, default=32, help="pictures per step")
    parser.add_argument("--learning_rate", type=float, default=5e-4, help="highest rate for the tower")
    parser.add_argument("--seed", type=int, default=42, help="seed of the order of pictures")
    args = parser.parse_args()

    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    torch.manual_seed(args.seed)
    processor = AutoProcessor.from_pretrained(args.model_name_or_path)
    model = AutoModelForImageTextToText.from_pretrained(args.model_name_or_path)
    rows = load_rows(args.data_file_paths, args.image_folders)
    options = {"num_steps": args.max_steps, "batch_size": args.batch_size, "learning_rate": args.learning_rate}
    warm_up(model, processor, rows, **options, seed=args.seed)
    model.save_pretrained(args.output_dir)
    processor.save_pretrained(args.output_dir)


if __name__ == "__main__":
    main()

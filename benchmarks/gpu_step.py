"""What one step of GRPO costs on a GPU, at the sizes of Qwen2.5-VL 3B and 7B: ours packed against replicated and TRL.

    CUDA_VISIBLE_DEVICES=0 python benchmarks/gpu_step.py --shape 7b

    ours packed varlen        one row, the kernel for ragged segments
    ours packed concat        one row, torch's attention over padded rectangles
    ours replicated           one row per completion
    TRL                       its own trainer, where it is installed; attention: --trl_attention

Weights are random and made on the device; nothing is downloaded. All contenders share them, in bfloat16 without
autocast, gradient checkpointing on (as TRL has it) unless --no_checkpointing. A step is: images encoded, reference
pass, loss, backward; the optimizer is left out. Before anything is timed, losses and gradient norms are compared, with
a tolerance for bfloat16. Time is wall time around synchronised stages, memory is what torch allocates over weights,
gradients and inputs, MFU counts the operations that a contender executes, recomputation left out (`flops.py`).

With sdpa, transformers runs the tower's windows one by one; where flash-attn is installed, compare with
--trl_attention flash_attention_2 --vision_attention flash_attention_2, too.

7b needs about 50 GB for the two models and the gradients, and memory for the activations on top. A contender that runs
out of memory is reported as such. Writes benchmarks/results/gpu_step_SHAPE.json.
"""

import argparse
import importlib.util
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from contenders import (
    Contender,
    OurTrainer,
    StepSettings,
    TRLTrainer,
    check_agreement,
    prepare_policy,
    run_once,
)
from flops import count_step_flops
from meters import Stopwatch, measure_peak_bytes, summarise
from results import RESULTS, write_results
from session import start_session
from shapes import SHAPES, Shape, build_bench_processor, build_model, perturb
from step_time import time_step
from workload import Workload


# Dense bfloat16 TFLOP/s, by a part of the device's name.
PEAK_TFLOPS = {"H100": 989, "H200": 989, "B200": 2250, "A100": 312, "L40S": 362, "A10": 125, "4090": 165}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 1e-1}


def find_peak_tflops(name: str) -> float | None:
    return next((peak for part, peak in PEAK_TFLOPS.items() if part in name), None)


def list_contenders(
    settings: StepSettings, policy: Any, reference: Any, processor: Any, args: argparse.Namespace
) -> dict[str, Callable[[], Contender]]:
    """What builds each contender, in the order of the table."""
    varlen = {"logps_mode": "packed", "packed_attention": "varlen"}
    concat = {"logps_mode": "packed", "packed_attention": "concat"}
    shared = (settings, policy, reference, processor)
    builders: dict[str, Callable[[], Contender]] = {}
    if settings.device != "cpu" and policy.dtype == torch.bfloat16:
        builders["ours packed varlen"] = lambda: OurTrainer(*shared, **varlen)
    builders["ours packed concat"] = lambda: OurTrainer(*shared, **concat)
    builders["ours replicated"] = lambda: OurTrainer(*shared, logps_mode="replicated")
    if importlib.util.find_spec("trl") is not None and not args.skip_trl:
        builders["TRL"] = lambda: TRLTrainer(*shared, attention=args.trl_attention)
    return builders


def measure(contender: Contender, settings: StepSettings, repetitions: int) -> tuple[Any, dict[str, Any]]:
    """What one step computes, and its memory and times."""
    outcomes = []
    contender.activate()
    run_once(contender)  # kernels are chosen and caches filled
    peak = measure_peak_bytes(lambda: outcomes.append(run_once(contender)), settings.device)
    watches = [Stopwatch(device=torch.device(settings.device)) for _ in range(repetitions)]
    for watch in watches:
        time_step(contender, watch)
    (outcome,) = outcomes
    return outcome, {
        "stages": {stage: summarise([watch.seconds[stage] for watch in watches]) for stage in watches[0].seconds},
        "step": summarise([sum(watch.seconds.values()) for watch in watches]),
        "peak_bytes": peak,
        "saved_bytes": outcome.saved_bytes,
        "loss": outcome.loss,
        "gradient_norm": outcome.gradient_norm,
    }


def rate(result: dict[str, Any], name: str, shape: Shape, settings: StepSettings, prompt_tokens: int) -> None:
    """Adds tokens per second and TFLOP/s to a result."""
    workload, seconds = settings.workload, result["step"]["median"]
    flops = count_step_flops(
        shape,
        workload,
        prompt_tokens,
        is_packed="packed" in name,
        reuses_vision=name.startswith("ours") and not settings.trains_tower,
        trains_tower=settings.trains_tower,
    )
    result["completion_tokens_per_second"] = workload.num_groups * sum(workload.build_lengths()) / seconds
    result["executed_tflop"] = flops.total / 1e12
    result["tflops"] = flops.total / 1e12 / seconds


def compare(args: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measures every contender that fits into memory, one after the other.

    Raises:
        ValueError: they do not compute the same.
    """
    shape, processor = SHAPES[args.shape], build_bench_processor()
    workload = Workload(
        num_generations=args.num_generations,
        num_groups=args.num_groups,
        image_tokens=args.image_tokens,
        completion_tokens=args.completion_tokens,
    )
    settings = StepSettings(
        output_dir=folder / "output",
        workload=workload,
        paths=workload.write_images(folder, workload.num_groups),
        trains_tower=args.trained_tower,
        checkpointing=not args.no_checkpointing,
        device=args.device,
    )
    policy, reference = (build_model(shape, processor, args.device) for _ in range(2))
    perturb(policy)
    prepare_policy(policy, settings)
    for model in (policy, reference):
        model.set_attn_implementation({"vision_config": args.vision_attention})
    contenders, outcomes, results = [], [], {}
    for name, build in list_contenders(settings, policy, reference, processor, args).items():
        contender = build()
        try:
            outcome, results[name] = measure(contender, settings, args.repetitions)
        except torch.OutOfMemoryError:
            results[name] = {"out_of_memory": True}
            policy.zero_grad(set_to_none=False)
            torch.cuda.empty_cache()
            continue
        contenders.append(contender)
        outcomes.append(outcome)
        rate(results[name], name, shape, settings, len(contender.prompt_ids[0]))
        print(describe(name, results[name], args.peak_tflops), flush=True)
    if not contenders:
        raise SystemExit("No contender fits into this device's memory: take --shape 3b, or shorter completions.")
    check_agreement(contenders, outcomes, TOLERANCE[shape.dtype])
    return {
        "workload": asdict(workload) | {"prompt_tokens": len(contenders[0].prompt_ids[0])},
        "trains_tower": settings.trains_tower,
        "checkpointing": settings.checkpointing,
        "trl_attention": args.trl_attention,
        "vision_attention": args.vision_attention,
        "peak_tflops": args.peak_tflops,
        "results": results,
    }


def describe(name: str, result: dict[str, Any], peak_tflops: float | None) -> str:
    """A line for the terminal."""
    step = result["step"]
    share = f", MFU {result['tflops'] / peak_tflops:.0%}" if peak_tflops else ""
    stages = "  ".join(f"{stage} {values['median']:.3f}" for stage, values in result["stages"].items())
    return (
        f"  {name:19} step {step['median']:.3f} s [{step['min']:.3f}, {step['max']:.3f}]  {stages}"
        f"  {result['completion_tokens_per_second']:.0f} completion tokens/s  {result['tflops']:.3g} TFLOP/s{share}"
        f"  peak {result['peak_bytes'] / 1e9:.2f} GB  saved {result['saved_bytes'] / 1e9:.2f} GB"
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=tuple(SHAPES), default="7b", help="sizes of the model")
    parser.add_argument("--device", default="cuda", help="cuda; cpu with --shape tiny shows that the script runs")
    parser.add_argument("--image_tokens", type=int, default=1260, help="tokens of the picture, one per group")
    parser.add_argument("--completion_tokens", type=int, default=150, help="on average")
    parser.add_argument("--num_generations", type=int, default=8, help="G")
    parser.add_argument("--num_groups", type=int, default=1, help="N")
    parser.add_argument("--trained_tower", action="store_true", help="train the vision tower, too")
    parser.add_argument("--no_checkpointing", action="store_true", help="keep all activations")
    parser.add_argument("--trl_attention", default="sdpa", help="TRL's, e.g. flash_attention_2 where it is installed")
    parser.add_argument("--vision_attention", default="sdpa", help="of the vision tower, for all contenders")
    parser.add_argument("--skip_trl", action="store_true", help="leave TRL out")
    parser.add_argument("--peak_tflops", type=float, help="of the device, for MFU; known ones are looked up")
    parser.add_argument("--repetitions", type=int, default=5, help="how often a step is timed")
    parser.add_argument("--output", type=Path, help="file to write")
    return parser.parse_args()


def main() -> None:
    args = parse_arguments()
    if args.device != "cpu" and not torch.cuda.is_available():
        raise SystemExit(
            "benchmarks/gpu_step.py needs a CUDA device, and torch sees none. On a CPU take benchmarks/step_time.py, "
            "or --device cpu --shape tiny --image_tokens 16 to see that the script runs."
        )
    start_session(args.device)
    if args.device != "cpu" and args.peak_tflops is None:
        args.peak_tflops = find_peak_tflops(torch.cuda.get_device_name(args.device))
    with tempfile.TemporaryDirectory() as folder:
        outcome = compare(args, Path(folder))
    output = args.output or RESULTS / f"gpu_step_{args.shape}.json"
    write_results(output, {"shape": args.shape, "scenarios": [outcome]}, args.device)


if __name__ == "__main__":
    main()

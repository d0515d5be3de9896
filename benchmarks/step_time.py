"""What one step of GRPO costs on the CPU: ours packed, ours replicated and TRL's trainer, in one process, in turns.

    python benchmarks/step_time.py                                  # the scenarios of the README, minutes
    python benchmarks/step_time.py --sweep g                        # over group sizes; also p (prompt), c (completion)
    python benchmarks/step_time.py --image_tokens 256 --trained_tower --gradient_checkpointing     # one of your own

A step is: images encoded (where the tower is frozen, ours does that once), reference pass, loss, backward. Which
functions of whom: `contenders.py`. What is measured and how: `meters.py`. All contenders have the same weights,
pictures, prompts and completions, and before anything is timed their losses, gradient norms and reference
log-probabilities are compared. Writes benchmarks/results/step_time.json, or step_time_sweep_X.json.
"""

import argparse
import gc
import tempfile
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from contenders import Contender, Outcome, StepSettings, build_contenders, check_agreement, run_once, write_checkpoint
from meters import Stopwatch, WorkCounter, measure_peak_bytes, summarise
from results import RESULTS, write_results
from session import start_session
from shapes import SHAPES
from workload import Workload


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """One comparison."""

    workload: Workload = field(default_factory=Workload)
    trains_tower: bool = False
    checkpointing: bool = False
    repetitions: int = 5


SHORT, LONG = Workload(image_tokens=256), Workload(image_tokens=1024)
README_SCENARIOS = [
    Scenario(workload=SHORT),
    Scenario(workload=SHORT, checkpointing=True, repetitions=3),
    Scenario(workload=SHORT, trains_tower=True, repetitions=3),
    Scenario(workload=LONG, repetitions=3),
]
SWEEPS = {
    "g": [Scenario(workload=replace(SHORT, num_generations=size), repetitions=2) for size in (2, 4, 8, 16, 32)],
    "p": [Scenario(workload=replace(SHORT, image_tokens=size), repetitions=1) for size in (64, 256, 1024, 2064)],
    "c": [Scenario(workload=replace(SHORT, completion_tokens=size), repetitions=2) for size in (50, 128, 256, 512)],
}


def time_step(contender: Contender, watch: Stopwatch) -> None:
    """One step, stage by stage."""
    contender.activate()
    gc.collect()
    with watch.stage("vision"):
        contender.encode_images()
    with watch.stage("reference"):
        contender.score_reference()
    with watch.stage("loss"):
        loss = contender.compute_loss()
    with watch.stage("backward"):
        loss.backward()
    contender.policy.zero_grad(set_to_none=False)


def time_all(contenders: list[Contender], repetitions: int) -> dict[str, list[dict[str, float]]]:
    """Stage times of every contender and repetition, in turns, beginning with another one each time."""
    times: dict[str, list[dict[str, float]]] = {contender.name: [] for contender in contenders}
    for turn in range(repetitions):
        first = turn % len(contenders)
        for contender in contenders[first:] + contenders[:first]:
            watch = Stopwatch()
            time_step(contender, watch)
            times[contender.name].append(watch.seconds)
    return times


def measure_work(contender: Contender, patches_per_image: int) -> tuple[Outcome, dict[str, float]]:
    """What one step computes, and its tokens, images and memory; slower than the steps that are timed."""
    contender.activate()
    counter = WorkCounter(contender.policy, contender.reference, patches_per_image=patches_per_image)
    outcomes: list[Outcome] = []
    peak = measure_peak_bytes(lambda: outcomes.append(run_once(contender)))
    counter.remove()
    (outcome,) = outcomes
    work = {
        "lm_tokens": counter.tokens,
        "images_encoded": counter.images,
        "saved_bytes": outcome.saved_bytes,
        "peak_bytes": peak,
        "loss": outcome.loss,
        "gradient_norm": outcome.gradient_norm,
    }
    return outcome, work


def summarise_times(times: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, Any]]:
    """Per contender: stages, the whole step, and how many times longer than the first contender's, turn by turn."""
    steps = {name: [sum(stages.values()) for stages in turns] for name, turns in times.items()}
    base = next(iter(steps.values()))
    return {
        name: {
            "stages": {stage: summarise([turn[stage] for turn in turns]) for stage in turns[0]},
            "step": summarise(steps[name]),
            "ratio": summarise([own / reference for own, reference in zip(steps[name], base)]),
        }
        for name, turns in times.items()
    }


def compare(scenario: Scenario, checkpoint: Path, folder: Path) -> dict[str, Any]:
    """Builds the contenders of a scenario, counts their work, checks that they agree, times them."""
    workload = scenario.workload
    settings = StepSettings(
        output_dir=folder / "output",
        workload=workload,
        paths=workload.write_images(folder, workload.num_groups),
        trains_tower=scenario.trains_tower,
        checkpointing=scenario.checkpointing,
    )
    contenders = build_contenders(checkpoint, settings)
    outcomes, work = zip(*(measure_work(contender, workload.patches_per_image) for contender in contenders))
    check_agreement(contenders, outcomes)
    timed = summarise_times(time_all(contenders, scenario.repetitions))
    results = {contender.name: timed[contender.name] | work[i] for i, contender in enumerate(contenders)}
    return {
        "workload": asdict(workload) | {"prompt_tokens": len(contenders[0].prompt_ids[0])},
        "trains_tower": scenario.trains_tower,
        "checkpointing": scenario.checkpointing,
        "results": results,
    }


def describe(outcome: dict[str, Any]) -> str:
    """A few lines for the terminal."""
    work = outcome["workload"]
    lines = [
        f"P {work['prompt_tokens']}  C {work['completion_tokens']}  G {work['num_generations']}"
        f"  trained tower {outcome['trains_tower']}  checkpointing {outcome['checkpointing']}"
    ]
    for name, result in outcome["results"].items():
        step, ratio = result["step"], result["ratio"]
        stages = "  ".join(f"{stage} {values['median']:.2f}" for stage, values in result["stages"].items())
        lines.append(
            f"  {name:17} step {step['median']:6.2f} s [{step['min']:.2f}, {step['max']:.2f}]  {ratio['median']:5.2f}x"
            f"  {stages}  tokens {result['lm_tokens']}  images {result['images_encoded']:g}"
            f"  peak {result['peak_bytes'] / 1e6:.0f} MB  saved {result['saved_bytes'] / 1e6:.0f} MB"
        )
    return "\n".join(lines)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--shape", choices=tuple(SHAPES), default="small", help="size of the model")
    parser.add_argument("--sweep", choices=tuple(SWEEPS), help="vary group size, prompt or completion length")
    parser.add_argument("--image_tokens", type=int, help="a scenario of your own: tokens of the picture")
    parser.add_argument("--completion_tokens", type=int, default=50, help="of a scenario of your own, on average")
    parser.add_argument("--num_generations", type=int, default=8, help="of a scenario of your own")
    parser.add_argument("--num_groups", type=int, default=1, help="of a scenario of your own")
    parser.add_argument("--trained_tower", action="store_true", help="of a scenario of your own")
    parser.add_argument("--gradient_checkpointing", action="store_true", help="of a scenario of your own")
    parser.add_argument("--repetitions", type=int, help="how often everything is timed")
    parser.add_argument("--output", type=Path, help="file to write; a scenario of your own is printed only")
    return parser.parse_args()


def choose_scenarios(args: argparse.Namespace) -> list[Scenario]:
    scenarios = SWEEPS[args.sweep] if args.sweep else README_SCENARIOS
    if args.image_tokens is not None:
        workload = Workload(
            num_generations=args.num_generations,
            num_groups=args.num_groups,
            image_tokens=args.image_tokens,
            completion_tokens=args.completion_tokens,
        )
        scenarios = [
            Scenario(workload=workload, trains_tower=args.trained_tower, checkpointing=args.gradient_checkpointing)
        ]
    if args.repetitions is None:
        return scenarios
    return [replace(scenario, repetitions=args.repetitions) for scenario in scenarios]


def main() -> None:
    args = parse_arguments()
    start_session()
    output = args.output
    if output is None and args.image_tokens is None:
        output = RESULTS / (f"step_time_sweep_{args.sweep}.json" if args.sweep else "step_time.json")
    outcomes = []
    with tempfile.TemporaryDirectory() as name:
        checkpoint = write_checkpoint(SHAPES[args.shape], Path(name) / "checkpoint")
        for scenario in choose_scenarios(args):
            outcomes.append(compare(scenario, checkpoint, Path(name)))
            print(describe(outcomes[-1]), flush=True)
            if output is not None:
                write_results(output, {"shape": args.shape, "scenarios": outcomes})


if __name__ == "__main__":
    main()

"""Says, on a CPU and in a minute, whether a GRPO run would start, fit and do what it should.

    python -m open_r1.preflight --num_gpus 8 --gpu_memory_gb 80 \
        --config configs/grpo/my_run.yaml --deepspeed local_scripts/zero3.json --bf16 ...

Takes every option of `open_r1.grpo_jsonl` beside its own. Loads data, processor and configuration, never weights.
Prints a table; exits with 0 (go) or 1 (no-go, with the reasons). See docs/preflight.md.
"""

import argparse
import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any


if TYPE_CHECKING:
    from open_r1.configs import GRPOModelConfig, GRPOScriptArguments
    from open_r1.trainer.grpo_config import GRPOConfig
    from open_r1.trainer.readiness import Machine, Report

# What a check may meet: bad input, missing files, a reward function with a mistake in it.
_ERRORS = (ValueError, TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError, OSError, ImportError)
# Options that ask for the machine of the run, with values that any machine takes: here they are kept from the parser.
_OF_THE_MACHINE = {"deepspeed": "", "tf32": "false"}


def parse_own_arguments(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """The options of this command, and those of the run."""
    parser = argparse.ArgumentParser(
        prog="preflight",
        description=__doc__.split("\n")[0],
        epilog="Every other option is one of the run: python -m open_r1.grpo_jsonl --help",
        allow_abbrev=False,
    )
    parser.add_argument("--num_gpus", type=int, default=8, help="GPUs of the run, on all nodes together (default: 8)")
    parser.add_argument("--gpu_memory_gb", type=float, default=80, help="GiB of memory of each (default: 80)")
    parser.add_argument("--num_samples", type=int, default=32, help="rows whose prompts are encoded (default: 32)")
    parser.add_argument("--deepspeed", help="DeepSpeed's settings of the run")
    parser.add_argument("--tf32", help=argparse.SUPPRESS)
    own, rest = parser.parse_known_args(argv)
    for name in ("num_gpus", "gpu_memory_gb", "num_samples"):
        if getattr(own, name) <= 0:
            parser.error(f"--{name} must be above 0, not {getattr(own, name)}")
    return own, rest


def parse_run_arguments(
    own: argparse.Namespace, argv: list[str]
) -> "tuple[GRPOScriptArguments, GRPOConfig, GRPOModelConfig]":
    """The run's arguments as its own parser reads them, on the CPU; `own.deepspeed` may come from the `--config`."""
    import yaml

    from open_r1.grpo_jsonl import parse_arguments

    hidden = []
    if "--config" in argv[:-1]:
        with open(argv[argv.index("--config") + 1], encoding="utf-8") as file:
            settings = yaml.safe_load(file) or {}
        own.deepspeed = own.deepspeed or settings.get("deepspeed")
        hidden = [
            part for name, value in _OF_THE_MACHINE.items() if settings.get(name) for part in (f"--{name}", value)
        ]
    return parse_arguments([*argv, *hidden, "--use_cpu", "true"])


def run_checks(own: argparse.Namespace, argv: list[str]) -> "Report":
    """All checks, each of which goes on where others fail, as far as it can."""
    from open_r1.trainer.readiness import Machine, Report

    report = Report()
    machine = Machine(num_gpus=own.num_gpus, gpu_memory=int(own.gpu_memory_gb * 2**30))
    configs = _attempt(report, "arguments", lambda: parse_run_arguments(own, argv))
    if configs is not None:
        _check_run(report, own, machine, *configs)
    return report


def _check_run(
    report: "Report",
    own: argparse.Namespace,
    machine: "Machine",
    script_args: "GRPOScriptArguments",
    args: "GRPOConfig",
    model_args: "GRPOModelConfig",
) -> None:
    from open_r1.completions import get_answer_contract
    from open_r1.data.video import VideoSettings
    from open_r1.grpo_jsonl import build_rewards, load_data
    from open_r1.trainer import readiness
    from open_r1.trainer.loading import load_processor, load_vlm_module

    reward_funcs = _attempt(report, "rewards", lambda: build_rewards(script_args, args, model_args.trust_remote_code))
    data = _attempt(report, "data", lambda: load_data(script_args, args))
    vlm_module = _attempt(report, "model", lambda: load_vlm_module(model_args))
    processor = vlm_module and _attempt(
        report,
        "processor",
        lambda: load_processor(model_args, vlm_module, script_args.image_bounds),
    )
    sharding = vlm_module and _attempt(report, "DeepSpeed", lambda: _check_deepspeed(report, own, args, model_args))
    if data is None:
        return
    names = [func.__name__ for func in reward_funcs or []]
    _attempt(report, "batches", lambda: readiness.check_batches(report, args, data[0], machine, names))
    if processor is None:
        return
    groups = _attempt(
        report,
        "prompts",
        lambda: readiness.check_prompts(
            report,
            args,
            data[0],
            vlm_module,
            processor,
            VideoSettings(**script_args.video_options),
            own.num_samples,
        ),
    )
    if groups is None:
        return
    contract = get_answer_contract(script_args.question_template)
    if reward_funcs:
        _attempt(
            report,
            "rewards",
            lambda: readiness.check_rewards(report, reward_funcs, args, contract, groups, processor.tokenizer),
        )
    if sharding is not None:
        _attempt(
            report,
            "memory",
            lambda: readiness.check_memory(report, args, model_args, vlm_module, groups, sharding, machine),
        )


def _check_deepspeed(
    report: "Report", own: argparse.Namespace, args: "GRPOConfig", model_args: "GRPOModelConfig"
) -> Any:
    """Who holds what; contradictions go into the report."""
    from open_r1.trainer.deepspeed_check import find_conflicts, read_sharding
    from open_r1.trainer.distributed import load_deepspeed_config
    from open_r1.utils.adapters import find_model_source, load_base_config

    source = find_model_source(
        model_args.model_name_or_path, model_args.model_revision, trust_remote_code=model_args.trust_remote_code
    )
    config = load_base_config(source)
    hidden_size = config.get_text_config().hidden_size
    settings = load_deepspeed_config(own.deepspeed) if own.deepspeed else None
    if settings is not None:
        report.problems += [
            f"DeepSpeed: {conflict}" for conflict in find_conflicts(settings, args, model_args, own.num_gpus)
        ]
        if (settings.get("zero_optimization") or {}).get("stage", 0) not in (0, 1, 2, 3):
            return None
    sharding = read_sharding(settings, own.num_gpus, hidden_size, args)
    report.add("GPUs", f"{own.num_gpus}, " + (f"DeepSpeed ZeRO-{sharding.stage}" if settings else "without DeepSpeed"))
    return sharding


def _attempt(report: "Report", name: str, check: Callable[[], Any]) -> Any:
    """What the check returns; None where it fails, which is then a problem of the run."""
    try:
        return check()
    except _ERRORS as error:
        report.problems.append(f"{name}: {error or type(error).__name__}")
        return None


def describe(report: "Report") -> str:
    """The report as text."""
    from open_r1.viz.tables import build_markdown_table

    lines = [build_markdown_table(["", "value"], report.rows)] if report.rows else []
    lines += [f"warning: {warning}" for warning in report.warnings]
    lines += [f"problem: {problem}" for problem in report.problems]
    return "\n".join([*lines, "no-go" if report.problems else "go"])


def main(argv: list[str] | None = None) -> int:
    own, rest = parse_own_arguments(sys.argv[1:] if argv is None else argv)
    report = run_checks(own, rest)
    print(describe(report))
    return 1 if report.problems else 0


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    sys.exit(main())

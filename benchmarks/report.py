"""Writes the tables of README.md and docs/performance.md from the files in benchmarks/results.

    python benchmarks/report.py            # rewrites what stands between the markers
    python benchmarks/report.py --check    # changes nothing; fails where a table is not what the results say

A table stands between `<!-- results: NAME -->` and `<!-- /results -->`; NAME is a key of TABLES. Figures are medians;
ratios are medians over turns with [smallest, largest].
"""

import argparse
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from results import RESULTS, read_results

from open_r1.viz.tables import build_markdown_table


ROOT = Path(__file__).parents[1]
PAGES = (ROOT / "README.md", ROOT / "docs" / "performance.md")
OURS, TRL, COMPACT = "ours packed", "TRL", "TRL compact head"
NOTHING = "Not measured yet.\n"
_BLOCK = re.compile(r"(<!-- results: (\w+) -->\n).*?(<!-- /results -->)", re.DOTALL)

Results = dict[str, Any]


def _times(summary: dict[str, float]) -> str:
    return f"{summary['median']:.2f}× [{summary['min']:.2f}, {summary['max']:.2f}]"


def _seconds(summary: dict[str, float]) -> str:
    return f"{summary['median']:.2f} s"


def _name_scenario(scenario: Results) -> str:
    work = scenario["workload"]
    extras = [name for name in ("trains_tower", "checkpointing") if scenario.get(name)]
    words = {"trains_tower": "trained tower", "checkpointing": "gradient checkpointing"}
    return ", ".join([f"P {work['prompt_tokens']}, C {work['completion_tokens']}", *(words[name] for name in extras)])


def _load(name: str) -> list[Results]:
    results = read_results(RESULTS / f"{name}.json")
    return [] if results is None else results["scenarios"]


def build_summary() -> str:
    """The README's: what is measured, ours, TRL's, and how many times less."""
    rows = []
    for scenario in _load("step_time"):
        ours, trl, compact = (scenario["results"][name] for name in (OURS, TRL, COMPACT))
        steps = [_seconds(result["step"]) for result in (ours, trl)]
        ratios = [_times(result["ratio"]) for result in (trl, compact)]
        rows.append([f"step: {_name_scenario(scenario)}", *steps, *ratios])
    for scenario in _load("step_time"):
        if not scenario["trains_tower"] and not scenario["checkpointing"]:
            peaks = [scenario["results"][name]["peak_bytes"] / 1e6 for name in (OURS, TRL, COMPACT)]
            ratios = [f"{peak / peaks[0]:.1f}×" for peak in peaks[1:]]
            rows.append(
                [f"peak memory: {_name_scenario(scenario)}", *(f"{peak:.0f} MB" for peak in peaks[:2]), *ratios]
            )
    for scenario in _load("generation"):
        ours, trl = (scenario["results"][name] for name in ("prefill once", "replicated"))
        totals = [_seconds(result["total"]) for result in (ours, trl)]
        rows.append([f"generation: {_name_scenario(scenario)}", *totals, _times(trl["ratio"]), "—"])
    for scenario in _load("whole_run"):
        work, results = scenario["workload"], scenario["results"]
        for name, label in (("TRL", "TRL as it comes"), ("TRL, no checkpointing", "without checkpointing")):
            totals = [_seconds(results[key]["train"]) for key in ("ours", name)]
            label = f"whole run of {work['num_steps']} steps, {label}"
            rows.append([label, *totals, _times(results[name]["ratio"]), "—"])
    header = ["CPU time, G 8", "ours", "TRL", "TRL / ours", "with a compact head"]
    return build_markdown_table(header, rows) if rows else NOTHING


def build_step_table(scenarios: Iterable[Results]) -> str:
    """Every contender of every scenario: stages, work and memory."""
    rows = []
    for scenario in scenarios:
        size = scenario["workload"]["num_generations"]
        for name, result in scenario["results"].items():
            stages = [
                f"{result['stages'][stage]['median']:.2f}" for stage in ("vision", "reference", "loss", "backward")
            ]
            step = result["step"]
            rows.append(
                [
                    f"{_name_scenario(scenario)}, G {size}",
                    name,
                    *stages,
                    f"{step['median']:.2f} [{step['min']:.2f}, {step['max']:.2f}]",
                    _times(result["ratio"]),
                    str(result["lm_tokens"]),
                    f"{result['images_encoded']:g}",
                    f"{result['peak_bytes'] / 1e6:.0f}",
                    f"{result['saved_bytes'] / 1e6:.0f}",
                ]
            )
    header = ["scenario", "who", "vision s", "reference s", "loss s", "backward s", "step s", "ratio"]
    header += ["LM tokens", "images", "peak MB", "saved MB"]
    return build_markdown_table(header, rows) if rows else NOTHING


def build_sweep_table(name: str) -> str:
    """How the ratio to ours grows with one size."""
    names = ("ours replicated", TRL, COMPACT)
    rows = [
        [
            f"G {scenario['workload']['num_generations']}, {_name_scenario(scenario)}",
            _seconds(scenario["results"][OURS]["step"]),
            *(f"{scenario['results'][other]['ratio']['median']:.2f}×" for other in names),
            f"{scenario['results'][COMPACT]['peak_bytes'] / scenario['results'][OURS]['peak_bytes']:.1f}×",
        ]
        for scenario in _load(f"step_time_sweep_{name}")
    ]
    header = ["scenario", OURS, *names, "peak memory, compact head"]
    return build_markdown_table(header, rows) if rows else NOTHING


def build_generation_table() -> str:
    rows = [
        [
            f"{_name_scenario(scenario)}, G {scenario['workload']['num_generations']}",
            name,
            _seconds(result["prefill"]),
            _seconds(result["total"]),
            _times(result["ratio"]),
        ]
        for scenario in _load("generation")
        for name, result in scenario["results"].items()
    ]
    header = ["scenario", "how", "to the first token", "total", "ratio"]
    return build_markdown_table(header, rows) if rows else NOTHING


def build_vllm_table() -> str:
    results = read_results(RESULTS / "vllm_generation.json")
    rows = [
        [
            f"{scenario['workload']['num_prompts']} prompts, {_name_scenario(scenario)}, "
            f"G {scenario['workload']['num_generations']}",
            name,
            f"{result['completions_per_second']['median']:.1f}",
            _times(result["speedup"]),
        ]
        for scenario in _load("vllm_generation")
        for name, result in scenario["results"].items()
    ]
    if results is None:
        return NOTHING
    table = build_markdown_table(["scenario", "who", "completions per second", "as fast as transformers"], rows)
    versions = f"transformers {results['environment']['versions']['transformers']}, {results['vllm']}"
    return f"{table}\n{versions}; {results['environment']['processor']}.\n"


def build_run_table() -> str:
    rows = [
        [name, f"{train['median']:.1f} s [{train['min']:.1f}, {train['max']:.1f}]", _times(result["ratio"])]
        for scenario in _load("whole_run")
        for name, result in scenario["results"].items()
        for train in [result["train"]]
    ]
    return build_markdown_table(["run", "CPU time", "ratio"], rows) if rows else NOTHING


def build_gpu_table() -> str:
    rows = []
    for path in sorted(RESULTS.glob("gpu_step_*.json")):
        content = read_results(path)
        for scenario in content["scenarios"]:
            label = f"{content['shape']}, {_name_scenario(scenario)}, {content['environment']['processor']}"
            rows += [[label, name, *_describe_gpu(result, scenario)] for name, result in scenario["results"].items()]
    header = ["scenario", "who", "step s", "completion tokens/s", "TFLOP/s", "MFU", "peak GB"]
    return build_markdown_table(header, rows) if rows else NOTHING


def _describe_gpu(result: Results, scenario: Results) -> list[str]:
    if "out_of_memory" in result:
        return ["out of memory", *["—"] * 4]
    peak = scenario["peak_tflops"]
    return [
        f"{result['step']['median']:.3f}",
        f"{result['completion_tokens_per_second']:.0f}",
        f"{result['tflops']:.0f}",
        f"{result['tflops'] / peak:.0%}" if peak else "—",
        f"{result['peak_bytes'] / 1e9:.1f}",
    ]


def build_environment() -> str:
    """Where the CPU figures come from."""
    results = read_results(RESULTS / "step_time.json")
    if results is None:
        return NOTHING
    environment = results["environment"]
    versions = ", ".join(f"{name} {environment['versions'][name]}" for name in ("torch", "transformers", "trl"))
    commit = environment["code"]["commit"]
    dirty = " with uncommitted changes" if environment["code"]["is_dirty"] else ""
    return f"Measured with {versions}; {environment['processor']}; commit {commit[:12]}{dirty}.\n"


TABLES: dict[str, Callable[[], str]] = {
    "summary": build_summary,
    "environment": build_environment,
    "step_time": lambda: build_step_table(_load("step_time")),
    "sweep_g": lambda: build_sweep_table("g"),
    "sweep_p": lambda: build_sweep_table("p"),
    "sweep_c": lambda: build_sweep_table("c"),
    "generation": build_generation_table,
    "vllm": build_vllm_table,
    "whole_run": build_run_table,
    "gpu": build_gpu_table,
}


def render(text: str) -> str:
    """A page with every table between markers made anew.

    Raises:
        ValueError: a marker names no table.
    """

    def fill(block: re.Match) -> str:
        opening, name, closing = block.groups()
        if name not in TABLES:
            raise ValueError(f"<!-- results: {name} --> names no table; known: {', '.join(TABLES)}.")
        return f"{opening}\n{TABLES[name]()}\n{closing}"

    return _BLOCK.sub(fill, text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing, fail where a page is out of date")
    args = parser.parse_args()
    stale = [page for page in PAGES if render(page.read_text(encoding="utf-8")) != page.read_text(encoding="utf-8")]
    names = ", ".join(str(page.relative_to(ROOT)) for page in stale)
    if args.check and stale:
        raise SystemExit(f"{names}: not what benchmarks/results say; run python benchmarks/report.py")
    for page in stale:
        page.write_text(render(page.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"rewrote {names}" if stale else "everything is up to date")


if __name__ == "__main__":
    main()

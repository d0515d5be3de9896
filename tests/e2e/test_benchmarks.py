"""The benchmarks run at their smallest size, compare what they say they compare, and the pages show their results."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch


ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
SMALLEST = ["--shape", "tiny", "--image_tokens", "16", "--completion_tokens", "6", "--num_generations", "4"]
SIZES = {"prompt_tokens": 54, "num_generations": 4, "completions": [4, 6, 6, 8], "longest": 8}


def run(script: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(BENCHMARKS / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=900)


def read_results(script: str, tmp_path: Path, *arguments: str) -> dict:
    output = tmp_path / "results.json"
    finished = run(script, *SMALLEST, "--repetitions", "1", "--output", str(output), *arguments)
    assert finished.returncode == 0, finished.stderr
    content = json.loads(output.read_text())
    assert content["environment"]["versions"]["torch"] == importlib.metadata.version("torch")
    assert content["environment"]["code"]["commit"]
    (scenario,) = content["scenarios"]
    return scenario


def test_step_time_counts_each_prompt_and_picture_once_for_packed_groups_only(tmp_path):
    results = read_results("step_time.py", tmp_path)["results"]
    passes, size = 2, SIZES["num_generations"]  # reference and loss
    packed = SIZES["prompt_tokens"] - 1 + sum(SIZES["completions"])
    replicated = size * (SIZES["prompt_tokens"] + SIZES["longest"])
    counted = {name: (result["lm_tokens"], result["images_encoded"]) for name, result in results.items()}
    assert counted == {
        "ours packed": (passes * packed, 1),
        "ours replicated": (passes * replicated, 1),
        "TRL": (passes * replicated, passes * size),
        "TRL compact head": (passes * replicated, passes * size),
    }
    assert results["ours packed"]["ratio"]["median"] == 1.0
    assert (
        results["ours packed"]["peak_bytes"] < results["TRL compact head"]["peak_bytes"] < results["TRL"]["peak_bytes"]
    )


def test_generation_draws_the_same_tokens_three_ways(tmp_path):
    results = read_results("generation.py", tmp_path)["results"]
    assert list(results) == ["prefill once", "num_return_sequences", "replicated"]
    assert all(result["prefill"]["median"] > 0 for result in results.values())


def test_a_whole_run_has_the_same_steps_for_both_trainers(tmp_path):
    results = read_results("whole_run.py", tmp_path, "--num_steps", "2")["results"]
    assert list(results) == ["ours", "ours, checkpointing", "TRL", "TRL, no checkpointing"]


def test_the_gpu_benchmark_runs_on_a_cpu_at_its_smallest_and_refuses_to_pretend(tmp_path):
    scenario = read_results("gpu_step.py", tmp_path, "--device", "cpu", "--trained_tower")
    assert scenario["trains_tower"] and scenario["checkpointing"]
    results = scenario["results"]
    assert list(results) == ["ours packed concat", "ours replicated", "TRL"]
    assert results["ours packed concat"]["executed_tflop"] < results["ours replicated"]["executed_tflop"]
    if not torch.cuda.is_available():
        refused = run("gpu_step.py")
        assert refused.returncode != 0
        assert "needs a CUDA device" in refused.stderr


def test_the_pages_show_what_the_results_say():
    checked = run("report.py", "--check")
    assert checked.returncode == 0, checked.stderr


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize(
    "change",
    [
        {"loss": 0.1001},
        {"gradient_norm": 2.001},
        {"ref_per_token_logps": torch.tensor([1.0, 2.001])},
        {"loss": float("nan")},
        {"prompt_ids": [[1, 3]]},
    ],
)
def test_contenders_that_compute_something_else_are_not_compared(benchmarks, change):
    from contenders import Outcome, check_agreement

    values = {"loss": 0.1, "gradient_norm": 2.0, "ref_per_token_logps": torch.tensor([1.0, 2.0]), "saved_bytes": 1}
    prompts = [[[1, 2]], change.pop("prompt_ids", [[1, 2]])]
    contenders = [SimpleNamespace(name=str(i), prompt_ids=ids) for i, ids in enumerate(prompts)]
    outcomes = [Outcome(**values), Outcome(**values | change)]
    with pytest.raises(ValueError, match="do not compute the same"):
        check_agreement(contenders, outcomes)
    check_agreement(contenders[:1] * 2, [Outcome(**values)] * 2)


def test_a_table_that_nobody_builds_is_an_error(benchmarks):
    from report import render

    with pytest.raises(ValueError, match="names no table"):
        render("<!-- results: nonsense -->\n<!-- /results -->")


@pytest.mark.parametrize("name", ["tiny", "small"])
def test_counted_operations_are_those_of_a_forward_pass(benchmarks, name):
    """But for attention, which the counter of torch leaves out on a CPU."""
    from flops import PATCHES_PER_WINDOW, count_image_flops, count_language_flops
    from shapes import SHAPES, build_bench_processor, build_model
    from torch.utils.flop_counter import FlopCounterMode

    shape, patches = SHAPES[name], 256
    model = build_model(shape, build_bench_processor())
    with torch.no_grad(), FlopCounterMode(display=False) as language:
        model(input_ids=torch.ones(1, 30, dtype=torch.long), logits_to_keep=4)
    assert count_language_flops(shape, tokens=30, pairs=0, scored=4) == pytest.approx(
        language.get_total_flops(), rel=1e-3
    )
    grid = torch.tensor([[1, 16, 16]])
    with torch.no_grad(), FlopCounterMode(display=False) as vision:
        model.get_image_features(pixel_values=torch.zeros(patches, 1176), image_grid_thw=grid)
    num_full = len(shape.vision["fullatt_block_indexes"])
    pairs = patches * (num_full * patches + (shape.vision["depth"] - num_full) * PATCHES_PER_WINDOW)
    attention = 4 * shape.vision["hidden_size"] * pairs
    assert count_image_flops(shape, patches) - attention == pytest.approx(vision.get_total_flops(), rel=1e-3)

"""One process, data parallelism, ZeRO-2, ZeRO-3 and FSDP2 learn the same from the same global batch; jobs that lose a
process or hang say so, and go on when they are started again.

Starting two processes takes longer than any case, so that they run one after the other in the same ones
(`distributed_cases.py`).
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from builders import write_iqa_data
from distributed_cases import REPO, build_trainer, main, score_fixed_batch
from safetensors.torch import load_file

from open_r1.completions import get_answer_contract
from open_r1.data.jsonl import load_jsonl_dataset
from open_r1.trainer.checkpoints import find_damage, list_checkpoints


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
TOLERANCE = 3e-5  # sums of float32 in another order

# Each case with the one on one process that it must equal.
FAST = {
    "ddp_rows": "one",
    "ddp_mixed": "one_mixed",
    "ddp_engine_rows": "one_engine",
    "zero2_rows": "one",
    "zero3": "one",
    "zero3_lora_checkpointing": "one_lora",
    "zero3_mixed": "one_mixed",
    "zero3_mixed_frozen": "one_mixed_frozen",
    "fsdp2": "one",
    "fsdp2_lora_checkpointing": "one_lora",
    "fsdp2_mixed": "one_mixed",
}
SLOW = {
    "ddp": "one",
    "ddp_checkpointing": "one",
    "zero2": "one",
    "zero2_mixed": "one_mixed",
    "zero3_lora": "one_lora",
    "zero3_frozen": "one_frozen",
    "zero3_rows": "one",
    "zero3_checkpointing": "one",
    "zero3_replicated": "one_mixed",
    "fsdp2_rows": "one",
    "fsdp2_lora": "one_lora",
    "fsdp2_frozen": "one_frozen",
    "fsdp2_checkpointing": "one",
    "fsdp2_mixed_frozen": "one_mixed_frozen",
    "fsdp2_replicated": "one_mixed",
}
OTHERS = (
    *("ddp_generate", "zero3_generate", "zero3_layerwise_generate", "fsdp2_generate", "fsdp2_layerwise_generate"),
    *("zero3_poisoned", "zero2_poisoned", "fsdp2_poisoned", "ddp_evaluate", "fsdp2_evaluate", "fsdp2_bf16"),
)
RESUMED = ("zero2_resume", "zero3_sync_resume", "fsdp2_sync_resume")
MORE_RESUMED = ("zero3_resume", "zero3_lora_resume", "fsdp2_resume", "fsdp2_lora_resume")


@pytest.fixture(scope="module")
def rows_path(tmp_path_factory) -> Path:
    """Sixteen rows with a picture each, and sixteen of which the first process gets none with a picture."""
    folder = tmp_path_factory.mktemp("data")
    path, images = write_iqa_data(folder, num_rows=16)
    contract = get_answer_contract("scoring")
    rows = list(load_jsonl_dataset([str(path)], [str(images)], contract=contract, require_mos=True))
    mixed = []
    for i, row in enumerate(rows):
        num_images = 0 if i // 4 % 2 == 0 else 1 + i % 3
        text = "How good is it?" + " really" * (i % 5)
        content = [{"type": "image", "text": None}] * num_images + [{"type": "text", "text": text}]
        paths = [str(images / f"{(i + k) % 16}.png") for k in range(num_images)]
        mixed.append(row | {"image_path": paths, "prompt": [{"role": "user", "content": content}]})
    (folder / "rows.json").write_text(json.dumps({"pictures": rows, "mixed": mixed}))
    return folder / "rows.json"


def run_cases(checkpoint: str, rows_path: Path, output_dir: Path, cases: list[str]) -> None:
    arguments = [checkpoint, str(rows_path), str(output_dir)]
    main(*arguments, *sorted({case for case in cases if case.startswith("one")}))
    command = [*TORCHRUN, str(REPO / "tests" / "distributed_cases.py"), *arguments]
    command += [case for case in cases if not case.startswith("one")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert result.returncode == 0, result.stderr[-6000:]


@pytest.fixture(scope="module")
def fast(tiny_checkpoint, rows_path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fast")
    run_cases(tiny_checkpoint, rows_path, folder, [*FAST, *FAST.values(), *OTHERS, *RESUMED])
    return folder


@pytest.fixture(scope="module")
def slow(tiny_checkpoint, rows_path, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("slow")
    run_cases(tiny_checkpoint, rows_path, folder, [*SLOW, *SLOW.values(), *MORE_RESUMED])
    return folder


def read(folder: Path, case: str) -> dict:
    return json.loads((folder / f"{case}.json").read_text())


def assert_equal(found: dict, expected: dict) -> None:
    assert len(found["steps"]) == len(expected["steps"]) == 4
    for name in ("loss", "grad_norm"):
        assert [step[name] for step in found["steps"]] == pytest.approx(
            [step[name] for step in expected["steps"]], abs=TOLERANCE
        )
    assert found["logps"] == pytest.approx(expected["logps"], abs=TOLERANCE)


@pytest.mark.parametrize("case", FAST)
def test_the_same_global_batch_gives_the_same_losses_and_the_same_policy(fast, case):
    assert_equal(read(fast, case), read(fast, FAST[case]))
    first, *_, last = read(fast, case)["steps"]
    assert first["grad_norm"] > 0.1 and last["kl"] > 1e-3  # something was learnt


def test_the_mismatch_with_another_engine_is_told_over_all_processes(fast):
    found, expected = (read(fast, case)["steps"] for case in ("ddp_engine_rows", "one_engine"))
    names = {name for name in expected[0] if name.startswith("sampling/")}
    told = {name.rpartition("/")[2] for name in names}
    assert told >= {"k1", "k3", "masked", "applied", "min", "mean", "max", "p99"}
    for mine, theirs in zip(found, expected):
        for name in names:
            assert mine[name] == pytest.approx(theirs[name], rel=1e-4, abs=TOLERANCE), name
    masked = [step["sampling/importance_sampling_ratio/masked"] for step in expected]
    assert 0 < sum(masked) < len(masked)


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW)
def test_more_ways_to_the_same_policy(slow, case):
    assert_equal(read(slow, case), read(slow, SLOW[case]))


@pytest.mark.parametrize(
    "case", ["ddp_rows", "zero2_rows", "zero3", "zero3_lora_checkpointing", "fsdp2", "fsdp2_lora_checkpointing"]
)
def test_the_saved_folder_is_an_ordinary_checkpoint(fast, case, rows_path, tmp_path):
    one = "one_lora" if "lora" in case else "one"
    rows = json.loads(rows_path.read_text())
    trainer = build_trainer(str(fast / case), rows, tmp_path, one)
    assert score_fixed_batch(trainer, rows) == pytest.approx(read(fast, case)["logps"], abs=TOLERANCE)


def test_fsdp_saves_the_names_that_one_process_saves(fast):
    for case, one, name in [
        ("fsdp2", "one", "model.safetensors"),
        ("fsdp2_lora_checkpointing", "one_lora", "adapter_model.safetensors"),
    ]:
        assert load_file(fast / case / name).keys() == load_file(fast / one / name).keys()


def test_bf16_under_fsdp_rounds_weights_for_a_pass_and_neither_slices_nor_log_probabilities(fast):
    found, exact = read(fast, "fsdp2_bf16"), read(fast, "one")
    assert found["logps"] == pytest.approx(exact["logps"], abs=0.05)
    logps = torch.tensor(found["logps"])
    assert (logps != logps.bfloat16()).float().mean() > 0.5
    # A step of 1e-3 or less would be lost on most weights of 8 bits.
    assert found["steps"][-1]["kl"] == pytest.approx(exact["steps"][-1]["kl"], rel=0.1)
    weights = load_file(fast / "fsdp2_bf16" / "model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.bfloat16}
    assert json.loads((fast / "fsdp2_bf16" / "config.json").read_text())["dtype"] == "bfloat16"


def read_completions(folder: Path, case: str) -> list[list[str]]:
    paths = [folder / case / "rollouts" / f"rank{rank}.jsonl" for rank in (0, 1)]
    return [json.loads(line)["completions"] for path in paths for line in path.read_text().splitlines()]


def test_zero3_generates_the_same_and_gathers_all_weights_once_per_round(fast):
    expected = read_completions(fast, "ddp_generate")
    assert len({text for group in expected for text in group}) > 4
    assert read_completions(fast, "zero3_generate") == expected
    assert read(fast, "zero3_generate")["gathers"] == {"contexts": 1, "collectives": 0}


def test_fsdp_generates_the_same_and_gathers_each_layer_once_per_round(fast):
    assert read_completions(fast, "fsdp2_generate") == read_completions(fast, "ddp_generate")
    gathers = read(fast, "fsdp2_generate")["gathers"]
    assert gathers["collectives"] == gathers["units"] > 4
    assert read_completions(fast, "fsdp2_layerwise_generate") == read_completions(fast, "ddp_generate")
    assert read(fast, "fsdp2_layerwise_generate")["gathers"]["collectives"] > 2 * gathers["units"]


def test_fsdp_evaluates_and_refills_rounds_as_data_parallelism_does(fast):
    """Five validation rows for two processes, and a process whose groups have no advantage."""
    assert read_completions(fast, "fsdp2_evaluate") == read_completions(fast, "ddp_evaluate")
    lines = [
        [json.loads(line) for line in (fast / case / "metrics.jsonl").read_text().splitlines()]
        for case in ("fsdp2_evaluate", "ddp_evaluate")
    ]
    for name in ("loss", "eval_reward", "eval_completions/mean_length", "dynamic_sampling/refilled_groups"):
        found, expected = ([line[name] for line in part if name in line] for part in lines)
        assert found == pytest.approx(expected, abs=TOLERANCE) and len(found) >= 1
    assert lines[0][0]["dynamic_sampling/refilled_groups"] > 0


def test_layer_by_layer_it_generates_the_same_with_many_gathers(fast):
    assert read_completions(fast, "zero3_layerwise_generate") == read_completions(fast, "ddp_generate")
    gathers = read(fast, "zero3_layerwise_generate")["gathers"]
    assert gathers["contexts"] == 1  # the vision tower, which devices run different numbers of times
    assert gathers["collectives"] > 20


@pytest.mark.parametrize("case", ["zero2_poisoned", "zero3_poisoned", "fsdp2_poisoned"])
def test_a_gradient_that_is_not_finite_moves_no_weight(fast, case):
    first, second, third = read(fast, case)["sums"]
    assert first == second != third


def assert_resumed(folder: Path, case: str) -> None:
    result = read(folder, case)
    whole, resumed = result["results"]
    assert result["started"] == 1
    assert_equal(resumed, whole)
    state = "optimizer_0" if "fsdp2" in case else "latest"
    assert {"manifest.json", state, "trainer_state.json"} < set(result["files"])
    shares = (re.search(r"_optim_states.pt$|optimizer_0/.*\.distcp$", name) for name in result["files"])
    assert sum(map(bool, shares)) == 2
    assert [find_damage(path) for path in list_checkpoints(folder / case / "resumed")] == [None] * 4


@pytest.mark.parametrize("case", RESUMED)
def test_a_run_goes_on_from_the_middle_of_a_round(fast, case):
    assert_resumed(fast, case)


@pytest.mark.slow
@pytest.mark.parametrize("case", MORE_RESUMED)
def test_more_runs_go_on_from_the_middle_of_a_round(slow, case):
    assert_resumed(slow, case)


@pytest.mark.slow
def test_optimizer_and_weights_in_cpu_memory(tiny_checkpoint, rows_path, tmp_path):
    """DeepSpeed compiles its optimizer for this, minutes long, once per machine."""
    cases = ["zero2_offload", "zero3_offload"]
    run_cases(tiny_checkpoint, rows_path, tmp_path, ["one", *cases])
    for case in cases:
        assert_equal(read(tmp_path, case), read(tmp_path, "one"))


TROUBLE = """
import os, signal, time
from PIL import Image
def hang(*args, **kwargs):
    time.sleep(300)
def troubled_reward(completions, trainer_state, process_index, **kwargs):
    attempt, step = os.environ["TORCHELASTIC_RESTART_COUNT"], trainer_state.global_step
    if process_index == 1 and (attempt, step) == ("0", 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if process_index == 1 and (attempt, step) == ("1", 1):
        Image.open = hang  # as a file system may
    return [sum(c.isalpha() for c in completion[0]["content"]) / 40 for completion in completions]
"""


def test_a_job_that_loses_a_process_and_then_hangs_says_so_and_goes_on(tiny_checkpoint, iqa_data, tmp_path):
    (tmp_path / "trouble.py").write_text(TROUBLE)
    options = {
        "model_name_or_path": tiny_checkpoint,
        "data_file_paths": str(iqa_data[0]),
        "image_folders": str(iqa_data[1]),
        "output_dir": str(tmp_path / "run"),
        "reward_funcs": f"{tmp_path}/trouble.py:troubled_reward",
        "deepspeed": "configs/deepspeed_zero3.json",
        "ddp_timeout": "10",
        "resume_from_checkpoint": "auto",
        "num_generations": "2",
        "per_device_train_batch_size": "2",
        "max_completion_length": "6",
        "max_steps": "3",
        "save_strategy": "steps",
        "save_steps": "1",
        "report_to": "none",
        "disable_tqdm": "true",
    }
    words = [word for name, value in options.items() for word in (f"--{name}", value)]
    command = [*TORCHRUN, "--max_restarts", "2", "-m", "open_r1.grpo_jsonl", *words]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(command, capture_output=True, text=True, env=env, timeout=600)
    assert result.returncode == 0, result.stderr[-4000:]
    assert "rank 1 gave no sign of life for" in result.stderr
    assert "processes wait 10 s for each other (--ddp_timeout); rank 1 is in stage step" in result.stderr
    assert re.search(r"rank 0 fails in stage (round|gather|generate) after 1\d s there", result.stderr)
    lines = map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines())
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3]
    assert (tmp_path / "run" / "model.safetensors").is_file()

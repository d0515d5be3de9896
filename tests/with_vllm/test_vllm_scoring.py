"""Scoring with vLLM: the scores and texts of transformers, adapters, interruptions, several processes, refusals."""

import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from brightness import teach_brightness
from PIL import Image
from processes import build_environment, run_alone

from open_r1 import score
from open_r1.inference.hf_generator import HFGenerator
from open_r1.scorer import Scorer, ScoringSettings
from open_r1.tiny import build_tiny_vlm
from open_r1.trainer.ranks import Ranks
from open_r1.utils.predictions import Prediction, load_predictions


SIZES = [(56, 56), (84, 56), (112, 112)]
NUM_PICTURES = 200
VLLM = {"engine": "vllm", "gpu_memory_utilization": 0.3, "enforce_eager": True}


def draw_pictures(folder: Path, number: int) -> list[str]:
    """Noise of many brightnesses and several sizes, as `000.png` and so on; returns their paths."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    paths = [str(folder / f"{index:03}.png") for index in range(number)]
    for index, path in enumerate(paths):
        width, height = SIZES[index * 7 % 3]
        pixels = rng.normal(rng.integers(20, 235), 8, (height, width, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


@pytest.fixture(scope="module")
def workdir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `model`, pictures in `images`, and a clip."""
    folder = tmp_path_factory.mktemp("scoring")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    build_tiny_vlm(folder / "model", "test", seed=0)
    teach_brightness(folder / "model")
    torch.set_num_threads(threads)
    draw_pictures(folder / "images", NUM_PICTURES)
    draw_pictures(folder / "few", 12)
    clip = np.random.default_rng(0).integers(0, 255, (8, 56, 56, 3), dtype=np.uint8)
    np.save(folder / "clip.npy", clip)
    return folder


def list_pictures(folder: Path) -> list[str]:
    return sorted(str(path) for path in (folder / "images").glob("*.png"))


def describe_all(records: list[Prediction]) -> list[dict]:
    return [asdict(record) for record in records]


# ---- the same engine in one process ---------------------------------------------------------------------------------


def score_with_one_engine(folder: Path) -> dict[str, list[dict]]:
    """What an engine scores under several settings; runs in a process of its own."""
    paths = list_pictures(folder)
    greedy = Scorer.from_pretrained(folder / "model", settings=ScoringSettings(max_new_tokens=24), **VLLM)
    assert greedy.batch_size == 64
    sampled = Scorer(greedy.generator, ScoringSettings(max_new_tokens=24, num_samples=4, batch_size=50))
    other = Scorer(greedy.generator, ScoringSettings(max_new_tokens=24, num_samples=4, batch_size=50, seed=1))
    described = Scorer(greedy.generator, ScoringSettings(max_new_tokens=24, describe=True))
    return {
        "greedy": describe_all(greedy.score(paths)),
        "sampled": describe_all(sampled.score(paths)),
        "sampled again": describe_all(sampled.score(paths)),
        "sampled with another seed": describe_all(other.score(paths)),
        "others": describe_all(described.score([paths[0], folder / "clip.npy", folder / "absent.png"])),
    }


@pytest.fixture(scope="module")
def scored(workdir: Path) -> dict[str, list[dict]]:
    return run_alone(score_with_one_engine, workdir)


def test_two_hundred_pictures_have_the_scores_and_texts_of_transformers(workdir, scored):
    scorer = Scorer.from_pretrained(workdir / "model", device="cpu", settings=ScoringSettings(max_new_tokens=24))
    expected = scorer.score(list_pictures(workdir))
    assert scored["greedy"] == describe_all(expected)
    scores = [record.score for record in expected if record.score is not None]
    assert len(expected) == NUM_PICTURES and len(scores) > NUM_PICTURES // 2 and len(set(scores)) > 10


def test_samples_are_those_of_their_seed(scored):
    assert scored["sampled"] == scored["sampled again"] != scored["sampled with another seed"]
    records = [Prediction(**values) for values in scored["sampled"]]
    assert all(len(record.texts) == 4 for record in records)
    assert sum(bool(record.std) for record in records) > NUM_PICTURES // 10


def test_videos_descriptions_and_unreadable_files_are_those_of_transformers(workdir, scored):
    settings = ScoringSettings(max_new_tokens=24, describe=True)
    scorer = Scorer.from_pretrained(workdir / "model", device="cpu", settings=settings)
    pictures = [list_pictures(workdir)[0], workdir / "clip.npy", workdir / "absent.png"]
    expected = scorer.score(pictures)
    assert scored["others"] == describe_all(expected)
    assert expected[1].texts and expected[0].description and "no such file" in expected[2].error


# ---- adapters -------------------------------------------------------------------------------------------------------


def write_adapters(base: Path, folder: Path) -> None:
    """Adapters that change what the model says, without a processor, as peft alone saves them."""
    from peft import LoraConfig, get_peft_model

    model = HFGenerator.from_pretrained(str(base), device="cpu").model
    torch.manual_seed(0)
    targets = ["q_proj", "v_proj", "down_proj", "qkv"]  # of both towers
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", target_modules=targets))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    adapted.save_pretrained(folder)


def score_adapters(folder: Path) -> list[dict]:
    settings = ScoringSettings(max_new_tokens=24)
    scorer = Scorer.from_pretrained(folder / "adapters", settings=settings, **VLLM)
    return describe_all(scorer.score(list_pictures(folder)[:40]))


def test_a_folder_of_adapters_is_merged_into_the_engine(workdir, scored):
    write_adapters(workdir / "model", workdir / "adapters")
    settings = ScoringSettings(max_new_tokens=24)
    expected = Scorer.from_pretrained(workdir / "adapters", device="cpu", settings=settings)
    expected = describe_all(expected.score(list_pictures(workdir)[:40]))
    assert expected != scored["greedy"][:40]  # the adapters say something else than their base
    assert run_alone(score_adapters, workdir) == expected


# ---- the command ----------------------------------------------------------------------------------------------------


def build_command(folder: Path, output: str, *extra: str) -> list[str]:
    command = ["--model", str(folder / "model"), "--images", str(folder / "few"), "--output", str(folder / output)]
    command += ["--engine", "vllm", "--gpu_memory_utilization", "0.3", "--enforce_eager", "--batch_size", "4"]
    return [*command, "--num_samples", "2", "--max_new_tokens", "24", *extra]


def run_score(arguments: list[str], num_processes: int = 1) -> subprocess.CompletedProcess:
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes), "-m"]
    command = [sys.executable, "-m", *(launcher if num_processes > 1 else []), "open_r1.score", *arguments]
    environment = build_environment(CUDA_VISIBLE_DEVICES="")
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)


@pytest.fixture(scope="module")
def whole(workdir: Path) -> bytes:
    result = run_score(build_command(workdir, "whole.jsonl"))
    assert result.returncode == 0, result.stderr[-5000:]
    assert "0 unreadable -> " in result.stderr
    return (workdir / "whole.jsonl").read_bytes()


def test_two_processes_complete_what_one_has_begun_though_one_of_them_has_nothing_to_do(workdir, whole):
    second = Ranks(rank=1, world_size=2, local_rank=1)
    batches = score.plan_work(sorted(map(str, (workdir / "few").glob("*.png"))), 4, second)
    rows = {row.path: line for row, line in zip(load_predictions(workdir / "whole.jsonl"), whole.splitlines(True))}
    assert len(batches) == 1  # of the second process; the first has two
    begun = workdir / "begun.jsonl"
    begun.write_bytes(b"".join(rows[path] for path in batches[0]) + b'{"path": "torn')
    begun.with_name("begun.jsonl.meta.json").write_bytes((workdir / "whole.jsonl.meta.json").read_bytes())
    result = run_score(build_command(workdir, "begun.jsonl"), num_processes=2)
    assert result.returncode == 0, result.stderr[-5000:]
    assert "holds 4 rows already; going on from there" in result.stderr
    assert "Traceback" not in result.stderr  # neither of them stumbles on its way out
    assert begun.read_bytes() == whole


def test_what_vllm_has_begun_transformers_does_not_go_on_with(workdir, whole):
    command = build_command(workdir, "whole.jsonl")
    start = command.index("--engine")
    del command[start : start + 5]
    with pytest.raises(ValueError, match="engine: 'vllm' then, 'hf' now"):
        score.main(command)
    assert (workdir / "whole.jsonl").read_bytes() == whole


def test_an_engine_that_does_not_start_ends_the_command_and_keeps_what_was_scored(workdir, whole):
    kept = b"".join(whole.splitlines(True)[:5])
    (workdir / "kept.jsonl").write_bytes(kept)
    (workdir / "kept.jsonl.meta.json").write_bytes((workdir / "whole.jsonl.meta.json").read_bytes())
    result = run_score(build_command(workdir, "kept.jsonl", "--max_model_len", "100000000"))
    assert result.returncode == 1
    assert "error: vLLM could not start: " in result.stderr and "Traceback" not in result.stderr
    assert (workdir / "kept.jsonl").read_bytes() == kept


def test_a_device_or_adapters_that_an_engine_cannot_have_are_refused(workdir):
    with pytest.raises(ValueError, match="CUDA_VISIBLE_DEVICES"):
        Scorer.from_pretrained(workdir / "model", device="cpu", engine="vllm")
    with pytest.raises(ValueError, match=r"merge them first.*open_r1\.merge --adapters"):
        write_adapters(workdir / "model", workdir / "shared")
        Scorer.from_pretrained(workdir / "shared", engine="vllm", tensor_parallel_size=2)
    with pytest.raises(ValueError, match="take one of hf, vllm"):
        Scorer.from_pretrained(workdir / "model", engine="other")

"""Scoring and evaluating with the real commands: a tiny model that was taught to read brightness as quality."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from brightness import LEVELS, teach_brightness
from PIL import Image

from open_r1.completions import IQA_QUESTION, get_answer_contract
from open_r1.data.jsonl import load_jsonl_dataset
from open_r1.inference.hf_generator import HFGenerator
from open_r1.scorer import Scorer, ScoringSettings
from open_r1.tiny import build_tiny_vlm


def run_command(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [sys.executable, "-m", *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300
    )


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    """A folder with `model`, `images/*.png`, a broken image and `labels.txt` (reference, image, MOS)."""
    folder = tmp_path_factory.mktemp("score")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    build_tiny_vlm(folder / "model", "test", seed=0)
    teach_brightness(folder / "model")
    torch.set_num_threads(threads)
    (folder / "images" / "deep").mkdir(parents=True)
    lines = []
    for index, level in enumerate(LEVELS):
        name = f"deep/{index}.png" if index % 2 else f"{index}.png"
        Image.new("RGB", (56, 56), (level,) * 3).save(folder / "images" / name)
        lines.append(f"r{index // 2}.png {name} {level / 255 * 100}\n")
    (folder / "images" / "broken.png").write_bytes((folder / "images" / "0.png").read_bytes()[:60])
    (folder / "labels.txt").write_text("".join([*lines, "r9.png broken.png 50\n", "r9.png absent.png 50\n"]))
    return folder


def score(workdir: Path, output: str, *extra: str) -> subprocess.CompletedProcess:
    command = ["open_r1.score", "--model", "model", "--images", "images", "--output", output, "--batch_size", "4"]
    return run_command(*command, "--max_new_tokens", "24", *extra, cwd=workdir)


def read_rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def greedy(workdir) -> Path:
    result = score(workdir, "greedy.csv")
    assert result.returncode == 3, result.stderr  # one image is broken
    assert "10 scored, 0 unparsed, 1 unreadable -> greedy.csv" in result.stderr
    assert "image" in result.stderr and "11/11" in result.stderr  # the progress bar
    return workdir / "greedy.csv"


def test_every_image_has_a_row_with_its_score_or_the_reason_why_not(greedy):
    rows = {Path(row["path"]).name: row for row in read_rows(greedy)}
    assert list(rows["0.png"]) == ["path", "score", "text", "error"]
    assert len(rows) == 11
    for index, level in enumerate(LEVELS):
        row = rows[f"{index}.png"]
        assert float(row["score"]) == pytest.approx(1 + 4 * level / 255, abs=0.3)
        assert row["text"] == f"<think>noise</think><answer>{row['score']}</answer>"
    assert (rows["broken.png"]["score"], rows["broken.png"]["text"]) == ("", "")
    assert rows["broken.png"]["error"]


def test_a_truncated_output_is_completed_to_the_same_file(workdir, greedy):
    content = greedy.read_bytes()
    torn = workdir / "torn.csv"
    torn.write_bytes(content[: len(content) // 2])
    torn.with_name("torn.csv.meta.json").write_bytes(greedy.with_name("greedy.csv.meta.json").read_bytes())
    result = score(workdir, "torn.csv")
    assert result.returncode == 3, result.stderr
    assert "going on from there" in result.stderr
    assert torn.read_bytes() == content
    result = score(workdir, "torn.csv", "--no-thinking")
    assert result.returncode == 1
    assert "thinking: True then, False now" in result.stderr
    assert torn.read_bytes() == content


def test_samples_have_mean_and_spread_and_do_not_depend_on_interruptions(workdir):
    extra = ["--num_samples", "4", "--temperature", "1.2"]
    assert score(workdir, "samples.jsonl", *extra).returncode == 3
    whole = (workdir / "samples.jsonl").read_bytes()
    rows = [json.loads(line) for line in whole.splitlines()]
    assert all(len(row["text"]) == 4 for row in rows if not row["error"])
    spread = [row["score_std"] for row in rows if row["num_parsed"] and row["num_parsed"] > 1]
    assert spread and max(spread) > 0
    assert any(row["num_parsed"] not in (None, 4) for row in rows)  # hot enough to garble some answers
    kept = b"".join(whole.splitlines(keepends=True)[:5])
    (workdir / "samples.jsonl").write_bytes(kept + b'{"path": "images/')
    assert score(workdir, "samples.jsonl", *extra).returncode == 3
    assert (workdir / "samples.jsonl").read_bytes() == whole
    assert score(workdir, "other.jsonl", *extra, "--seed", "1").returncode == 3
    assert (workdir / "other.jsonl").read_bytes() != whole


def test_scores_are_evaluated_against_labels_by_file_name(workdir, greedy):
    files = ["--predictions", greedy.name, "--labels", "labels.txt", "--output", "eval.json"]
    result = run_command("open_r1.evaluate", *files, cwd=workdir)
    assert result.returncode == 0, result.stderr
    report = json.loads((workdir / "eval.json").read_text())
    assert set(report) > {"srcc", "krcc", "plcc", "plcc_fitted", "rmse", "n", "n_unparsed", "n_missing", "ci95"}
    assert report["protocol"]["scoring"]["temperature"] == 0 and report["model"] == "model"
    assert (report["n"], report["n_unparsed"], report["n_missing"]) == (10, 0, 2)
    assert report["srcc"] > 0.9
    assert report["rmse"] < 15  # on the labels' scale of 0 to 100
    assert report["ci95"]["srcc"][0] <= report["srcc"] <= report["ci95"]["srcc"][1]
    assert "| SRCC" in (workdir / "eval.md").read_text()
    assert (workdir / "eval.png").stat().st_size > 5000


def test_the_prompt_is_the_one_of_training(workdir):
    row = {
        "id": 1,
        "image": ["0.png"],
        "conversations": [{"from": "human", "value": IQA_QUESTION}, {"from": "gpt", "value": 3.0}],
    }
    (workdir / "train.jsonl").write_text(json.dumps(row) + "\n")
    generator = HFGenerator.from_pretrained(str(workdir / "model"), device="cpu")
    images = [Image.open(workdir / "images" / "0.png")]
    for template in ("scoring", "scoring_no_think"):
        contract = get_answer_contract(template)
        files = [str(workdir / "train.jsonl")], [str(workdir / "images")]
        trained = load_jsonl_dataset(*files, contract=contract, require_mos=True)[0]["prompt"]
        media = generator.vlm_module.encode_image(generator.processor, images[0])
        scored = Scorer(generator, ScoringSettings(question_template=template)).encode_prompt(media)
        assert torch.equal(generator.encode(trained, images).input_ids, scored.input_ids)

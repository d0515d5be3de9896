"""The scorer: killed and restarted, on two processes, in batches of any kind, from Python, and all that it takes."""

import csv
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from brightness import teach_brightness
from PIL import Image

from open_r1 import score
from open_r1.completions import get_answer_contract
from open_r1.data.jsonl import load_jsonl_dataset
from open_r1.rewards import build_reward_funcs
from open_r1.scorer import Scorer, ScoringSettings
from open_r1.tiny import build_tiny_vlm
from open_r1.utils.predictions import load_predictions


ROOT = Path(__file__).parents[2]
SIZES = [(56, 56), (84, 56), (112, 112)]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


def draw_pictures(folder: Path, number: int) -> Path:
    """Noise of many brightnesses and several sizes, as `000.png` and so on."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for index in range(number):
        width, height = SIZES[index * 7 % 3]
        pixels = rng.normal(rng.integers(20, 235), 8, (height, width, 3)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:03}.png")
    return folder


@pytest.fixture(scope="module")
def workdir(tmp_path_factory) -> Path:
    """A folder with `model` and twelve pictures in `images`."""
    folder = tmp_path_factory.mktemp("scorer")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    build_tiny_vlm(folder / "model", "test", seed=0)
    teach_brightness(folder / "model")
    torch.set_num_threads(threads)
    draw_pictures(folder / "images", 12)
    return folder


@pytest.fixture(scope="module")
def scorer(workdir) -> Scorer:
    return Scorer.from_pretrained(workdir / "model", device="cpu", settings=ScoringSettings(max_new_tokens=24))


def build_command(folder: Path, images: str, output: str, *extra: str) -> list[str]:
    command = ["--model", str(folder / "model"), "--images", images, "--output", str(folder / output)]
    return [*command, "--batch_size", "4", "--max_new_tokens", "24", "--device", "cpu", *extra]


def list_names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.png"))


# ---- interruptions and processes --------------------------------------------------------------------------------


def count_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def kill_after(arguments: list[str], journal: Path, num_rows: int, log: Path) -> bytes:
    """Runs the command, kills it when the journal has so many rows, and returns the journal's whole rows."""
    with open(log, "wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "open_r1.score", *arguments], env=ENVIRONMENT, stdout=file, stderr=file
        )
        deadline = time.monotonic() + 240
        while count_lines(journal) < num_rows and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL, log.read_text()
    content = journal.read_bytes()
    return content[: content.rfind(b"\n") + 1]


@pytest.mark.parametrize(
    ("number", "batch_size", "suffix"),
    [(48, 4, ".parquet"), pytest.param(500, 20, ".csv", marks=pytest.mark.slow)],
    ids=["48", "500"],
)
def test_killed_twice_it_scores_each_image_once_and_leaves_the_same_file(
    workdir, tmp_path, number, batch_size, suffix
):
    images = draw_pictures(tmp_path / "images", number)
    extra = ["--num_samples", "2", "--temperature", "1", "--batch_size", str(batch_size)]
    whole = build_command(workdir, str(images), f"whole{suffix}", *extra)
    assert score.main(whole) == 0
    killed = build_command(workdir, str(images), f"killed{suffix}", *extra)
    output, journal = workdir / f"killed{suffix}", workdir / f"killed{suffix}.parts" / "0.jsonl"
    first = kill_after(killed, journal, number // 4, tmp_path / "log")
    assert not output.exists()
    second = kill_after(killed, journal, number // 2, tmp_path / "log")
    assert second.startswith(first)  # nothing again, nothing lost
    paths = [json.loads(line)["path"] for line in second.splitlines()]
    assert len(set(paths)) == len(paths) < number
    assert score.main(killed) == 0
    assert output.read_bytes() == (workdir / f"whole{suffix}").read_bytes()
    rows = load_predictions(output)
    assert [Path(row.path).name for row in rows] == list_names(images)  # in the order of the inputs
    assert sum(row.score is not None for row in rows) > number // 2
    assert not journal.exists()


def test_two_processes_give_the_file_of_one(workdir):
    extra = ["--num_samples", "2", "--temperature", "1"]
    assert score.main(build_command(workdir, str(workdir / "images"), "one.jsonl", *extra)) == 0
    two = build_command(workdir, str(workdir / "images"), "two.jsonl", *extra)
    launcher = ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "open_r1.score"]
    result = subprocess.run(
        [sys.executable, "-m", *launcher, *two], env=ENVIRONMENT, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("unreadable -> ") == 1  # one of them reports
    assert (workdir / "two.jsonl").read_bytes() == (workdir / "one.jsonl").read_bytes()


def test_a_complete_file_is_left_as_it_is_and_more_images_are_added_to_it(workdir):
    some = [str(workdir / "images" / f"00{index}.png") for index in (3, 1, 2)]
    command = build_command(workdir, some[0], "grown.csv")
    assert score.main(command) == 0
    before = (workdir / "grown.csv").read_bytes()
    assert score.main(command) == 0
    assert (workdir / "grown.csv").read_bytes() == before
    command[command.index("--images") + 1 : command.index("--output")] = some
    assert score.main(command) == 0
    assert [row.path for row in load_predictions(workdir / "grown.csv")] == some


# ---- numbers ----------------------------------------------------------------------------------------------------


def test_greedy_scores_do_not_depend_on_what_else_is_in_the_batch(workdir, scorer):
    paths = sorted((workdir / "images").glob("*.png"))
    expected = {path: scorer.score_batch([path])[0].texts for path in paths}
    assert len({tuple(texts) for texts in expected.values()}) > 5
    for batch_size in (3, 12):
        batched = Scorer(scorer.generator, ScoringSettings(max_new_tokens=24, batch_size=batch_size))
        for order in (paths, paths[::-1]):
            records = batched.score(order)
            assert [record.path for record in records] == list(map(str, order))
            assert [record.texts for record in records] == [expected[path] for path in order]


def test_paths_images_and_arrays_of_the_same_picture_score_the_same(workdir, scorer):
    path = workdir / "images" / "004.png"
    image = Image.open(path)
    records = scorer.score([str(path), np.asarray(image), path, image, workdir / "absent.png"])
    assert [record.path for record in records] == [str(path), "images[1]", str(path), "images[3]", records[4].path]
    assert len({record.score for record in records[:4]}) == 1 and records[0].score is not None
    assert records[0].texts == records[1].texts and len(records[0].texts) == 1
    assert (records[4].score, records[4].texts, records[4].error) == (None, [], "no such file")


def test_samples_have_a_mean_and_a_spread(workdir, scorer):
    settings = ScoringSettings(max_new_tokens=24, num_samples=6)
    sampled = Scorer(scorer.generator, settings)
    paths = sorted((workdir / "images").glob("*.png"))
    records = sampled.score(paths)
    assert all(len(record.texts) == 6 for record in records)
    assert any(record.std for record in records)
    assert records == sampled.score(paths)  # the same seeds


@pytest.mark.parametrize(
    "picture", [3, np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)], ids=type
)
def test_what_is_no_picture_is_refused(scorer, picture):
    with pytest.raises(ValueError, match=r"images\[0\]"):
        scorer.score([picture])


def test_one_picture_in_place_of_a_list_is_refused(scorer):
    with pytest.raises(ValueError, match=r"\[picture\]"):
        scorer.score("a.png")


# ---- what is asked, and what is written -------------------------------------------------------------------------


def test_a_template_of_one_s_own_is_what_the_model_is_asked(workdir, scorer):
    (workdir / "mine.txt").write_text("{Question} Answer in <answer> </answer> tags, nothing else.")
    own = Scorer(scorer.generator, ScoringSettings(question_template=str(workdir / "mine.txt"), question="How good?"))
    media = scorer.generator.vlm_module.encode_image(scorer.generator.processor, Image.new("RGB", (56, 56)))
    text = scorer.generator.processor.tokenizer.decode(own.encode_prompt(media).input_ids)
    assert ">How good? Answer in<answer></answer>tags, nothing else.<" in text  # the tokenizer drops spaces at tags
    (workdir / "json.txt").write_text('{Question} Write {"reasoning_steps": [], "answer": ""}.')
    with pytest.raises(ValueError, match="read from"):
        ScoringSettings(question_template=str(workdir / "json.txt"))


def test_a_resumed_run_notices_that_the_template_file_has_changed(workdir):
    template = workdir / "changing.txt"
    template.write_text("{Question} In <answer> </answer> tags.")
    command = build_command(workdir, str(workdir / "images" / "000.png"), "changing.csv")
    command += ["--question_template", str(template)]
    assert score.main(command) == 0
    template.write_text("{Question} In <answer> </answer> tags!")
    with pytest.raises(ValueError, match="prompt: "):
        score.main(command)


def test_descriptions_and_pairs_of_images_named_in_a_list(workdir):
    (workdir / "list.txt").write_text("images/000.png\r\n\nimages/003.png\nimages/006.png\n")
    extra = ["--num_samples", "6", "--describe", "--win_probability"]
    assert score.main(build_command(workdir, str(workdir / "list.txt"), "described.csv", *extra)) == 0
    rows = load_predictions(workdir / "described.csv")
    assert [Path(row.path).name for row in rows] == ["000.png", "003.png", "006.png"]
    assert all(row.description is not None for row in rows)
    with open(workdir / "described.csv.wins.csv", newline="") as file:
        pairs = list(csv.DictReader(file))
    assert [(Path(pair["path"]).name, Path(pair["other"]).name) for pair in pairs] == [
        ("000.png", "003.png"),
        ("000.png", "006.png"),
        ("003.png", "006.png"),
    ]
    by_path = {row.path: row.score for row in rows}
    for pair in pairs:
        difference = by_path[pair["path"]] - by_path[pair["other"]]
        assert np.sign(float(pair["win_probability"]) - 0.5) == np.sign(difference)


# ---- videos -----------------------------------------------------------------------------------------------------


def test_a_video_is_scored_with_the_prompt_of_training(workdir, scorer):
    rng = np.random.default_rng(0)
    np.save(workdir / "clip.npy", rng.integers(0, 255, (8, 56, 56, 3), dtype=np.uint8))
    image = str(workdir / "images" / "000.png")
    records = scorer.score([str(workdir / "clip.npy"), image, str(workdir / "absent.npy")])
    assert records[0].texts and records[0].error in ("", "unparsed")
    assert records[1] == scorer.score([image])[0]
    assert "no such file" in records[2].error
    row = {"id": 1, "video": "clip.npy", "question": scorer.settings.question, "answer": 3.0}
    (workdir / "clip.jsonl").write_text(json.dumps(row) + "\n")
    contract = get_answer_contract("scoring")
    files = [str(workdir / "clip.jsonl")], [str(workdir)]
    trained = load_jsonl_dataset(*files, contract=contract, require_mos=False)[0]["prompt"]
    item = scorer._encode_picture(str(workdir / "clip.npy"), "clip.npy")
    module, processor = scorer.generator.vlm_module, scorer.generator.processor
    expected = module.encode_prompt(processor, trained, [], [item]).input_ids
    assert torch.equal(scorer.encode_prompt(item).input_ids, expected)
    assert score.main(build_command(workdir, str(workdir / "clip.jsonl"), "clip.jsonl.csv")) == 0
    assert load_predictions(workdir / "clip.jsonl.csv")[0].texts == records[0].texts


# ---- as a reward model ------------------------------------------------------------------------------------------


def test_the_reward_of_the_documentation_works(workdir, scorer, tmp_path):
    text = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    code = re.search(r'```python\n("""A trained scorer as the teacher.*?)```', text, re.DOTALL).group(1)
    (tmp_path / "teacher.py").write_text(code)
    reward = build_reward_funcs([f"{tmp_path}/teacher.py:teacher_reward"], teacher=str(workdir / "model"))[0]
    path = str(workdir / "images" / "004.png")
    taught = scorer.score([path])[0].score
    answers = [f"<answer> {taught} </answer>", f"<answer> {taught + 0.5} </answer>", "no idea", "<answer> 3 </answer>"]
    completions = [[{"role": "assistant", "content": answer}] for answer in answers]
    image_path = [[path], [path], [path], [str(workdir / "absent.png")]]
    rewards = reward(prompts=[], completions=completions, image_path=image_path)
    assert rewards[0] == pytest.approx(1.0)
    assert rewards[1] == pytest.approx(1 - 0.5 / 4)
    assert rewards[2:] == [0.0, None]

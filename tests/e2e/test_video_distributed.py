"""Images on one device and videos on the other: the same losses and the same policy as on one process.

All devices must run the vision tower equally often, once for images and once more for videos, or they wait for each
other for ever.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from builders import ask, make_frames, make_image, write_video
from video_cases import SHOWN, main


REPO = Path(__file__).parents[2]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
TOLERANCE = 3e-5  # sums of float32 in another order

# Each case with the one on one process that it must equal.
FAST = {"ddp": "one", "zero3_rows": "one", "zero3_frozen": "one_frozen"}
SLOW = {"ddp_checkpointing": "one", "zero3": "one", "fsdp2": "one"}
GENERATED = ("ddp_generate", "zero3_generate", "zero3_layerwise_generate")


@pytest.fixture(scope="module")
def rows_path(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for number in range(2):
        make_image(56 + 28 * number, 56, seed=number).save(folder / f"{number}.png")
        write_video(folder / f"{number}.mp4", make_frames(56, 84, 20, seed=number), rate=10)
    rows = []
    for number, (num_images, num_videos) in enumerate(SHOWN):
        [message] = ask("What happens?" + " And then?" * (number % 3), num_images, num_videos)
        content = [{"text": None} | part for part in message["content"]]
        row = {"id": str(number), "dataset_name": "MIXED", "prompt": [{"role": "user", "content": content}]}
        row["image_path"] = [str(folder / f"{(number + k) % 2}.png") for k in range(num_images)]
        row["video_path"] = [str(folder / f"{(number + k) % 2}.mp4") for k in range(num_videos)]
        rows.append(row)
    (folder / "rows.json").write_text(json.dumps(rows))
    return folder / "rows.json"


def run_cases(checkpoint: str, rows_path: Path, output_dir: Path, cases: list[str]) -> Path:
    arguments = [checkpoint, str(rows_path), str(output_dir)]
    main(*arguments, *sorted({case for case in cases if case.startswith("one")}))
    command = [*TORCHRUN, str(REPO / "tests" / "video_cases.py"), *arguments]
    command += [case for case in cases if not case.startswith("one")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert result.returncode == 0, result.stderr[-6000:]
    return output_dir


@pytest.fixture(scope="module")
def fast(tiny_checkpoint, rows_path, tmp_path_factory) -> Path:
    cases = [*FAST, *FAST.values(), *GENERATED]
    return run_cases(tiny_checkpoint, rows_path, tmp_path_factory.mktemp("fast"), cases)


@pytest.fixture(scope="module")
def slow(tiny_checkpoint, rows_path, tmp_path_factory) -> Path:
    return run_cases(tiny_checkpoint, rows_path, tmp_path_factory.mktemp("slow"), [*SLOW, *SLOW.values()])


def read(folder: Path, case: str) -> dict:
    return json.loads((folder / f"{case}.json").read_text())


def assert_equal(found: dict, expected: dict) -> None:
    assert len(found["steps"]) == len(expected["steps"]) == 4
    for name in ("loss", "grad_norm"):
        ours, theirs = ([step[name] for step in run["steps"]] for run in (found, expected))
        assert ours == pytest.approx(theirs, abs=TOLERANCE)
    assert found["logps"] == pytest.approx(expected["logps"], abs=TOLERANCE)


@pytest.mark.parametrize("case", FAST)
def test_devices_that_show_different_media_learn_what_one_process_learns(fast, case):
    assert_equal(read(fast, case), read(fast, FAST[case]))
    first, *_, last = read(fast, case)["steps"]
    assert first["grad_norm"] > 0.1 and last["kl"] > 1e-3  # something was learnt


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW)
def test_more_ways_to_the_same_policy(slow, case):
    assert_equal(read(slow, case), read(slow, SLOW[case]))


def test_devices_that_show_different_media_generate_with_whole_and_with_spread_weights(fast):
    expected, *others = (read(fast, case)["steps"] for case in GENERATED)
    for steps in others:
        assert len(steps) == len(expected) == 4
        assert all(0 < step["grad_norm"] < 1e4 for step in steps)
    assert others[0][0]["grad_norm"] == pytest.approx(expected[0]["grad_norm"], abs=1e-3)

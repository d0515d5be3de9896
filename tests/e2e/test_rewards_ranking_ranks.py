"""The ranking reward over four real processes: that of one process which holds the whole batch (`fidelity_reward`)."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ranking_worker import NUM_GENERATIONS, SHARES, make_groups, score


NAN = float("nan")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict]]:
    """What each rank returned and logged, by scope."""
    folder = tmp_path_factory.mktemp("ranks")
    worker = Path(__file__).with_name("ranking_worker.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(len(SHARES))]
    done = subprocess.run([*launch, str(worker), str(folder)], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        scope: [json.loads((folder / f"{scope}_{rank}.json").read_text()) for rank in range(len(SHARES))]
        for scope in ("global", "device")
    }


def split_by_rank(values: list) -> list[list]:
    starts = [sum(SHARES[:rank]) for rank in range(len(SHARES))]
    return [values[start : start + count] for start, count in zip(starts, SHARES)]


def as_floats(rewards: list) -> list[float]:
    return [NAN if reward is None else reward for reward in rewards]


def test_rewards_are_those_of_one_process_with_the_whole_batch(results):
    expected = as_floats(score(make_groups(), "global")["rewards"])
    together = as_floats([reward for result in results["global"] for reward in result["rewards"]])
    assert together == pytest.approx(expected, abs=1e-6, nan_ok=True)
    assert any(reward != reward for reward in together)
    assert 0.0 in together


def test_a_copy_of_an_image_on_another_device_is_no_partner(results):
    groups = make_groups()
    alone = [group for i, group in enumerate(groups) if i != 20]  # the copy of image 0, on the last rank
    expected = as_floats(score(alone, "global")["rewards"])[:NUM_GENERATIONS]
    assert as_floats(results["global"][0]["rewards"])[:NUM_GENERATIONS] == pytest.approx(expected, abs=1e-6)


def test_with_device_scope_a_device_is_a_batch_by_itself(results):
    for own, result in zip(split_by_rank(make_groups()), results["device"]):
        expected = as_floats(score(own, "global")["rewards"])
        assert as_floats(result["rewards"]) == pytest.approx(expected, abs=1e-6, nan_ok=True)


@pytest.mark.parametrize("scope", ["global", "device"])
def test_every_device_logs_the_same_metrics_of_the_whole_batch(results, scope):
    first, *others = [result["logged"] for result in results[scope]]
    assert all(other == first for other in others)
    alone = score(make_groups(), "global")["logged"]
    assert first["ranking/unreadable"] == pytest.approx(alone["ranking/unreadable"])
    if scope == "global":
        assert first["ranking/partners"] == pytest.approx(alone["ranking/partners"])
    else:
        of_devices = [score(own, "global")["logged"]["ranking/partners"] for own in split_by_rank(make_groups())]
        expected = sum(count * value for count, value in zip(SHARES, of_devices)) / sum(SHARES)
        assert first["ranking/partners"] == pytest.approx(expected)


def test_one_gather_of_numbers_is_all_that_devices_exchange(results):
    for result in results["global"]:
        assert result["num_calls"] == 1
        assert result["logged"]["ranking/gathered_bytes"] == 8 * sum(SHARES) * (4 + NUM_GENERATIONS)
        assert result["pickled_bytes"] < 1.25 * result["logged"]["ranking/gathered_bytes"]

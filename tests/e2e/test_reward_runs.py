"""Rewards of the user's own in the training command: as the guide says, and when they hang or fail on one rank."""

import re
import sys
import textwrap
import time

import pytest
from test_grpo import MODULE, REPO, build_arguments, read_metrics, run
from test_reward_models import save_plain_model


GUIDE = REPO / "docs" / "add-a-reward.md"
BAD_REWARDS = """
import time


def hanging_reward(completions, process_index, **columns):
    if process_index == 1:
        time.sleep(300)
    return [0.0] * len(completions)


def failing_reward(completions, process_index, **columns):
    if process_index == 1:
        raise KeyError("depth")
    return [0.0] * len(completions)


def gathering_reward(completions, all_gather, **columns):
    return [float(sum(all_gather([1])))] * len(completions)


def computing_reward(completions, **columns):
    return [len(completion[0]["content"]) / 10 for completion in completions]


computing_reward.runs_in = "process"
"""


@pytest.fixture(scope="module")
def bad_rewards(tmp_path_factory):
    path = tmp_path_factory.mktemp("bad") / "bad_rewards.py"
    path.write_text(BAD_REWARDS)
    return path


def test_the_reward_of_the_guide_and_a_reward_model_train_a_step(tiny_checkpoint, iqa_data, tmp_path):
    code = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.DOTALL)[0]
    path = tmp_path / "mine" / "my_rewards.py"
    path.parent.mkdir()
    path.write_text(textwrap.dedent(code))
    model = save_plain_model(tmp_path / "taste")
    arguments = build_arguments(
        tiny_checkpoint,
        iqa_data,
        tmp_path / "output",
        reward_funcs=f"{path}:brevity_reward format {model}",
        max_steps="1",
    )
    dry = run([*MODULE, *arguments, "--dry_run"])
    assert dry.returncode == 0, dry.stderr[-2000:]
    assert "brevity_reward" in dry.stdout and "taste" in dry.stdout
    result = run(MODULE + arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    (metrics,) = read_metrics(tmp_path / "output")
    assert metrics["rewards/brevity_reward/mean"] == 1.0
    assert metrics["rewards/taste/std"] > 0
    assert {"time/reward_s", "time/reward/brevity_reward_s", "time/reward/taste_s"} <= metrics.keys()


@pytest.mark.parametrize(
    "kind, problem", [("hanging", "longer than --reward_timeout 4 s"), ("failing", "KeyError: 'depth'")]
)
def test_what_fails_on_one_rank_ends_all_by_name(kind, problem, bad_rewards, tiny_checkpoint, iqa_data, tmp_path):
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    names = (f"{kind}_reward", "gathering_reward", "computing_reward")
    arguments = build_arguments(
        tiny_checkpoint,
        iqa_data,
        tmp_path / "output",
        reward_funcs=" ".join(f"{bad_rewards}:{name}" for name in names),
        reward_timeout="4",
        ddp_timeout="100",
    )
    start = time.monotonic()
    result = run([*launcher, "--redirects", "0", "-m", "open_r1.grpo_jsonl", *arguments])
    assert result.returncode != 0
    assert time.monotonic() - start < 90
    assert re.search(rf"RewardError: Reward {kind}_reward failed .*{problem}", result.stderr)
    assert re.search(rf"rank 1: Reward {kind}_reward failed .*{problem}", result.stderr)  # as rank 0 knows it


STUCK = """
from collections import deque
from itertools import repeat

from open_r1.trainer import reward_jobs
from open_r1.trainer.reward_calls import RewardRunner

def stuck_reward(completions, **columns):
    return [deque(repeat(0), maxlen=0)]  # a loop in C that looks at no signal

reward_jobs._LAST_RESORT_S = 0.5
RewardRunner([stuck_reward], timeout_s=0.5).call(prompts=[0], texts=["a"], completion_ids=[[1]], columns={})
"""


def test_a_reward_in_which_the_interpreter_itself_hangs_ends_the_process():
    result = run([sys.executable, "-c", STUCK])
    assert result.returncode == 1
    assert "Timeout" in result.stderr and "in stuck_reward" in result.stderr


def test_rewards_in_worker_processes_train(bad_rewards, tiny_checkpoint, iqa_data, tmp_path):
    arguments = build_arguments(
        tiny_checkpoint,
        iqa_data,
        tmp_path / "output",
        reward_funcs=f"{bad_rewards}:computing_reward {bad_rewards}:gathering_reward",
        reward_workers="2",
        max_steps="2",
    )
    result = run(MODULE + arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    metrics = read_metrics(tmp_path / "output")
    assert all(line["rewards/gathering_reward/mean"] == 1.0 for line in metrics)
    assert metrics[1]["time/reward/computing_reward_s"] < 0.5  # the workers are there from the first step

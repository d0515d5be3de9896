"""Reward functions see whole groups, run beside each other where they can, and fail by name on all ranks."""

import asyncio
import contextlib
import logging
import threading
import time
from pathlib import Path

import pytest
import torch

from open_r1.rewards import build_reward_funcs
from open_r1.trainer.reward_calls import RewardError, RewardRunner, call_reward_funcs, repeat_columns


BATCH = {
    "prompts": ["p", "p", "q", "q"],
    "texts": ["a", "bb", "ccc", "dddd"],
    "completion_ids": [[1], [2], [3], [4]],
}
COLUMNS = {"mos": [1.0, 1.0, 2.0, 2.0], "num_generations": 2}
REWARD_FILE = """
import os
import time


def length_reward(completions, log_metric, **columns):
    log_metric("pid", os.getpid())
    print("not for the parent")
    return [float(len(completion[0]["content"])) for completion in completions]


def endless_reward(completions, **columns):
    return [9 ** 9 ** 9 for _ in completions]


def broken_reward(completions, **columns):
    raise KeyError("mos")


def gathering_reward(completions, all_gather, **columns):
    return all_gather([0.0] * len(completions))


length_reward.runs_in = endless_reward.runs_in = broken_reward.runs_in = gathering_reward.runs_in = "process"
"""


def call(*funcs, **changes):
    return call_reward_funcs(list(funcs), **BATCH, columns=COLUMNS | changes)


def run(*funcs, timeout_s=0.3, **changes):
    """The rewards, and the seconds that each took."""
    seconds = {}
    runner = RewardRunner(list(funcs), timeout_s=timeout_s, num_workers=2)
    try:
        return runner.call(**BATCH, columns=COLUMNS | changes, log_seconds=seconds.__setitem__), seconds
    finally:
        runner.close()


def length_reward(completions, **kwargs):
    return [float(len(completion[0]["content"])) for completion in completions]


def mos_reward(mos, num_generations, **kwargs):
    return [None if value == 1.0 else value / num_generations for value in mos]


async def slow_reward(completion_ids, **kwargs):
    return [ids[0] for ids in completion_ids]


@pytest.fixture
def load(tmp_path):
    """A reward of the file above."""
    path = tmp_path / "process_rewards.py"
    path.write_text(REWARD_FILE)
    return lambda name: build_reward_funcs([f"{path}:{name}"])[0]


class Ranks:
    """`all_gather` between threads that play ranks."""

    def __init__(self, size):
        self.barrier = threading.Barrier(size, timeout=10)
        self.parts = [None] * size

    def gather(self, rank, values):
        self.barrier.wait()
        self.parts[rank] = list(values)
        self.barrier.wait()
        return [value for part in self.parts for value in part]

    def run(self, *funcs_of_ranks, **changes):
        """What became of each rank: its rewards, or its error."""
        results = [None] * len(funcs_of_ranks)

        def work(rank):
            try:
                gather = lambda values: self.gather(rank, values)  # noqa: E731
                results[rank] = call(*funcs_of_ranks[rank], all_gather=gather, process_index=rank, **changes)
            except (ValueError, RuntimeError) as error:
                results[rank] = error

        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(len(results))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(timeout=20)
        return results


def test_columns_are_repeated_per_completion_group_by_group():
    assert repeat_columns([{"a": 1}, {"a": 2}], 3) == {"a": [1, 1, 1, 2, 2, 2]}


def test_values_of_all_functions_stand_side_by_side_and_none_becomes_nan():
    rewards = call(length_reward, mos_reward, slow_reward)
    assert rewards[:, 0].tolist() == [1, 2, 3, 4]
    assert rewards[:2, 1].isnan().all()
    assert rewards[2:, 1].tolist() == [1.0, 1.0]
    assert rewards[:, 2].tolist() == [1, 2, 3, 4]
    assert rewards.dtype == torch.float32


@pytest.mark.parametrize("result, found", [([1.0], "1 values"), (1.0, "1.0"), (None, "None")])
def test_a_function_that_returns_too_few_values_is_named(result, found):
    def short_reward(**kwargs):
        return result

    with pytest.raises(ValueError, match=f"short_reward returned {found} for 4 completions"):
        call(short_reward)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "good", [1.0]])
def test_a_function_that_returns_no_number_is_named(value):
    def broken_reward(**kwargs):
        return [1.0, value, 1.0, 1.0]

    with pytest.raises(ValueError, match="broken_reward returned .* for completion 1"):
        call(broken_reward)


def test_a_function_that_raises_is_named_with_its_first_completion_and_the_cause():
    def broken_reward(**kwargs):
        return {}["mos"]

    with pytest.raises(
        RewardError, match="broken_reward failed on 4 completions, .* is 'a': KeyError: 'mos'"
    ) as caught:
        call(length_reward, broken_reward)
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("place", ["coroutine", "thread"])
def test_functions_that_wait_wait_at_the_same_time(place):
    coroutines, threads = asyncio.Barrier(3), threading.Barrier(3)  # which let nobody through before all are there

    async def async_reward(completions, **kwargs):
        await coroutines.wait()
        await asyncio.sleep(0.3)
        return [1.0] * len(completions)

    def thread_reward(completions, **kwargs):
        threads.wait()
        time.sleep(0.3)
        return [1.0] * len(completions)

    thread_reward.runs_in = "thread"
    func = {"coroutine": async_reward, "thread": thread_reward}[place]
    _, seconds = run(func, func, func, timeout_s=20)
    assert 0.29 < seconds[f"time/reward/{func.__name__}_s"] < 20


def test_coroutines_run_under_a_loop_that_is_running():
    async def main():
        return call(slow_reward)[:, 0].tolist()

    assert asyncio.run(main()) == [1, 2, 3, 4]


def test_functions_run_on_the_main_thread_in_order_unless_they_say_otherwise():
    order = []

    def first_reward(completions, **kwargs):
        order.append(threading.current_thread())
        time.sleep(0.05)
        return [0.0] * len(completions)

    def second_reward(completions, **kwargs):
        order.append("second")
        return [0.0] * len(completions)

    call(first_reward, second_reward)
    assert order == [threading.main_thread(), "second"]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_thread_that_ends_itself_is_not_waited_for():
    def leaving_reward(**kwargs):
        raise SystemExit

    leaving_reward.runs_in = "thread"
    with pytest.raises(ValueError, match="leaving_reward returned None"):
        call(leaving_reward)


def test_an_unknown_place_is_refused():
    def lost_reward(**kwargs):
        return []

    lost_reward.runs_in = "cloud"
    with pytest.raises(ValueError, match="lost_reward has runs_in = 'cloud': take one of main, thread, process"):
        call(lost_reward)


def test_metrics_come_in_the_order_of_the_functions():
    def early_reward(completions, log_metric, **kwargs):
        time.sleep(0.05)
        log_metric("early", 1)
        log_metric("nothing", float("nan"))
        return [0.0] * len(completions)

    def late_reward(completions, log_metric, **kwargs):
        log_metric("late", 2)
        log_metric("late", 4)
        return [0.0] * len(completions)

    early_reward.runs_in = late_reward.runs_in = "thread"
    logged = []
    call(early_reward, late_reward, log_metric=lambda name, value: logged.append((name, value)))
    assert logged == [("early", 1.0), ("late", 3.0)]


# ---- time -------------------------------------------------------------------------------------------------------


def sleepy_reward(completions, **kwargs):
    with contextlib.suppress(Exception):  # no handler of a reward may keep it alive
        time.sleep(5)
    return [0.0] * len(completions)


def busy_reward(completions, **kwargs):
    while True:
        pass


def sleepy_thread_reward(**kwargs):
    time.sleep(5)


async def sleepy_async_reward(**kwargs):
    await asyncio.sleep(5)


sleepy_thread_reward.runs_in = "thread"


@pytest.mark.parametrize("func", [sleepy_reward, busy_reward, sleepy_thread_reward, sleepy_async_reward])
def test_a_function_that_hangs_is_named(func):
    start = time.perf_counter()
    with pytest.raises(RewardError, match=f"{func.__name__} failed .* longer than --reward_timeout 0.3 s"):
        run(length_reward, func, slow_reward)
    assert time.perf_counter() - start < 4


def test_a_function_that_may_abstain_does_so_when_it_hangs(caplog):
    async def judging_reward(**kwargs):
        await asyncio.sleep(5)

    judging_reward.abstains_on_timeout = True
    logged = {}
    with caplog.at_level(logging.WARNING):
        rewards, seconds = run(judging_reward, length_reward, log_metric=logged.__setitem__)
    assert rewards[:, 0].isnan().all() and rewards[:, 1].tolist() == [1, 2, 3, 4]
    assert logged == {"rewards/judging_reward/timed_out": 1.0}
    assert seconds["time/reward/judging_reward_s"] == pytest.approx(0.3)
    assert "judging_reward" in caplog.text


def test_a_function_in_time_is_left_alone():
    def quick_reward(completions, **kwargs):
        time.sleep(0.1)
        return [1.0] * len(completions)

    assert run(quick_reward, quick_reward, timeout_s=0.5)[0].shape == (4, 2)
    time.sleep(0.45)  # longer than what was left: no alarm is left over


# ---- processes --------------------------------------------------------------------------------------------------


def test_a_function_that_computes_runs_in_processes_group_by_group(load):
    logged = []
    rewards, _ = run(
        load("length_reward"), mos_reward, timeout_s=30, log_metric=lambda name, value: logged.append((name, value))
    )
    assert rewards[:, 0].tolist() == [1, 2, 3, 4]
    assert [name for name, _ in logged] == ["pid"] and logged[0][1] % 1 in (0.0, 0.5)  # the mean of two processes


def test_a_function_that_hangs_in_a_process_is_named_and_the_next_call_works(load):
    runner = RewardRunner([load("endless_reward")], timeout_s=1.0, num_workers=1)
    start = time.perf_counter()
    with pytest.raises(RewardError, match="endless_reward failed .* longer than --reward_timeout 1 s"):
        runner.call(**BATCH, columns=COLUMNS)
    assert time.perf_counter() - start < 6
    runner.reward_funcs, runner.timeout_s = [load("length_reward")], 30
    assert runner.call(**BATCH, columns=COLUMNS)[:, 0].tolist() == [1, 2, 3, 4]
    runner.close()


@pytest.mark.parametrize(
    "name, message", [("broken_reward", "KeyError: 'mos'"), ("gathering_reward", "all_gather is for rewards on the")]
)
def test_a_function_that_fails_in_a_process_shows_where(load, name, message):
    with pytest.raises(RewardError, match=f"(?s){name} failed .*process_rewards.py.*{message}"):
        run(load(name), timeout_s=30)


def test_a_function_that_cannot_travel_is_refused():
    def local_reward(completions, **kwargs):
        return [0.0] * len(completions)

    local_reward.runs_in = "process"
    with pytest.raises(RewardError, match="local_reward failed"):
        run(local_reward, timeout_s=30)


# ---- ranks ------------------------------------------------------------------------------------------------------


def total_reward(completions, all_gather, log_metric, process_index, **kwargs):
    total = sum(all_gather([process_index + 1]))
    log_metric("rank", process_index)
    return [float(total)] * len(completions)


def test_ranks_gather_in_order_and_metrics_are_their_mean():
    logged = {}
    results = Ranks(2).run([total_reward, slow_reward], [total_reward, slow_reward], log_metric=logged.__setitem__)
    assert [result[0].tolist() for result in results] == [[3.0, 1.0], [3.0, 1.0]]
    assert logged == {"rank": 0.5}


def test_tensors_are_gathered_as_tensors():
    def tensor_reward(completions, all_gather, **kwargs):
        gathered = all_gather(torch.tensor([1.5], dtype=torch.float64))
        assert gathered.dtype == torch.float64
        return [gathered.sum().item()] * len(completions)

    assert [result[0, 0].item() for result in Ranks(2).run([tensor_reward], [tensor_reward])] == [3.0, 3.0]


def test_an_error_on_one_rank_is_raised_on_all_wherever_they_are():
    def failing_reward(completions, process_index, **kwargs):
        if process_index == 1:
            raise KeyError("mos")
        return [0.0] * len(completions)

    here, there = Ranks(2).run([failing_reward, total_reward], [failing_reward, total_reward])
    assert isinstance(there, RewardError) and isinstance(there.__cause__, KeyError)
    assert isinstance(here, RewardError) and "rank 1: Reward failing_reward failed" in str(here)


def test_a_wrong_result_on_one_rank_is_raised_on_all():
    def short_reward(completions, process_index, **kwargs):
        return [0.0] * (len(completions) - process_index)

    here, there = Ranks(2).run([short_reward], [short_reward])
    assert isinstance(there, ValueError) and "rank 1: Reward short_reward returned 3 values" in str(here)


def test_ranks_that_gather_a_different_number_of_times_are_told_so():
    def uneven_reward(completions, all_gather, process_index, **kwargs):
        for _ in range(process_index):
            all_gather([0])
        return [0.0] * len(completions)

    for result in Ranks(2).run([uneven_reward], [uneven_reward]):
        assert isinstance(result, RewardError) and "different calls of all_gather" in str(result)


@pytest.mark.parametrize("place", ["coroutine", "thread"])
def test_only_functions_on_the_main_thread_may_gather(place):
    async def async_reward(all_gather, **kwargs):
        all_gather([0])

    def thread_reward(all_gather, **kwargs):
        all_gather([0])

    thread_reward.runs_in = "thread"
    with pytest.raises(RewardError, match="all_gather is for rewards on the main thread"):
        call({"coroutine": async_reward, "thread": thread_reward}[place])


def test_a_worker_imports_no_heavy_library():
    source = (Path(__file__).parents[2] / "src" / "open_r1" / "utils" / "reward_worker.py").read_text()
    assert "torch" not in source

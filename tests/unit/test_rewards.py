"""The reward registry and the format rewards."""

import asyncio
import doctest
import inspect
import os
import subprocess
import sys
from pathlib import Path

import pytest

from open_r1.rewards import REWARD_FUNCS, build_reward_funcs, format, overlong, ranking, thurstone
from open_r1.tasks import TASKS


GOOD = "<think>sharp, little noise</think>\n<answer>4.25</answer>"
REWARD_FILE = '''
"""A user's own rewards."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass
class Length:
    characters: int


def short_reward(prompts, completions, completion_ids=None, *, max_characters=5, **columns):
    return [float(Length(len(completion[-1]["content"])).characters <= max_characters) for completion in completions]


async def slow_reward(prompts, completions, completion_ids=None, **columns):
    return [0.5 for _ in completions]


NOT_A_FUNCTION = 3
'''


@pytest.fixture
def reward_file(tmp_path):
    path = tmp_path / "my_rewards.py"
    path.write_text(REWARD_FILE)
    return path


def as_completions(*texts):
    return [[{"role": "assistant", "content": text}] for text in texts]


def test_accuracy_is_the_ranking_reward_under_the_iqa_tasks():
    thinking = build_reward_funcs(["accuracy", "format"], task_type="iqa")
    direct = build_reward_funcs(["accuracy", "format"], task_type="iqa_nothink", ranking_scope="device")
    assert [func.__name__ for func in thinking] == ["fidelity_reward", "format_reward"]
    assert [func.__name__ for func in direct] == ["fidelity_reward", "nothink_format_reward"]


def test_without_a_task_rows_say_how_they_are_judged_and_format_is_think_then_answer():
    funcs = build_reward_funcs(["accuracy", "format"])
    assert [func.__name__ for func in funcs] == ["method_accuracy_reward", "format_reward"]


def test_every_reward_has_a_name_of_its_own():
    built = [build_reward_funcs([name], "iqa")[0] for name in REWARD_FUNCS]
    assert [func.__name__ for func in built] == [func.__name__ for func in REWARD_FUNCS.values()]
    assert {name for task in TASKS.values() for name in task.rewards.values()} <= REWARD_FUNCS.keys()
    metric_names = [func.__name__ for func in REWARD_FUNCS.values()]
    assert len(set(metric_names)) == len(metric_names)


@pytest.mark.parametrize("name, func", REWARD_FUNCS.items())
def test_every_reward_has_the_common_signature(name, func):
    parameters = inspect.signature(func).parameters
    assert list(parameters)[:3] == ["prompts", "completions", "completion_ids"]
    assert list(parameters.values())[-1].kind is inspect.Parameter.VAR_KEYWORD
    assert func.__name__.endswith("_reward")


@pytest.mark.parametrize(
    "names, task_type, message",
    [
        (["fidelty"], None, "unknown reward 'fidelty'.*fidelity.*think_answer_format"),
        (["Qwen/reward-model"], "iqa", "unknown reward .*or a reward model"),
        (["format"], "ipa", "unknown task type 'ipa'; known: .*default.*iqa, .*iqa_nothink"),
        (["accuracy", "fidelity"], "iqa", "same one twice"),
    ],
)
def test_what_is_unknown_is_refused_with_what_is_known(names, task_type, message):
    with pytest.raises(ValueError, match=message):
        build_reward_funcs(names, task_type)


def test_an_option_that_no_reward_has_is_refused():
    with pytest.raises(ValueError, match="ranking_scoop; known: .*ranking_reward, ranking_scope, ranking_variance"):
        build_reward_funcs(["format"], ranking_scoop="device")


def test_options_reach_the_reward():
    (reward,) = build_reward_funcs(["fidelity"], ranking_scope="somewhere")
    with pytest.raises(ValueError, match="ranking_scope is 'somewhere'"):
        reward([], [], num_generations=1)


def test_a_function_from_a_file_is_a_reward(reward_file):
    (reward,) = build_reward_funcs([f"{reward_file}:short_reward"], max_characters=3)
    assert reward.__name__ == "short_reward"
    assert reward([], as_completions("abc", "abcd")) == [1.0, 0.0]


def test_an_async_function_from_a_file_can_be_awaited(reward_file):
    (reward,) = build_reward_funcs([f"{reward_file}:slow_reward"])
    assert asyncio.run(reward([], as_completions("abc"))) == [0.5]


@pytest.mark.parametrize("function", ["missing_reward", "NOT_A_FUNCTION", "Length"])
def test_a_file_without_that_function_names_those_it_has(reward_file, function):
    with pytest.raises(ValueError, match=f"no function '{function}'; it has: short_reward, slow_reward"):
        build_reward_funcs([f"{reward_file}:{function}"])


def test_two_functions_of_a_file_are_of_one_module_until_it_changes(reward_file):
    short, slow = build_reward_funcs([f"{reward_file}:short_reward", f"{reward_file}:slow_reward"])
    assert short.__globals__ is slow.__globals__
    os.utime(reward_file, ns=(0, 0))
    assert build_reward_funcs([f"{reward_file}:short_reward"])[0].__globals__ is not short.__globals__


def test_a_missing_reward_file_is_named():
    with pytest.raises(FileNotFoundError, match="nowhere.py"):
        build_reward_funcs(["nowhere.py:reward"])


def test_format_rewards_are_one_for_the_contract_and_zero_else():
    texts = [GOOD, "<answer>4.25</answer>", "4.25", ""]
    completions = as_completions(*texts)
    assert format.format_reward([], completions) == [1.0, 0.0, 0.0, 0.0]
    assert format.nothink_format_reward([], completions) == [0.0, 1.0, 0.0, 0.0]


def test_the_overlong_penalty_grows_towards_the_limit():
    (reward,) = build_reward_funcs(["overlong"], max_completion_length=10, overlong_cache=4)
    assert reward.__name__ == overlong.overlong_reward.__name__
    lengths = [0, 6, 7, 9, 10, 12]
    expected = [0.0, 0.0, -0.25, -0.75, -1.0, -1.0]
    assert reward([], as_completions(*"abcdef"), [[1] * length for length in lengths]) == expected


def test_the_overlong_penalty_is_that_of_trl():
    from trl.rewards import get_soft_overlong_punishment

    ids = [[1] * length for length in range(60)]
    (ours,) = build_reward_funcs(["overlong"], max_completion_length=50, overlong_cache=13)
    theirs = get_soft_overlong_punishment(max_completion_len=50, soft_punish_cache=13)
    assert ours([], [], ids) == pytest.approx(theirs(completion_ids=ids))


def test_the_overlong_penalty_begins_a_fifth_before_the_limit_unless_given():
    assert overlong.choose_overlong_cache(256) == 51
    assert overlong.choose_overlong_cache(3) == 1
    assert overlong.choose_overlong_cache(256, 256) == 256


@pytest.mark.parametrize("cache", [0, -1, 257])
def test_an_overlong_penalty_outside_the_limit_is_refused(cache):
    with pytest.raises(ValueError, match=r"between 1 and max_completion_length \(256\)"):
        overlong.choose_overlong_cache(256, cache)


def test_the_overlong_penalty_needs_tokens():
    with pytest.raises(ValueError, match="needs completion_ids"):
        overlong.overlong_reward([], as_completions("a"))


@pytest.mark.parametrize("module", [format, overlong, ranking, thurstone], ids=lambda module: module.__name__)
def test_the_examples_in_the_docstrings_hold(module):
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0


def test_importing_the_rewards_loads_no_heavy_library():
    check = (
        "import sys, open_r1.rewards;"
        "heavy = {'torch', 'transformers', 'trl', 'accelerate', 'datasets', 'PIL'} & set(sys.modules);"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, cwd=Path(__file__).parent)
    assert done.returncode == 0, done.stderr

"""The reward registry: names on the command line (`--reward_funcs accuracy format`) become reward functions.

A reward function has TRL's signature,

    reward(prompts, completions, completion_ids=None, **columns) -> list[float | None]

with one value per completion, group-major; a completion is `[{"role": "assistant", "content": text}]`; None abstains,
for an unusable label, never for a bad completion. `columns` holds every column of the data, repeated per completion,
and `num_generations`, `trainer_state`, `process_index`, `log_metric(name, value)` and `all_gather(values)`. It may be
`async`.
Keyword-only parameters with defaults are options, which command-line flags of the same name set.

To add one: write it in a file of this package, add a line to REWARD_FUNCS, a test, and a section in docs/rewards.md.
What short names such as `accuracy` mean is said by the task (`open_r1.tasks`).
"""

import functools
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from open_r1.rewards.explanation import explanation_reward
from open_r1.rewards.format import format_reward, nothink_format_reward
from open_r1.rewards.judge import llm_judge_reward
from open_r1.rewards.overlong import overlong_reward
from open_r1.rewards.ranking import fidelity_reward
from open_r1.rewards.reasoning import reasoning_reward
from open_r1.tasks import TASKS, get_task


RewardFunc = Callable[..., list[float | None]]

REWARD_FUNCS: dict[str, RewardFunc] = {
    "fidelity": fidelity_reward,
    "think_answer_format": format_reward,
    "nothink_format": nothink_format_reward,
    "overlong": overlong_reward,
    "reasoning": reasoning_reward,
    "explanation": explanation_reward,
    "llm_judge": llm_judge_reward,
}


def build_reward_funcs(names: list[str], task_type: str | None = None, **options: Any) -> list[RewardFunc]:
    """Turns reward names into reward functions, in order.

    Args:
        names: Each a registry name, a name that `task_type` gives a meaning to, or `path/to/file.py:function`.
        task_type: See `open_r1.tasks`; None is "default".
        options: Set on every function that has a keyword-only parameter of that name.

    Raises:
        ValueError: unknown task, unknown or repeated name, or an option that no reward has.
        FileNotFoundError: no such file.
    """
    task_type = task_type or "default"
    funcs = [_find_reward(name, task_type, get_task(task_type).rewards) for name in names]
    if len({func.__name__ for func in funcs}) < len(funcs):
        raise ValueError(f"reward functions {names} include the same one twice; weigh it with --reward_weights")
    known = {name for func in [*REWARD_FUNCS.values(), *funcs] for name in get_option_names(func)}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise ValueError(f"no reward has the options {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    return [set_options(func, options) for func in funcs]


def _find_reward(name: str, task: str, short_names: dict[str, str]) -> RewardFunc:
    resolved = short_names.get(name, name)
    if resolved in REWARD_FUNCS:
        return REWARD_FUNCS[resolved]
    path, colon, function = name.rpartition(":")
    if colon and path.endswith(".py"):
        return _load_from_file(Path(path), function)
    other_tasks = sorted(other for other, meaning in TASKS.items() if name in meaning.rewards)
    if other_tasks:
        raise ValueError(f"reward {name!r} needs a task; set --task_type to one of {', '.join(other_tasks)}")
    known = ", ".join(sorted({*REWARD_FUNCS, *short_names}))
    raise ValueError(
        f"unknown reward {name!r} for task {task!r}; known: {known}, or path/to/file.py:function "
        "(reward models are not supported)"
    )


def _load_from_file(path: Path, function: str) -> RewardFunc:
    """The function of that name from a Python file, which is run for it."""
    if not path.is_file():
        raise FileNotFoundError(f"no reward file {path}")
    spec = importlib.util.spec_from_file_location(f"reward_file_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    func = getattr(module, function, None)
    if not inspect.isfunction(func):
        public = [name for name, value in vars(module).items() if inspect.isfunction(value) and name[0] != "_"]
        raise ValueError(f"{path} has no function {function!r}; it has: {', '.join(public) or 'none'}")
    return func


def get_option_names(func: RewardFunc) -> set[str]:
    """Its keyword-only parameters."""
    parameters = inspect.signature(func).parameters.values()
    return {parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY}


def set_options(func: RewardFunc, options: dict[str, Any]) -> RewardFunc:
    """The function with its options set, under its own name, which metrics are called after."""
    own = {name: value for name, value in options.items() if name in get_option_names(func)}
    if not own:
        return func
    return functools.wraps(func)(functools.partial(func, **own))

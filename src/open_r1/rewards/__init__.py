"""The reward registry: names on the command line (`--reward_funcs accuracy format`) become reward functions.

A reward function has TRL's signature,

    reward(prompts, completions, completion_ids=None, **columns) -> list[float | None]

with one value per completion, group-major; a completion is `[{"role": "assistant", "content": text}]`; None abstains,
for an unusable label, never for a bad completion. `columns` holds every column of the data, repeated per completion,
and `num_generations`, `trainer_state`, `process_index`, `log_metric(name, value)` and `all_gather(values)`. It may be
`async`, and may say by attributes where it runs (`runs_in`) and that it abstains when it hangs
(`abstains_on_timeout`); see `open_r1.trainer.reward_jobs`.
Keyword-only parameters with defaults are options, which command-line flags of the same name set.

To add one: write it in a file of this package, add a line to REWARD_FUNCS and a test (docs/add-a-reward.md).
What short names such as `accuracy` mean is said by the task (`open_r1.tasks`).
"""

import functools
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from open_r1.rewards.accuracy import (
    all_match_reward,
    default_accuracy_reward,
    math_accuracy_reward,
    mcq_accuracy_reward,
    vivqa_accuracy_reward,
    vqa_accuracy_reward,
    yes_no_accuracy_reward,
)
from open_r1.rewards.emotion import emotion_reward
from open_r1.rewards.explanation import explanation_reward
from open_r1.rewards.format import (
    format_reward,
    json_steps_format_reward,
    nothink_format_reward,
    rec_format_reward,
    vivqa_format_reward,
)
from open_r1.rewards.grounding import (
    ap50_reward,
    iou_reward,
    map_reward,
    od_length_reward,
    weighted_sum_reward,
)
from open_r1.rewards.judge import llm_judge_reward
from open_r1.rewards.length import choose_length_accuracy, follow_accuracy, length_reward, repetition_reward
from open_r1.rewards.method import method_accuracy_reward
from open_r1.rewards.overlong import overlong_reward
from open_r1.rewards.ranking import fidelity_reward
from open_r1.rewards.reasoning import reasoning_reward
from open_r1.rewards.reward_files import load_function
from open_r1.rewards.score import score_regression_reward
from open_r1.tasks import get_task


RewardFunc = Callable[..., list[float | None]]
_MODEL_NAME = re.compile(r"[\w.-]+/[\w.-]+")

REWARD_FUNCS: dict[str, RewardFunc] = {
    "fidelity": fidelity_reward,
    "think_answer_format": format_reward,
    "nothink_format": nothink_format_reward,
    "vivqa_format": vivqa_format_reward,
    "json_steps_format": json_steps_format_reward,
    "rec_format": rec_format_reward,
    "default_accuracy": default_accuracy_reward,
    "math_accuracy": math_accuracy_reward,
    "mcq_accuracy": mcq_accuracy_reward,
    "yes_no_accuracy": yes_no_accuracy_reward,
    "all_match": all_match_reward,
    "vivqa_accuracy": vivqa_accuracy_reward,
    "vqa_accuracy": vqa_accuracy_reward,
    "method_accuracy": method_accuracy_reward,
    "overlong": overlong_reward,
    "iou": iou_reward,
    "map": map_reward,
    "ap50": ap50_reward,
    "od_length": od_length_reward,
    "weighted_sum": weighted_sum_reward,
    "emotion": emotion_reward,
    "score_regression": score_regression_reward,
    "length": length_reward,
    "repetition": repetition_reward,
    "reasoning": reasoning_reward,
    "explanation": explanation_reward,
    "llm_judge": llm_judge_reward,
}


def build_reward_funcs(
    names: list[str],
    task_type: str | None = None,
    *,
    length_accuracy: str = "accuracy",
    build_model: Callable[[str], RewardFunc] | None = None,
    **options: Any,
) -> list[RewardFunc]:
    """Turns reward names into reward functions, in order.

    Args:
        names: Each a registry name, a name that `task_type` gives a meaning to, `path/to/file.py:function`, or a
            reward model, a folder or `organisation/model`.
        task_type: See `open_r1.tasks`; None is "default".
        length_accuracy: The reward by which `length` tells right from wrong, a name of the same kind.
        build_model: Makes a reward function out of the name of a reward model; None: they are refused.
        options: Set on every function that has a keyword-only parameter of that name.

    Raises:
        ValueError: unknown task, unknown or repeated name, or an option that no reward has.
        FileNotFoundError: no such file.
    """
    task_type = task_type or "default"
    find = functools.partial(
        _find_reward, task=task_type, short_names=get_task(task_type).rewards, build_model=build_model
    )
    funcs = [find(name) for name in names]
    if len({func.__name__ for func in funcs}) < len(funcs):
        raise ValueError(f"reward functions {names} include the same one twice; weigh it with --reward_weights")
    known = {name for func in [*REWARD_FUNCS.values(), *funcs] for name in get_option_names(func)}
    unknown = sorted(options.keys() - known)
    if unknown:
        raise ValueError(f"no reward has the options {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    options["reward_options"] = dict(options)  # for a reward that calls others
    accuracy = choose_length_accuracy(funcs, lambda: find(length_accuracy))
    if accuracy is not None:
        options["accuracy_func"] = set_options(accuracy, options)
    built = [set_options(func, options) for func in funcs]
    return built if accuracy is None else follow_accuracy(built, accuracy)


def _find_reward(
    name: str, task: str, short_names: dict[str, str], build_model: Callable[[str], RewardFunc] | None
) -> RewardFunc:
    resolved = short_names.get(name, name)
    if resolved in REWARD_FUNCS:
        return REWARD_FUNCS[resolved]
    path, colon, function = name.rpartition(":")
    if colon and path.endswith(".py"):
        return load_function(Path(path), function)
    if build_model is not None and (Path(name).is_dir() or _MODEL_NAME.fullmatch(name)):
        return build_model(name)
    known = ", ".join(sorted({*REWARD_FUNCS, *short_names}))
    raise ValueError(
        f"unknown reward {name!r} for task {task!r}; known: {known}, or path/to/file.py:function, or a reward model "
        "(a folder, or organisation/model)"
    )


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

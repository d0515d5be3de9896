"""The tasks: what `--task_type` stands for.

A task says which instruction follows a question (a contract of `completions`) and what the short reward names
`accuracy` and `format`, which mean something else in each of the reproduced systems, stand for in it.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task. Example: `TASKS["iqa"]`."""

    question_template: str  # the contract where `--question_template` names none
    rewards: dict[str, str] = field(default_factory=dict)  # short name -> registry name
    needs_mos: bool = False  # every row must have an image and a number as its answer


TASKS = {
    "default": Task(
        question_template="default", rewards={"accuracy": "method_accuracy", "format": "think_answer_format"}
    ),
    "iqa": Task(
        question_template="scoring",
        rewards={"accuracy": "fidelity", "format": "think_answer_format"},
        needs_mos=True,
    ),
    "iqa_nothink": Task(
        question_template="scoring_no_think",
        rewards={"accuracy": "fidelity", "format": "nothink_format"},
        needs_mos=True,
    ),
    "rec": Task(question_template="rec", rewards={"accuracy": "iou", "format": "rec_format"}),
    "od": Task(question_template="od", rewards={"accuracy": "map", "format": "think_answer_format"}),
    "od_length": Task(
        question_template="od_length", rewards={"accuracy": "od_length", "format": "think_answer_format"}
    ),
    "iqa_compare": Task(
        question_template="comparing", rewards={"accuracy": "mcq_accuracy", "format": "think_answer_format"}
    ),
    "gui": Task(question_template="gui", rewards={"accuracy": "all_match", "format": "think_answer_format"}),
    "ic": Task(question_template="ic", rewards={"accuracy": "method_accuracy", "format": "think_answer_format"}),
    "math": Task(question_template="default", rewards={"accuracy": "math_accuracy", "format": "think_answer_format"}),
    "counting": Task(
        question_template="default", rewards={"accuracy": "default_accuracy", "format": "think_answer_format"}
    ),
    "vqa": Task(
        question_template="vqa",
        rewards={"accuracy": "vqa_accuracy", "format": "json_steps_format", "reasoning": "reasoning"},
    ),
    "vivqa": Task(
        question_template="vivqa",
        rewards={"accuracy": "vivqa_accuracy", "format": "vivqa_format", "explanation": "explanation"},
    ),
    "emotion": Task(question_template="emotion", rewards={"accuracy": "emotion", "format": "think_answer_format"}),
}
_OTHER_NAMES: dict[str, str] = {"ovd": "od", "odLength": "od_length", "gui_defect": "gui"}  # as the parents spell them

REWARD_METHODS = {  # how a row's `accu_reward_method` spells a reward; `--reward_method` says it for a file
    "default": "default_accuracy",
    "math": "math_accuracy",
    "mcq": "mcq_accuracy",
    "yes_no": "yes_no_accuracy",
    "all_match": "all_match",
    "map": "map",
    "od_ap": "map",
    "od_ap50": "ap50",
    "odLength": "od_length",
    "weighted_sum": "weighted_sum",
    "llm": "llm_judge",
}


def get_method_reward(method: str | None) -> str:
    """The registry name of a row's method, of "default" for None; ValueError with the known names for any other."""
    method = method or "default"
    if method not in REWARD_METHODS:
        raise ValueError(f"unknown reward method {method!r}; known: {', '.join(sorted(REWARD_METHODS))}")
    return REWARD_METHODS[method]


def get_task(name: str) -> Task:
    """The task of a `--task_type`; ValueError with the known names for any other."""
    name = _OTHER_NAMES.get(name, name)
    if name not in TASKS:
        raise ValueError(f"unknown task type {name!r}; known: {', '.join(sorted({*TASKS, *_OTHER_NAMES}))}")
    return TASKS[name]


def list_other_names(name: str) -> list[str]:
    """The other names of a task."""
    return [other for other, meaning in _OTHER_NAMES.items() if meaning == name]


def find_task_of_template(question_template: str) -> str:
    """The task that is meant where only a template is named: the one whose own it is, else "default"."""
    return next((name for name, task in TASKS.items() if task.question_template == question_template), "default")

"""What games the rewards of the parents earns nothing here: constant outputs, under every task and its rewards."""

import asyncio
import inspect
from typing import Any

import pytest

from open_r1.rewards import build_reward_funcs
from open_r1.rewards.explanation import count_explanations
from open_r1.tasks import TASKS


CONSTANT = '{"reasoning_steps": [], "answer": ""}'  # earned 1.7 of 2 where it was first found
BOXES = '```json\n[{"bbox_2d": [10, 10, 60, 60], "label": "cat"}]\n```'
# A usable label of every task, as its rows have it.
LABELS: dict[str, dict[str, Any]] = {
    "default": {"solution": "<answer> a red car </answer>"},
    "iqa": {"solution": "<answer> 3.5 </answer>", "mos": 3.5},
    "iqa_nothink": {"solution": "<answer> 3.5 </answer>", "mos": 3.5},
    "iqa_compare": {"solution": "<answer> A </answer>"},
    "rec": {"solution": "<answer> [10, 10, 60, 60] </answer>"},
    "od": {"solution": f"<answer> {BOXES} </answer>"},
    "od_length": {"solution": f"<answer> {BOXES} </answer>"},
    "gui": {"solution": "<answer> Yes </answer>"},
    "ic": {"solution": "<answer> two cats on a sofa </answer>"},
    "math": {"solution": r"<answer> $\frac{1}{2}$ </answer>"},
    "counting": {"solution": "<answer> 12 </answer>"},
    "vqa": {
        "solution": "<answer> car </answer>",
        "reference_steps": ["A red car is parked", "The car has four doors"],
    },
    "vivqa": {"solution": "<answer> màu đỏ </answer>", "explanations": ["chiếc xe được sơn màu đỏ"]},
    "emotion": {"solution": "<answer> happy </answer>"},
}
OPTIONS = {"explanation_alpha": 1.0, "box_format": "pixel"}  # no encoder is needed for what is empty or wrong


def ask(task: str, name: str, text: str) -> float | None:
    """The reward of one completion, beside another of its group and a group of another picture that earn well."""
    frequencies = count_explanations([LABELS["vivqa"]["explanations"], ["có hai con mèo trên ghế"]], [None, None])
    own = {"question_template": TASKS[task].question_template, "document_frequencies": frequencies}
    funcs = build_reward_funcs([name], task_type=task, **own, **OPTIONS)
    rows = [LABELS[task], LABELS[task] | {"mos": 4.5}]
    columns = {key: [row.get(key) for row in rows] for key in ("solution", "mos")}
    columns |= {key: [row.get(key, []) for row in rows] for key in ("reference_steps", "explanations", "options")}
    columns |= {
        "id": ["1", "2"],
        "dataset_name": [task, task],
        "image_path": [["1.png"], ["2.png"]],
        "problem": ["What is in the picture?"] * 2,
        "accu_reward_method": [None, None],
        "image_size": [[(100, 100)]] * 2,
        "input_size": [[(100, 100)]] * 2,
        "source": ["a.jsonl:1", "a.jsonl:2"],
    }
    texts = [text, "<think>sharp</think><answer>4.5</answer>"]
    values = funcs[0](
        prompts=[None] * 2,
        completions=[[{"role": "assistant", "content": content}] for content in texts],
        completion_ids=[[1, 2]] * 2,
        num_generations=1,
        trainer_state=None,
        process_index=0,
        log_metric=lambda name, value: None,
        all_gather=lambda items: items,
        **columns,
    )
    if inspect.isawaitable(values):
        values = asyncio.run(_wait(values))
    return values[0]


async def _wait(values: Any) -> Any:
    return await values


NAMES = [(task, name) for task in TASKS for name in TASKS[task].rewards]


@pytest.mark.parametrize("task, name", NAMES)
@pytest.mark.parametrize(
    "text",
    [
        CONSTANT,
        f"```json\n{CONSTANT}\n```",
        "",
        "   \n",
        "<answer> </answer>",
        "<think>" * 50,
        "no tag 2024",
        '{"answer": "", "reasoning_steps": [""]}',
        "null",
        "{" * 3000,
    ],
)
def test_what_says_nothing_earns_nothing(task, name, text):
    assert ask(task, name, text) == 0


GOOD = {
    "default": "<think>I see it</think><answer>a red car</answer>",
    "iqa": "<think>blurred</think><answer>3.4</answer>",
    "iqa_nothink": "<answer>3.4</answer>",
    "iqa_compare": "<think>B has blocks</think><answer>A</answer>",
    "rec": "<think>top left</think><answer>[10, 10, 60, 60]</answer>",
    "od": f"<think>one cat</think><answer>{BOXES}</answer>",
    "od_length": f"<think>one cat</think><answer>{BOXES}</answer>",
    "gui": "<think>the dialog opens</think><answer>Yes</answer>",
    "ic": "<think>two</think><answer>two cats on a sofa</answer>",
    "math": r"<think>half</think><answer>$\frac{1}{2}$</answer>",
    "counting": "<think>a dozen</think><answer>12</answer>",
    "vqa": '{"reasoning_steps": ["A car is parked", "It is red"], "answer": "car"}',
    "vivqa": "<think>nhìn</think><answer>màu đỏ</answer><explain>chiếc xe được sơn màu đỏ</explain>",
    "emotion": "<think>a smile</think><answer>happy</answer>",
}


@pytest.mark.parametrize("task, name", [pair for pair in NAMES if pair[1] not in ("reasoning", "explanation")])
def test_a_good_completion_earns_most_of_what_there_is(task, name):
    """So that the zeros above are not those of a row that nothing can be right for."""
    best = 3.0 if (task, name) == ("vivqa", "accuracy") else 1.0
    assert ask(task, name, GOOD[task]) >= 0.9 * best


CHEATS = [  # task, reward, completion: what the parents paid for; rewards of boxes and lengths: their own files
    ("iqa", "accuracy", "I think 3.5"),  # a number anywhere in the text
    ("iqa", "accuracy", "<answer>85</answer>"),
    ("iqa", "format", "<think>a</think><answer>1</answer><think>b</think><answer>2</answer>"),
    ("vqa", "accuracy", '{"reasoning_steps": ["s"], "answer": "c"}'),  # a part of the gold answer
    ("vqa", "accuracy", '{"reasoning_steps": ["s"], "answer": "cat"}'),  # both begin with the same letter
    ("vqa", "format", '{"reasoning_steps": [], "answer": "car"}'),
    ("vivqa", "accuracy", "<answer>màu</answer><answer></answer>"),
    ("vivqa", "format", "<explain>" * 30),
    ("vivqa", "explanation", "<think>a</think><answer>màu đỏ</answer><explain> </explain>"),
    ("default", "format", "<think></think><answer></answer>"),
    ("counting", "accuracy", "<think>a</think><answer>13</answer>"),  # edit distance of numbers
    ("counting", "accuracy", "<think>a</think><answer>1</answer>"),
    ("gui", "accuracy", "<think>a</think><answer>Yes No</answer>"),
    ("emotion", "accuracy", "<think>a</think><answer>happy, sad, angry, neutral</answer>"),
    ("iqa_compare", "accuracy", "<think>a</think><answer>A or B</answer>"),
    ("rec", "accuracy", "<think>a</think><answer>[60, 60, 10, 10]</answer>"),  # inverted
    ("rec", "format", "<think>a</think><answer>no box</answer>"),
    ("od", "accuracy", "<think>a</think><answer>None</answer>"),
    ("math", "accuracy", "<think>1/2</think><answer>0.6</answer>"),
]


@pytest.mark.parametrize("task, name, text", CHEATS)
def test_what_the_parents_paid_for_earns_nothing(task, name, text):
    assert ask(task, name, text) == 0

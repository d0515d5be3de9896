"""The instructions that follow, or enclose, a question: the texts of the answer contracts in `completions`.

`{Question}` is the place of the question; any other brace is plain text. The tags here are those that `completions`
reads, which a test checks.
"""

IQA_QUESTION = (
    "You are doing the image quality assessment task. Here is the question: What is your overall rating on the "
    "quality of this picture? The rating should be a float between 1 and 5, rounded to two decimal places, with 1 "
    "representing very poor quality and 5 representing excellent quality."
)
DESCRIPTION_QUESTION = "Please describe the quality of this image."
EMOTION_QUESTION = (
    "As an emotional recognition expert; throughout the video, which emotion conveyed by the characters is the most "
    "obvious to you?"
)

_THINK_FIRST = (
    "{Question} First output the thinking process in <think> </think> tags and then output the final answer "
)
_BOX_LIST = 'a list of objects {"bbox_2d": [x1, y1, x2, y2], "label": "name"}'

TEMPLATES = {
    "default": _THINK_FIRST + "in <answer> </answer> tags.",
    "scoring": _THINK_FIRST + "with only one score in <answer> </answer> tags.",
    "scoring_no_think": (
        "{Question} Please only output the final answer with only one score in <answer> </answer> tags."
    ),
    "comparing": _THINK_FIRST + "with only the letter of your choice in <answer> </answer> tags.",
    "rec": _THINK_FIRST + (
        "in <answer> </answer> tags. Output the final answer in JSON format: one object "
        '{"bbox_2d": [x1, y1, x2, y2]}.'
    ),
    "od": _THINK_FIRST + (
        f"in <answer> </answer> tags: in JSON format, {_BOX_LIST}, or None if there is no such object."
    ),
    "od_length": (
        "You find objects in images. Think about what is in the image and where, in <think> </think> tags. Then give "
        f"the objects in <answer> </answer> tags: in JSON format, {_BOX_LIST}, one entry for each object that is "
        "really there, none twice, or None if there is no such object.\n{Question}"
    ),
    "gui": _THINK_FIRST + "in <answer> </answer> tags, with nothing but what is asked for inside them.",
    "ic": _THINK_FIRST + "in <answer> </answer> tags, in JSON format.",
    "vqa": (
        "Look at the image and answer the question below.\n"
        "Reply with one JSON object and nothing else, in this form:\n"
        '{"reasoning_steps": ["first step", "second step"], "answer": "final answer"}\n'
        "Rules for `reasoning_steps`:\n"
        "- a list of at least one step, in the order in which you reason;\n"
        "- each step is a single clause of at most 14 words, without words such as because or therefore;\n"
        "- each step says something that can be seen in the image, or follows from the steps before it.\n"
        "Rules for `answer`:\n"
        "- as short as possible, and never empty;\n"
        "- if the question offers lettered choices, the letter alone;\n"
        "- numbers with their unit, if they have one;\n"
        '- if the image does not show what is asked for, "insufficient information".\n'
        "Question: {Question}"
    ),
    "vivqa": (
        "You are a Visual Question Answering system. Look at the image and answer the question below. You must "
        "respond in Vietnamese and your response must include all the tags <think> </think>, <answer> </answer>, "
        "<explain> </explain>, each once and in this order, with nothing outside them.\n"
        "1. In the <think> tag, provide a step-by-step reasoning process.\n"
        "2. In the <answer> tag, give one word or one short phrase.\n"
        "3. In the <explain> tag, provide one brief sentence that justifies your answer.\n"
        "Question: {Question}"
    ),
    "emotion": (
        "{Question}\nOutput the thinking process in <think> </think> and final emotion in <answer> </answer> tags."
    ),
}  # fmt: skip

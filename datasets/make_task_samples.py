"""Makes a few dozen rows for every task beside image quality, to try its run script or to see its data format.

    python datasets/make_task_samples.py --task rec vivqa --output_dir output/samples --num_rows 32 --seed 0

writes one folder per task. Pictures are drawn, so answers are exact; nothing is downloaded, and the same seed gives
the same rows. They are samples of the formats, not data to learn from.

    rec od od_length counting math gui ic iqa_compare default     train.jsonl, images/
    emotion                                             train.json (R1-Omni's layout), clips/*.mp4
    vqa                                                 dataset/, for --use_huggingface_dataset --dataset_name
    vivqa                                               ViVQA-X/ViVQA-X_{train,val,test}.json, COCO_Images/…
"""

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from task_scenes import COLOURS, EMOTIONS, SHAPES, draw_faces, draw_screen, draw_shapes, draw_text


Row = dict[str, Any]
SIZE = 168  # pixels

_COLOURS_VI = {
    "red": "màu đỏ", "green": "màu xanh lá", "blue": "màu xanh dương", "yellow": "màu vàng", "purple": "màu tím",
    "orange": "màu cam",
}  # fmt: skip
_SHAPES_VI = {"circle": "hình tròn", "square": "hình vuông", "triangle": "hình tam giác"}
_NUMBERS_VI = ("không", "một", "hai", "ba", "bốn", "năm", "sáu", "bảy")


def _converse(question: str, answer: Any) -> list[dict[str, Any]]:
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def _save(image: Image.Image, folder: Path, name: str) -> str:
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    image.save(folder / name)
    return name


# ---- JSONL tasks: each yields rows, its pictures saved ------------------------------------------------------------


def make_rec_row(index: int, rng: np.random.Generator, folder: Path) -> Row:
    image, shapes = draw_shapes(rng, SIZE, SIZE - 28 * (index % 3), num_shapes=4)
    target = shapes[int(rng.integers(len(shapes)))]
    question = (
        f"<image>Please provide the bounding box coordinate of the region this sentence describes: the {target.name}."
    )
    return {"image": _save(image, folder, f"{index}.png"), "conversations": _converse(question, str(list(target.box)))}


def make_od_row(index: int, rng: np.random.Generator, folder: Path) -> Row:
    image, shapes = draw_shapes(rng, SIZE, SIZE, num_shapes=int(rng.integers(2, 6)))
    wanted = sorted({shape.kind for shape in shapes[:2]})
    boxes = [{"bbox_2d": list(shape.box), "label": shape.kind} for shape in shapes if shape.kind in wanted]
    question = (
        f"<image>Please carefully check the image and detect the following objects: {', '.join(wanted)}. "
        'Output the bounding box coordinates of detected objects in JSON format, each as "bbox_2d" with its "label".'
    )
    answer = f"```json\n{json.dumps(boxes)}\n```"
    return {"image": _save(image, folder, f"{index}.png"), "conversations": _converse(question, answer)}


def make_counting_row(index: int, rng: np.random.Generator, folder: Path) -> Row:
    image, shapes = draw_shapes(rng, SIZE, SIZE, num_shapes=int(rng.integers(1, 7)))
    kind = shapes[0].kind
    count = sum(shape.kind == kind for shape in shapes)
    question = f"<image>How many {kind}s are there in the image?"
    return {"image": _save(image, folder, f"{index}.png"), "conversations": _converse(question, str(count))}


def make_math_row(index: int, rng: np.random.Generator, folder: Path) -> Row:
    a, b, c = (int(value) for value in rng.integers(2, 10, 3))
    if index % 2:
        image, answer = draw_text(f"{a}x + {b} = {a * c + b}"), f"$x = {c}$"
        question = "<image>Solve the equation in the image for x."
    else:
        image, answer = draw_text(f"{a}/{b} + 1/{b} ="), rf"$\frac{{{a + 1}}}{{{b}}}$"
        question = "<image>What is the value of the expression in the image?"
    return {"image": _save(image, folder, f"{index}.png"), "conversations": _converse(question, answer)}


def make_gui_row(index: int, rng: np.random.Generator, folder: Path) -> Row:
    """Two screens, before and after a press of a button, as VLM-R1's GUI task has them."""
    buttons = ("Save", "Open", "Print")
    pressed, opened = (buttons[int(value)] for value in rng.integers(len(buttons), size=2))
    names = [
        _save(draw_screen("Editor", buttons), folder, f"{index}_before.png"),
        _save(draw_screen("Editor", buttons, dialog=f"{opened} which file?"), folder, f"{index}_after.png"),
    ]
    question = (
        f'<image><image>The first screenshot was taken before the button "{pressed}" was pressed, the second after. '
        "Does the program react as it should? Answer Yes or No."
    )
    answer = "Yes" if pressed == opened else "No"
    return {"image": names, "conversations": _converse(question, answer), "accu_reward_method": "all_match"}


def make_ic_row(index: int, rng: np.random.Generator, folder: Path) -> Row:
    image, shapes = draw_shapes(rng, SIZE, SIZE, num_shapes=3)
    names = ", ".join(shape.name for shape in shapes)
    row = {"image": _save(image, folder, f"{index}.png"), "accu_reward_method": "default"}
    return row | {"conversations": _converse("<image>List what you see.", names)}


def make_comparison_row(index: int, rng: np.random.Generator, folder: Path) -> Row:
    """Two versions of one picture, one of them coarser."""
    image, _ = draw_shapes(rng, SIZE, SIZE, num_shapes=4)
    factor = int(rng.integers(4, 9))
    coarse = image.resize((SIZE // factor, SIZE // factor)).resize((SIZE, SIZE), Image.Resampling.NEAREST)
    is_first_better = bool(rng.integers(2))
    pair = (image, coarse) if is_first_better else (coarse, image)
    names = [_save(part, folder, f"{index}_{side}.png") for side, part in zip("AB", pair, strict=True)]
    question = "<image><image>Which of the two images has the better quality, A (the first) or B (the second)?"
    return {"image": names, "conversations": _converse(question, "A" if is_first_better else "B")}


def make_default_row(index: int, rng: np.random.Generator, folder: Path) -> Row:
    """Questions of several kinds in one file: each row names the method that rewards its answer."""
    image, shapes = draw_shapes(rng, SIZE, SIZE, num_shapes=3)
    name, other = shapes[0].name, f"{shapes[0].colour} {SHAPES[(SHAPES.index(shapes[0].kind) + 1) % 3]}"
    kinds = [
        ("yes_no", f"Is there a {name} in the image?", "Yes"),
        ("mcq", f"Which of these is in the image?\nA. {other}\nB. {name}", "B"),
        ("default", f"Which colour has the {shapes[0].kind} at the top left?", shapes[0].colour),
    ]
    method, question, answer = kinds[index % len(kinds)]
    if index % 8 == 7:  # a row of text alone
        return {"conversations": _converse("How many sides does a triangle have?", "3")}
    return {
        "image": _save(image, folder, f"{index}.png"),
        "conversations": _converse(f"<image>{question}", answer),
        "accu_reward_method": method,
    }


JSONL_TASKS: dict[str, Callable[[int, np.random.Generator, Path], Row]] = {
    "rec": make_rec_row,
    "od": make_od_row,
    "od_length": make_od_row,
    "counting": make_counting_row,
    "math": make_math_row,
    "gui": make_gui_row,
    "ic": make_ic_row,
    "iqa_compare": make_comparison_row,
    "default": make_default_row,
}


def write_jsonl(task: str, folder: Path, num_rows: int, rng: np.random.Generator) -> None:
    rows = [{"id": index + 1} | JSONL_TASKS[task](index, rng, folder / "images") for index in range(num_rows)]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "train.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


# ---- tasks with a layout of their own -----------------------------------------------------------------------------


def write_emotion(folder: Path, num_rows: int, rng: np.random.Generator) -> None:
    """R1-Omni's layout: a JSON list of clips and emotions."""
    rows = []
    for index in range(num_rows):
        emotion = EMOTIONS[index % len(EMOTIONS)]
        name = f"clips/{index:05d}.mp4"
        _write_clip(folder / name, draw_faces(emotion, rng))
        question = (
            "As an emotional recognition expert; throughout the video, which emotion conveyed by the characters is "
            "the most obvious to you?"
        )
        rows.append({"video": name, "conversations": _converse(f"<video>\n{question}", emotion)})
    (folder / "train.json").write_text(json.dumps(rows, indent=1), encoding="utf-8")


def _write_clip(path: Path, frames: list[Image.Image], fps: int = 8) -> None:
    import av

    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=fps)
        stream.width, stream.height = frames[0].size
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())


def write_vqa(folder: Path, num_rows: int, rng: np.random.Generator) -> None:
    """A data set on disk with pictures inside: image, question, answer, reference_steps, choices, source."""
    from datasets import Dataset, Features, List, Value
    from datasets import Image as ImageFeature

    text = Value("string")
    features = {"image": ImageFeature(), "question": text, "answer": text, "reference_steps": List(text)}
    features |= {"choices": List(text), "source": text}
    rows = list(_make_vqa_rows(num_rows, rng))
    columns = {name: [row[name] for row in rows] for name in features}
    Dataset.from_dict(columns, features=Features(features)).save_to_disk(str(folder / "dataset"))


def _make_vqa_rows(num_rows: int, rng: np.random.Generator) -> Iterator[Row]:
    for index in range(num_rows):
        image, shapes = draw_shapes(rng, SIZE, SIZE, num_shapes=4)
        first = shapes[0]
        count = sum(shape.kind == first.kind for shape in shapes)
        if index % 2:
            choices = sorted({first.colour, *list(COLOURS)[:3]})
            question, answer = f"What is the colour of the {first.kind} at the top left?", first.colour
            steps = [f"A {first.name} stands at the top left", f"The {first.kind} is filled with {first.colour}"]
        else:
            choices, question, answer = [], f"How many {first.kind}s are there?", str(count)
            steps = [f"A {shape.name} is visible" for shape in shapes] + [f"{count} of them are {first.kind}s"]
        yield {
            "image": image, "question": question, "answer": answer, "reference_steps": steps, "choices": choices,
            "source": ("colour", "counting")[index % 2 == 0],
        }  # fmt: skip


def write_vivqa(folder: Path, num_rows: int, rng: np.random.Generator) -> None:
    """ViVQA-X as it is released: three JSON files, and the pictures of COCO 2014 in two folders."""
    (folder / "ViVQA-X").mkdir(parents=True, exist_ok=True)
    for number, (split, count) in enumerate((("train", num_rows), ("val", 4), ("test", 4))):
        coco = "train2014" if split == "train" else "val2014"
        items = [
            _make_vivqa_item(1000 * (number + 1) + index, coco, folder / "COCO_Images" / coco, rng)
            for index in range(count)
        ]
        path = folder / "ViVQA-X" / f"ViVQA-X_{split}.json"
        path.write_text(json.dumps(items, ensure_ascii=False, indent=1), encoding="utf-8")


def _make_vivqa_item(image_id: int, coco: str, folder: Path, rng: np.random.Generator) -> Row:
    image, shapes = draw_shapes(rng, SIZE, SIZE, num_shapes=int(rng.integers(1, 6)))
    name = _save(image, folder, f"COCO_{coco}_{image_id:012d}.jpg")
    first, kind = shapes[0], _SHAPES_VI[shapes[0].kind]
    if image_id % 2:
        question, answer = f"{kind} ở góc trên bên trái có màu gì?", _COLOURS_VI[first.colour]
        explanations = [f"{kind} ở góc trên bên trái được tô {answer}", f"có một {kind} {answer} ở phía trên"]
    else:
        count = sum(shape.kind == first.kind for shape in shapes)
        question, answer = f"có bao nhiêu {kind} trong bức ảnh?", _NUMBERS_VI[count]
        explanations = [f"có {answer} {kind} trong bức ảnh"]
    return {
        "question": question, "image_id": image_id, "image_name": name, "explanation": explanations, "answer": answer,
        "question_id": image_id * 10, "question_type": "khác", "answer_type": "other",
    }  # fmt: skip


OTHER_TASKS = {"emotion": write_emotion, "vqa": write_vqa, "vivqa": write_vivqa}
TASKS = (*JSONL_TASKS, *OTHER_TASKS)


def make_task_samples(task: str, output_dir: Path, num_rows: int, seed: int) -> Path:
    """Writes the rows of one task; returns their folder."""
    folder = output_dir / task
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([seed, TASKS.index(task)])
    if task in JSONL_TASKS:
        write_jsonl(task, folder, num_rows, rng)
    else:
        OTHER_TASKS[task](folder, num_rows, rng)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", nargs="+", choices=TASKS, default=TASKS, help="which tasks (default: all)")
    parser.add_argument("--output_dir", type=Path, default=Path("output/samples"), help="parent of the tasks' folders")
    parser.add_argument("--num_rows", type=int, default=32, help="rows of each task")
    parser.add_argument("--seed", type=int, default=0, help="of everything drawn")
    args = parser.parse_args()
    for task in args.task:
        print(make_task_samples(task, args.output_dir, args.num_rows, args.seed))


if __name__ == "__main__":
    main()

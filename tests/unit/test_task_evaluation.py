"""`open_r1.evaluate --task`: predictions of several forms joined with labels, measured, and written down."""

import json

import pytest

from open_r1 import evaluate
from open_r1.completions import get_answer_contract
from open_r1.utils.task_evaluation import EVALUATORS, evaluate_task
from open_r1.utils.task_predictions import load_records


def write_json(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    return path


def write_lines(path, records):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records) + "\n", encoding="utf-8")
    return path


def label(number, question, answer, **more):
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {"id": f"q{number}", "dataset_name": "TOY", "conversations": turns, **more}


def say(answer):
    return f"<think>so</think><answer>{answer}</answer>"


def box(*corners, **more):
    return json.dumps({"bbox_2d": list(corners), **more})


VQA = [
    label(1, "How many dogs?", "2"),
    label(2, "Which animal?", "B", options=["cat", "dog"]),
    label(3, "Is it red?", "yes"),
]
CASES = {  # task -> labels, texts, expected metrics
    "vqa": (
        VQA,
        ['{"reasoning_steps": ["a"], "answer": "two"}', '{"reasoning_steps": ["a"], "answer": "dog"}', "nothing"],
        {"accuracy": 2 / 3, "TOY/accuracy": 2 / 3, "rule/empty/accuracy": 0.0, "rule/numeric/accuracy": 1.0},
    ),
    "rec": (
        [label(1, "The dog", "[0, 0, 10, 10]"), label(2, "The cat", "[0, 0, 10, 10]")],
        [say(box(0, 0, 10, 8)), say("[0, 0, 10, 5]")],  # an IoU of 0.5 is not above 0.5
        {"accuracy": 0.5, "mean_iou": 0.65},
    ),
    "detection": (
        [label(1, "Dogs", f"[{box(0, 0, 10, 10, label='dog')}]")],
        [say(f"[{box(0, 0, 10, 10, label='dog')}, {box(20, 20, 30, 30, label='dog')}]")],
        {"precision": 0.5, "recall": 1.0, "f1": 2 / 3, "ap50": 1.0},
    ),
    "gui": (
        [label(1, "Click save", "[10, 10, 30, 30]"), label(2, "What next?", "scroll")],
        [say("[20, 20]"), say("Scroll.")],
        {"accuracy": 1.0, "point_accuracy": 1.0, "action_accuracy": 1.0},
    ),
    "emotion": (
        [label(1, "Emotion?", "happy"), label(2, "Emotion?", "happy"), label(3, "Emotion?", "sad")],
        [say("happy"), say("sad"), say("sad")],
        {"war": 2 / 3, "uar": 0.75},
    ),
    "nle": (
        [label(1, "Gì?", "chó", explanation=["có bốn chân"]), label(2, "Mấy?", "hai", explanation=["có hai con"])],
        ["<think>a</think><answer>chó</answer><explain>vì có bốn chân</explain>", "<answer>ba</answer>"],
        {"accuracy": 0.5, "unfiltered/cider": 3.75, "filtered/bleu_1": 1.0, "scaled/cider": 1.875},
    ),
}


@pytest.mark.parametrize("task", CASES)
def test_a_task_is_evaluated_from_files(task, tmp_path, capsys):
    labels, texts, expected = CASES[task]
    records = [{"id": row["id"], "text": text} for row, text in zip(labels, texts, strict=True)]
    output = tmp_path / "out" / "eval.json"
    evaluate.main(
        [
            *("--task", task, "--output", str(output), "--nle_metrics", "bleu", "cider"),
            *("--predictions", str(write_lines(tmp_path / "pred.jsonl", records))),
            *("--labels", str(write_lines(tmp_path / "labels.jsonl", labels))),
        ]
    )
    report = json.loads(output.read_text(encoding="utf-8"))
    assert set(report) == {"task", "metrics", "counts", "notes"}
    assert report["task"] == task
    assert {name: report["metrics"][name] for name in expected} == pytest.approx(expected, abs=1e-3)
    assert report["counts"]["rows"] == len(labels)
    assert report["counts"]["missing"] == 0
    table = output.with_suffix(".md").read_text(encoding="utf-8")
    assert table in capsys.readouterr().out
    assert all(f"| {name} " in table for name in expected)
    assert len(output.with_suffix(".rows.jsonl").read_text(encoding="utf-8").splitlines()) == len(labels)


def test_every_task_of_the_command_line_has_an_evaluator():
    assert set(evaluate.TASKS) == set(EVALUATORS)


TEXTS = dict(zip(("q1", "q2", "q3"), CASES["vqa"][1], strict=True))
PARTS = {
    "q1": {"reasoning_steps": ["a"], "answer": "two"},
    "q2": {"reasoning_steps": ["a"], "answer": "dog"},
    "q3": {"reasoning_steps": [], "answer": ""},
}


@pytest.fixture
def vqa_labels(tmp_path):
    return write_lines(tmp_path / "labels.jsonl", VQA)


def write_forms(folder):
    """Every form that predictions may have."""
    rollouts = [{"step": 1, "row": {"id": key}, "completions": ["old"]} for key in TEXTS]
    rollouts += [{"step": 2, "row": {"id": key}, "completions": [text, "other"]} for key, text in TEXTS.items()]
    yield write_lines(folder / "texts.jsonl", [{"id": key, "text": text} for key, text in TEXTS.items()])
    yield write_json(folder / "list.json", [{"idx": key, "response": text} for key, text in TEXTS.items()])
    yield write_json(folder / "object.json", PARTS)
    for key, record in PARTS.items():
        write_json(folder / "files" / f"{key}.json", record)
    write_json(folder / "files" / "inference_summary.json", {"total": 3})
    yield folder / "files"
    yield write_lines(folder / "alone" / "eval_rank0.jsonl", rollouts)
    for rank in (0, 1):
        write_lines(folder / "rollouts" / f"eval_rank{rank}.jsonl", rollouts[rank::2])
    yield folder / "rollouts"


@pytest.mark.parametrize("form", range(6))
def test_predictions_may_have_several_forms(form, vqa_labels, tmp_path):
    forms = list(write_forms(tmp_path))
    report = evaluate_task("vqa", forms[form], vqa_labels)
    assert report.metrics["accuracy"] == pytest.approx(2 / 3)
    assert report.counts["missing"] == 0


def test_rows_without_an_id_have_that_of_their_line(tmp_path):
    labels = write_lines(tmp_path / "labels.jsonl", [{**row, "id": None} for row in VQA])
    predictions = write_json(tmp_path / "pred.json", dict(zip("123", PARTS.values(), strict=True)))
    assert evaluate_task("vqa", predictions, labels).metrics["accuracy"] == pytest.approx(2 / 3)


def test_rows_of_a_saved_data_set_have_their_index_as_id(tmp_path):
    from datasets import Dataset

    rows = {"question": ["How many dogs?", "How many cats?"], "answer": ["2", "3"]}
    Dataset.from_dict(rows).save_to_disk(tmp_path / "saved")
    for index, answer in enumerate(("2", "4")):
        write_json(tmp_path / "pred" / f"{index}.json", {"reasoning_steps": ["a"], "answer": answer})
    report = evaluate_task("vqa", tmp_path / "pred", tmp_path / "saved")
    assert [(row["id"], row["is_correct"]) for row in report.details] == [("0", True), ("1", False)]


def test_what_cannot_be_joined_is_counted_and_told(vqa_labels, tmp_path):
    predictions = write_json(tmp_path / "pred.json", {"q1": PARTS["q1"], "q9": PARTS["q1"]})
    report = evaluate_task("vqa", predictions, vqa_labels)
    assert (report.metrics["accuracy"], report.counts["rows"], report.counts["missing"]) == (1.0, 1, 2)
    assert report.notes == [
        "2 labels have no prediction and are left out: the figures are not of all rows",
        "1 predictions have no label and are left out",
    ]


@pytest.mark.parametrize(
    "content, message",
    [
        ([{"id": "7", "text": "a"}], "no prediction has the id of a label; predictions: 7; labels: q1, q2, q3"),
        ([{"text": "a"}], "prediction 1 has no id"),
        ([{"id": "q1"}], "prediction 'q1' has no text"),
        (["a"], "record 1: a prediction must be an object, not a str"),
        ([], "there is no prediction"),
        ("a", "neither a list of records nor an object of them"),
    ],
)
def test_predictions_that_cannot_be_used_are_refused(content, message, vqa_labels, tmp_path):
    with pytest.raises(ValueError, match=message):
        evaluate_task("vqa", write_json(tmp_path / "pred.json", content), vqa_labels)


def test_labels_of_one_id_are_refused(tmp_path):
    labels = write_lines(tmp_path / "labels.jsonl", [VQA[0], VQA[0]])
    with pytest.raises(ValueError, match="labels share an id"):
        evaluate_task("vqa", write_json(tmp_path / "pred.json", PARTS), labels)


def test_text_that_is_no_json_is_named_with_its_line(tmp_path):
    path = tmp_path / "pred.jsonl"
    path.write_text('{"id": 1, "text": "a\\u2028b"}\n\n{"id": 2,\n', encoding="utf-8")
    with pytest.raises(ValueError, match="pred.jsonl:3: not JSON"):
        load_records(path)


def test_a_line_separator_inside_a_text_ends_no_line(tmp_path):
    assert load_records(write_lines(tmp_path / "pred.jsonl", [{"id": 1, "text": "a\u2028b"}])) == [
        {"id": 1, "text": "a\u2028b"}
    ]


def test_result_files_of_vqa_nle_need_no_other_labels_where_they_have_references(tmp_path):
    records = [
        {
            "image_name": f"{name}.jpg",
            "question": "Gì?",
            "answer": name,
            "predict": name,
            "pred_explanation": f"vì có {name}",
            "explanation": [f"có {name}"],
        }
        for name in ("chó", "mèo")
    ]
    output = tmp_path / "eval.json"
    predictions = write_json(tmp_path / "results.json", records)
    arguments = ["--task", "nle", "--predictions", str(predictions), "--nle_metrics", "bleu", "cider"]
    evaluate.main([*arguments, "--output", str(output)])
    report = json.loads(output.read_text(encoding="utf-8"))
    assert report["metrics"]["filtered/bleu_2"] == pytest.approx(1.0)
    assert report["notes"][0].startswith("tokenizer: syllable")
    stripped = [{key: value for key, value in record.items() if key != "explanation"} for record in records]
    labels = write_json(tmp_path / "ViVQA-X_test.json", records)
    predictions = write_json(tmp_path / "results.json", stripped)
    evaluate.main([*arguments, "--labels", str(labels), "--output", str(output)])
    assert json.loads(output.read_text(encoding="utf-8"))["metrics"] == report["metrics"]


def test_boxes_in_the_coordinates_of_the_picture_and_of_the_model_are_compared(tmp_path):
    from builders import make_image

    make_image(100, 50).save(tmp_path / "0.png")
    labels = write_lines(tmp_path / "labels.jsonl", [label(1, "<image>The dog", "[10, 10, 50, 40]", image="0.png")])
    predictions = write_json(tmp_path / "pred.json", {"q1": {"text": say("[100, 200, 500, 800]")}})
    output = tmp_path / "eval.json"
    evaluate.main(
        [
            *("--task", "rec", "--predictions", str(predictions), "--labels", str(labels), "--output", str(output)),
            *("--image_folder", str(tmp_path), "--box_format", "relative_1000"),
        ]
    )
    assert json.loads(output.read_text())["metrics"]["mean_iou"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--task", "rec", "--compare", "a.json"], "choose one"),
        (["--task", "rec", "--predictions", "a.json", "--output", "b.json"], "--labels and --output are needed"),
        (["--task", "caption"], "invalid choice"),
    ],
)
def test_arguments_that_do_not_go_together_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit):
        evaluate.main(arguments)
    assert message in capsys.readouterr().err


def test_the_contract_is_an_option(vqa_labels, tmp_path):
    text = get_answer_contract("default").compose(answer="2", think="so")
    predictions = write_json(tmp_path / "pred.json", {"q1": {"text": text}})
    output = tmp_path / "eval.json"
    files = ["--predictions", str(predictions), "--labels", str(vqa_labels), "--output", str(output)]
    evaluate.main(["--task", "vqa", *files, "--question_template", "default"])
    assert json.loads(output.read_text())["metrics"]["accuracy"] == 1.0

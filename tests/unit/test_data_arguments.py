"""Options of data: what names the rows, what contradicts what, and what becomes of a run's options."""

import json

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from PIL import Image

from open_r1.configs import GRPOScriptArguments, RecScriptArguments
from open_r1.data.schema import BadDataError
from open_r1.data.sources import list_data_files
from open_r1.grpo_jsonl import load_data
from open_r1.trainer.grpo_config import GRPOConfig


FILES = {"data_file_paths": ["a.jsonl"], "image_folders": ["images"]}


def test_a_mixture_may_be_named_by_either_option_and_a_data_set_only_with_its_flag():
    for options in ({"dataset_name": "mix.yaml"}, {"data_file_paths": "mix.yaml"}):
        assert RecScriptArguments(**options).data_file_paths == ["mix.yaml"]
    args = RecScriptArguments(dataset_name="vqa_dataset", use_huggingface_dataset=True)
    assert (args.data_file_paths, args.dataset_name) == ([], "vqa_dataset")
    with pytest.raises(
        ValueError, match=r"Unsupported file type: --dataset_name vqa_dataset.*--use_huggingface_dataset"
    ):
        RecScriptArguments(dataset_name="vqa_dataset")


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"use_huggingface_dataset": True}, "needs --dataset_name"),
        ({"use_huggingface_dataset": True, "dataset_name": "x", **FILES}, "give one of them"),
        ({"data_file_paths": ["a.jsonl"]}, "--image_folders is missing"),
        ({}, "--data_file_paths is missing"),
    ],
)
def test_options_that_name_no_rows_or_two_sources_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        RecScriptArguments(**options)


def test_an_image_root_stands_for_a_folder_of_each_file():
    assert GRPOScriptArguments(data_file_paths=["a.jsonl", "b.jsonl"], image_root="images").image_folders == []
    args = GRPOScriptArguments(**FILES, eval_data_file_paths=["b.jsonl"], image_root="images")
    assert args.all_file_paths == ["a.jsonl", "b.jsonl"]


def test_the_task_is_rec_where_grpo_rec_is_told_none():
    assert RecScriptArguments(**FILES).task_type == "rec"
    assert RecScriptArguments(**FILES).question_template == "rec"
    assert RecScriptArguments(**FILES, task_type="vqa").question_template == "vqa"
    assert GRPOScriptArguments(**FILES).task_type == "iqa"


def test_the_flag_of_rewards_from_modules_is_taken_with_a_warning():
    with pytest.warns(FutureWarning, match="--task_type says"):
        RecScriptArguments(**FILES, is_reward_customized_from_vlm_module=True)


# ---- rows -------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(tmp_path / f"{number}.png")
    return tmp_path


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def make_row(number, **changes):
    return {"image": f"{number}.png", "question": f"{number}?", "answer": "B", **changes}


def load(script_args, **training):
    settings = {"output_dir": "x", "use_cpu": True, "report_to": "none", "num_generations": 2} | training
    return load_data(script_args, GRPOConfig(per_device_train_batch_size=2, per_device_eval_batch_size=2, **settings))


def save_splits(folder):
    rows = {
        "train": [[Image.open(folder / f"{i}.png") for i in range(4)], [f"{i}?" for i in range(4)], ["A"] * 4],
        "test": [[Image.open(folder / "5.png")], ["5?"], ["A"]],
    }
    splits = {
        name: Dataset.from_dict(dict(zip(("image", "question", "answer"), columns))) for name, columns in rows.items()
    }
    DatasetDict(splits).save_to_disk(folder / "set")
    return {"use_huggingface_dataset": True, "dataset_name": str(folder / "set"), "task_type": "vqa"}


def test_a_hugging_face_data_set_gives_training_rows_and_its_test_split_where_evaluation_is_wanted(folder):
    script_args = RecScriptArguments(**save_splits(folder))
    train, validation = load(script_args)
    assert (len(train), validation) == (4, None)
    train, validation = load(script_args, eval_strategy="steps", eval_steps=1)
    assert (len(train), validation["problem"][:]) == (4, ["5?"])
    script_args.dataset_test_split = "dev"
    with pytest.raises(ValueError, match="no split 'dev': take one of train, test"):
        load(script_args, eval_strategy="steps", eval_steps=1)


def test_rows_of_a_hugging_face_data_set_are_held_out_with_their_pictures(folder):
    script_args = RecScriptArguments(**save_splits(folder), val_split_ratio=0.25)
    train, validation = load(script_args, eval_strategy="steps", eval_steps=1)
    assert (len(train), len(validation)) == (3, 1)
    assert not set(map(str, train["image_path"])) & set(map(str, validation["image_path"]))


def test_what_a_run_reads_is_listed_to_be_hashed(folder):
    script_args = RecScriptArguments(**save_splits(folder))
    names = {path.removeprefix(f"{folder}/set/") for path in list_data_files(script_args.all_file_paths)}
    assert {"dataset_dict.json", "train/state.json", "test/dataset_info.json"} <= names


def test_the_data_seed_draws_the_rows_of_a_mixture_and_the_seed_where_there_is_none(folder):
    write(folder / "a.jsonl", *(make_row(i % 6) for i in range(60)))
    entry = {"json_path": str(folder / "a.jsonl"), "sampling_strategy": "random:6"}
    (folder / "mix.yaml").write_text(json.dumps({"datasets": [entry]}))
    script_args = RecScriptArguments(dataset_name=str(folder / "mix.yaml"), image_root=str(folder))
    by_seed, by_data_seed, other = (
        load(script_args, **seeds)[0]["source"][:] for seeds in ({"seed": 3}, {"seed": 4, "data_seed": 3}, {"seed": 4})
    )
    assert by_seed == by_data_seed != other


def test_methods_are_checked_before_training_where_a_reward_goes_by_them(folder):
    path = write(folder / "a.jsonl", make_row(1, accu_reward_method="mcq"), make_row(2, accu_reward_method="guess"))
    options = {"data_file_paths": [path], "image_root": str(folder)}
    with pytest.raises(BadDataError, match=r"a.jsonl:2: the accu_reward_method 'guess' is unknown"):
        load(GRPOScriptArguments(**options, task_type="default"))
    script_args = GRPOScriptArguments(**options, task_type="default", reward_method=["guess"], on_bad_data="skip")
    with pytest.raises(ValueError, match="--reward_method guess is unknown; known: .*mcq"):
        load(script_args)
    train, _ = load(GRPOScriptArguments(**options, task_type="gui", reward_method=["mcq"]))
    assert train["accu_reward_method"][:] == ["mcq", "guess"]


def test_rows_without_a_question_get_that_of_emotions_in_its_task_alone(folder):
    turns = [{"from": "gpt", "value": "angry"}]
    path = write(folder / "a.jsonl", {"image": "1.png", "conversations": turns})
    options = {"data_file_paths": [path], "image_root": str(folder)}
    train, _ = load(GRPOScriptArguments(**options, task_type="emotion"))
    assert "which emotion" in train[0]["problem"]
    with pytest.raises(BadDataError, match="no 'human' turn"):
        load(GRPOScriptArguments(**options, task_type="default"))

"""Evaluation during training: what it reports, what it chooses the best model by, what it leaves as it was."""

import copy
import json
import math
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import write_iqa_data
from safetensors.torch import load_file
from test_grpo_trainer import build, copy_parameters, letters_reward, read_metrics
from transformers import EarlyStoppingCallback

from open_r1.configs import GRPOScriptArguments
from open_r1.data.mos import MosRecord
from open_r1.grpo_jsonl import build_eval_metrics, load_data
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.reward_calls import RewardError
from open_r1.utils.evaluation import evaluate_matches, match_predictions
from open_r1.utils.score_metrics import compute_score_metrics
from open_r1.utils.scoring import build_prediction


__all__ = ["build"]  # the fixture


def answer(score: object) -> str:
    return f"<think>hm</think> <answer>{score}</answer>"


def make_rows(**labels: list[float]) -> list[dict]:
    return [{"dataset_name": name, "mos": mos} for name, values in labels.items() for mos in values]


def measure_letters(rows, texts_per_row):
    """SRCC and PLCC of a model whose scores lie in the number of letters that it writes, up to 200."""
    counts = [[sum(map(str.isalpha, text)) for text in texts] for texts in texts_per_row]
    return compute_score_metrics(rows, [[answer(1 + min(count, 200) / 50) for count in row] for row in counts])


def read_evaluations(trainer) -> list[dict]:
    lines = (Path(trainer.args.output_dir) / "metrics.jsonl").read_text().splitlines()
    return [line for line in map(json.loads, lines) if "eval_reward" in line]


def read_eval_rollouts(trainer) -> list[dict]:
    lines = (Path(trainer.args.output_dir) / "rollouts" / "eval_rank0.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


# ---- scores and MOS ---------------------------------------------------------------------------------------------


def test_each_data_set_has_its_correlations_and_the_average_is_over_data_sets():
    rows = make_rows(A=[1, 2, 3, 4], B=[10, 20, 30])
    texts = [[answer(score)] for score in (1, 2, 3, 5, 4, 3, 2)]
    report = compute_score_metrics(rows, texts)
    assert report.values["A/srcc"] == pytest.approx(1.0)
    assert report.values["A/plcc"] == pytest.approx(6.5 / math.sqrt(5 * 8.75))  # deviations by hand
    assert report.values["B/srcc"] == report.values["B/plcc"] == pytest.approx(-1.0)
    assert report.values["srcc"] == pytest.approx(0.0)
    assert (report.values["A/num"], report.values["B/num"]) == (4, 3)
    assert report.reasons == {}


def test_several_samples_count_as_their_mean():
    rows = make_rows(A=[1, 2, 3])
    texts = [[answer(1), answer(2)], [answer(5), "no answer"], [answer(3), answer(4)]]
    report = compute_score_metrics(rows, texts)
    assert report.columns["pred_score"] == [1.5, 5.0, 3.5]
    assert report.values["srcc"] == pytest.approx(0.5)
    assert report.values["A/unparsed"] == 0.0


def test_answers_without_a_score_are_counted_and_left_out():
    report = compute_score_metrics(make_rows(A=[1, 2, 3, 4]), [[answer(1)], ["?"], [answer(2)], [answer(3)]])
    assert report.values["A/unparsed"] == 0.25
    assert report.values["A/srcc"] == pytest.approx(1.0)
    assert report.columns["pred_score"] == [1.0, None, 2.0, 3.0]


def test_where_a_data_set_has_no_value_the_average_has_none_either():
    rows = make_rows(A=[1, 2, 3], B=[1, 2, 3])
    report = compute_score_metrics(rows, [[answer(score)] for score in (3, 3, 3, 1, 2, 3)])
    assert report.values["B/srcc"] == pytest.approx(1.0)
    assert report.reasons["A/srcc"] == "every prediction is 3"
    assert report.reasons["srcc"] == "A has none"
    assert not {"A/srcc", "A/plcc", "srcc", "plcc"} & set(report.values)


def test_no_average_waits_for_a_data_set_of_two_images():
    rows = make_rows(A=[1, 2, 3], B=[1, 2])
    report = compute_score_metrics(rows, [[answer(score)] for score in (1, 2, 3, 2, 1)])
    assert report.values["srcc"] == pytest.approx(1.0)
    assert report.values["B/num"] == 2
    assert "B/srcc" not in {**report.values, **report.reasons}


def test_the_names_are_the_same_whatever_the_model_writes():
    rows = make_rows(A=[1, 2, 3], B=[1, 2])
    reports = [compute_score_metrics(rows, [[text]] * 5) for text in ("", answer(3))]
    reports.append(compute_score_metrics(rows, [[answer(score)] for score in (1, 2, 3, 4, 5)]))
    assert len({frozenset({*report.values, *report.reasons}) for report in reports}) == 1


def test_training_and_the_evaluate_command_measure_the_same():
    rng = np.random.default_rng(0)
    labels = rng.uniform(1, 5, 40)
    texts = [[answer(round(float(score), 1)) if score > 1.4 else "?"] for score in (labels + rng.normal(0, 1, 40)) % 5]
    predictions = [build_prediction(f"{i}.png", row) for i, row in enumerate(texts)]
    records = [MosRecord(image=f"{i}.png", mos=mos) for i, mos in enumerate(labels)]
    expected = evaluate_matches(match_predictions(predictions, records), num_resamples=10).report
    values = compute_score_metrics(make_rows(A=list(labels)), texts).values
    assert values["srcc"] == pytest.approx(expected["srcc"], abs=1e-6)
    assert values["plcc"] == pytest.approx(expected["plcc"], abs=1e-6)
    assert values["A/unparsed"] * 40 == pytest.approx(expected["n_unparsed"])
    assert 0 < expected["n_unparsed"] < 20


# ---- training goes on as if nothing had been --------------------------------------------------------------------


@pytest.mark.parametrize("num_generations", [1, 3])
def test_evaluation_in_the_middle_of_rounds_changes_no_loss(build, tmp_path, num_generations):
    shared = {"num_iterations": 2, "steps_per_generation": 2, "per_device_train_batch_size": 4, "max_steps": 5}
    plain = build(output_dir=str(tmp_path / "plain"), **shared)
    plain.train()
    evaluated = build(
        output_dir=str(tmp_path / "evaluated"),
        with_eval=True,
        eval_metrics=compute_score_metrics,
        eval_strategy="steps",
        eval_steps=1,
        eval_on_start=True,
        eval_num_generations=num_generations,
        **shared,
    )
    evaluated.train()
    curves = [
        [{name: value for name, value in line.items() if "time/" not in name} for line in read_metrics(trainer)]
        for trainer in (plain, evaluated)
    ]
    assert curves[0] == curves[1]
    assert ["reward" in line for line in curves[0]] == [True, False, False, False, True]  # where rounds begin
    assert [line["step"] for line in read_evaluations(evaluated)] == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize("num_generations", [1, 2])
@pytest.mark.parametrize("num_workers", [0, 1])
def test_evaluation_leaves_the_trainer_as_it_was(build, num_generations, num_workers):
    def chatty_reward(completions, log_metric, **kwargs):
        log_metric("chatty", 1.0)
        return letters_reward(completions)

    trainer = build(
        [chatty_reward],
        with_eval=True,
        eval_num_generations=num_generations,
        dataloader_num_workers=num_workers,
        logging_steps=10,  # so that there are metrics waiting
    )
    trainer.train()
    trainer.model.train()
    trainer.metrics.add("waiting", 1.0)
    states = random.getstate(), torch.get_rng_state()
    metrics, waiting, tokens = trainer.metrics, copy.deepcopy(trainer.metrics.state()), trainer.num_tokens_seen
    values = trainer.evaluate()
    assert values["eval_chatty"] == 1.0
    assert trainer.metrics is metrics and metrics.state() == waiting
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
    assert trainer.model.training and trainer.num_tokens_seen == tokens
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in trainer.model.parameters())


def test_sampled_evaluation_draws_the_same_each_time_and_not_what_is_most_likely(build):
    trainer = build(with_eval=True, eval_num_generations=3)
    for _ in range(2):
        torch.rand(1)
        trainer.evaluate()
    rollouts = read_eval_rollouts(trainer)
    first, second = rollouts[:5], rollouts[5:]
    assert first == second
    assert all(len(line["completions"]) == 3 for line in first)
    assert any(len(set(line["completions"])) > 1 for line in first)
    assert len({line["completions"][0] for line in first}) > 1


def test_an_evaluation_that_fails_loses_no_metric_of_training(build):
    def broken_reward(completions, **kwargs):
        raise KeyError("broken")

    trainer = build([broken_reward], with_eval=True)
    trainer.metrics.add("waiting", 1.0)
    with pytest.raises(RewardError, match="broken_reward failed"):
        trainer.evaluate()
    assert trainer.metrics.pop() == {"waiting": 1.0}


# ---- what is reported -------------------------------------------------------------------------------------------


def test_rewards_are_averaged_over_all_samples_of_all_rows(build):
    trainer = build(with_eval=True, eval_num_generations=2, per_device_eval_batch_size=4)
    metrics = trainer.evaluate()
    lines = read_eval_rollouts(trainer)
    rewards = [reward for line in lines for reward in line["rewards"]["letters_reward"]]
    assert len(rewards) == 10
    assert metrics["eval_reward"] == pytest.approx(np.mean(rewards))
    assert metrics["eval_reward_std"] == pytest.approx(
        np.mean([np.std(line["rewards"]["letters_reward"], ddof=1) for line in lines])
    )
    assert [letters_reward([[{"content": text}] for text in line["completions"]]) for line in lines] == [
        pytest.approx(line["rewards"]["letters_reward"]) for line in lines
    ]
    assert {"eval_completions/mean_length", "eval_time/generate_s"} <= set(metrics)


def test_each_evaluation_leaves_its_rows_with_the_scores_that_were_read(build):
    trainer = build(with_eval=True, eval_metrics=measure_letters)
    metrics = trainer.evaluate()
    lines = read_eval_rollouts(trainer)
    assert [(line["step"], line["row"]["id"], line["row"]["dataset_name"]) for line in lines] == [
        (0, str(i), "NOISE") for i in (1, 2, 3, 4, 5)
    ]
    scores = [line["metrics"]["pred_score"] for line in lines]
    rows = [{"dataset_name": "NOISE", "mos": line["row"]["mos"]} for line in lines]
    expected = compute_score_metrics(rows, [[answer(score)] for score in scores]).values
    assert metrics["eval_srcc"] == metrics["eval_NOISE/srcc"] == pytest.approx(expected["srcc"])
    assert metrics["eval_NOISE/num"] == 5


def test_the_size_of_evaluation_batches_changes_no_greedy_result(build, tmp_path):
    completions = []
    for size in (2, 8):
        trainer = build(with_eval=True, per_device_eval_batch_size=size, output_dir=str(tmp_path / str(size)))
        trainer.evaluate()
        completions.append([line["completions"] for line in read_eval_rollouts(trainer)])
    assert completions[0] == completions[1]


# ---- the best model ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "choose"),
    [
        ("reward", max),
        ("rewards/letters_reward/mean", max),
        ("srcc", max),
        ("eval_NOISE/plcc", max),
        ("NOISE/srcc", min),
    ],
)
def test_the_best_model_is_chosen_by_any_name_that_evaluation_reports(build, name, choose):
    trainer = build(
        with_eval=True,
        eval_metrics=measure_letters,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        load_best_model_at_end=True,
        metric_for_best_model=name,
        greater_is_better=False if choose is min else None,
        learning_rate=3e-3,
    )
    trainer.train()
    values = [line[f"eval_{name.removeprefix('eval_')}"] for line in read_evaluations(trainer)]
    best = choose(values)
    assert len(set(values)) == 3
    assert trainer.state.best_metric == best
    folder = Path(trainer.state.best_model_checkpoint)
    assert folder.name == f"checkpoint-{1 + values.index(best)}"
    saved = sum(tensor.double().abs().sum() for tensor in load_file(folder / "model.safetensors").values())
    loaded = sum(tensor.double().abs().sum() for tensor in copy_parameters(trainer).values())
    assert loaded == pytest.approx(saved.item(), rel=1e-9)


def test_a_metric_without_a_value_is_not_logged_and_counts_as_the_worst(build):
    trainer = build(
        with_eval=True,
        eval_metrics=compute_score_metrics,  # the untrained model writes no score
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="best",
        metric_for_best_model="srcc",
    )
    trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=1))
    trainer.train()
    evaluations = read_evaluations(trainer)
    assert [line["step"] for line in evaluations] == [1, 2]  # and then the early stop
    assert evaluations[0]["eval_NOISE/unparsed"] == 1.0
    assert not {"eval_srcc", "eval_NOISE/srcc"} & set(evaluations[0])
    assert all(math.isfinite(value) for line in evaluations for value in line.values())
    assert trainer.state.best_model_checkpoint is None
    assert not list(Path(trainer.args.output_dir).glob("checkpoint-*"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [("srcc", True), ("reward", True), ("KADID-10K/unparsed", False), ("completions/clipped_ratio", False)],
)
def test_lower_is_better_where_the_name_says_so(tmp_path, name, expected):
    settings = {"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True, "metric_for_best_model": name}
    assert GRPOConfig(**settings).greater_is_better is expected
    assert GRPOConfig(**settings, greater_is_better=True).greater_is_better is True


@pytest.mark.parametrize("name", ["loss", "rewards/letters/mean", "KADID-10K/srcc", "reward_std", "SRCC"])
def test_a_name_that_evaluation_never_reports_is_refused_before_training(build, name):
    with pytest.raises(ValueError, match=r"reports no such thing; take one of reward.*NOISE/srcc.*srcc"):
        build(
            with_eval=True,
            eval_metrics=compute_score_metrics,
            eval_strategy="epoch",
            metric_for_best_model=name,
        )


# ---- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settings", [{"eval_strategy": "steps", "eval_steps": 1}, {"eval_on_start": True}])
def test_evaluation_without_validation_data_is_refused_before_training(build, settings):
    with pytest.raises(ValueError, match="--val_split_ratio or --eval_data_file_paths"):
        build(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"do_eval": True}, "--do_eval alone evaluates nothing"),
        ({"eval_num_generations": 0}, "eval_num_generations must be at least 1"),
        ({"eval_num_generations": 2, "eval_temperature": 0.0}, "greedy completions of one row are all the same"),
        ({"eval_temperature": -1.0}, "temperature must not be negative"),
    ],
)
def test_settings_that_evaluate_nothing_are_refused(tmp_path, settings, message):
    with pytest.raises(ValueError, match=message):
        GRPOConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, **settings)


def test_one_completion_is_greedy_and_several_are_drawn_as_in_training(tmp_path):
    settings = {"output_dir": str(tmp_path), "report_to": "none", "use_cpu": True, "temperature": 0.7}
    assert GRPOConfig(**settings).build_eval_sampling(seed=1).temperature == 0.0
    several = GRPOConfig(**settings, eval_num_generations=4)
    assert several.build_eval_sampling(seed=1).temperature == 0.7
    assert replace(several, eval_temperature=1.2).build_eval_sampling(seed=1).temperature == 1.2


# ---- validation data of the command -----------------------------------------------------------------------------


@pytest.fixture
def load(tmp_path):
    """`load_data` on ten training rows and four of a validation file; keyword arguments change either config."""
    train, val = tmp_path / "train", tmp_path / "val"
    files = {folder: write_iqa_data(folder, rows) for folder, rows in ((train, 10), (val, 4)) if not folder.mkdir()}
    validation = {"eval_data_file_paths": str(files[val][0]), "eval_image_folders": [str(files[val][1])]}

    def call(has_file=True, eval_strategy="epoch", **script_options):
        script_args = GRPOScriptArguments(
            data_file_paths=[str(files[train][0])],
            image_folders=[str(files[train][1])],
            **((validation if has_file else {}) | script_options),
        )
        args = GRPOConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, eval_strategy=eval_strategy)
        return *load_data(script_args, args), script_args

    return call


def test_a_validation_file_leaves_the_training_rows_alone(load):
    train_dataset, eval_dataset, script_args = load()
    assert (len(train_dataset), len(eval_dataset)) == (10, 4)
    assert "val" in eval_dataset[0]["image_path"][0]
    assert build_eval_metrics(script_args, eval_dataset) is compute_score_metrics
    assert len(script_args.all_file_paths) == 2  # both are hashed into run.json


def test_a_share_of_the_training_rows_is_held_out_where_there_is_no_file(load):
    train_dataset, eval_dataset, _ = load(has_file=False, val_split_ratio=0.3)
    assert (len(train_dataset), len(eval_dataset)) == (7, 3)


def test_two_sources_of_validation_rows_are_refused(load):
    with pytest.raises(ValueError, match="give one"):
        load(val_split_ratio=0.3)
    with pytest.raises(ValueError, match="belong together"):
        load(has_file=False, eval_data_file_paths=["a.jsonl"])


def test_evaluation_without_rows_is_refused_before_the_data_is_read(load):
    with pytest.raises(ValueError, match="need validation data"):
        load(has_file=False)


def test_rows_that_nothing_evaluates_on_are_warned_of(load, caplog):
    load(eval_strategy="no")
    assert "nothing evaluates on the validation rows" in caplog.text


def test_validation_images_that_were_trained_on_are_warned_of(load, tmp_path, caplog):
    load(eval_image_folders=[str(tmp_path / "train")])
    assert "4 of 4 validation rows show an image of the training data" in caplog.text


def test_validation_rows_that_allow_of_no_correlation_are_warned_of(load, caplog):
    _, eval_dataset, script_args = load()
    build_eval_metrics(script_args, eval_dataset.select([0, 1]))
    assert "NOISE allow of no SRCC or PLCC: 2 rows; at least 3 are needed" in caplog.text

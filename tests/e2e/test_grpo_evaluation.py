"""Evaluation during training as users type it, on two processes with shares of different size."""

import json
import sys

import pytest
from builders import write_iqa_data
from test_grpo import build_arguments, run


REWARDS = """
def letters_reward(completions, **kwargs):
    return [sum(c.isalpha() for c in completion[0]["content"]) / 40 for completion in completions]


def seen_reward(mos, all_gather, **kwargs):
    return [len(set(all_gather(list(mos))))] * len(mos)
"""


def read_jsonl(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_two_processes_evaluate_unequal_shares_and_agree(tiny_checkpoint, iqa_data, tmp_path):
    (tmp_path / "val").mkdir()
    validation = write_iqa_data(tmp_path / "val", num_rows=5)
    path = tmp_path / "rewards.py"
    path.write_text(REWARDS)
    arguments = build_arguments(
        tiny_checkpoint,
        iqa_data,
        tmp_path / "ddp",
        max_steps="2",
        reward_funcs=f"{path}:letters_reward {path}:seen_reward",
        eval_data_file_paths=str(validation[0]),
        eval_image_folders=str(validation[1]),
        eval_strategy="steps",
        eval_steps="1",
        eval_num_generations="2",
        per_device_eval_batch_size="2",
        save_strategy="steps",
        save_steps="1",
        load_best_model_at_end="true",
        metric_for_best_model="rewards/letters_reward/mean",
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = run([*launcher, "-m", "open_r1.grpo_jsonl", *arguments])
    assert result.returncode == 0, result.stderr[-3000:]

    shares = [read_jsonl(tmp_path / "ddp" / "rollouts" / f"eval_rank{rank}.jsonl") for rank in (0, 1)]
    assert [[line["row"]["id"] for line in share if line["step"] == 1] for share in shares] == [
        ["1", "3", "5"],
        ["2", "4"],
    ]
    evaluations = [line for line in read_jsonl(tmp_path / "ddp" / "metrics.jsonl") if "eval_reward" in line]
    assert [line["step"] for line in evaluations] == [1, 2]
    for line in evaluations:
        lines = [other for share in shares for other in share if other["step"] == line["step"]]
        rewards = [reward for other in lines for reward in other["rewards"]["letters_reward"]]
        assert len(rewards) == 10
        assert line["eval_rewards/letters_reward/mean"] == pytest.approx(sum(rewards) / 10)
        assert line["eval_rewards/seen_reward/mean"] == 5.0  # each device's rewards saw all rows
        assert line["eval_NOISE/num"] == 5
        assert line["eval_NOISE/unparsed"] == 1.0
    info = json.loads((tmp_path / "ddp" / "run.json").read_text())
    assert len(info["data"]) == 2
    assert "evaluation at step 1: reward " in result.stderr


def test_a_metric_that_cannot_choose_the_best_model_is_refused_before_the_model_is_loaded(iqa_data, tmp_path):
    arguments = build_arguments(
        "no/such-model",
        iqa_data,
        tmp_path / "out",
        reward_funcs="accuracy format",
        val_split_ratio="0.3",
        eval_strategy="epoch",
        metric_for_best_model="NOISE/srrc",
    )
    result = run([sys.executable, "-m", "open_r1.grpo_jsonl", *arguments])
    assert result.returncode != 0
    assert "Traceback" not in result.stderr
    assert "rewards/fidelity_reward/mean" in result.stderr and "NOISE/srcc" in result.stderr

"""Training goes on whatever the judge does: ten steps with one that answers, fails, hangs and lies in turn."""

import pytest
import torch
from judge_server import JudgeServer

from open_r1.completions import get_answer_contract, wrap_answer
from open_r1.configs import GRPOModelConfig
from open_r1.data.jsonl import load_jsonl_dataset
from open_r1.rewards import build_reward_funcs
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.grpo_trainer import VLMGRPOTrainer
from open_r1.trainer.loading import load_policy, load_vlm_module
from open_r1.utils.judge_client import JudgeSettings, get_judge


BEHAVIOURS = [
    "answer",
    "error",
    "hang",
    "nonsense",
    "answer",
    "score 99",
    "not JSON",
    "two verdicts",
    "error",
    "answer",
]
COUNTS = ("answered", "cached", "failed", "unreadable")


class AnsweringTrainer(VLMGRPOTrainer):
    """Generates as ever, but takes answers of its own, which are the same in every run: four of each group differ."""

    server: JudgeServer
    behaviours: list[str]

    def _roll_out(self, groups):
        rollout = super()._roll_out(groups)
        step = self.state.global_step
        self.server.behaviour = self.behaviours[step]
        answers = (f"{step + g / 10}" for _ in groups for g in range(self.args.num_generations))
        rollout.texts = [wrap_answer(answer) for answer in answers]
        return rollout

    def log(self, logs, start_time=None):
        super().log(logs, start_time)
        if "loss" in logs:
            self.lines.append(self.state.log_history[-1])


@pytest.fixture
def train(tiny_checkpoint, iqa_data, tmp_path):
    """Trains ten steps of one group; returns the counts of each step and what was logged."""

    def train_with(server, behaviours):
        get_judge.cache_clear()  # as a new process would begin
        model_args = GRPOModelConfig(model_name_or_path=tiny_checkpoint)
        vlm_module = load_vlm_module(model_args)
        judge = JudgeSettings(
            base_url=server.url,
            model="tiny",
            timeout_s=1.0,
            retries=1,
            concurrency=2,
            cache_dir=str(tmp_path / "kept"),
        )
        trainer = AnsweringTrainer(
            load_policy(model_args, vlm_module),
            None,
            build_reward_funcs(["llm_judge", "format"], task_type="iqa_nothink", judge=judge),
            GRPOConfig(
                output_dir=str(tmp_path / "run"),
                num_generations=4,
                per_device_train_batch_size=4,
                max_completion_length=4,
                max_steps=len(BEHAVIOURS),
                beta=0.0,
                report_to="none",
                save_strategy="no",
                use_cpu=True,
                disable_tqdm=True,
            ),
            vlm_module=vlm_module,
            processing_class=vlm_module.load_processor(tiny_checkpoint),
            train_dataset=load_jsonl_dataset(
                [str(iqa_data[0])],
                [str(iqa_data[1])],
                contract=get_answer_contract("scoring_no_think"),
                require_mos=True,
            ),
        )
        trainer.server, trainer.behaviours, trainer.lines = server, behaviours, []
        trainer.train()
        return [[line[f"judge/{name}"] for name in COUNTS] for line in trainer.lines], trainer.lines

    return train_with


def test_training_survives_its_judge_counts_each_case_and_asks_nothing_twice(train):
    expected = {"answer": [4, 0, 0, 0], "error": [0, 0, 4, 0], "hang": [0, 0, 4, 0]}
    with JudgeServer() as server:
        counts, lines = train(server, BEHAVIOURS)
        assert counts == [expected.get(behaviour, [0, 0, 0, 4]) for behaviour in BEHAVIOURS]
        for behaviour, line in zip(BEHAVIOURS, lines, strict=True):
            assert ("rewards/llm_judge_reward/mean" in line) == (behaviour == "answer")  # no score is made up
            assert torch.isfinite(torch.tensor(line["loss"])) and line["rewards/nothink_format_reward/mean"] == 1.0
            assert line["time/reward/llm_judge_reward_s"] > 0

        server.requests.clear()
        counts, _ = train(server, ["answer"] * 10)
        assert counts == [[0, 4, 0, 0] if behaviour == "answer" else [4, 0, 0, 0] for behaviour in BEHAVIOURS]
        assert len(server.requests) == 4 * (10 - BEHAVIOURS.count("answer"))

        server.requests.clear()
        counts, _ = train(server, ["error"] * 10)
        assert counts == [[0, 4, 0, 0]] * 10
        assert server.requests == []

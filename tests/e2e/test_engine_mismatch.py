"""The trainer with completions of another engine: corrected as TRL does, not at all where the engines agree."""

from dataclasses import replace

import pytest
import torch
from test_advantages_against_trl import run_trl_round
from test_grpo_trainer import build, copy_parameters, read_metrics
from test_losses_against_trl import compute_trl_loss
from test_resumable import build as build_resumable
from test_resumable import has_round, train_in_two_parts
from trl import GRPOTrainer

from open_r1.inference.hf_generator import HFGenerator
from open_r1.trainer.advantages import AdvantageSettings
from open_r1.trainer.batch import RolloutBatch, pad_completions
from open_r1.trainer.grpo_trainer import VLMGRPOTrainer
from open_r1.trainer.importance import IMPORTANCE_MODES
from open_r1.trainer.rounds import Round


__all__ = ["build", "build_resumable"]  # the fixtures

RATIO = "sampling/importance_sampling_ratio"
GSPO = {"importance_sampling_level": "sequence"}


class TellingGenerator(HFGenerator):
    """Tells log-probabilities, from prompts that are computed once per completion: a float32 engine of its own.

    Args:
        trainer: Whose model it generates with.
        noise: How far off they are; the same tokens always get the same ones.
        more_ends: Whether one token in eight ends a completion; an untrained model hardly ever draws an end token.
    """

    def __init__(self, trainer: VLMGRPOTrainer, noise: float, more_ends: bool):
        super().__init__(trainer.model, trainer.processing_class, trainer.vlm_module)
        if more_ends:
            self.eos_token_ids = [*self.eos_token_ids, *range(8, 256, 8)]
        self.scorer = replace(trainer.scorer, is_packed=False)
        self.noise = noise
        self.told = []  # every answer

    @torch.no_grad()
    def generate(self, prompts, num_generations, sampling):
        completions = super().generate(prompts, num_generations, sampling)
        ids, mask = pad_completions(completions.token_ids, self.pad_token_id, self.model.device)
        batch = RolloutBatch(prompts=prompts, completion_ids=ids, completion_mask=mask)
        scores = self.scorer.score(self.model.eval(), self.model.get_output_embeddings(), batch).per_token_logps
        logps = [
            (row[: len(tokens)] + self.noise * self._draw(tokens)).tolist()
            for row, tokens in zip(scores, completions.token_ids)
        ]
        self.model.train()
        self.told.append(replace(completions, per_token_logps=logps))
        return self.told[-1]

    def _draw(self, tokens: list[int]) -> torch.Tensor:
        return torch.randn(len(tokens), generator=torch.Generator().manual_seed(sum(tokens)))


def tell(trainer: VLMGRPOTrainer, noise: float = 0.0, more_ends: bool = False, **options) -> VLMGRPOTrainer:
    """The trainer with a generator that tells log-probabilities; `options` are those of `--vllm_importance_sampling`,
    which the command takes with `--use_vllm` only."""
    trainer.generator = TellingGenerator(trainer, noise, more_ends)
    for name, value in options.items():
        setattr(trainer.args, f"vllm_importance_sampling_{name}", value)
    return trainer


def train(trainer: VLMGRPOTrainer) -> tuple[list[dict], dict[str, torch.Tensor]]:
    """Log lines of the steps, without what depends on the clock, and the weights."""
    trainer.train()
    lines = [{name: value for name, value in line.items() if "time/" not in name} for line in read_metrics(trainer)]
    return lines, copy_parameters(trainer)


def without_sampling(lines: list[dict]) -> list[dict]:
    return [{name: value for name, value in line.items() if not name.startswith("sampling/")} for line in lines]


def differing(weights: dict[str, torch.Tensor], others: dict[str, torch.Tensor]) -> list[str]:
    return [name for name in weights if not torch.equal(weights[name], others[name])]


def take_gradients(trainer: VLMGRPOTrainer, loss: torch.Tensor) -> torch.Tensor:
    trainer.model.zero_grad()
    loss.backward()
    return torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])


@pytest.mark.parametrize("masks_truncated", [False, True])
@pytest.mark.parametrize("settings", [{}, GSPO, {"loss_type": "dapo", "beta": 0.0}], ids=str)
@pytest.mark.parametrize("mode", IMPORTANCE_MODES)
def test_loss_gradient_and_ratios_of_a_round_are_those_of_trl(build, mode, settings, masks_truncated):
    trainer = build(mask_truncated_completions=masks_truncated, num_iterations=2, **settings)
    tell(trainer, noise=0.2, more_ends=masks_truncated, mode=mode, clip_min=0.8, clip_max=1.2)
    trainer.model.train()
    batch, groups = trainer._generate_and_score_completions(next(iter(trainer.get_train_dataloader())))
    trainer._round = Round(batch=batch, rows=[group.index for group in groups], pending=[])
    ours = trainer.compute_loss(trainer.model, batch)
    our_gradients = take_gradients(trainer, ours)

    [told] = trainer.generator.told
    theirs, metrics = run_trl_round(
        GRPOTrainer,
        torch.arange(8.0)[:, None],
        torch.ones(1),
        told.token_ids,
        trainer_logps=batch.old_per_token_logps,
        engine_logps=told.per_token_logps,
        eos_token_ids=trainer.generator.eos_token_ids,
        mask_truncated_completions=masks_truncated,
        vllm_importance_sampling_mode=mode,
        vllm_importance_sampling_clip_min=0.8,
        vllm_importance_sampling_clip_max=1.2,
        **vars(AdvantageSettings()),
    )
    scores = trainer._score_tokens(trainer.model, batch)
    tensors = {
        "mask": theirs["completion_mask"].bool(),
        "logps": scores.per_token_logps,
        "entropies": scores.entropies,
        "advantages": batch.advantages,
        "old": batch.old_per_token_logps,
        "importance_ratio": theirs["importance_sampling_ratio"],
    }
    if batch.ref_per_token_logps is not None:
        tensors["ref"] = batch.ref_per_token_logps
    loss, _ = compute_trl_loss(tensors, trainer.args.build_loss_settings())
    torch.testing.assert_close(ours, loss, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(our_gradients, take_gradients(trainer, loss), rtol=1e-3, atol=1e-6)

    logged = trainer.metrics.pop()
    assert 0 < logged[f"{RATIO}/{'masked' if mode.endswith('mask') else 'truncated'}"] < 1
    assert batch.completion_mask.any(dim=1).all() != masks_truncated and batch.completion_mask.any()
    told_by_trl = [name for name in metrics if name.startswith("sampling/")]
    assert len(told_by_trl) == 5
    if masks_truncated and mode.startswith("sequence"):  # TRL counts a ratio of one for each masked completion
        told_by_trl = [name for name in told_by_trl if not name.startswith(RATIO)]
    for name in told_by_trl:
        assert logged[name] == pytest.approx(metrics[name], abs=1e-5), name


@pytest.mark.parametrize("settings", [{}, GSPO, {"num_iterations": 2}], ids=str)
@pytest.mark.parametrize("mode", ["token_truncate", "sequence_mask"])
def test_where_the_engines_agree_training_is_the_same_bit_for_bit(build, tmp_path, mode, settings):
    plain, weights = train(build(output_dir=str(tmp_path / "plain"), **settings))
    told, weights_told = train(tell(build(output_dir=str(tmp_path / "told"), **settings), mode=mode))
    assert without_sampling(told) == plain
    assert differing(weights, weights_told) == []
    for line in told:
        assert line[f"{RATIO}/applied"] == 0
        assert line[f"{RATIO}/min"] == pytest.approx(1, abs=1e-4) and line[f"{RATIO}/max"] == pytest.approx(
            1, abs=1e-4
        )
        assert line["sampling/sampling_logp_difference/max"] < 1e-4


def test_switched_off_the_mismatch_is_told_and_changes_nothing(build, tmp_path):
    plain, weights = train(build(output_dir=str(tmp_path / "plain")))
    off, weights_off = train(tell(build(output_dir=str(tmp_path / "off")), noise=0.1, correction=False))
    on, _ = train(tell(build(output_dir=str(tmp_path / "on")), noise=0.1))
    assert without_sampling(off) == plain and differing(weights, weights_off) == []
    assert on[0]["loss"] != off[0]["loss"] and on[0]["grad_norm"] != off[0]["grad_norm"]
    told = {name for name in on[0] if name.startswith("sampling/")}
    assert told == {name for name in off[0] if name.startswith("sampling/")}
    for name in told - {f"{RATIO}/applied"}:
        assert on[0][name] == off[0][name], name
    assert (on[0][f"{RATIO}/applied"], off[0][f"{RATIO}/applied"]) == (1.0, 0.0)
    assert on[0]["sampling/sampling_logp_difference/mean"] == pytest.approx(0.1 * 0.8, rel=0.3)  # of a normal variable
    assert on[0]["sampling/kl/k3"] == pytest.approx(0.1**2 / 2, rel=0.5)


def test_without_log_probabilities_nothing_is_told_of_them(build):
    [line] = train(build(max_steps=1))[0]
    assert not any(name.startswith("sampling/") for name in line)


def test_log_probabilities_that_were_kept_weigh_as_those_of_the_loss_itself_do(build, tmp_path):
    """A round that is gone over once needs no pass over the policy that generated; its first step is the same."""
    runs = []
    for num_iterations in (1, 2):
        trainer = build(output_dir=str(tmp_path / str(num_iterations)), num_iterations=num_iterations, max_steps=1)
        runs.append(train(tell(trainer, noise=0.1, mode="token_truncate")))
    (once, weights), (twice, weights_twice) = runs
    for name in once[0].keys() - {"epoch"}:
        assert twice[0][name] == pytest.approx(once[0][name], rel=1e-5, abs=1e-6), name
    assert differing(weights, weights_twice) == []


def test_the_ratio_stays_that_of_the_policy_that_generated(build):
    trainer = tell(build(num_iterations=3, learning_rate=5e-2, beta=0.0), noise=0.1)
    lines, _ = train(trainer)
    assert lines[2]["clip_ratio/region_mean"] > 0  # the policy has moved
    for name in (f"{RATIO}/mean", f"{RATIO}/p99", "sampling/kl/k1"):
        assert len({line[name] for line in lines}) == 1


@pytest.mark.parametrize("mode", ["token_mask", "sequence_mask"])
@pytest.mark.parametrize("settings", [{}, {**GSPO, "mask_truncated_completions": True}], ids=str)
def test_rows_of_bounded_length_are_corrected_as_whole_micro_batches_are(build, tmp_path, mode, settings):
    runs = []
    for name, limit in (("whole", None), ("cut", 60)):
        trainer = build(output_dir=str(tmp_path / name), max_packed_tokens=limit, max_steps=2, **settings)
        runs.append(train(tell(trainer, noise=0.2, more_ends=bool(settings), mode=mode, clip_max=1.2))[0])
    for whole, cut in zip(*runs):
        for name in whole:
            assert cut[name] == pytest.approx(whole[name], rel=1e-3, abs=1e-5), name
    assert any(line[f"{RATIO}/masked"] > 0 for line in runs[0])
    assert any(line["grad_norm"] > 0 for line in runs[0])


def test_masked_completions_do_not_teach(build):
    """With bounds that no ratio lies within, nothing is left but the KL term."""
    trainer = tell(build(beta=0.0, max_steps=1), noise=0.3, mode="sequence_mask", clip_min=1e5, clip_max=1e6)
    [line], _ = train(trainer)
    assert line[f"{RATIO}/masked"] == 1 and line["loss"] == 0 and line["grad_norm"] == 0


def test_the_middle_of_a_round_and_of_a_log_line(build_resumable, tmp_path):
    def build_telling(output_dir, **settings):
        return tell(build_resumable(output_dir, **settings), noise=0.1, mode="token_truncate")

    steps = [1, 2]
    assert build_telling(tmp_path / "unused").args.is_off_policy
    train_in_two_parts(build_telling, tmp_path, steps, logging_steps=2, max_steps=4)
    assert all(has_round(tmp_path, step) for step in steps)


def test_groups_that_came_in_exchange_bring_their_log_probabilities(build):
    def odd_rows_reward(id, num_generations, **kwargs):
        """Rows with an even id cannot be told apart."""
        return [float(int(row) % 2 * (i % num_generations)) for i, row in enumerate(id)]

    trainer = build(reward_funcs=[odd_rows_reward], dynamic_sampling=True, dynamic_sampling_max_refills=20)
    lines, _ = train(tell(trainer))
    assert sum(line.get("dynamic_sampling/refilled_groups", 0) for line in lines) > 0
    assert all(line["sampling/sampling_logp_difference/max"] < 1e-4 for line in lines)

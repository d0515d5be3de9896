"""Runs training cases in the processes that torchrun starts, one after the other, and writes down what they gave.

    torchrun --nproc_per_node 2 tests/distributed_cases.py CHECKPOINT ROWS OUTPUT_DIR CASE...

Completions are made from the row they belong to, so that any number of processes learns from the same ones.
"""

import contextlib
import gc
import json
import os
import shutil
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from datasets import Dataset

from open_r1.configs import GRPOModelConfig
from open_r1.trainer.batch import RolloutBatch
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.grpo_trainer import VLMGRPOTrainer
from open_r1.trainer.loading import load_policy, load_reference, load_vlm_module
from open_r1.trainer.rollouts import Rollout
from open_r1.trainer.sharding import gathered


REPO = Path(__file__).parents[1]
NUM_STEPS = 4
# Eight completions in a global micro-batch, two of which make a step, and two steps per round.
SETTINGS = {
    "num_generations": 2,
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 2,
    "steps_per_generation": 2,
    "num_iterations": 2,
    "max_completion_length": 6,
    "learning_rate": 1e-3,
    "max_steps": NUM_STEPS,
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
    "train_sampling_strategy": "sequential",
    "logps_chunk_size": 8,
}
ALONE = {"per_device_train_batch_size": 8}
LORA = {"use_peft": True, "lora_r": 4}
FROZEN = {"freeze_vision_modules": True}
ROWS = {"max_packed_tokens": 78}  # less than some groups take, so that devices have different numbers of rows
CHECKPOINTING = {"gradient_checkpointing": True}
EVALUATED = {"dynamic_sampling": True, "eval_strategy": "steps", "eval_steps": 1, "per_device_eval_batch_size": 2}
SAVED = {"save_strategy": "steps", "save_steps": 1, "save_total_limit": 4}


def zero(stage: int, kind: str = "") -> dict:
    """The settings of `local_scripts`, where even the smallest parameter is cut into slices."""
    config = json.loads((REPO / "local_scripts" / f"zero{stage}{kind}.json").read_text())
    if stage == 3:
        config["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return {"deepspeed": config}


FSDP2 = {"fsdp": "full_shard", "fsdp_config": {"version": 2}}

# name: settings of training, options of the model, which rows
CASES = {
    "one": (ALONE, {}, "pictures"),
    "one_lora": (ALONE, LORA, "pictures"),
    "one_frozen": (ALONE, FROZEN, "pictures"),
    "one_mixed": (ALONE, {}, "mixed"),
    "one_mixed_frozen": (ALONE, FROZEN, "mixed"),
    "one_engine": (ALONE, {}, "pictures"),
    "ddp": ({}, {}, "pictures"),
    "ddp_rows": (ROWS, {}, "pictures"),
    "ddp_mixed": ({}, {}, "mixed"),
    "ddp_engine_rows": (ROWS, {}, "pictures"),
    "ddp_checkpointing": (CHECKPOINTING, {}, "pictures"),
    "zero2": (zero(2), {}, "pictures"),
    "zero2_rows": (zero(2) | ROWS, {}, "pictures"),
    "zero2_mixed": (zero(2), {}, "mixed"),
    "zero3": (zero(3), {}, "pictures"),
    "zero3_lora": (zero(3), LORA, "pictures"),
    "zero3_frozen": (zero(3), FROZEN, "pictures"),
    "zero3_rows": (zero(3) | ROWS, {}, "pictures"),
    "zero3_checkpointing": (zero(3) | CHECKPOINTING, {}, "pictures"),
    "zero3_lora_checkpointing": (zero(3) | CHECKPOINTING, LORA, "pictures"),
    "zero3_mixed": (zero(3) | ROWS, {}, "mixed"),
    "zero3_mixed_frozen": (zero(3), FROZEN, "mixed"),
    "ddp_generate": ({}, {}, "mixed"),
    "zero2_generate": (zero(2), {}, "mixed"),
    "zero3_generate": (zero(3), {}, "mixed"),
    "zero3_layerwise_generate": (zero(3) | {"ds3_gather_for_generation": False}, {}, "mixed"),
    "zero3_lora_generate": (zero(3), LORA, "pictures"),
    "ddp_lora_generate": ({}, LORA, "pictures"),
    "ddp_evaluate": (EVALUATED, {}, "mixed"),
    "fsdp2_evaluate": (FSDP2 | EVALUATED, {}, "mixed"),
    "ddp_poisoned": ({"on_nonfinite": "skip"}, {}, "pictures"),
    "zero2_poisoned": (zero(2) | {"on_nonfinite": "skip"}, {}, "pictures"),
    "zero3_poisoned": (zero(3) | {"on_nonfinite": "skip"}, {}, "pictures"),
    "zero2_resume": (zero(2), {}, "pictures"),
    "zero3_resume": (zero(3), {}, "pictures"),
    "zero3_lora_resume": (zero(3), LORA, "pictures"),
    "zero3_sync_resume": (zero(3) | {"sync_ref_model": True, "ref_model_sync_steps": 1}, {}, "pictures"),
    "zero2_offload": (zero(2, "_offload"), {}, "pictures"),
    "zero3_offload": (zero(3, "_offload"), {}, "pictures"),
    "zero3_replicated": (zero(3) | {"logps_mode": "replicated"}, {}, "mixed"),
    "fsdp2": (FSDP2, {}, "pictures"),
    "fsdp2_rows": (FSDP2 | ROWS, {}, "pictures"),
    "fsdp2_lora": (FSDP2, LORA, "pictures"),
    "fsdp2_lora_checkpointing": (FSDP2 | CHECKPOINTING, LORA, "pictures"),
    "fsdp2_frozen": (FSDP2, FROZEN, "pictures"),
    "fsdp2_checkpointing": (FSDP2 | CHECKPOINTING, {}, "pictures"),
    "fsdp2_mixed": (FSDP2 | ROWS, {}, "mixed"),
    "fsdp2_mixed_frozen": (FSDP2, FROZEN, "mixed"),
    "fsdp2_generate": (FSDP2, {}, "mixed"),
    "fsdp2_layerwise_generate": (FSDP2 | {"ds3_gather_for_generation": False}, {}, "mixed"),
    "fsdp2_lora_generate": (FSDP2, LORA, "pictures"),
    "fsdp2_poisoned": (FSDP2 | {"on_nonfinite": "skip"}, {}, "pictures"),
    "fsdp2_resume": (FSDP2, {}, "pictures"),
    "fsdp2_lora_resume": (FSDP2, LORA, "pictures"),
    "fsdp2_sync_resume": (FSDP2 | {"sync_ref_model": True, "ref_model_sync_steps": 1}, {}, "pictures"),
    "fsdp2_bf16": (FSDP2 | {"bf16": True}, {"dtype": "bfloat16"}, "pictures"),
    "fsdp2_replicated": (FSDP2 | {"logps_mode": "replicated"}, {}, "mixed"),
}


class FixedRollouts(VLMGRPOTrainer):
    """Completions that depend on nothing but the row and their place in the group."""

    def _roll_out(self, groups):
        with self._whole_weights():
            prompts = self._prepare_prompts(groups)
        token_ids = [complete(group.row["id"], g) for group in groups for g in range(self.args.num_generations)]
        return Rollout(
            groups=list(groups),
            prompts=prompts,
            texts=self.generator.decode(token_ids),
            token_ids=token_ids,
            finish_reasons=["stop"] * len(token_ids),
        )


class EngineRollouts(FixedRollouts):
    """The completions come with log-probabilities, which lie about those of an untrained model."""

    def _roll_out(self, groups):
        rollout = super()._roll_out(groups)
        rollout.engine_per_token_logps = [
            [-7 + 0.15 * (sum(ids) % 9 - 4) + 0.01 * (token % 7) for token in ids] for ids in rollout.token_ids
        ]
        return rollout


class PoisonedTrainer(FixedRollouts):
    """At the second step the loss of the last process is not a number."""

    def _compute_row_loss(self, model, row):
        output = super()._compute_row_loss(model, row)
        if self.state.global_step == 1 and self.accelerator.is_last_process:
            output = replace(output, loss=output.loss * float("nan"))
        return output

    def sum_weights(self):
        with gathered(self.model.parameters()):
            return sum(float(parameter.detach().double().sum()) for parameter in self.model.parameters())


class CountingTrainer(VLMGRPOTrainer):
    """Generates, and counts how often weights are gathered for that."""

    def _roll_out(self, groups):
        count = partial(count_fsdp_gathers, self.model) if self.is_fsdp_enabled else count_gathers
        with count() as counts:
            rollout = super()._roll_out(groups)
        self.gathers = counts
        return rollout


@contextlib.contextmanager
def count_gathers():
    """Counts the calls of `GatheredParameters` and the collectives that bring slices together."""
    import deepspeed

    counts = {"contexts": 0, "collectives": 0}
    context, collective = deepspeed.zero.GatheredParameters, deepspeed.comm.allgather_fn

    class CountedContext(context):
        def __enter__(self):
            counts["contexts"] += 1
            return super().__enter__()

    def counted_collective(*args, **kwargs):
        counts["collectives"] += 1
        return collective(*args, **kwargs)

    deepspeed.zero.GatheredParameters, deepspeed.comm.allgather_fn = CountedContext, counted_collective
    try:
        yield counts
    finally:
        deepspeed.zero.GatheredParameters, deepspeed.comm.allgather_fn = context, collective


@contextlib.contextmanager
def count_fsdp_gathers(model: torch.nn.Module):
    """Counts what is gathered by itself, a layer for the most part, and the collectives that do it."""
    from torch.distributed.fsdp import FSDPModule
    from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather

    groups = {
        id(group)
        for module in model.modules()
        if isinstance(module, FSDPModule)
        for group in module._get_fsdp_state()._fsdp_param_groups
    }
    counts = {"units": len(groups), "collectives": 0}
    gather = DefaultAllGather.__call__

    def counted_gather(*args, **kwargs):
        counts["collectives"] += 1
        return gather(*args, **kwargs)

    DefaultAllGather.__call__ = counted_gather
    try:
        yield counts
    finally:
        DefaultAllGather.__call__ = gather


def complete(row_id: str, g: int) -> list[int]:
    stream = torch.Generator().manual_seed(100 * int(row_id) + g)
    length = int(torch.randint(2, 7, (1,), generator=stream))
    return torch.randint(30, 200, (length,), generator=stream).tolist()


def sum_reward(completions, completion_ids, image_path, **kwargs):
    """Groups without a picture have no advantage."""
    return [sum(ids) % 17 / 17 if paths else 0.5 for ids, paths in zip(completion_ids, image_path)]


def build_trainer(checkpoint: str, rows: dict, output_dir: Path, case: str, kind=FixedRollouts, **changes):
    settings, model_options, row_kind = CASES[case]
    args = GRPOConfig(**({"output_dir": str(output_dir)} | SETTINGS | settings | changes))
    model_args = GRPOModelConfig(model_name_or_path=checkpoint, **model_options)
    torch.manual_seed(0)
    vlm_module = load_vlm_module(model_args)
    data = Dataset.from_list(rows[row_kind])
    return kind(
        load_policy(model_args, vlm_module),
        load_reference(model_args, vlm_module, args.beta),
        [sum_reward],
        args,
        vlm_module=vlm_module,
        processing_class=vlm_module.load_processor(checkpoint),
        train_dataset=data,
        eval_dataset=data.select(range(3, 8)) if args.eval_strategy != "no" else None,
    )


def read_steps(output_dir: Path) -> list[dict]:
    lines = map(json.loads, (output_dir / "metrics.jsonl").read_text().splitlines())
    told = ("loss", "grad_norm", "kl", "entropy")
    return [
        {name: value for name, value in line.items() if name in told or name.startswith("sampling/")}
        for line in lines
        if "loss" in line
    ]


@torch.no_grad()
def score_fixed_batch(trainer: VLMGRPOTrainer, rows: list[dict]) -> list[float]:
    """Log-probabilities of the completions of two rows by the policy as it is."""
    groups = trainer._encode_rows([0, 1])
    rollout = trainer._roll_out(groups)
    rollout.advantages = torch.zeros(len(rollout.texts))
    batch: RolloutBatch = trainer._build_batch(rollout)
    return trainer._score_without_gradient(trainer.model, batch).flatten().tolist()


def run_poisoned(checkpoint: str, rows: dict, output_dir: Path, case: str) -> None:
    """Three steps, the second of which must not happen."""
    from transformers import TrainerCallback  # after open_r1, which makes way for a torchvision beside a CPU torch

    trainer = build_trainer(checkpoint, rows, output_dir / case, case, PoisonedTrainer, max_steps=3)
    sums = []

    class Callback(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            sums.append(trainer.sum_weights())

    trainer.add_callback(Callback())
    trainer.train()
    if trainer.is_world_process_zero():
        (output_dir / f"{case}.json").write_text(json.dumps({"sums": sums}))


def run_generation(checkpoint: str, rows: dict, output_dir: Path, case: str) -> None:
    """One round, really generated."""
    trainer = build_trainer(checkpoint, rows, output_dir / case, case, CountingTrainer, max_steps=2)
    trainer.train()
    if trainer.is_world_process_zero():
        result = {"gathers": trainer.gathers, "steps": read_steps(output_dir / case)}
        (output_dir / f"{case}.json").write_text(json.dumps(result))


def run_resumed(checkpoint: str, rows: dict, output_dir: Path, case: str) -> None:
    """The whole run, and one that goes on from its first checkpoint, which is in the middle of a round."""
    results = []
    for name in ("whole", "resumed"):
        folder = output_dir / case / name
        trainer = build_trainer(checkpoint, rows, folder, case, **SAVED)
        if name == "resumed" and trainer.is_world_process_zero():
            shutil.copytree(output_dir / case / "whole", folder, dirs_exist_ok=True)
            for later in folder.glob("checkpoint-[2-9]"):
                shutil.rmtree(later)
        trainer.accelerator.wait_for_everyone()
        trainer.train(resume_from_checkpoint=True if name == "resumed" else None)
        results.append({"steps": read_steps(folder), "logps": score_fixed_batch(trainer, rows)})
        started = trainer._initial_global_step
        del trainer
        clean_up()
    if os.environ["RANK"] == "0":
        last = folder / "checkpoint-4"
        files = sorted(str(path.relative_to(last)) for path in last.rglob("*"))
        result = {"results": results, "started": started, "files": files}
        (output_dir / f"{case}.json").write_text(json.dumps(result))


def run_case(checkpoint: str, rows: dict, output_dir: Path, case: str) -> None:
    if case.endswith("poisoned"):
        run_poisoned(checkpoint, rows, output_dir, case)
        return
    if case.endswith(("generate", "evaluate")):
        run_generation(checkpoint, rows, output_dir, case)
        return
    if case.endswith("resume"):
        run_resumed(checkpoint, rows, output_dir, case)
        return
    kind = EngineRollouts if "engine" in case else FixedRollouts
    trainer = build_trainer(checkpoint, rows, output_dir / case, case, kind)
    trainer.train()
    logps = score_fixed_batch(trainer, rows)
    trainer.save_final_model()
    if trainer.is_world_process_zero():
        result = {"steps": read_steps(output_dir / case), "logps": logps}
        (output_dir / f"{case}.json").write_text(json.dumps(result))


def clean_up() -> None:
    """Lets the next case start as a new process would."""
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    unset_hf_deepspeed_config()
    gc.collect()
    for name in ("ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP", "FSDP_VERSION", "FSDP_STATE_DICT_TYPE"):
        with contextlib.suppress(KeyError):
            del os.environ[name]


def main(checkpoint: str, rows_path: str, output_dir: str, *cases: str) -> None:
    rows = json.loads(Path(rows_path).read_text())
    for case in cases:
        run_case(checkpoint, rows, Path(output_dir), case)
        clean_up()


if __name__ == "__main__":
    main(*sys.argv[1:])

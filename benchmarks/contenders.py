"""The trainers that are compared, each behind the same three calls, which run its own code on the same data.

`OurTrainer` is `VLMGRPOTrainer`, packed or replicated; `TRLTrainer` is TRL's `GRPOTrainer`. The completions are given,
so generation and rewards stay out. What each call runs:

                        ours                                       TRL
    encode_images       _prepare_prompts                           nothing: its tower runs within every pass
    score_reference     _score_reference                           _get_per_token_logps_and_entropies(ref_model)
    compute_loss        compute_loss                               compute_loss

TRL builds the inputs of its passes itself, by `_generate_and_score_completions` with a `rollout_func` that returns the
given completions; that is done once and not timed. Both trainers stand as `train()` would leave them at the first
micro-step, gradient checkpointing included.

Without Triton, so on a CPU, TRL's output head scores every position of a row, prompt included. `CompactTRLTrainer` is
TRL with one function patched so that it takes completion tokens only, as it does on CUDA: it costs TRL less, and makes
the comparison one of layouts.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from meters import SavedTensors
from shapes import Shape, build_bench_processor, build_model, perturb
from workload import Workload, build_our_dataset, build_trl_dataset, letters_reward


BETA = 0.04
TOLERANCE = 1e-4  # relative, between the losses and between the gradient norms of contenders in float32


@dataclass(frozen=True, kw_only=True)
class StepSettings:
    """What all contenders share."""

    output_dir: Path
    workload: Workload
    paths: list[str]  # one image per group
    trains_tower: bool = False
    checkpointing: bool = False
    device: str = "cpu"

    @property
    def longest(self) -> int:
        return max(self.workload.build_lengths())

    def build_arguments(self) -> dict[str, Any]:
        """Options by the names that our `GRPOConfig` and TRL's have in common."""
        return {
            "output_dir": str(self.output_dir),
            "per_device_train_batch_size": self.workload.num_generations * self.workload.num_groups,
            "gradient_accumulation_steps": 1,
            "num_generations": self.workload.num_generations,
            "max_completion_length": self.longest,
            "beta": BETA,
            "loss_type": "grpo",
            "use_bias_correction_kl": False,
            "gradient_checkpointing": self.checkpointing,
            "bf16": False,  # passes run in the dtype of the weights
            "use_cpu": self.device == "cpu",
            "report_to": "none",
            "save_strategy": "no",
            "disable_tqdm": True,
        }


class Contender(Protocol):
    name: str
    policy: torch.nn.Module
    reference: torch.nn.Module
    prompt_ids: list[list[int]]  # N

    def activate(self) -> None: ...

    def encode_images(self) -> None: ...

    def score_reference(self) -> torch.Tensor: ...

    def compute_loss(self) -> torch.Tensor: ...


def write_checkpoint(shape: Shape, folder: Path) -> Path:
    """Writes the reference model and its processor."""
    processor = build_bench_processor()
    build_model(shape, processor).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def load_model(checkpoint: Path) -> torch.nn.Module:
    from transformers import Qwen2_5_VLForConditionalGeneration

    return Qwen2_5_VLForConditionalGeneration.from_pretrained(checkpoint, dtype="auto")


def load_policy(checkpoint: Path) -> torch.nn.Module:
    """A copy of the reference, moved a little so that the KL term is not zero."""
    model = load_model(checkpoint)
    perturb(model)
    return model


def prepare_policy(model: torch.nn.Module, settings: StepSettings) -> None:
    """What transformers' training loop does before its first step; gradients exist, so no peak includes them."""
    model.model.visual.requires_grad_(settings.trains_tower)
    model.train()
    if settings.checkpointing:
        model.gradient_checkpointing_enable()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter) if parameter.requires_grad else None


class OurTrainer:
    """`VLMGRPOTrainer` around given completions.

    Args:
        settings: The comparison.
        policy: Prepared by `prepare_policy`.
        reference: Frozen.
        processor: Of both.
        options: Of our `GRPOConfig`, `logps_mode` among them.
    """

    def __init__(self, settings: StepSettings, policy: Any, reference: Any, processor: Any, **options: Any):
        from open_r1.trainer.batch import pad_completions
        from open_r1.trainer.grpo_config import GRPOConfig
        from open_r1.trainer.grpo_trainer import VLMGRPOTrainer
        from open_r1.vlm_modules import select_vlm_module

        self.name = " ".join(["ours", *options.values()])
        self.policy, self.reference = policy, reference
        rows = build_our_dataset(settings.paths)
        self.trainer = VLMGRPOTrainer(
            policy,
            reference.requires_grad_(False),
            [letters_reward],
            GRPOConfig(**settings.build_arguments(), **options),
            vlm_module=select_vlm_module(policy.config),
            processing_class=processor,
            train_dataset=rows,
        )
        self.groups = self.trainer.data_collator(list(rows))
        self.prompt_ids = [group.prompt.input_ids.tolist() for group in self.groups]
        self.completions = pad_completions(
            settings.workload.build_completions(), processor.tokenizer.pad_token_id, torch.device(settings.device)
        )
        self.advantages = settings.workload.build_advantages().to(settings.device)

    def activate(self) -> None:
        from open_r1.trainer.attention import enable_packing

        for model in (self.policy, self.reference):
            enable_packing(model)

    def encode_images(self) -> None:
        from open_r1.trainer.batch import RolloutBatch

        ids, mask = self.completions
        prompts = self.trainer._prepare_prompts(self.groups)
        self.batch = RolloutBatch(
            prompts=prompts, completion_ids=ids, completion_mask=mask, advantages=self.advantages
        )

    @torch.no_grad()
    def score_reference(self) -> torch.Tensor:
        logps = self.trainer._score_reference(self.batch)
        self.batch = replace(self.batch, ref_per_token_logps=logps)
        return logps

    def compute_loss(self) -> torch.Tensor:
        loss = self.trainer.compute_loss(self.policy, self.batch)
        self.trainer._step_batches.clear()
        return loss


class TRLTrainer:
    """TRL's `GRPOTrainer` around given completions.

    Args:
        settings: The comparison.
        policy: Prepared by `prepare_policy`.
        reference: None: TRL loads it from the folder that the policy came from. Otherwise it is put in afterwards.
        processor: Of both.
        attention: Of the decoder.
    """

    name = "TRL"

    def __init__(self, settings: StepSettings, policy: Any, reference: Any, processor: Any, attention: str = "sdpa"):
        from trl import GRPOConfig, GRPOTrainer
        from trl.trainer.utils import add_fused_lm_head

        self.policy, self.attention = policy, attention
        dataset = build_trl_dataset(settings.paths)
        arguments = settings.build_arguments() | ({} if reference is None else {"beta": 0.0})
        self.trainer = GRPOTrainer(
            policy,
            letters_reward,
            args=GRPOConfig(**arguments),
            train_dataset=dataset,
            processing_class=processor,
            rollout_func=lambda prompts, trainer: self._roll_out(prompts, settings.workload),
        )
        if reference is not None:
            add_fused_lm_head(reference, temperature=self.trainer.temperature)
            self.trainer.ref_model, self.trainer.beta = reference, BETA
        self.reference = self.trainer.ref_model
        self.trainer.current_gradient_accumulation_steps = 1  # `train()` sets it
        rows = [row for row in dataset for _ in range(settings.workload.num_generations)]
        self.inputs = self.trainer._generate_and_score_completions(rows)
        self.inputs["advantages"] = settings.workload.build_advantages().to(settings.device)
        pairs = zip(self.inputs["prompt_ids"], self.inputs["prompt_mask"])
        self.prompt_ids = [ids[mask.bool()].tolist() for ids, mask in pairs][:: settings.workload.num_generations]

    def _roll_out(self, prompts: list, workload: Workload) -> dict[str, Any]:
        prompt_ids, _, _ = self.trainer._tokenize_prompts(prompts)
        return {"prompt_ids": prompt_ids, "completion_ids": workload.build_completions(), "logprobs": None}

    def activate(self) -> None:
        for model in (self.policy, self.reference):
            model.set_attn_implementation({"text_config": self.attention})

    def encode_images(self) -> None:
        pass

    @torch.no_grad()
    def score_reference(self) -> torch.Tensor:
        inputs = self.inputs
        names = ("pixel_values", "image_grid_thw", "num_images", "mm_token_type_ids")
        logps, _, _ = self.trainer._get_per_token_logps_and_entropies(
            self.reference,
            torch.cat([inputs["prompt_ids"], inputs["completion_ids"]], dim=1),
            torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1),
            inputs["completion_ids"].shape[1],
            batch_size=self.trainer.args.per_device_train_batch_size,
            **{name: inputs[name] for name in names},
        )
        inputs["ref_per_token_logps"] = logps
        return logps

    def compute_loss(self) -> torch.Tensor:
        return self.trainer.compute_loss(self.policy, self.inputs)


class CompactTRLTrainer:
    """A `TRLTrainer` whose output head takes completion tokens only, as on CUDA."""

    name = "TRL compact head"

    def __init__(self, trl: TRLTrainer):
        self.trl = trl
        self.policy, self.reference, self.prompt_ids = trl.policy, trl.reference, trl.prompt_ids
        self.activate, self.encode_images = trl.activate, trl.encode_images

    def score_reference(self) -> torch.Tensor:
        with _compact_head():
            return self.trl.score_reference()

    def compute_loss(self) -> torch.Tensor:
        with _compact_head():
            return self.trl.compute_loss()


@contextlib.contextmanager
def _compact_head() -> Iterator[None]:
    """TRL asks this function whether to select tokens before the head; its kernels ask a reference of their own."""
    from trl.trainer import utils

    saved, utils._use_triton = utils._use_triton, lambda device: True
    try:
        yield
    finally:
        utils._use_triton = saved


def build_contenders(checkpoint: Path, settings: StepSettings) -> list[Contender]:
    """Ours packed, ours replicated, TRL, and TRL with a compact head. Ours and TRL's have models of their own."""
    from transformers import AutoProcessor

    processor = AutoProcessor.from_pretrained(checkpoint)
    policy, reference = load_policy(checkpoint), load_model(checkpoint).eval()
    prepare_policy(policy, settings)
    modes = ("packed", "replicated")
    ours = [OurTrainer(settings, policy, reference, processor, logps_mode=mode) for mode in modes]
    policy = load_policy(checkpoint)
    prepare_policy(policy, settings)
    trl = TRLTrainer(settings, policy, None, processor)
    return [*ours, trl, CompactTRLTrainer(trl)]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Numbers that must not depend on who computes them."""

    loss: float
    gradient_norm: float
    ref_per_token_logps: torch.Tensor
    saved_bytes: int  # what autograd kept for the backward pass


def run_once(contender: Contender) -> Outcome:
    """One step; gradients are zero before and after."""
    contender.encode_images()
    logps = contender.score_reference()
    with SavedTensors(contender.policy) as saved:
        loss = contender.compute_loss()
    loss.backward()
    gradients = [parameter.grad.norm() for parameter in contender.policy.parameters() if parameter.grad is not None]
    norm = torch.stack(gradients).norm().item()
    contender.policy.zero_grad(set_to_none=False)
    return Outcome(
        loss=loss.item(),
        gradient_norm=norm,
        ref_per_token_logps=logps.float().cpu(),
        saved_bytes=saved.num_bytes,
    )


def check_agreement(contenders: list[Contender], outcomes: list[Outcome], tolerance: float = TOLERANCE) -> None:
    """Compares prompts, losses, gradients and log-probabilities with those of the first contender.

    Raises:
        ValueError: they do not compute the same, so there is nothing to compare.
    """
    (first, *others), (expected, *found) = contenders, outcomes
    for other, outcome in zip(others, found, strict=True):
        gaps = {
            "prompt": float(other.prompt_ids != first.prompt_ids),
            "loss": abs(outcome.loss - expected.loss) / max(abs(expected.loss), 1e-2),
            "gradient norm": abs(outcome.gradient_norm - expected.gradient_norm) / expected.gradient_norm,
            "logps": (outcome.ref_per_token_logps - expected.ref_per_token_logps).abs().mean().item(),
        }
        if not all(gap <= tolerance for gap in gaps.values()):  # false for NaN, too
            raise ValueError(f"{other.name} and {first.name} do not compute the same: {gaps}, allowed {tolerance}.")

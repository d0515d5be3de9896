"""The optimizer step of GRPO: the loss of a micro-batch, row by row, and what happens when it is not finite."""

import contextlib
import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.distributed.tensor import DTensor

from open_r1.trainer.batch import RolloutBatch
from open_r1.trainer.distributions import Distribution
from open_r1.trainer.entropy import compute_entropy_threshold, compute_entropy_weights, mask_high_entropy_tokens
from open_r1.trainer.guards import dump_groups, find_bad_groups
from open_r1.trainer.importance import ImportanceCorrection, compute_importance_ratio
from open_r1.trainer.losses import LossInputs, LossOutput, compute_policy_loss, compute_token_weights
from open_r1.trainer.splitting import split_into_rows


logger = logging.getLogger(__name__)


class LossMixin:
    """Put before a transformers `Trainer`; `VLMGRPOTrainer` has what else this needs."""

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: RolloutBatch,
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """The loss of a micro-batch of whole groups.

        Where the micro-batch takes several packed rows, all but the last are back-propagated here, one after the
        other, so that the activations of only one exist at a time. The value returned is that of the whole.
        """
        if return_outputs:
            raise ValueError("There are no model outputs to return; evaluation does not go through the loss.")
        with self.metrics.timed("loss_forward"):
            parts = split_into_rows(self._with_token_weights(inputs), self.args.max_packed_tokens)
            is_bounded = self.args.max_packed_tokens is not None
            num_rows = max(self._all_gather([len(parts)])) if is_bounded else 1  # every rank runs as many passes
            nothing = torch.zeros_like(parts[-1].token_weights)
            idle = replace(parts[-1], token_weights=nothing, entropy_weights=nothing)
            rows = [*parts, *[idle] * (num_rows - len(parts))]
            outputs = [self._learn_from_row(model, row) for row in rows[:-1]]
            outputs.append(self._compute_row_loss(model, rows[-1]))
        self._log_losses(outputs[: len(parts)], inputs)
        return outputs[-1].loss + sum(output.loss for output in outputs[:-1])

    def _learn_from_row(self, model: torch.nn.Module, row: RolloutBatch) -> LossOutput:
        """Back-propagates a row that is not the last one of its micro-batch.

        Gradients are not exchanged yet, but under FSDP, where they would be whole until then.
        """
        uses_deepspeed = self.is_deepspeed_enabled
        is_exchanged = uses_deepspeed or self.is_fsdp_enabled
        with contextlib.nullcontext() if is_exchanged else self.accelerator.no_sync(model):
            output = self._compute_row_loss(model, row)
            loss = output.loss / self.current_gradient_accumulation_steps
            if uses_deepspeed:  # which takes the optimizer step within `backward`, so it must know that this is no end
                engine = self.accelerator.deepspeed_engine_wrapped
                engine.backward(loss, sync_gradients=False, scale_wrt_gas=False)
            else:
                self.accelerator.backward(loss)
        return replace(output, loss=output.loss.detach())

    def _with_token_weights(self, micro_batch: RolloutBatch) -> RolloutBatch:
        args, mask = self.args, micro_batch.completion_mask
        tokens_per_micro_batch = None
        if args.loss_type in ("dapo", "cispo"):
            total = sum(self._all_gather([int(self._round.batch.completion_mask.sum())]))
            tokens_per_micro_batch = total / self.accelerator.num_processes / args.steps_per_generation
        weights = compute_token_weights(
            args.loss_type,
            mask,
            max_completion_length=args.max_completion_length,
            tokens_per_micro_batch=tokens_per_micro_batch,
        )
        return replace(micro_batch, token_weights=weights, entropy_weights=compute_entropy_weights(mask))

    def _compute_row_loss(self, model: torch.nn.Module, row: RolloutBatch) -> LossOutput:
        """The share of one packed row in the loss of its micro-batch."""
        scores, settings = self._score_tokens(model, row), self.args.build_loss_settings()
        mask, entropy_mask, entropy_weights = row.completion_mask, None, row.entropy_weights
        if settings.top_entropy_quantile < 1:
            entropies = torch.tensor(self._all_gather(scores.entropies[mask].tolist()), device=mask.device)
            threshold = compute_entropy_threshold(entropies, settings.top_entropy_quantile)
            entropy_mask = mask_high_entropy_tokens(scores.entropies, mask, threshold)
            entropy_weights = compute_entropy_weights(mask, entropy_mask)
        correction = self._correct_mismatch(row, scores.per_token_logps)
        loss_inputs = LossInputs(
            completion_mask=mask,
            advantages=row.advantages,
            token_weights=row.token_weights,
            old_per_token_logps=row.old_per_token_logps,
            ref_per_token_logps=row.ref_per_token_logps,
            importance_ratio=None if correction is None else correction.weights,
            entropy_mask=entropy_mask,
            entropy_weights=entropy_weights,
        )
        output = compute_policy_loss(scores.per_token_logps, scores.entropies, loss_inputs, settings)
        if not output.loss.isfinite():
            self._report_nonfinite("loss", row, scores.per_token_logps)
        if correction is None:
            return output
        return replace(output, metrics=output.metrics | correction.metrics, distributions=correction.distributions)

    def _correct_mismatch(self, row: RolloutBatch, per_token_logps: torch.Tensor) -> ImportanceCorrection | None:
        """The ratio of the trainer's probabilities to those of the engine that generated; None where it told none.

        Where the round keeps no log-probabilities of the policy that generated, the policy has not moved since, and
        those of the loss itself, (B, C), are the same.
        """
        if row.engine_per_token_logps is None:
            return None
        trainer_logps = per_token_logps if row.old_per_token_logps is None else row.old_per_token_logps
        settings = self.args.build_importance_settings()
        return compute_importance_ratio(trainer_logps, row.engine_per_token_logps, row.completion_mask, settings)

    def _log_losses(self, outputs: list[LossOutput], micro_batch: RolloutBatch) -> None:
        """Tells the metrics of a micro-batch, over all devices; each token weighs the same in a line of the log."""
        names = list(outputs[0].metrics)
        sums = torch.stack([sum(output.metrics[name] for output in outputs) for name in names])  # (metrics, 2)
        for name, (total, count) in zip(names, self.accelerator.reduce(sums, reduction="sum").tolist()):
            self.metrics.add_sum(name, total, count)
        for name in outputs[0].distributions:
            own = Distribution.merge([output.distributions[name] for output in outputs])
            everywhere = self.accelerator.gather(own.numbers[None])  # (devices, numbers)
            parts = [replace(own, numbers=numbers.cpu()) for numbers in everywhere]
            self.metrics.add_distribution(name, Distribution.merge(parts))
        self._step_batches.append(micro_batch)

    def _report_nonfinite(self, what: str, batch: RolloutBatch, per_token_logps: torch.Tensor | None) -> None:
        """Writes the offending groups down; stops, or warns: the gradient that follows is what skips the step.

        Raises:
            FloatingPointError: unless `--on_nonfinite skip`.
        """
        groups = list(range(len(batch.prompts)))
        if per_token_logps is not None:
            groups = find_bad_groups(batch, per_token_logps)
        name = f"step{self.state.global_step}_rank{self.accelerator.process_index}_{what}.json"
        path = dump_groups(Path(self.args.output_dir) / "nonfinite" / name, batch, groups, per_token_logps)
        message = f"The {what} of step {self.state.global_step} is not finite; its groups are in {path}."
        if self.args.on_nonfinite == "error":
            raise FloatingPointError(f"{message} Lower the learning rate, or go on with --on_nonfinite skip.")
        logger.warning("%s The optimizer step is skipped.", message)

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """The norm before the optimizer step; without gradients that are not finite there is no step."""
        grad_norm = super()._get_grad_norm(model, grad_norm=grad_norm)
        if isinstance(grad_norm, DTensor):
            grad_norm = grad_norm.full_tensor()
        batches, self._step_batches = self._step_batches, []
        # A loss scaler (fp16) meets infinite gradients as a matter of course, and skips those steps itself.
        if self.accelerator.scaler is None and not self.args.fp16 and not math.isfinite(grad_norm):
            self._report_nonfinite("gradient", batches[-1], None)
            for parameter in model.parameters():  # DeepSpeed has skipped the step already
                parameter.grad = None
            self.metrics.add_total("nonfinite/skipped_steps", 1)
        return grad_norm

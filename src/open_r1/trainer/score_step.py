"""Log-probabilities that stay as they are while the loss goes over a round, and those of the loss itself."""

from dataclasses import replace

import torch
from accelerate.utils import DistributedType

from open_r1.inference.batching import list_media
from open_r1.inference.hf_generator import eval_mode
from open_r1.trainer.batch import RolloutBatch
from open_r1.trainer.fsdp import reshard
from open_r1.trainer.logps import LogpsScorer, TokenScores
from open_r1.trainer.splitting import split_into_rows
from open_r1.trainer.vision import build_idle_prompt, drop_media_features, list_towers, with_idle_group


class ScoreMixin:
    """Put before a transformers `Trainer`; `VLMGRPOTrainer` has what else this needs.

    All devices make the same number of passes, and each pass runs the vision tower equally often on all of them.
    """

    @torch.no_grad()
    def _with_fixed_logps(self, batch: RolloutBatch) -> RolloutBatch:
        """Adds the log-probabilities that stay as they are while the loss goes over the round."""
        fixed = {}
        if self.args.is_off_policy:
            with self.metrics.timed("old_logps"):
                fixed["old_per_token_logps"] = self._score_without_gradient(self.model, batch)
        if self.args.beta:
            with self.metrics.timed("ref_logps"):
                fixed["ref_per_token_logps"] = self._score_reference(batch)
        return RolloutBatch(**(vars(batch) | fixed))

    def _score_reference(self, batch: RolloutBatch) -> torch.Tensor:
        if self.ref_model is None:
            with self.model.disable_adapter():
                return self._score_without_gradient(self.model, batch)
        if self.reuses_features and not self.ref_reuses_features:
            batch = replace(batch, prompts=[drop_media_features(prompt) for prompt in batch.prompts])
        return self._score_without_gradient(self.ref_model, batch)

    def _score_without_gradient(self, model: torch.nn.Module, batch: RolloutBatch) -> torch.Tensor:
        """Log-probabilities (B, C) in evaluation mode, as many groups at a time as in a micro-batch of the loss."""
        logps = torch.zeros(batch.completion_ids.shape, device=batch.completion_ids.device)
        batch = replace(batch, row_index=torch.arange(len(logps), device=logps.device))
        size, num_groups = self.args.groups_per_step, len(batch.prompts)
        with eval_mode(model):
            for start in range(0, num_groups, size):
                micro_batch = batch.select(list(range(start, min(start + size, num_groups))))
                for part in self._split_alike(micro_batch):
                    scored = self._score_tokens(model, part).per_token_logps
                    logps[part.row_index, : scored.shape[1]] = scored
        reshard(self.accelerator.unwrap_model(model))
        return logps

    def _split_alike(self, micro_batch: RolloutBatch) -> list[RolloutBatch]:
        """Packed rows of a micro-batch, the last one again and again where other devices have more."""
        parts = split_into_rows(micro_batch, self.args.max_packed_tokens)
        num_rows = len(parts) if self.args.max_packed_tokens is None else max(self._all_gather([len(parts)]))
        return [*parts, *parts[-1:] * (num_rows - len(parts))]

    def _score_tokens(
        self, model: torch.nn.Module, batch: RolloutBatch, scorer: LogpsScorer | None = None
    ) -> TokenScores:
        scorer = self.scorer if scorer is None else scorer
        head = self.accelerator.unwrap_model(model).get_output_embeddings()
        is_own_tower = model is self.ref_model and not self.ref_reuses_features
        shown = list_towers(list_media(batch.prompts))
        missing = tuple(kind for kind in self.media_kinds if kind not in shown)
        # Not by the number of processes: a single one that torchrun started has DDP around the model all the same.
        is_alone = self.accelerator.distributed_type is DistributedType.NO
        if not missing or is_alone or (self.reuses_features and not is_own_tower):
            return scorer.score(model, head, batch)
        if missing not in self._idle_prompts:
            prompt = build_idle_prompt(self.vlm_module, self.processing_class, missing)
            prompt = self.vlm_module.with_positions(self.model, prompt).to(self.accelerator.device)
            self._idle_prompts[missing] = prompt
        idle = with_idle_group(batch, self._idle_prompts[missing], scorer.pad_token_id)
        scores, size = scorer.score(model, head, idle), len(batch.completion_ids)
        return TokenScores(per_token_logps=scores.per_token_logps[:size], entropies=scores.entropies[:size])

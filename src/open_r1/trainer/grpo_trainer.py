"""`VLMGRPOTrainer`: transformers' training loop over groups.

One round, from the sampler to the loss:

    prompts of the round     RepeatRandomSampler, GroupCollator       each image and video opened once per group
    -> completions           HFGenerator, VLLMGenerator               each prompt prefilled once
    -> rewards (B, F)        reward functions, whole groups
    -> advantages (B,)       relative to the group
    -> old, reference logps  where they are needed, no gradient
    -> micro-batches         whole groups, num_iterations times       compute_loss
"""

import contextlib
import logging
from functools import partial
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import PreTrainedModel, Trainer
from transformers.trainer_callback import ProgressCallback

from open_r1.data.video import VideoSettings
from open_r1.inference.generator import Completions
from open_r1.inference.hf_generator import HFGenerator, eval_mode
from open_r1.trainer.advantages import Advantages, estimate_advantages
from open_r1.trainer.attention import choose_layout, enable_packing
from open_r1.trainer.batch import PromptGroup, RolloutBatch, pad_completions
from open_r1.trainer.collator import GroupCollator
from open_r1.trainer.evaluation import (
    add_worst_value,
    build_eval_records,
    check_evaluation,
    check_validation_data,
    complete_rows,
    describe_outcome,
    measure_task,
    summarise_completions,
)
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.grpo_state import GRPOStateMixin
from open_r1.trainer.importance import pad_engine_logps
from open_r1.trainer.layout_check import TOLERANCE, check_layout, choose_varlen, needs_check
from open_r1.trainer.logps import LogpsScorer
from open_r1.trainer.loss_step import LossMixin
from open_r1.trainer.losses import mask_truncated
from open_r1.trainer.metrics import MetricStore, summarise_lengths, summarise_rewards
from open_r1.trainer.pools import build_pools
from open_r1.trainer.precision import warn_of_lost_updates
from open_r1.trainer.reward_calls import RewardFunc, RewardRunner, repeat_columns
from open_r1.trainer.rollout_log import GroupRecord, RolloutLog
from open_r1.trainer.rollouts import Rollout
from open_r1.trainer.rounds import Round, split_into_micro_batches
from open_r1.trainer.samplers import RepeatRandomSampler, RoundLoader, draw_in_order
from open_r1.trainer.score_step import ScoreMixin
from open_r1.trainer.sharding import is_zero3, prepare_reference, whole_weights
from open_r1.trainer.vision import (
    attach_media_features,
    find_media_kinds,
    has_same_vision,
    is_vision_frozen,
)
from open_r1.trainer.watchdog import StageWatch
from open_r1.utils.callbacks import LiveProgressCallback, MetricsFileCallback
from open_r1.utils.score_metrics import EvalMetrics
from open_r1.utils.trackers import CompletionTableCallback
from open_r1.vlm_modules.vlm_module import EncodedPrompt, VLMBaseModule


logger = logging.getLogger(__name__)


class VLMGRPOTrainer(ScoreMixin, LossMixin, GRPOStateMixin, Trainer):
    """Group Relative Policy Optimization of a vision-language model.

    Args:
        model: The policy, loaded, adapters and frozen parameters as they shall be trained.
        ref_model: The reference of the KL term. None: no KL term (beta 0), or a PEFT policy, whose reference is itself
            without its adapters.
        reward_funcs: F functions, see `open_r1.rewards`.
        args: Settings.
        vlm_module: The family of the model.
        processing_class: Its processor.
        train_dataset: Rows with at least `prompt` and `image_path`, videos under `video_path`; all columns reach the
            rewards.
        eval_dataset: Rows of the same kind.
        eval_metrics: What the task measures on validation rows and their completions, beside rewards and lengths.
        video_settings: Which frames of videos are taken.
        callbacks: As in transformers.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        ref_model: PreTrainedModel | None,
        reward_funcs: list[RewardFunc],
        args: GRPOConfig,
        *,
        vlm_module: VLMBaseModule,
        processing_class: Any,
        train_dataset: Any,
        eval_dataset: Any = None,
        eval_metrics: EvalMetrics | None = None,
        video_settings: VideoSettings | None = None,
        callbacks: list | None = None,
    ):
        if args.n_gpu > 1:
            raise ValueError(
                f"One process sees {args.n_gpu} GPUs: start one process per GPU (torchrun --nproc_per_node), or show "
                "it a single one (CUDA_VISIBLE_DEVICES)."
            )
        self.vlm_module = vlm_module
        self.reward_names = [func.__name__ for func in reward_funcs]
        self.reward_runner = RewardRunner(reward_funcs, args.reward_timeout_s, args.num_reward_workers)
        self.reward_weights = _build_reward_weights(args.reward_weights, self.reward_names)
        self.eval_metrics = eval_metrics
        check_evaluation(args, eval_dataset, self.reward_names, eval_metrics)
        super().__init__(
            model=model,
            args=args,
            data_collator=GroupCollator(
                vlm_module, processing_class, args.max_prompt_length, video_settings or VideoSettings()
            ),
            train_dataset=train_dataset,
            eval_dataset=eval_dataset,
            processing_class=processing_class,
            callbacks=[*(callbacks or []), MetricsFileCallback(), LiveProgressCallback()],
        )
        self.remove_callback(ProgressCallback)
        # Each device must draw other completions; weights are loaded already, so nothing else depends on this.
        torch.manual_seed(args.seed + self.accelerator.process_index)
        _check_reference(args, model, ref_model)
        if self.accelerator.is_main_process:
            has_float32_copy = self.is_deepspeed_enabled or (self.is_fsdp_enabled and (args.bf16 or args.fp16))
            warn_of_lost_updates(model.parameters(), args.learning_rate, has_float32_copy)
        self.compute_dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else model.dtype
        self.reuses_features = is_vision_frozen(model, vlm_module)
        self._all_gather = partial(_all_gather, self.watch, self.accelerator.num_processes)
        has_same_features = ref_model is None or has_same_vision(model, ref_model, vlm_module)
        self.ref_reuses_features = all(self._all_gather([has_same_features]))
        self.scorer = LogpsScorer(
            vlm_module=vlm_module,
            pad_token_id=processing_class.tokenizer.pad_token_id,
            is_packed=choose_layout(model, args.logps_mode),
            temperature=args.temperature,
            chunk_size=args.logps_chunk_size,
            is_varlen=choose_varlen(model, args.packed_attention, self.compute_dtype, self.accelerator.device),
            has_entropy_gradient=args.entropy_coef != 0,
        )
        self.must_check_layout = needs_check(model, self.scorer, args.logps_mode)
        if self.scorer.is_packed:
            for packed_model in filter(None, (model, ref_model)):
                enable_packing(packed_model)
        self.ref_model = ref_model
        if ref_model is not None:
            self.ref_model = prepare_reference(ref_model, self.accelerator)
        if args.sync_ref_model:
            from trl.trainer.callbacks import SyncRefModelCallback

            self.add_callback(SyncRefModelCallback(ref_model=ref_model, accelerator=self.accelerator))
        self.generator = self._build_generator(args, processing_class)
        self._open_logs(args)
        self.metrics = MetricStore(self.watch)
        self.num_tokens_seen = 0
        self.num_refills_drawn = 0
        self.row_pools = build_pools(train_dataset, args)
        self.media_kinds = find_media_kinds(train_dataset, self.data_collator.video_settings.audio)
        self._idle_prompts: dict[tuple[str, ...], EncodedPrompt] = {}  # by the kinds of media that they show
        self._step_batches: list[RolloutBatch] = []  # micro-batches since the last optimizer step
        self._round: Round | None = None

    # ---- data -------------------------------------------------------------------------------------------------

    def get_train_dataloader(self) -> RoundLoader:
        """One list of prompts per micro-step, for this device; empty where a micro-step goes on with a round."""
        args = self.args
        sampler = RepeatRandomSampler(
            len(self.train_dataset),
            prompts_per_round=args.groups_per_step * args.steps_per_generation,
            steps_per_round=args.steps_per_generation * args.num_iterations,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
            seed=args.seed if args.data_seed is None else args.data_seed,
            shuffle=args.train_sampling_strategy == "random",
            pools=self.row_pools,
        )
        if self.accelerator.is_main_process:
            logger.info(
                "An epoch: %d rounds, %d prompts, %d of them a second time to fill up.",
                sampler.num_rounds, len(self.train_dataset) + sampler.num_repeats, sampler.num_repeats,
            )  # fmt: skip
        return RoundLoader(
            self.train_dataset,
            batch_sampler=sampler,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory and torch.cuda.is_available(),
            persistent_workers=args.dataloader_persistent_workers,
            prefetch_factor=args.dataloader_prefetch_factor,
        )

    def _prepare_inputs(self, inputs: list[PromptGroup]) -> RolloutBatch:
        """The micro-batch of this step, out of a new round where the step brings prompts."""
        if inputs:
            with self.metrics.timed("round"):
                batch, groups = self._generate_and_score_completions(inputs)
            pending = split_into_micro_batches(len(groups), self.args.groups_per_step, self.args.num_iterations)
            self._round = Round(batch=batch, rows=[group.index for group in groups], pending=pending)
        return self._round.take()

    # ---- a round ----------------------------------------------------------------------------------------------

    def _generate_and_score_completions(self, groups: list[PromptGroup]) -> tuple[RolloutBatch, list[PromptGroup]]:
        """Generates G completions per prompt, rewards them and computes what the loss needs; the groups may change."""
        rollout = self._roll_out(groups)
        estimate = self._reward(rollout)
        self.metrics.add("frac_reward_zero_std", estimate.is_constant.float().mean().item())
        if self.args.dynamic_sampling:
            estimate = self._refill(rollout, estimate)
        self._log_round(rollout, estimate)
        batch = self._build_batch(rollout)
        if self.must_check_layout:
            self._check_layout(batch.select([0]))
        return self._with_fixed_logps(batch), rollout.groups

    def _roll_out(self, groups: list[PromptGroup]) -> Rollout:
        with contextlib.ExitStack() as stack:
            stack.enter_context(self._whole_weights())
            prompts = self._prepare_prompts(groups)
            completions = self._complete(groups, prompts, stack)
        return Rollout(
            groups=list(groups),
            prompts=prompts,
            texts=self.generator.decode(completions.token_ids),
            token_ids=completions.token_ids,
            finish_reasons=completions.finish_reasons,
            engine_per_token_logps=completions.per_token_logps,
        )

    def _complete(
        self, groups: list[PromptGroup], prompts: list[EncodedPrompt], weights: contextlib.ExitStack
    ) -> Completions:
        """G completions per prompt; `weights` is closed where what it holds together is not needed to generate."""
        if self.generator.is_synced:  # no device may run the tower while the others decode
            prompts = prompts if self.reuses_features else self._attach_features(prompts)
            weights.close()
        with self.metrics.timed("generate"):
            return self.generator.generate(prompts, self.args.num_generations, self.args.build_sampling())

    def _refill(self, rollout: Rollout, estimate: Advantages) -> Advantages:
        """Exchanges groups that teach nothing for those of other prompts, on all ranks together.

        Rewards are computed again over all groups of the round, since ranking rewards compare them.
        """
        for _ in range(self.args.dynamic_sampling_max_refills):
            constant = torch.nonzero(self._own_share(estimate.is_constant)).flatten().tolist()
            num_drawn = max(self._all_gather([len(constant)]))
            if num_drawn == 0:
                break
            fresh = self._roll_out(self._draw_refill(num_drawn, rollout.groups[0]))
            for m, n in enumerate(constant):
                rollout.exchange(n, fresh, m)
            estimate = self._reward(rollout)
            self.metrics.add_total("dynamic_sampling/refilled_groups", sum(self._all_gather([len(constant)])))
        self.metrics.add("dynamic_sampling/frac_reward_zero_std", estimate.is_constant.float().mean().item())
        return estimate

    def _draw_refill(self, num_groups: int, like: PromptGroup) -> list[PromptGroup]:
        """As many more prompts for each rank, in an order of their own that goes on from round to round; of the same
        data set where a device's round shall be of one."""
        start = self.num_refills_drawn + self.accelerator.process_index * num_groups
        self.num_refills_drawn += self.accelerator.num_processes * num_groups
        rows = range(len(self.train_dataset)) if self.row_pools is None else self.row_pools.get_companions(like.index)
        indices = draw_in_order(len(rows), start, num_groups, self.args.seed)
        return self._encode_rows([rows[index] for index in indices])

    def _check_layout(self, batch: RolloutBatch) -> None:
        with eval_mode(self.model):
            self.scorer = check_layout(
                self.scorer,
                lambda scorer: self._score_tokens(self.model, batch, scorer),
                TOLERANCE[self.compute_dtype],
                self._all_gather,
            )
        self.must_check_layout = False

    def _build_batch(self, rollout: Rollout) -> RolloutBatch:
        device = self.accelerator.device
        ids, mask = pad_completions(rollout.token_ids, self.generator.pad_token_id, device)
        if self.args.mask_truncated_completions:
            mask = mask_truncated(mask, rollout.is_truncated.to(device))
        advantages = rollout.advantages.to(device)
        told = rollout.engine_per_token_logps
        return RolloutBatch(
            prompts=rollout.prompts,
            completion_ids=ids,
            completion_mask=mask,
            advantages=advantages,
            engine_per_token_logps=None if told is None else pad_engine_logps(told, rollout.token_ids, device),
        )

    def _prepare_prompts(self, groups: list[PromptGroup]) -> list[EncodedPrompt]:
        """Prompts on the device, with positions and, where the vision tower is frozen, with features."""
        device = self.accelerator.device
        prompts = [self.vlm_module.with_positions(self.model, group.prompt).to(device) for group in groups]
        return self._attach_features(prompts) if self.reuses_features else prompts

    def _attach_features(self, prompts: list[EncodedPrompt]) -> list[EncodedPrompt]:
        with self.metrics.timed("vision"), self.accelerator.autocast():
            return attach_media_features(
                self.accelerator.unwrap_model(self.model),
                self.vlm_module,
                prompts,
                images_per_pass=self.args.groups_per_step,
                offload=self.args.offload_vision_features,
            )

    def _build_generator(self, args: GRPOConfig, processor: Any) -> HFGenerator:
        is_synced = (is_zero3() or self.is_fsdp_enabled) and not args.ds3_gather_for_generation
        return HFGenerator(self.model, processor, self.vlm_module, is_synced)

    def _whole_weights(self) -> contextlib.AbstractContextManager[None]:
        """Lets this device generate by itself; where it may not, it can still run the vision tower by itself."""
        if self.generator.is_synced:
            return self._whole_vision()
        return whole_weights(self.accelerator.unwrap_model(self.model), self.model_wrapped)

    def _whole_vision(self) -> contextlib.AbstractContextManager[None]:
        """Lets this device run the vision tower by itself."""
        model = self.accelerator.unwrap_model(self.model)
        named = model.named_parameters()
        parameters = [parameter for name, parameter in named if self.vlm_module.is_vision_parameter(name)]
        return whole_weights(model, self.model_wrapped, parameters)

    def _ready_to_generate(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the generator can be called any number of times; all devices must come here."""
        return self._whole_weights()

    def _score_rewards(
        self, rows: list[dict[str, Any]], texts: list[str], token_ids: list[list[int]], num_generations: int
    ) -> torch.Tensor:
        """Rewards of this device's completions, (B, F) on the CPU."""
        columns = repeat_columns(rows, num_generations)
        prompts = columns.pop("prompt")
        columns.update(
            num_generations=num_generations,
            trainer_state=self.state,
            process_index=self.accelerator.process_index,
            family_box_format=self.vlm_module.get_box_format(self.model.config),
            log_metric=self.metrics.add,
            all_gather=self._all_gather,
        )
        return self.reward_runner.call(
            prompts=prompts,
            texts=texts,
            completion_ids=token_ids,
            columns=columns,
            log_seconds=self.metrics.add_total,
        )

    def _reward(self, rollout: Rollout) -> Advantages:
        """Rewards and advantages of the rollout, and the estimate over all devices that they come from."""
        size = self.args.num_generations
        with self.metrics.timed("reward"):
            rollout.rewards_per_func = self._score_rewards(rollout.rows, rollout.texts, rollout.token_ids, size)
        everywhere = torch.tensor(self._all_gather(rollout.rewards_per_func.tolist()))
        settings = self.args.build_advantage_settings()
        estimate = estimate_advantages(everywhere, self.reward_weights, size, settings)
        rollout.advantages = self._own_share(estimate.advantages)
        return estimate

    def _own_share(self, values: torch.Tensor) -> torch.Tensor:
        """This device's part of a tensor with as many rows of each device, in rank order."""
        return values.chunk(self.accelerator.num_processes)[self.accelerator.process_index]

    # ---- evaluation -------------------------------------------------------------------------------------------

    @torch.no_grad()
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Completes the validation rows, and reports rewards, lengths and the task's own metrics over all devices.

        Training goes on as if it had not been interrupted. What has no value is left out of the logs, and counts as
        the worst where it is to choose the best model.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        rank, num_processes = self.accelerator.process_index, self.accelerator.num_processes
        check_validation_data(dataset, num_processes)
        training_metrics, self.metrics = self.metrics, MetricStore(self.watch)
        try:
            with self.metrics.timed("generate"), self._ready_to_generate():
                indices = range(rank, len(dataset), num_processes)
                rollout = complete_rows(self.generator, self.data_collator, dataset, indices, self.args)
            with self.metrics.timed("reward"):
                size = self.args.eval_num_generations
                rewards_per_func = self._score_rewards(rollout.rows, rollout.texts, rollout.token_ids, size)
            values = self.metrics.pop()
        finally:
            self.metrics = training_metrics
        values |= summarise_completions(
            rollout, rewards_per_func, self.reward_names, self.reward_weights, self._all_gather
        )
        report = measure_task(self.eval_metrics, dataset, rollout, self._all_gather)
        step = self.state.global_step
        self.rollout_log.write_evaluation(
            build_eval_records(step, rollout, rewards_per_func, self.reward_names, report)
        )
        values = {name: value for name, value in (values | report.values).items() if value == value}
        if rank == 0:
            logger.info("evaluation at step %d: %s", step, describe_outcome(values, report.reasons))
        metrics = {f"{metric_key_prefix}_{name}": value for name, value in values.items()}
        self.log(metrics)
        if eval_dataset is None:
            metrics = add_worst_value(metrics, self.args)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    # ---- logs -------------------------------------------------------------------------------------------------

    def _open_logs(self, args: GRPOConfig) -> None:
        self.rollout_log = RolloutLog(args.output_dir, self.accelerator.process_index)
        self.completion_table: CompletionTableCallback | None = None
        if args.log_completions:
            callbacks = self.callback_handler
            self.completion_table = CompletionTableCallback(args.num_logged_completions, lambda: callbacks.callbacks)
            self.add_callback(self.completion_table)

    def _log_round(self, rollout: Rollout, estimate: Advantages) -> None:
        """Metrics of the completions of all devices, and this device's groups in the rollout log."""
        size = rollout.num_generations
        everywhere = torch.tensor(self._all_gather(rollout.rewards_per_func.tolist()))
        for name, value in summarise_rewards(everywhere, self.reward_names, estimate.rewards, size).items():
            self.metrics.add(name, value)
        lengths = torch.tensor(self._all_gather([len(ids) for ids in rollout.token_ids]))
        is_truncated = torch.tensor(self._all_gather(rollout.is_truncated.tolist()))
        for name, value in summarise_lengths(lengths, is_truncated).items():
            self.metrics.add(name, value)
        num_prompt_tokens = sum(self._all_gather([prompt.num_tokens for prompt in rollout.prompts]))
        self.num_tokens_seen += num_prompt_tokens + int(lengths.sum())

        values = [[None if value != value else value for value in row] for row in rollout.rewards_per_func.tolist()]
        records = [
            GroupRecord(
                step=self.state.global_step,
                row=row,
                completions=rollout.texts[rollout.members(n)],
                rewards={name: [v[i] for v in values[rollout.members(n)]] for i, name in enumerate(self.reward_names)},
                advantages=rollout.advantages[rollout.members(n)].tolist(),
                finish_reasons=rollout.finish_reasons[rollout.members(n)],
            )
            for n, row in enumerate(rollout.rows)
        ]
        self.rollout_log.write(records)
        if self.completion_table is not None:
            self.completion_table.take(records)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what the rounds and losses since the last log line had to say."""
        if "loss" in logs:
            logs = {**logs, **self.metrics.pop(), "num_tokens": self.num_tokens_seen}
        super().log(logs, start_time)

    def floating_point_ops(self, inputs: Any) -> int:
        """Not estimated: transformers' estimate counts one pass over `input_ids`, which groups do not have."""
        return 0


def _check_reference(args: GRPOConfig, model: PreTrainedModel, ref_model: PreTrainedModel | None) -> None:
    if args.beta and ref_model is None and not hasattr(model, "disable_adapter"):
        raise ValueError("beta is not zero, so a reference model is needed; give one, or set --beta 0.")
    if args.sync_ref_model and ref_model is None:
        raise ValueError("--sync_ref_model needs a reference model of its own; LoRA's is the policy without adapters.")


def _build_reward_weights(weights: list[float] | None, names: list[str]) -> torch.Tensor:
    if weights is None:
        weights = [1.0] * len(names)
    if len(weights) != len(names):
        raise ValueError(f"--reward_weights has {len(weights)} values for {len(names)} reward functions {names}.")
    return torch.tensor(weights, dtype=torch.float32)


def _all_gather(watch: StageWatch, num_processes: int, values: list[Any] | torch.Tensor) -> Any:
    """Concatenates a list or a tensor of scalars over all ranks, in rank order; the identity on one process."""
    if num_processes == 1:
        return values
    with watch.stage("gather"):
        if isinstance(values, torch.Tensor):
            return torch.tensor(gather_object(values.tolist()), dtype=values.dtype)
        return gather_object(values)

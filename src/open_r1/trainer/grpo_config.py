"""Settings of `VLMGRPOTrainer`: those of transformers' `TrainingArguments`, and those of GRPO.

Names are TRL's where the concept is. Defaults are those of VisualQuality-R1 and VLM-R1 as their code really behaved
(learning rate 1e-6, beta 0.04, clip range 0.2, eight generations, sampling at temperature 1) with one exception: no
`top_k`, since the loss takes log-probabilities of the full distribution.

Batch arithmetic: `per_device_train_batch_size` counts completions. A micro-batch holds
N = per_device_train_batch_size / num_generations whole groups; a round generates `steps_per_generation` micro-batches
at once and the loss goes over them `num_iterations` times.
"""

from dataclasses import dataclass, field

from transformers import TrainingArguments

from open_r1.inference.generator import SamplingSettings
from open_r1.trainer.advantages import DEFAULT_SCALE, AdvantageSettings
from open_r1.trainer.distributed import is_one_of_many, prepare_processes, uses_deepspeed
from open_r1.trainer.loss_settings import CISPO_EPSILON_HIGH, LossSettings
from open_r1.trainer.reward_options import RewardCallOptions
from open_r1.trainer.sampler_options import SamplerOptions
from open_r1.trainer.tracking_options import TrackingOptions
from open_r1.trainer.vllm_options import VLLMOptions


def _doc(text: str, default=None, **kwargs):
    return field(default=default, metadata={"help": text, **kwargs})


# Options of TrainingArguments that would be accepted and do nothing here, with what to do instead.
_REFUSED = {
    "auto_find_batch_size": "Set per_device_train_batch_size; it must stay a multiple of num_generations.",
    "include_num_input_tokens_seen": "The metric num_tokens counts the tokens of every round.",
    "dataloader_drop_last": "No row is dropped; the last round of an epoch is filled up from its beginning.",
    "neftune_noise_alpha": "Noise on the embeddings would separate the loss from the policy that generated.",
    "eval_accumulation_steps": "Evaluation keeps texts and rewards only.",
    "prediction_loss_only": "Evaluation reports rewards, not a loss.",
    "batch_eval_metrics": "Rewards of the validation rows are computed over all of them at once.",
    "label_names": "There are no labels in GRPO; rewards read the columns of the data.",
    "label_smoothing_factor": "There are no labels to smooth in GRPO.",
    "use_liger_kernel": "The log-probabilities are computed in chunks already.",
    "ignore_data_skip": "A resumed run skips the rows that were used; none of them is opened for that.",
    "enable_jit_checkpoint": "SIGTERM and SIGUSR1 save a checkpoint at the end of the step anyway.",
    "torch_compile": "Compilation is not supported yet.",
}

# Endings of metrics that are the better the lower they are; transformers knows of "loss" alone.
_LOWER_IS_BETTER = ("unparsed", "completions/clipped_ratio")

_AT_LEAST_ONE = (
    *("steps_per_generation", "num_iterations", "max_completion_length", "logps_chunk_size", "max_packed_tokens"),
    *("dynamic_sampling_max_refills", "ref_model_sync_steps", "max_prompt_length"),
)


@dataclass
class GRPOConfig(SamplerOptions, RewardCallOptions, TrackingOptions, VLLMOptions, TrainingArguments):
    """Settings of GRPO on groups: one prompt with its images, and its G completions."""

    learning_rate: float = _doc("Initial learning rate of AdamW.", 1e-6)
    logging_steps: float = _doc("Log every this many optimizer steps.", 1)
    remove_unused_columns: bool = _doc("Must stay False: rewards see every column of the data.", False)

    num_generations: int = _doc("Completions per prompt (G), at least 2.", 8)
    max_prompt_length: int | None = _doc(
        "Refuse prompts of more tokens than this, image tokens included. Nothing is truncated. None: no bound."
    )
    max_completion_length: int = _doc("Tokens after which a completion is cut off.", 256)
    temperature: float = _doc("Sampling temperature; log-probabilities are scaled alike. Must be positive.", 1.0)
    top_p: float = _doc("Nucleus sampling; 1.0 is off.", 1.0)
    top_k: int = _doc("Sample among this many most likely tokens; 0 is off.", 0)
    min_p: float | None = _doc("Sample among tokens with this share of the best one's probability; None is off.")
    repetition_penalty: float = _doc("Divides the logits of tokens seen before; 1.0 is off.", 1.0)

    # The algorithm: formulas and sources in docs/algorithms.md.
    loss_type: str = _doc(
        "The policy loss, and what it is averaged over.",
        "grpo",
        choices=["grpo", "bnpo", "dr_grpo", "dapo", "cispo", "sapo"],
    )
    importance_sampling_level: str = _doc(
        "Probability ratios per token, or one per completion, the geometric mean over its tokens (GSPO).",
        "token",
        choices=["token", "sequence"],
    )
    beta: float = _doc("Weight of the KL term. 0: no reference model is loaded.", 0.04)
    kl_estimator: str = _doc(
        "Estimate of the KL term: log-ratio, half its square, or exp(d) - d - 1. By itself k1 has a gradient of zero "
        "on average; take it with use_bias_correction_kl.",
        "k3",
        choices=["k1", "k2", "k3"],
    )
    use_bias_correction_kl: bool = _doc("Weigh the KL term with the ratio, for an unbiased gradient.", False)
    epsilon: float = _doc("The ratio is clipped below 1 - epsilon.", 0.2)
    epsilon_high: float | None = _doc(
        "And above 1 + epsilon_high (DAPO: 0.28). None: epsilon. With cispo the cap of the ratio itself; None: 5.0."
    )
    delta: float | None = _doc("Upper bound of the ratio where an advantage is negative. None: no bound.")
    sapo_temperature_pos: float = _doc("How fast sapo fades out off-policy tokens of positive advantage.", 1.0)
    sapo_temperature_neg: float = _doc("The same for the other tokens.", 1.05)
    top_entropy_quantile: float = _doc("Share of the most uncertain tokens that the policy loss learns from.", 1.0)
    entropy_coef: float = _doc("Weight of a bonus on the mean entropy of the tokens.", 0.0)
    mask_truncated_completions: bool = _doc("Leave completions that were cut off out of the loss.", False)
    num_iterations: int = _doc("How often the loss goes over a round (mu).", 1)
    steps_per_generation: int | None = _doc("Micro-batches per round. None: gradient_accumulation_steps.")
    advantage_estimator: str = _doc(
        "Advantages relative to the group's mean, to the mean of its other completions, or to its mean and then "
        "normalised over the batch.",
        "grpo",
        choices=["grpo", "rloo", "reinforce_plus_plus"],
    )
    scale_rewards: str | None = _doc(
        "Advantages are divided by the standard deviation of the group, of the batch, or of nothing. None: group; "
        "the other advantage estimators have a scaling of their own.",
        choices=["group", "batch", "none"],
    )
    multi_objective_aggregation: str = _doc(
        "Sum the weighted rewards, then normalise; or normalise each reward within the group, then sum (GDPO).",
        "sum_then_normalize",
        choices=["sum_then_normalize", "normalize_then_sum"],
    )
    reward_weights: list[float] | None = _doc("One weight per reward function. None: all 1.")
    logps_mode: str = _doc(
        "packed: a prompt and its images run once per group; replicated: once per completion, same numbers, slower. "
        "auto: packed wherever it is exact.",
        "auto",
        choices=["auto", "packed", "replicated"],
    )
    logps_chunk_size: int = _doc("Completion tokens whose logits exist at the same time.", 512)
    max_packed_tokens: int | None = _doc(
        "Longest packed row; a micro-batch of more tokens is cut into several, which are back-propagated one after "
        "the other. Bounds memory and changes no number. None: a micro-batch is one row."
    )
    packed_attention: str = _doc(
        "Kernel of packed rows: varlen (FlashAttention over ragged segments, CUDA with bf16 or fp16), concat (torch's "
        "attention over padded rectangles, everywhere), auto: varlen where it runs.",
        "auto",
        choices=["auto", "varlen", "concat"],
    )
    offload_vision_features: bool = _doc("Keep the features of a frozen vision tower in CPU memory.", False)

    eval_num_generations: int = _doc(
        "Completions per validation row (K); per_device_eval_batch_size counts completions, too.", 1
    )
    eval_temperature: float | None = _doc(
        "Sampling temperature of evaluation; 0 is greedy. None: 0, or the one of training where K is above 1."
    )

    dynamic_sampling: bool = _doc(
        "Exchange groups whose rewards are all equal for groups of other prompts (DAPO), before the loss.", False
    )
    dynamic_sampling_max_refills: int = _doc("How often a round may be refilled; what is still equal then stays.", 3)
    sync_ref_model: bool = _doc("Move the reference towards the policy every ref_model_sync_steps (TR-DPO).", False)
    ref_model_mixup_alpha: float = _doc("Share of the policy in the reference at each synchronisation.", 0.6)
    ref_model_sync_steps: int = _doc("Optimizer steps between synchronisations of the reference.", 512)
    on_nonfinite: str = _doc(
        "What to do about a loss or gradient that is not finite: stop, or skip the optimizer step and count it. The "
        "groups are written to OUTPUT_DIR/nonfinite either way.",
        "error",
        choices=["error", "skip"],
    )
    ds3_gather_for_generation: bool = _doc(
        "ZeRO-3, FSDP: gather all weights once per round to generate. False: layer by layer at every token, slower, "
        "for models that do not fit on one device.",
        True,
    )

    def __post_init__(self):
        prepare_processes(self)
        if self.greater_is_better is None and str(self.metric_for_best_model).endswith(_LOWER_IS_BETTER):
            self.greater_is_better = False
        super().__post_init__()
        if self.eval_temperature is None:
            self.eval_temperature = self.temperature if self.eval_num_generations > 1 else 0.0
        if self.epsilon_high is None:
            self.epsilon_high = CISPO_EPSILON_HIGH if self.loss_type == "cispo" else self.epsilon
        if self.scale_rewards is None:
            self.scale_rewards = DEFAULT_SCALE.get(self.advantage_estimator)
        if self.steps_per_generation is None:
            self.steps_per_generation = self.gradient_accumulation_steps
        self._check()

    def _check(self) -> None:
        for name, remedy in _REFUSED.items():
            if getattr(self, name, None) not in (None, False, "", "no", 0, 0.0, []):
                raise ValueError(f"--{name} {getattr(self, name)} is refused: {remedy}")
        is_reentrant = (self.gradient_checkpointing_kwargs or {}).get("use_reentrant")
        if is_reentrant and is_one_of_many() and not uses_deepspeed(self):
            raise ValueError(
                "--gradient_checkpointing_kwargs: use_reentrant does not work with several processes unless there is "
                "--deepspeed, since each gradient may come but once: leave it out."
            )
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise ValueError(f"--train_sampling_strategy {self.train_sampling_strategy}: take random or sequential.")
        self.check_sampling()
        self.check_reward_calls()
        self.check_vllm_options()
        if self.load_best_model_at_end and self.metric_for_best_model == "loss":
            raise ValueError("--load_best_model_at_end: evaluation has no loss; add --metric_for_best_model reward.")
        if self.remove_unused_columns:
            raise ValueError("--remove_unused_columns must stay false: reward functions see every column of the data.")
        if self.num_generations < 2:
            raise ValueError(
                f"num_generations must be at least 2, not {self.num_generations}: advantages compare the completions "
                "of one prompt."
            )
        if self.per_device_train_batch_size % self.num_generations:
            lower = self.per_device_train_batch_size // self.num_generations * self.num_generations
            raise ValueError(
                f"per_device_train_batch_size ({self.per_device_train_batch_size}) counts completions and must be a "
                f"multiple of num_generations ({self.num_generations}), since a group never leaves its device: take "
                f"{lower or self.num_generations} or {lower + self.num_generations}."
            )
        for name in _AT_LEAST_ONE:
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive when training, not {self.temperature}.")
        if self.sync_ref_model and not self.beta:
            raise ValueError("--sync_ref_model needs a reference model: set --beta above 0.")
        if self.logps_mode == "replicated" and (self.max_packed_tokens is not None or self.packed_attention != "auto"):
            raise ValueError(
                "--max_packed_tokens and --packed_attention are about packed rows: drop --logps_mode replicated."
            )
        if self.max_packed_tokens is not None and self.top_entropy_quantile < 1:
            raise ValueError(
                "--top_entropy_quantile chooses among the tokens of a whole micro-batch, --max_packed_tokens cuts it: "
                "leave one of them out, or lower per_device_train_batch_size."
            )
        self._check_evaluation()
        for build in (self.build_sampling, self.build_loss_settings, self.build_advantage_settings):
            build()  # refuses what is out of range or would be ignored

    def _check_evaluation(self) -> None:
        if self.do_eval and self.eval_strategy == "no" and not self.eval_on_start:
            raise ValueError(
                "--do_eval alone evaluates nothing: say when, with --eval_strategy steps or epoch, or --eval_on_start."
            )
        if self.eval_strategy != "no" and not self.ds3_gather_for_generation:
            raise ValueError("--ds3_gather_for_generation false allows no evaluation: shares of rows are not equal.")
        if self.eval_num_generations < 1:
            raise ValueError(f"eval_num_generations must be at least 1, not {self.eval_num_generations}.")
        if self.eval_num_generations > 1 and self.eval_temperature == 0:
            raise ValueError(
                "--eval_num_generations above 1 needs an --eval_temperature above 0: greedy completions of one row "
                "are all the same."
            )
        self.build_eval_sampling(seed=self.seed)  # refuses what is out of range

    def build_eval_sampling(self, seed: int) -> SamplingSettings:
        """How the completions of a batch of validation rows are drawn: from all tokens, as `open_r1.score` does."""
        return SamplingSettings(
            max_new_tokens=self.max_completion_length, temperature=self.eval_temperature, seed=seed
        )

    def build_sampling(self) -> SamplingSettings:
        """How completions are drawn in training."""
        return SamplingSettings(
            max_new_tokens=self.max_completion_length,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            min_p=self.min_p,
            repetition_penalty=self.repetition_penalty,
        )

    def build_loss_settings(self) -> LossSettings:
        """Which loss."""
        return LossSettings(
            loss_type=self.loss_type,
            importance_sampling_level=self.importance_sampling_level,
            epsilon_low=self.epsilon,
            epsilon_high=self.epsilon_high,
            delta=self.delta,
            beta=self.beta,
            kl_estimator=self.kl_estimator,
            use_bias_correction_kl=self.use_bias_correction_kl,
            sapo_temperature_pos=self.sapo_temperature_pos,
            sapo_temperature_neg=self.sapo_temperature_neg,
            top_entropy_quantile=self.top_entropy_quantile,
            entropy_coef=self.entropy_coef,
        )

    def build_advantage_settings(self) -> AdvantageSettings:
        """How rewards become advantages."""
        return AdvantageSettings(
            advantage_estimator=self.advantage_estimator,
            scale_rewards=self.scale_rewards,
            multi_objective_aggregation=self.multi_objective_aggregation,
        )

    @property
    def groups_per_step(self) -> int:
        """N, groups per device and micro-batch."""
        return self.per_device_train_batch_size // self.num_generations

    @property
    def is_off_policy(self) -> bool:
        """Whether a round outlives an optimizer step, so that log-probabilities at generation must be kept."""
        return self.num_iterations > 1 or self.gradient_accumulation_steps % self.steps_per_generation != 0

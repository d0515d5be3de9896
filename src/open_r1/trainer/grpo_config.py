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


def _doc(text: str, default=None, **kwargs):
    return field(default=default, metadata={"help": text, **kwargs})


# Options of TrainingArguments that would be accepted and do nothing here, with what to do instead.
_REFUSED = {
    "deepspeed": "DeepSpeed is not supported yet; start several processes with torchrun for data parallelism.",
    "fsdp": "FSDP is not supported yet; start several processes with torchrun for data parallelism.",
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
    "torch_compile": "Compilation is not supported yet.",
}


@dataclass
class GRPOConfig(TrainingArguments):
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

    beta: float = _doc("Weight of the KL term. 0: no reference model is loaded.", 0.04)
    epsilon: float = _doc("The ratio is clipped below 1 - epsilon.", 0.2)
    epsilon_high: float | None = _doc("And above 1 + epsilon_high (DAPO: 0.28). None: epsilon.")
    num_iterations: int = _doc("How often the loss goes over a round (mu).", 1)
    steps_per_generation: int | None = _doc("Micro-batches per round. None: gradient_accumulation_steps.")
    scale_rewards: str = _doc(
        "Advantages are divided by the standard deviation of the group, of the batch, or of nothing.",
        "group",
        choices=["group", "batch", "none"],
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
    offload_vision_features: bool = _doc("Keep the features of a frozen vision tower in CPU memory.", False)

    def __post_init__(self):
        super().__post_init__()
        self.epsilon_high = self.epsilon if self.epsilon_high is None else self.epsilon_high
        if self.steps_per_generation is None:
            self.steps_per_generation = self.gradient_accumulation_steps
        self._check()

    def _check(self) -> None:
        for name, remedy in _REFUSED.items():
            if getattr(self, name, None) not in (None, False, "", "no", 0, 0.0, []):
                raise ValueError(f"--{name} {getattr(self, name)} is refused: {remedy}")
        if self.train_sampling_strategy not in ("random", "sequential"):
            raise ValueError(f"--train_sampling_strategy {self.train_sampling_strategy}: take random or sequential.")
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
        for name in ("steps_per_generation", "num_iterations", "max_completion_length", "logps_chunk_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}.")
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive when training, not {self.temperature}.")
        for name in ("beta", "epsilon", "epsilon_high"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must not be negative, not {getattr(self, name)}.")
        if self.max_prompt_length is not None and self.max_prompt_length < 1:
            raise ValueError(f"max_prompt_length must be at least 1, not {self.max_prompt_length}.")
        self.build_sampling()  # refuses what is out of range

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

    @property
    def groups_per_step(self) -> int:
        """N, groups per device and micro-batch."""
        return self.per_device_train_batch_size // self.num_generations

    @property
    def is_off_policy(self) -> bool:
        """Whether a round outlives an optimizer step, so that log-probabilities at generation must be kept."""
        return self.num_iterations > 1 or self.gradient_accumulation_steps % self.steps_per_generation != 0

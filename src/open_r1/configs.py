"""Arguments of the entry scripts, beside those of the trainer (`trainer/grpo_config.py`)."""

from dataclasses import dataclass, field

from trl import ModelConfig


def _doc(text: str, default=None, **kwargs):
    return field(default=default, metadata={"help": text, **kwargs})


@dataclass
class DataArguments:
    """Rows and images, for every script that trains."""

    data_file_paths: list[str] = field(
        default_factory=list, metadata={"help": "JSONL files; several, or one string of them joined with ':'."}
    )
    image_folders: list[str] = field(
        default_factory=list, metadata={"help": "Root folder of each file's images, in the same order and form."}
    )
    dataset_name: str | None = _doc("Dataset name of rows that carry none. Default: the name of their file.")
    on_bad_data: str = _doc(
        "What to do when rows cannot be used: refuse to start, or leave them out and say how many.",
        "error",
        choices=["error", "skip"],
    )
    verify_images: str = _doc(
        "Check images before training by decoding each (finds truncated files) or by existence only.",
        "decode",
        choices=["decode", "exists"],
    )
    question_template: str = _doc(
        "Instruction that follows the question, and what counts as an answer: with or without thinking.",
        "scoring",
        choices=["scoring", "scoring_no_think"],
    )
    min_pixels: int | None = _doc("Images are enlarged to at least this many pixels. Default: the checkpoint's.")
    max_pixels: int | None = _doc("Images are reduced to at most this many pixels. Default: the checkpoint's.")

    def __post_init__(self):
        for name in ("data_file_paths", "image_folders"):
            if isinstance(getattr(self, name), str):  # one value in a YAML file
                setattr(self, name, [getattr(self, name)])
        if not self.data_file_paths:
            raise ValueError("--data_file_paths is missing: name at least one JSONL file.")
        if not self.image_folders:
            raise ValueError("--image_folders is missing: name the root folder of the images, one per data file.")


@dataclass
class GRPOScriptArguments(DataArguments):
    """What to train on with GRPO, and for what."""

    val_split_ratio: float = _doc("Share of the rows held out for evaluation during training, drawn by --seed.", 0.0)
    reward_funcs: list[str] = field(
        default_factory=lambda: ["accuracy", "format"],
        metadata={"help": "Rewards by registry name or as path/to/file.py:function."},
    )
    task_type: str | None = _doc("Which task `accuracy` and `format` are meant for. Default: by --question_template.")
    ranking_reward: str = _doc(
        "Ranking reward: fidelity, or an ablation of the paper.",
        "fidelity",
        choices=["fidelity", "binary", "probability_average"],
    )
    ranking_scope: str = _doc(
        "Compare with the images of the global batch, or of this device alone.", "global", choices=["global", "device"]
    )
    ranking_variance: str = _doc(
        "Variance of the scores in the ranking probability: of each group, or fixed at 1.",
        "adaptive",
        choices=["adaptive", "fixed"],
    )

    def __post_init__(self):
        super().__post_init__()
        if isinstance(self.reward_funcs, str):
            self.reward_funcs = [self.reward_funcs]
        if not 0 <= self.val_split_ratio < 1:
            raise ValueError(f"--val_split_ratio must be in [0, 1), not {self.val_split_ratio}.")


@dataclass
class SFTScriptArguments(DataArguments):
    """What to learn from in the cold start, and how the target text is made."""

    score_noise_std: float = _doc("Standard deviation of the noise on the scores shown, on the scale of 1 to 5.", 0.0)
    score_decimals: int = _doc("Decimals of the scores shown.", 2)

    def __post_init__(self):
        super().__post_init__()
        if self.score_noise_std < 0:
            raise ValueError(f"--score_noise_std must not be negative, not {self.score_noise_std}.")


@dataclass
class GRPOModelConfig(ModelConfig):
    """Which model, and which part of it is trained."""

    torch_dtype: str | None = _doc(
        "The older spelling of --dtype.", choices=["auto", "bfloat16", "float16", "float32"]
    )
    lora_dropout: float = _doc("LoRA dropout; above 0 the loss is not that of the policy that generated.", 0.0)
    freeze_vision_modules: bool = _doc("Train the language model alone; vision tower and projector stay.", False)

    def __post_init__(self):
        super().__post_init__()
        # TRL unpacks a list of one name, and peft takes a single name for a regular expression.
        if isinstance(self.lora_target_modules, str) and self.lora_target_modules != "all-linear":
            self.lora_target_modules = [self.lora_target_modules]
        if self.model_name_or_path is None:
            raise ValueError("--model_name_or_path is missing: name a checkpoint folder or a model of the hub.")
        if self.torch_dtype is not None:
            self.dtype = self.torch_dtype
        if self.load_in_4bit or self.load_in_8bit:
            raise ValueError("--load_in_4bit and --load_in_8bit are not supported yet: use --use_peft without them.")

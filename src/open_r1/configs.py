"""Arguments of the entry scripts, beside those of the trainer (`trainer/grpo_config.py`)."""

import importlib.util
import re
import warnings
from dataclasses import dataclass, field, fields

from trl import ModelConfig

from open_r1.data_arguments import DataArguments
from open_r1.reward_arguments import RewardArguments


MODEL_PARTS = ("language", "projector", "vision")

# Options that do nothing without another one.
_OPTIONS_OF_4BIT = ("bnb_4bit_quant_type", "use_bnb_nested_quant", "bnb_4bit_quant_storage")
_OPTIONS_OF_ADAPTERS = (
    *("lora_r", "lora_alpha", "lora_dropout", "lora_modules", "lora_target_modules", "lora_target_parameters"),
    *("lora_modules_to_save", "lora_task_type", "use_rslora", "use_dora"),
)


def _doc(text: str, default=None, **kwargs):
    return field(default=default, metadata={"help": text, **kwargs})


@dataclass
class GRPOScriptArguments(RewardArguments, DataArguments):
    """What to train on with GRPO, and for what."""

    val_split_ratio: float = _doc("Share of the rows held out for evaluation during training, drawn by --seed.", 0.0)
    eval_data_file_paths: list[str] = field(
        default_factory=list, metadata={"help": "JSONL files to evaluate on, in place of rows that are held out."}
    )
    eval_image_folders: list[str] = field(
        default_factory=list, metadata={"help": "Root folder of each of their images."}
    )
    dry_run: bool = _doc(
        "Check options, rows, rewards and some prompts, print what the run would do, and stop before loading weights.",
        False,
    )
    is_reward_customized_from_vlm_module: bool = _doc("Deprecated: --task_type says what the rewards mean.", False)

    def __post_init__(self):
        DataArguments.__post_init__(self)
        RewardArguments.__post_init__(self)
        if self.is_reward_customized_from_vlm_module:
            warnings.warn(
                "--is_reward_customized_from_vlm_module does nothing: --task_type says which rewards the names "
                "accuracy and format stand for, whatever the model.",
                FutureWarning,
                stacklevel=2,
            )
        for name in ("eval_data_file_paths", "eval_image_folders"):
            if isinstance(getattr(self, name), str):
                setattr(self, name, [getattr(self, name)])
        if not 0 <= self.val_split_ratio < 1:
            raise ValueError(f"--val_split_ratio must be in [0, 1), not {self.val_split_ratio}.")
        if self.val_split_ratio and self.eval_data_file_paths:
            raise ValueError(
                "--val_split_ratio holds rows of the training data out, --eval_data_file_paths names others: give one."
            )
        is_rooted = self.image_root is not None or all(path.endswith(".yaml") for path in self.eval_data_file_paths)
        if bool(self.eval_data_file_paths) != bool(self.eval_image_folders) and not (
            is_rooted and self.eval_data_file_paths
        ):
            raise ValueError(
                "--eval_data_file_paths and --eval_image_folders belong together: name a folder for each file."
            )

    @property
    def all_file_paths(self) -> list[str]:
        return [*super().all_file_paths, *self.eval_data_file_paths]


@dataclass
class RecScriptArguments(GRPOScriptArguments):
    """The same with the defaults of `grpo_rec`."""

    task_type: str | None = _doc("What the rows ask for: rec, vqa, ic, odLength, … (docs/tasks.md).", "rec")


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
    """Which model, and which part of it is trained, and how. What each option does: docs/peft.md."""

    vlm_module: str | None = _doc(
        "Family of the model, in place of what its configuration says: a name of docs/models.md, or file.py:Class."
    )
    torch_dtype: str | None = _doc(
        "The older spelling of --dtype.", choices=["auto", "bfloat16", "float16", "float32"]
    )
    target_modules: list[str] | None = _doc("Another spelling of --lora_target_modules.")
    lora_dropout: float = _doc(
        "LoRA dropout in sft. GRPO takes none: its loss is that of the policy that generated.", 0.0
    )
    lora_modules: list[str] | None = _doc(
        "Parts whose linear layers get adapters, where --lora_target_modules does not name them. Default: language.",
        choices=list(MODEL_PARTS),
    )
    trust_remote_code: bool = _doc(
        "Run the Python code that comes with the model or with a reward model (docs/internvl.md).", False
    )
    freeze_vision_modules: bool = _doc("Train the language model alone; vision tower and projector stay.", False)
    freeze_projector: bool | None = _doc("The same for the projector alone. Default: as --freeze_vision_modules.")
    freeze_language_model: bool = _doc("Train vision tower and projector alone.", False)

    def __post_init__(self):
        if self.target_modules is not None:
            if self.lora_target_modules is not None:
                raise ValueError("--target_modules and --lora_target_modules are the same option: give one of them.")
            self.lora_target_modules, self.target_modules = self.target_modules, None
        super().__post_init__()
        if self.attn_implementation == "auto":
            self.attn_implementation = None  # what transformers takes for the model: sdpa, which packed rows need
        self.lora_target_modules = _read_targets(self.lora_target_modules)
        for name in ("lora_modules", "lora_modules_to_save", "lora_target_parameters"):
            if isinstance(getattr(self, name), str):  # one value in a YAML file
                setattr(self, name, [getattr(self, name)])
        if self.model_name_or_path is None:
            raise ValueError("--model_name_or_path is missing: name a checkpoint folder or a model of the hub.")
        if self.torch_dtype is not None:
            self.dtype = self.torch_dtype
        self._check_quantisation()
        self._check_adapters()
        if set(self.frozen_parts) == set(MODEL_PARTS):
            raise ValueError(
                "Everything is frozen: leave out one of --freeze_language_model, --freeze_vision_modules."
            )

    @property
    def frozen_parts(self) -> list[str]:
        """The parts whose parameters stay as they are, adapters included."""
        freezes_projector = self.freeze_vision_modules if self.freeze_projector is None else self.freeze_projector
        is_frozen = {
            "language": self.freeze_language_model,
            "projector": freezes_projector,
            "vision": self.freeze_vision_modules,
        }
        return [part for part in MODEL_PARTS if is_frozen[part]]

    @property
    def adapted_parts(self) -> list[str]:
        """The parts whose linear layers get adapters, where no targets are named."""
        return self.lora_modules or ["language"]

    @property
    def adapts_layers(self) -> bool:
        """Whether layers get adapters, as they do unless single parameters are named alone."""
        chosen = (self.lora_modules, self.lora_target_modules)
        return self.lora_target_parameters is None or any(choice is not None for choice in chosen)

    def _check_quantisation(self) -> None:
        if self.load_in_4bit or self.load_in_8bit:
            if not self.use_peft:
                raise ValueError(
                    "Quantised weights cannot be trained themselves: add --use_peft for adapters on them."
                )
            if importlib.util.find_spec("bitsandbytes") is None:
                raise ValueError('--load_in_4bit and --load_in_8bit need bitsandbytes: pip install -e ".[quant]"')
        if not self.load_in_4bit:
            self._refuse_changes(_OPTIONS_OF_4BIT, "--load_in_4bit")

    def _check_adapters(self) -> None:
        if not self.use_peft:
            self._refuse_changes(_OPTIONS_OF_ADAPTERS, "--use_peft")
            return
        if self.lora_task_type != "CAUSAL_LM":
            raise ValueError(f"--lora_task_type {self.lora_task_type}: only CAUSAL_LM models are trained here.")
        if self.lora_modules is not None and self.lora_target_modules is not None:
            raise ValueError(
                "--lora_modules names whole parts, --lora_target_modules single layers: give one of them."
            )
        unknown = sorted(set(self.adapted_parts) - set(MODEL_PARTS))
        if unknown:
            raise ValueError(f"--lora_modules {' '.join(unknown)}: take some of {', '.join(MODEL_PARTS)}.")
        contradictory = [part for part in self.adapted_parts if part in self.frozen_parts]
        if contradictory and self.adapts_layers and self.lora_target_modules is None:
            raise ValueError(
                f"The adapters of {', '.join(contradictory)} would be frozen by --freeze_*. Choose other parts with "
                "--lora_modules, or free the projector with --freeze_projector false."
            )

    def _refuse_changes(self, names: tuple[str, ...], remedy: str) -> None:
        for option in fields(self):
            if option.name in names and getattr(self, option.name) != option.default:
                raise ValueError(f"--{option.name} does nothing without {remedy}: add it, or leave the option out.")


def _read_targets(targets: list[str] | str | None) -> list[str] | str | None:
    """LoRA targets as peft takes them: a list of names, or a string for `all-linear` and a regular expression.

    A regular expression is told from a name by its characters: names have letters, digits, `_`, `-` and `.` only.

    Raises:
        ValueError: a regular expression, or `all-linear`, does not stand alone.
    """
    if targets is None:
        return None
    targets = [targets] if isinstance(targets, str) else list(targets)
    special = [target for target in targets if target == "all-linear" or re.search(r"[^\w.-]", target)]
    if special and len(targets) > 1:
        raise ValueError(
            f"--lora_target_modules {special[0]}: all-linear and regular expressions stand alone; "
            "join several expressions with '|'."
        )
    return special[0] if special else targets

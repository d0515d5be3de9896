"""Options of the rewards, as `grpo_jsonl` and `grpo_rec` take them.

A field whose name is that of a reward's keyword-only parameter sets it (`open_r1.rewards.build_reward_funcs`).
"""

from dataclasses import dataclass, field, fields
from typing import Any

from open_r1.judge_arguments import JudgeArguments
from open_r1.utils.boxes import BOX_FORMATS


def _doc(text: str, default=None, **kwargs):
    return field(default=default, metadata={"help": text, **kwargs})


@dataclass
class RewardArguments(JudgeArguments):
    """Which rewards, and how they are meant."""

    reward_funcs: list[str] = field(
        default_factory=lambda: ["accuracy", "format"],
        metadata={
            "help": "Rewards by registry name, as path/to/file.py:function, or reward models (docs/rewards.md)."
        },
    )
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
    overlong_cache: int | None = _doc(
        "Tokens before max_completion_length in which the reward `overlong` falls from 0 to -1. Default: a fifth."
    )
    box_format: str = _doc(
        "Coordinates of boxes in answers: pixels of the picture, or of the picture as resized for the model, or "
        "relative; auto: as the model family writes them.",
        "auto",
        choices=["auto", *BOX_FORMATS],
    )
    label_box_format: str = _doc("Coordinates of boxes in labels.", "pixel", choices=list(BOX_FORMATS))
    regression_kernel: str = _doc(
        "Shape of the reward `score_regression`: 1 within a distance of the MOS, or falling with it.",
        "threshold",
        choices=["threshold", "gaussian"],
    )
    regression_width: float = _doc("That distance, or the standard deviation.", 0.35)
    numeric_relative_tolerance: float = _doc(
        "Share of the gold number that `vqa_accuracy` lets an answer be off by; never for counts and years.",
        1e-2,
    )
    numeric_absolute_tolerance: float = _doc("The same as an amount; the larger one holds.", 0.0)
    answer_language: str = _doc(
        "Language of the answers in `vqa_accuracy`: in English, a leading a, an or the does not count.", "en"
    )
    length_accuracy: str = _doc("Reward by which the reward `length` tells right from wrong.", "accuracy")
    length_correct_from: float = _doc("The least that it gives to a right answer.", 0.7)
    length_horizon: int = _doc("Tokens after which the reward `length` changes no more.", 1024)
    length_correct: list[float] = field(
        default_factory=lambda: [1.0, 0.5],
        metadata={"help": "Reward `length` of a right answer of no length, and of one that reaches the horizon."},
    )
    length_wrong: list[float] = field(
        default_factory=lambda: [0.0, -0.5], metadata={"help": "The same of a wrong answer."}
    )
    repetition_ngram: int = _doc("Words of the n-grams that the reward `repetition` counts.", 6)
    reasoning_encoder: str = _doc(
        "Sentence encoder of the reward `reasoning`: a folder, or a model of the hub.", "all-MiniLM-L6-v2"
    )
    reasoning_threshold: float | None = _doc("Cosine above which two reasoning steps match. Default: the encoder's.")
    reasoning_matching: str = _doc(
        "How steps are matched one to one: the most similar first, or as many as there can be.",
        "greedy",
        choices=["greedy", "maximum"],
    )
    explanation_alpha: float = _doc(
        "Weight of CIDEr in the reward `explanation`; the rest is the fit to the image.", 0.5
    )
    explanation_clip_model: list[str] = field(
        default_factory=lambda: ["sentence-transformers/clip-ViT-B-32-multilingual-v1"],
        metadata={
            "help": "Image-text encoder of the reward `explanation`, a folder or a model of the hub, multilingual by "
            "default; or a text tower and the model whose pictures it was taught to agree with."
        },
    )
    explanation_clip_range: list[float] | None = _doc(
        "100 times the cosine of image and explanation that scores 0, and that which scores 1. Default: 15 35."
    )
    reward_device: str = _doc(
        "Device of the rewards' encoders and of reward models; `cuda` is each process's own GPU.", "cpu"
    )

    def __post_init__(self):
        if not 0 <= self.explanation_alpha <= 1:
            raise ValueError(f"--explanation_alpha must be between 0 and 1, not {self.explanation_alpha}.")
        if isinstance(self.explanation_clip_model, str):
            self.explanation_clip_model = [self.explanation_clip_model]
        if not 1 <= len(self.explanation_clip_model) <= 2:
            raise ValueError("--explanation_clip_model takes one name, or those of a text tower and an image tower.")
        if self.explanation_clip_range is not None and len(self.explanation_clip_range) != 2:
            raise ValueError("--explanation_clip_range takes two numbers, such as 15 35.")
        for name in ("length_correct", "length_wrong"):
            if len(getattr(self, name)) != 2:
                raise ValueError(f"--{name} takes two numbers, such as 1 0.5.")
        if self.length_horizon < 1:
            raise ValueError(f"--length_horizon must be at least 1, not {self.length_horizon}.")
        if isinstance(self.reward_funcs, str):
            self.reward_funcs = [self.reward_funcs]
        if self.overlong_cache is not None and "overlong" not in self.reward_funcs:
            raise ValueError("--overlong_cache belongs to the reward `overlong`: add it to --reward_funcs.")
        if "llm_judge" in self.reward_funcs and self.judge_model is None:
            raise ValueError(
                "--reward_funcs llm_judge needs a judge: name one with --judge_model and --judge_base_url."
            )

    @property
    def reward_options(self) -> dict[str, Any]:
        """What is set on the reward functions, by name."""
        of_judge = {item.name for item in fields(JudgeArguments)}  # see `build_judge`
        names = [item.name for item in fields(RewardArguments) if item.name not in {*_NOT_OF_A_REWARD, *of_judge}]
        return {name: getattr(self, name) for name in names}


# What is no option of a reward function; `overlong_cache` is resolved by the limit of completions.
_NOT_OF_A_REWARD = ("reward_funcs", "overlong_cache")

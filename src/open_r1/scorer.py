"""Scores the quality of images and videos from Python, with the prompts and numbers of `python -m open_r1.score`.

    from open_r1.scorer import Scorer

    scorer = Scorer.from_pretrained("output/run")
    for record in scorer.score(["a.png", Image.open("b.png"), np.zeros((64, 64, 3), np.uint8)]):
        print(record.path, record.score, record.std, record.texts)

The prompt is that of training: the same contract, the same message, the same encoder.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from open_r1.completions import IQA_QUESTION, get_answer_contract, parse_score
from open_r1.data.columns import build_prompt
from open_r1.data.media import VIDEO_SUFFIXES, convert_image, load_image, read_image_size
from open_r1.data.video import VideoSettings, load_video
from open_r1.templates import DESCRIPTION_QUESTION
from open_r1.utils.predictions import Prediction
from open_r1.utils.scoring import BATCH_SIZES, build_prediction, compute_batch_seed, plan_batches


if TYPE_CHECKING:
    from open_r1.inference.hf_generator import HFGenerator
    from open_r1.inference.vllm_generator import VLLMGenerator
    from open_r1.vlm_modules.processors import ImageBounds
    from open_r1.vlm_modules.vlm_module import EncodedMedia, EncodedPrompt

Picture = str | os.PathLike | Image.Image | np.ndarray  # a file of an image or video; an image; (H, W, 3) uint8


@dataclass(frozen=True, kw_only=True)
class ScoringSettings:
    """How images are asked about and answers are drawn."""

    question_template: str = "scoring"
    """What follows the question: `scoring`, `scoring_no_think`, or the path of a text file with {Question} in it."""
    question: str = IQA_QUESTION
    batch_size: int | None = None
    """Images that are asked about at once. None: 8, or 64 with vLLM."""
    num_samples: int = 1
    """Answers per image; the score is the mean of those that can be read."""
    temperature: float | None = None
    """0 is greedy. None: 0, or 1 with several samples."""
    seed: int = 42
    max_new_tokens: int = 512
    describe: bool = False
    """Ask for a description of the quality as well, in a conversation of its own, greedily."""
    video: VideoSettings = field(default_factory=VideoSettings)

    def __post_init__(self):
        if self.num_samples < 1 or (self.batch_size is not None and self.batch_size < 1):
            raise ValueError("--num_samples and --batch_size must be at least 1")
        if self.temperature is None:
            object.__setattr__(self, "temperature", 1.0 if self.num_samples > 1 else 0.0)
        if self.num_samples > 1 and self.temperature == 0:
            raise ValueError("--num_samples above 1 needs a --temperature above 0: greedy answers are all the same")
        if "answer" not in get_answer_contract(self.question_template).sections:
            raise ValueError(
                f"--question_template {self.question_template} asks for no answer in answer tags, which scores are "
                "read from: take scoring, scoring_no_think, or a text with these tags in it."
            )

    @property
    def prompt_text(self) -> str:
        """What the user says about an image."""
        return get_answer_contract(self.question_template).render(self.question)


class Scorer:
    """Scores images with one model and one prompt.

    Args:
        generator: Completes prompts.
        settings: How to ask and draw.
    """

    def __init__(self, generator: "HFGenerator | VLLMGenerator", settings: ScoringSettings | None = None):
        self.generator = generator
        self.settings = settings or ScoringSettings()
        self.batch_size = self.settings.batch_size or BATCH_SIZES[generator.engine_name]
        self.num_cut = 0  # unparsed answers that had reached the token limit

    @classmethod
    def from_pretrained(
        cls,
        path: str,
        device: str = "auto",
        dtype: str = "auto",
        thinking: bool | None = None,
        settings: ScoringSettings | None = None,
        bounds: "ImageBounds | None" = None,
        engine: str = "hf",
        **options: Any,
    ) -> "Scorer":
        """Loads a checkpoint.

        Args:
            path: Its folder, or its name on the Hugging Face hub; a folder of adapters is merged.
            device: As `cuda:0` or `cpu`; `auto` is CUDA where there is one. vLLM takes `auto` alone.
            dtype: Precision of the weights, as `bfloat16`; `auto` is the checkpoint's.
            thinking: Which of the two templates, in place of the settings' own.
            settings: How to ask and draw.
            bounds: How large images may be; None: the checkpoint's.
            engine: Who completes: `hf`, transformers; or `vllm`, which gives the same greedy answers, sooner on a GPU.
            options: `vlm_module_name`, the family where the configuration does not tell; `trust_remote_code`; and of
                vLLM `gpu_memory_utilization`, `tensor_parallel_size`, `max_model_length`, `enforce_eager`.

        Raises:
            ValueError: no such checkpoint, an unknown family, bounds that it does not have; a family or a version of
                vLLM that are not supported.
            ImportError: vLLM is not installed.
            EngineError: vLLM does not start.
        """
        settings = settings or ScoringSettings()
        if thinking is not None:
            settings = replace(settings, question_template="scoring" if thinking else "scoring_no_think")
        sizes = {} if bounds is None else vars(bounds)
        generator_class = _import_generator(engine)
        return cls(
            generator_class.from_pretrained(str(path), dtype=dtype, device=device, **options, **sizes), settings
        )

    def score(self, pictures: Sequence[Picture]) -> list[Prediction]:
        """Scores files of images and videos, PIL images, and arrays (H, W, 3) uint8, in any mixture.

        Returns:
            A record for each, in order: `score` (None where the answer has none), `texts`, `std` (of several samples),
            `description` (where asked for), and `error`: why there is no score. A picture without a file is called
            after its place, as `images[3]`.

        Raises:
            ValueError: something that is no picture.
        """
        if isinstance(pictures, Picture):
            raise ValueError("score takes a list of pictures, not a single one: [picture]")
        names = [_name_picture(index, picture) for index, picture in enumerate(pictures)]
        sizes = [None if is_video(picture) else _get_size(picture) for picture in pictures]
        records: dict[int, Prediction] = {}
        for batch in plan_batches(sizes, list(map(is_video, pictures)), self.batch_size):
            scored = self.score_batch([pictures[index] for index in batch], [names[index] for index in batch])
            records |= zip(batch, scored, strict=True)
        return [records[index] for index in range(len(names))]

    def score_batch(self, pictures: Sequence[Picture], names: Sequence[str] | None = None) -> list[Prediction]:
        """Scores one batch as it is; those that cannot be read get a record that says why.

        Args:
            pictures: What to score.
            names: Their names, which with `seed` decide what is drawn. None: the pictures are paths.
        """
        names = list(map(str, pictures)) if names is None else names
        media: dict[int, EncodedMedia] = {}
        records: dict[int, Prediction] = {}
        for index, (picture, name) in enumerate(zip(pictures, names, strict=True)):
            try:
                media[index] = self._encode_picture(picture, name)
            except ValueError as error:  # a damaged file, or a shape that the processor refuses
                records[index] = Prediction(path=name, error=str(getattr(error, "reason", error)))
        if media:
            answers = self._answer(list(media.values()), compute_batch_seed(self.settings.seed, names))
            records |= {
                index: replace(build_prediction(names[index], texts), description=description)
                for index, (texts, description) in zip(media, answers, strict=True)
            }
        return [records[index] for index in range(len(names))]

    def encode_prompt(self, item: "EncodedMedia", text: str | None = None) -> "EncodedPrompt":
        """The conversation about one image or video, by default the one that asks for its score."""
        module, processor = self.generator.vlm_module, self.generator.processor
        images, videos = ([item], []) if item.kind == "image" else ([], [item])
        messages = build_prompt(text or self.settings.prompt_text, len(images), len(videos))
        return module.encode_prompt(processor, messages, images, videos)

    def _encode_picture(self, picture: Picture, name: str) -> "EncodedMedia":
        module, processor = self.generator.vlm_module, self.generator.processor
        if is_video(picture):
            settings = self.settings.video
            clip = load_video(picture, settings, module.get_temporal_patch_size(processor))
            return module.encode_video(
                processor, clip.frames, clip.timestamps, clip.seconds_per_frame, settings.max_pixels
            )
        if isinstance(picture, np.ndarray):
            picture = Image.fromarray(picture)
        image = convert_image(picture, name) if isinstance(picture, Image.Image) else load_image(picture)
        return module.encode_image(processor, image)

    def _answer(self, media: list["EncodedMedia"], seed: int) -> list[tuple[list[str], str | None]]:
        """The K texts about each, and its description where one is wanted."""
        settings = self.settings
        prompts = [self.encode_prompt(item) for item in media]
        texts, reasons = self._complete(prompts, settings.num_samples, settings.temperature, seed)
        self.num_cut += sum(
            reason == "length" and parse_score(text) is None for text, reason in zip(texts, reasons, strict=True)
        )
        descriptions: list[Any] = [None] * len(media)
        if settings.describe:
            prompts = [self.encode_prompt(item, DESCRIPTION_QUESTION) for item in media]
            descriptions, _ = self._complete(prompts, 1, 0.0, seed)
        groups = [texts[start : start + settings.num_samples] for start in range(0, len(texts), settings.num_samples)]
        return list(zip(groups, descriptions, strict=True))

    def _complete(
        self, prompts: list["EncodedPrompt"], num_samples: int, temperature: float, seed: int
    ) -> tuple[list[str], list[str]]:
        from open_r1.inference.generator import SamplingSettings

        sampling = SamplingSettings(max_new_tokens=self.settings.max_new_tokens, temperature=temperature, seed=seed)
        completions = self.generator.generate(prompts, num_samples, sampling)
        return self.generator.decode(completions.token_ids), completions.finish_reasons


def _import_generator(engine: str) -> "type[HFGenerator | VLLMGenerator]":
    if engine == "hf":
        from open_r1.inference.hf_generator import HFGenerator

        return HFGenerator
    if engine == "vllm":
        from open_r1.inference.vllm_generator import VLLMGenerator

        return VLLMGenerator
    raise ValueError(f"engine {engine!r}: take one of {', '.join(BATCH_SIZES)}.")


def is_video(picture: Picture) -> bool:
    """Whether a path is that of a video, by its suffix."""
    return isinstance(picture, str | os.PathLike) and os.fspath(picture).lower().endswith(VIDEO_SUFFIXES)


def _name_picture(index: int, picture: Picture) -> str:
    """The path, or the place in the list; ValueError for what is no picture."""
    if isinstance(picture, str | os.PathLike):
        return str(picture)
    if isinstance(picture, np.ndarray):
        if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[-1] != 3 or picture.size == 0:
            raise ValueError(
                f"images[{index}] must be uint8 of shape (H, W, 3), not {picture.dtype} of {picture.shape}"
            )
    elif not isinstance(picture, Image.Image):
        raise ValueError(
            f"images[{index}] is a {type(picture).__name__}; known: a path, a PIL image, an array (H, W, 3)"
        )
    return f"images[{index}]"


def _get_size(picture: Picture) -> tuple[int, int] | None:
    if isinstance(picture, Image.Image):
        return picture.size
    if isinstance(picture, np.ndarray):
        return picture.shape[1], picture.shape[0]
    return read_image_size(picture)

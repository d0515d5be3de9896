"""Qwen2.5-VL models of several sizes with random weights, made on the spot; nothing is downloaded.

`small` is the model of the CPU benchmarks: a decoder of 6 layers, and a vision tower whose cost per image token is
about 0.4 of the decoder's, as in the 7B model. `3b` and `7b` have the sizes of the released checkpoints. Weights are
random; a benchmark asks how long a pass takes, not what it says.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from open_r1.tiny import (
    IM_END,
    IMAGE_PAD,
    PATCH_SIZE,
    SPECIAL_TOKENS,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    build_processor,
)


if TYPE_CHECKING:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLProcessor


MAX_PIXELS = 2240 * 2240
HEAD_SPREAD = 4.0  # standard deviation of the logits; end tokens have a logit of 0 and so are never drawn
PERTURBATION = 0.02  # relative change of the policy's weights, so that it differs from the reference


@dataclass(frozen=True, kw_only=True)
class Shape:
    """Sizes of a model, by transformers' names."""

    text: dict[str, int]
    vision: dict[str, Any]
    vocab_size: int
    mrope_section: tuple[int, int, int]
    tie_word_embeddings: bool = False
    dtype: torch.dtype = torch.float32
    spread: float = 0.08  # of weight matrices
    extra: dict[str, Any] = field(default_factory=dict)


def _text(hidden: int, intermediate: int, layers: int, heads: int, key_value_heads: int) -> dict[str, int]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": key_value_heads,
    }


def _vision(hidden: int, intermediate: int, depth: int, heads: int, full_attention: list[int]) -> dict[str, Any]:
    return {
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "depth": depth,
        "num_heads": heads,
        "fullatt_block_indexes": full_attention,
    }


SHAPES = {
    "tiny": Shape(
        text=_text(64, 128, 2, 2, 1), vision=_vision(32, 64, 2, 2, [1]), vocab_size=1280, mrope_section=(4, 6, 6)
    ),
    "small": Shape(
        text=_text(256, 1024, 6, 8, 2), vision=_vision(96, 96, 6, 2, [5]), vocab_size=4096, mrope_section=(4, 6, 6)
    ),
    "3b": Shape(
        text=_text(2048, 11008, 36, 16, 2), vision=_vision(1280, 3420, 32, 16, [7, 15, 23, 31]), vocab_size=151936,
        mrope_section=(16, 24, 24), tie_word_embeddings=True, dtype=torch.bfloat16, spread=0.02,
    ),
    "7b": Shape(
        text=_text(3584, 18944, 28, 28, 4), vision=_vision(1280, 3420, 32, 16, [7, 15, 23, 31]), vocab_size=152064,
        mrope_section=(16, 24, 24), dtype=torch.bfloat16, spread=0.02,
    ),
}  # fmt: skip


def build_bench_processor() -> "Qwen2_5_VLProcessor":
    """The processor of `open_r1.tiny` without its bound on the size of pictures."""
    processor = build_processor()
    processor.image_processor.size = {"shortest_edge": (2 * PATCH_SIZE) ** 2, "longest_edge": MAX_PIXELS}
    return processor


def build_config(shape: Shape, processor: "Qwen2_5_VLProcessor") -> "Qwen2_5_VLConfig":
    from transformers import Qwen2_5_VLConfig

    ids = {token: processor.tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    text = shape.text | {
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": 32768,
        "initializer_range": shape.spread,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 1e6, "mrope_section": list(shape.mrope_section),
        },
        "bos_token_id": None,
        "eos_token_id": ids[IM_END],
        "pad_token_id": processor.tokenizer.pad_token_id,
    }  # fmt: skip
    vision = shape.vision | {
        "out_hidden_size": shape.text["hidden_size"],
        "patch_size": PATCH_SIZE,
        "initializer_range": shape.spread,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids[IMAGE_PAD],
        video_token_id=ids[VIDEO_PAD],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=shape.tie_word_embeddings,
        initializer_range=shape.spread,
    )


def build_model(
    shape: Shape, processor: "Qwen2_5_VLProcessor", device: torch.device | str = "cpu", seed: int = 0
) -> "Qwen2_5_VLForConditionalGeneration":
    """A model with random weights, in the shape's dtype, made on its device."""
    from transformers import GenerationConfig, Qwen2_5_VLForConditionalGeneration

    config = build_config(shape, processor)
    default_dtype = torch.get_default_dtype()
    torch.set_default_dtype(shape.dtype)
    try:
        with torch.random.fork_rng(devices=[]), torch.device(device):
            torch.manual_seed(seed)
            model = Qwen2_5_VLForConditionalGeneration(config)
    finally:
        torch.set_default_dtype(default_dtype)
    end_ids = [processor.tokenizer.eos_token_id, processor.tokenizer.pad_token_id]
    model.generation_config = GenerationConfig(eos_token_id=end_ids, pad_token_id=end_ids[1])
    if not shape.tie_word_embeddings:
        weight = model.get_output_embeddings().weight.data
        weight.mul_(HEAD_SPREAD / (shape.spread * shape.text["hidden_size"] ** 0.5))
        weight[end_ids] = 0
    return model.eval()


def perturb(model: torch.nn.Module, seed: int = 1) -> None:
    """Moves the decoder's matrices a little; the vision tower and the head stay as they are."""
    generator = torch.Generator(model.device).manual_seed(seed)
    with torch.no_grad():
        for parameter in model.model.language_model.layers.parameters():
            spread = PERTURBATION * parameter.std() if parameter.ndim == 2 else 0.0
            parameter.add_(torch.empty_like(parameter).normal_(generator=generator) * spread)

"""Builds a small Qwen2.5-VL with random weights, offline and in seconds, for the demo and for tests.

    python -m open_r1.tiny --output_dir output/demo/model --preset demo --seed 42

The result is an ordinary checkpoint folder: `AutoProcessor` and `AutoModelForImageTextToText` load it, every entry of
this project takes it as `--model_name_or_path`. Configuration, model and processor classes are the real family's, with
its special tokens and chat format; only the sizes differ, and the vocabulary, which is trained here on the few
sentences that the demo needs. Nothing is learnt beforehand and nothing is downloaded:

* The tokenizer is a byte-level BPE, so it can write anything, but its merges cross blanks: the fixed instruction costs
  a dozen tokens instead of eighty. Digits stay single. `<think>`, `</think>`, `<answer>` and `</answer>` are tokens of
  their own (not special ones, so they survive decoding) which swallow the blanks beside them.
* The patch embedding starts as a two-dimensional discrete cosine transform: most rows are luminance frequencies, high
  ones amplified by (1 + f)^2 because photographs hold little of them; the other rows are low frequencies of the two
  colour differences. Blur, noise and blocking show in this spectrum; a small tower would otherwise spend the whole
  demo on finding it.
* The first vision MLP starts as squares: its gated units compute the energy of each of those rows (relative to the
  patch's, since a norm comes before), and add it to the row itself. Residual branches of the vision tower start small.
* Other weights are drawn with a spread of 0.08 instead of 0.02, which suits widths of a hundred or two.

The vision tower's start is arithmetic, not training, and all of it stays trainable.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from open_r1.completions import IQA_QUESTION, get_answer_contract


if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
    )


PATCH_SIZE = 14  # pixels; the family's
SPECTRUM_TILT = 2.0  # exponent of the amplification of high luminance frequencies
COLOR_GAIN = 10.0  # amplification of the rows of colour differences, which hold low frequencies only
RESIDUAL_GAIN = 0.3  # of the vision tower's residual branches at the start
INIT_SPREAD = 0.08  # standard deviation of all other weight matrices
MAX_VOCAB_SIZE = 1024
TEMPLATES = ("default", "scoring", "scoring_no_think")  # the instructions that the vocabulary is trained on
MAX_PIXELS = 448 * 448  # larger pictures are scaled down to this area

END_OF_TEXT, IM_START, IM_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END = "<|vision_start|>", "<|vision_end|>"
IMAGE_PAD, VIDEO_PAD = "<|image_pad|>", "<|video_pad|>"
SPECIAL_TOKENS = (END_OF_TEXT, IM_START, IM_END, VISION_START, VISION_END, IMAGE_PAD, VIDEO_PAD)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if loop.first and message['role'] != 'system' %}"
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
    "{% endif %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif part['type'] == 'video' %}<|vision_start|><|video_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# What the tokenizer learns its merges from, besides the instructions.
SENTENCES = (
    "system\nYou are a helpful assistant.",
    "user\n",
    "assistant\n",
    *("gaussian blur", "lens blur", "motion blur", "color diffusion", "color shift", "color quantization"),
    *("desaturation", "oversaturation", "jpeg2000", "jpeg", "white noise", "color noise", "impulse noise"),
    *("speckle noise", "denoising", "brightening", "darkening", "mean shift", "jitter", "pixelation", "quantization"),
    *("color blocks", "sharpening", "contrast change"),
    "The picture shows blur, noise and compression. It is sharp and clear, bright, dark or distorted.",
    "What is in this image? Describe the video. Is the quality of the photograph poor, fair, good or excellent?",
)


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Sizes of a model. Head sizes must divide the widths; a text head of 64 is what vLLM takes on a CPU, too."""

    text_width: int
    text_layers: int
    text_heads: int
    text_key_value_heads: int
    text_mlp_width: int
    vision_width: int
    vision_layers: int
    vision_heads: int


PRESETS = {
    "test": Preset(
        text_width=64, text_layers=2, text_heads=2, text_key_value_heads=1, text_mlp_width=128,
        vision_width=64, vision_layers=2, vision_heads=2,
    ),
    "demo": Preset(
        text_width=192, text_layers=4, text_heads=3, text_key_value_heads=1, text_mlp_width=512,
        vision_width=192, vision_layers=2, vision_heads=3,
    ),
}  # fmt: skip


def build_tokenizer() -> "Tokenizer":
    """A BPE tokenizer over bytes, trained on the instructions and `SENTENCES`; the same on every call."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    by_digit, by_byte = pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([by_digit, by_byte(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    instructions = [get_answer_contract(name).render(IQA_QUESTION) for name in TEMPLATES]
    tags = get_answer_contract("scoring").tags
    for tag in tags:
        instructions = [piece.strip(" ") for text in instructions for piece in text.split(tag)]
    trainer = trainers.BpeTrainer(
        vocab_size=MAX_VOCAB_SIZE - len(SPECIAL_TOKENS) - len(tags),
        initial_alphabet=by_byte.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*SENTENCES, *instructions] * 2, trainer)  # twice: a merge needs two sightings
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    tokenizer.add_tokens([AddedToken(tag, normalized=False, lstrip=True, rstrip=True) for tag in tags])
    return tokenizer


def build_processor() -> "Qwen2_5_VLProcessor":
    """The family's processor around `build_tokenizer`; pictures above MAX_PIXELS are scaled down."""
    from transformers import (
        PreTrainedTokenizerFast,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(),
        eos_token=IM_END,
        pad_token=END_OF_TEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_max_length=32768,
        extra_special_tokens={"image_token": IMAGE_PAD, "video_token": VIDEO_PAD},
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    size = {"shortest_edge": (2 * PATCH_SIZE) ** 2, "longest_edge": MAX_PIXELS}  # areas, in spite of the names
    return Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(size=size, patch_size=PATCH_SIZE),
        tokenizer=tokenizer,
        video_processor=Qwen2VLVideoProcessor(size=size, patch_size=PATCH_SIZE),
        chat_template=CHAT_TEMPLATE,
    )


def build_config(preset: Preset, tokenizer: "PreTrainedTokenizerFast") -> "Qwen2_5_VLConfig":
    """The family's configuration with the preset's sizes and the tokenizer's ids."""
    from transformers import Qwen2_5_VLConfig

    half_head = preset.text_width // preset.text_heads // 2
    time_section = half_head // 4
    sections = [time_section, (half_head - time_section) // 2, (half_head - time_section) // 2]
    ids = {token: tokenizer.convert_tokens_to_ids(token) for token in SPECIAL_TOKENS}
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": preset.text_width,
        "intermediate_size": preset.text_mlp_width,
        "num_hidden_layers": preset.text_layers,
        "num_attention_heads": preset.text_heads,
        "num_key_value_heads": preset.text_key_value_heads,
        "max_position_embeddings": 32768,
        "initializer_range": INIT_SPREAD,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": sections},
        "bos_token_id": None,
        "eos_token_id": ids[IM_END],
        "pad_token_id": ids[END_OF_TEXT],
    }
    vision = {
        "depth": preset.vision_layers,
        "hidden_size": preset.vision_width,
        "num_heads": preset.vision_heads,
        "intermediate_size": 2 * preset.vision_width,  # one unit for each sign of each row, see `init_vision_tower`
        "out_hidden_size": preset.text_width,
        "patch_size": PATCH_SIZE,
        "fullatt_block_indexes": [preset.vision_layers - 1],
        "initializer_range": INIT_SPREAD,
    }
    return Qwen2_5_VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=ids[IMAGE_PAD],
        video_token_id=ids[VIDEO_PAD],
        vision_start_token_id=ids[VISION_START],
        vision_end_token_id=ids[VISION_END],
        tie_word_embeddings=True,
        initializer_range=INIT_SPREAD,
    )


def compute_spectral_filters(width: int, size: int = PATCH_SIZE) -> np.ndarray:
    """Patch filters (width, 3, size, size): rows of a 2-D DCT, see the module's docstring. Mean square norm 1."""
    position = (np.arange(size) + 0.5) / size
    basis = np.cos(np.pi * np.arange(size)[:, None] * position)  # (frequency, pixel)
    basis /= np.linalg.norm(basis, axis=1, keepdims=True)
    vertical, horizontal = np.mgrid[:size, :size].reshape(2, -1)
    order = np.argsort(np.hypot(vertical, horizontal), kind="stable")
    vertical, horizontal = vertical[order], horizontal[order]
    planes = basis[vertical][:, :, None] * basis[horizontal][:, None, :]  # (size * size, size, size), low first
    tilt = (1.0 + np.hypot(vertical, horizontal))[:, None, None] ** SPECTRUM_TILT

    luminance, blue, red = (0.299, 0.587, 0.114), (-0.169, -0.331, 0.5), (0.5, -0.419, -0.081)
    num_color = width // 16  # rows for each of the two colour differences
    picked = np.linspace(0, len(planes) - 1, width - 2 * num_color).round().astype(int)
    low = COLOR_GAIN * (planes * tilt)[:num_color]
    colored = [((planes * tilt)[picked], luminance), (low, blue), (low, red)]
    filters = np.concatenate([plane[:, None] * np.array(mix)[None, :, None, None] for plane, mix in colored])
    return filters / np.sqrt((filters**2).sum(axis=(1, 2, 3)).mean())


def init_vision_tower(visual: "torch.nn.Module") -> None:
    """Sets the spectral start of the module's docstring in a `Qwen2_5_VisionTransformer`, in place."""
    import torch

    kernel = visual.patch_embed.proj.weight  # (width, 3, 2 frames, size, size)
    filters = torch.from_numpy(compute_spectral_filters(kernel.shape[0])).to(kernel)
    first = visual.blocks[0].mlp
    with torch.no_grad():
        kernel.copy_(filters[:, :, None] / kernel.shape[2])  # a still picture is the same frame twice
        for block in visual.blocks:
            block.attn.proj.weight.mul_(RESIDUAL_GAIN)
            block.mlp.down_proj.weight.mul_(RESIDUAL_GAIN)
        # silu(x) * x + silu(-x) * -x = x ** 2: one unit for each sign of each row.
        signs = torch.cat([torch.eye(kernel.shape[0]), -torch.eye(kernel.shape[0])])  # (mlp width, width)
        first.gate_proj.weight.copy_(signs)
        first.up_proj.weight.copy_(signs)
        first.down_proj.weight.copy_(signs.abs().T)


def build_model(
    preset: Preset, tokenizer: "PreTrainedTokenizerFast", seed: int
) -> "Qwen2_5_VLForConditionalGeneration":
    """The model in float32; the caller's random state is left alone."""
    import torch
    from transformers import GenerationConfig, Qwen2_5_VLForConditionalGeneration

    config = build_config(preset, tokenizer)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
    init_vision_tower(model.model.visual)
    end_ids = [tokenizer.convert_tokens_to_ids(token) for token in (IM_END, END_OF_TEXT)]
    model.generation_config = GenerationConfig(eos_token_id=end_ids, pad_token_id=end_ids[1])
    return model


def build_tiny_vlm(output_dir: str | Path, preset: str = "test", seed: int = 0) -> Path:
    """Writes model and processor to `output_dir` and returns it; ValueError for an unknown preset."""
    if preset not in PRESETS:
        raise ValueError(f"unknown preset {preset!r}; known: {', '.join(PRESETS)}")
    processor = build_processor()
    model = build_model(PRESETS[preset], processor.tokenizer, seed)
    model.save_pretrained(output_dir)
    processor.save_pretrained(output_dir)
    return Path(output_dir)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output_dir", required=True, help="folder to write to")
    parser.add_argument("--preset", choices=tuple(PRESETS), default="demo", help="size of the model")
    parser.add_argument("--seed", type=int, default=42, help="seed of the random weights")
    args = parser.parse_args()
    print(f"wrote a {args.preset} model to {build_tiny_vlm(args.output_dir, args.preset, args.seed)}")


if __name__ == "__main__":
    main()

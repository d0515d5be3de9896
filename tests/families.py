"""Checkpoints of every family: its own configuration, processor and chat format, random weights, tiny sizes."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from open_r1 import tiny


if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PretrainedConfig, PreTrainedTokenizerFast, ProcessorMixin


TEXT_WIDTH, VISION_WIDTH = 64, 32
INIT_SPREAD = 0.15  # wide, so that attention is far from uniform and a wrong position or mask shows
MAX_PIXELS = 112 * 112
TEXT = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,  # of size 16
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": INIT_SPREAD,
    "bos_token_id": None,
}

# What InternVL writes into the text: one placeholder and a line break per image.
INTERNVL_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}"
    "{% else %}{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}"
    "{% elif part['type'] == 'video' %}{{ '<video>\n' }}"
    "{% else %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@cache
def build_tokenizer() -> "Tokenizer":
    return tiny.build_tokenizer()


def wrap_tokenizer(special_tokens: dict[str, str], chat_template: str) -> "PreTrainedTokenizerFast":
    """The house tokenizer with a family's special tokens, by the names that its processor looks for."""
    from transformers import PreTrainedTokenizerFast

    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=build_tokenizer(),
        eos_token=tiny.IM_END,
        pad_token=tiny.END_OF_TEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        extra_special_tokens=special_tokens,
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def get_text_settings(tokenizer: "PreTrainedTokenizerFast") -> dict:
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    return {"vocab_size": len(tokenizer), **TEXT, **ids}


def get_qwen_token_ids(tokenizer: "PreTrainedTokenizerFast") -> dict[str, int]:
    names = {
        "image_token_id": tiny.IMAGE_PAD,
        "video_token_id": tiny.VIDEO_PAD,
        "vision_start_token_id": tiny.VISION_START,
        "vision_end_token_id": tiny.VISION_END,
    }
    return {name: tokenizer.convert_tokens_to_ids(token) for name, token in names.items()}


def build_qwen_processor(
    processor_class: type["ProcessorMixin"], video_processor_class: type, patch_size: int
) -> "ProcessorMixin":
    from transformers import Qwen2VLImageProcessor

    tokenizer = wrap_tokenizer({"image_token": tiny.IMAGE_PAD, "video_token": tiny.VIDEO_PAD}, tiny.CHAT_TEMPLATE)
    size = {"shortest_edge": (2 * patch_size) ** 2, "longest_edge": MAX_PIXELS}  # areas, in spite of the names
    return processor_class(
        image_processor=Qwen2VLImageProcessor(size=size, patch_size=patch_size),
        tokenizer=tokenizer,
        video_processor=video_processor_class(size=size, patch_size=patch_size),
        chat_template=tiny.CHAT_TEMPLATE,
    )


def build_rope(*sections: int, **settings: bool | float) -> dict:
    """Rotary settings; sections of time, height and width add up to half a head, 8."""
    return {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections), **settings}


def build_qwen2_vl() -> tuple["PretrainedConfig", "ProcessorMixin"]:
    from transformers import Qwen2VLConfig, Qwen2VLProcessor, Qwen2VLVideoProcessor

    processor = build_qwen_processor(Qwen2VLProcessor, Qwen2VLVideoProcessor, patch_size=14)
    config = Qwen2VLConfig(
        text_config={**get_text_settings(processor.tokenizer), "rope_parameters": build_rope(2, 3, 3)},
        vision_config={
            "depth": 2,
            "embed_dim": VISION_WIDTH,
            "hidden_size": TEXT_WIDTH,
            "num_heads": 2,
            "mlp_ratio": 2,
            "initializer_range": INIT_SPREAD,
        },
        tie_word_embeddings=False,
        **get_qwen_token_ids(processor.tokenizer),
    )
    return config, processor


def build_qwen2_5_vl() -> tuple["PretrainedConfig", "ProcessorMixin"]:
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLProcessor, Qwen2VLVideoProcessor

    processor = build_qwen_processor(Qwen2_5_VLProcessor, Qwen2VLVideoProcessor, patch_size=14)
    config = Qwen2_5_VLConfig(
        text_config={**get_text_settings(processor.tokenizer), "rope_parameters": build_rope(2, 3, 3)},
        vision_config={
            "depth": 2,
            "hidden_size": VISION_WIDTH,
            "num_heads": 2,
            "intermediate_size": 48,
            "out_hidden_size": TEXT_WIDTH,
            "window_size": 56,  # four visual tokens, so that larger images have several windows
            "fullatt_block_indexes": [1],
            "initializer_range": INIT_SPREAD,
        },
        tie_word_embeddings=True,
        **get_qwen_token_ids(processor.tokenizer),
    )
    return config, processor


def build_qwen3_vl() -> tuple["PretrainedConfig", "ProcessorMixin"]:
    from transformers import Qwen3VLConfig, Qwen3VLProcessor, Qwen3VLVideoProcessor

    processor = build_qwen_processor(Qwen3VLProcessor, Qwen3VLVideoProcessor, patch_size=16)
    rope = build_rope(4, 2, 2, mrope_interleaved=True)
    config = Qwen3VLConfig(
        text_config={**get_text_settings(processor.tokenizer), "head_dim": 16, "rope_parameters": rope},
        vision_config={
            "depth": 3,
            "hidden_size": VISION_WIDTH,
            "num_heads": 2,
            "intermediate_size": 48,
            "out_hidden_size": TEXT_WIDTH,
            "num_position_embeddings": 16,  # a grid of 4 x 4, resampled for every image
            "deepstack_visual_indexes": [0, 1],
            "initializer_range": INIT_SPREAD,
        },
        tie_word_embeddings=True,
        **get_qwen_token_ids(processor.tokenizer),
    )
    return config, processor


def build_internvl() -> tuple["PretrainedConfig", "ProcessorMixin"]:
    from transformers import GotOcr2ImageProcessor, InternVLConfig, InternVLProcessor, InternVLVideoProcessor

    special_tokens = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    tokenizer = wrap_tokenizer(special_tokens, INTERNVL_CHAT_TEMPLATE)
    size = {"height": 56, "width": 56}  # of a tile: 4 x 4 patches, 2 x 2 visual tokens
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, crop_to_patches=False, max_patches=4),
        tokenizer=tokenizer,
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=INTERNVL_CHAT_TEMPLATE,
    )
    config = InternVLConfig(
        text_config={"model_type": "qwen2", **get_text_settings(tokenizer)},
        vision_config={
            "hidden_size": VISION_WIDTH,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "intermediate_size": 48,
            "attention_bias": True,
            "image_size": [56, 56],
            "patch_size": [14, 14],
            "initializer_range": INIT_SPREAD,
        },
        image_token_id=processor.image_token_id,
        image_seq_length=4,
        tie_word_embeddings=False,
    )
    return config, processor


GLM_CHAT_TEMPLATE = tiny.CHAT_TEMPLATE.replace(
    tiny.VISION_START + tiny.IMAGE_PAD + tiny.VISION_END, "<|begin_of_image|><|image|><|end_of_image|>"
).replace(tiny.VISION_START + tiny.VIDEO_PAD + tiny.VISION_END, "<|begin_of_video|><|video|><|end_of_video|>")


def build_glm4v() -> tuple["PretrainedConfig", "ProcessorMixin"]:
    from transformers import Glm4vConfig, Glm4vImageProcessor, Glm4vProcessor, Glm4vVideoProcessor

    names = ("image", "video", "begin_of_image", "end_of_image", "begin_of_video", "end_of_video")
    special_tokens = {f"{name}_token": f"<|{name}|>" for name in names}
    tokenizer = wrap_tokenizer(special_tokens, GLM_CHAT_TEMPLATE)
    size = {"shortest_edge": 28 * 28, "longest_edge": MAX_PIXELS}  # areas, in spite of the names
    processor = Glm4vProcessor(
        image_processor=Glm4vImageProcessor(size=size),
        tokenizer=tokenizer,
        video_processor=Glm4vVideoProcessor(size=size),
        chat_template=GLM_CHAT_TEMPLATE,
    )
    keys = ("image", "video", "image_start", "image_end", "video_start", "video_end")
    ids = {f"{key}_token_id": tokenizer.convert_tokens_to_ids(f"<|{name}|>") for key, name in zip(keys, names)}
    config = Glm4vConfig(
        text_config={
            **get_text_settings(tokenizer),
            "rope_parameters": build_rope(2, 1, 1, partial_rotary_factor=0.5),
        },
        vision_config={
            "depth": 2,
            "hidden_size": VISION_WIDTH,
            "num_heads": 2,
            "intermediate_size": 48,
            "out_hidden_size": TEXT_WIDTH,
            "image_size": 56,
            "initializer_range": INIT_SPREAD,
        },
        tie_word_embeddings=False,
        **ids,
    )
    return config, processor


FAMILIES: dict[str, Callable[[], tuple["PretrainedConfig", "ProcessorMixin"]]] = {
    "qwen2_vl": build_qwen2_vl,
    "qwen2_5_vl": build_qwen2_5_vl,
    "qwen3_vl": build_qwen3_vl,
    "internvl": build_internvl,
    "glm4v": build_glm4v,
}


def build_checkpoint(model_type: str, folder: Path) -> str:
    """Writes model and processor of a family to a folder, and returns it; the caller's random state is left alone."""
    import torch
    from transformers import AutoModelForImageTextToText, GenerationConfig

    config, processor = FAMILIES[model_type]()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
    tokenizer = processor.tokenizer
    end_ids = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config = GenerationConfig(eos_token_id=end_ids, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)

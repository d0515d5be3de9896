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
            "attention_bias": True,  # else vLLM leaves the biases out
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


# What LLaVA, Idefics3, SmolVLM and Aria have in common here: one placeholder per image, and nothing around it.
PLAIN_CHAT_TEMPLATE = INTERNVL_CHAT_TEMPLATE.replace("<IMG_CONTEXT>\n", "<image>").replace("<video>\n", "<video>")
TILE = 56  # pixels a side: 4 x 4 patches, or 2 x 2 of LLaVA's
TILE_VISION = {
    "hidden_size": VISION_WIDTH,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "image_size": TILE,
    "patch_size": 14,
    "initializer_range": INIT_SPREAD,
}
GRIDS = [[TILE, TILE], [TILE, 2 * TILE], [2 * TILE, TILE]]


def wrap_plain_tokenizer(*tokens: str) -> "PreTrainedTokenizerFast":
    """With placeholders of images and videos, and further special tokens."""
    others = {f"special_{number}_token": token for number, token in enumerate(tokens)}
    return wrap_tokenizer({"image_token": "<image>", "video_token": "<video>", **others}, PLAIN_CHAT_TEMPLATE)


def get_idefics_tokens() -> list[str]:
    places = [f"<row_{row}_col_{column}>" for row in range(1, 7) for column in range(1, 7)]
    return ["<fake_token_around_image>", "<global-img>", "<end_of_utterance>", *places]


def build_idefics3() -> tuple["PretrainedConfig", "ProcessorMixin"]:
    from transformers import Idefics3Config, Idefics3ImageProcessor, Idefics3Processor

    tokenizer = wrap_plain_tokenizer(*get_idefics_tokens())
    sizes = {"size": {"longest_edge": 2 * TILE}, "max_image_size": {"longest_edge": TILE}}
    processor = Idefics3Processor(
        Idefics3ImageProcessor(**sizes), tokenizer, image_seq_len=4, chat_template=PLAIN_CHAT_TEMPLATE
    )
    config = Idefics3Config(
        text_config={"model_type": "llama", **get_text_settings(tokenizer)},
        vision_config=TILE_VISION,
        image_token_id=processor.image_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return config, processor


def build_smolvlm() -> tuple["PretrainedConfig", "ProcessorMixin"]:
    from transformers import SmolVLMConfig, SmolVLMImageProcessor, SmolVLMProcessor, SmolVLMVideoProcessor

    tokenizer = wrap_plain_tokenizer(*get_idefics_tokens())
    sizes = {"size": {"longest_edge": 2 * TILE}, "max_image_size": {"longest_edge": TILE}}
    sampling = {"max_frames": 64, "fps": 1, "video_size": {"longest_edge": TILE}}
    processor = SmolVLMProcessor(
        SmolVLMImageProcessor(**sizes),
        tokenizer,
        SmolVLMVideoProcessor(**sizes, video_sampling=sampling),
        image_seq_len=4,
        chat_template=PLAIN_CHAT_TEMPLATE,
    )
    config = SmolVLMConfig(
        text_config={"model_type": "llama", **get_text_settings(tokenizer)},
        vision_config=TILE_VISION,
        image_token_id=processor.image_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return config, processor


def build_aria() -> tuple["PretrainedConfig", "ProcessorMixin"]:
    """Pictures have 490 pixels a side, as the family's smaller ones; patches of 70 make few tokens of them."""
    from transformers import AriaConfig, AriaImageProcessor, AriaProcessor

    tokenizer = wrap_plain_tokenizer()
    processor = AriaProcessor(
        AriaImageProcessor(max_image_size=490),
        tokenizer,
        chat_template=PLAIN_CHAT_TEMPLATE,
        size_conversion={490: 4, 980: 8},
    )
    config = AriaConfig(
        text_config={"model_type": "aria_text", **get_text_settings(tokenizer), "moe_num_experts": 4}
        | {"moe_topk": 2, "moe_num_shared_experts": 1},
        vision_config={**TILE_VISION, "model_type": "idefics3_vision", "image_size": 490, "patch_size": 70},
        projector_patch_to_query_dict={49: 4, 196: 8},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return config, processor


def build_llava() -> tuple["PretrainedConfig", "ProcessorMixin"]:
    from transformers import CLIPImageProcessor, LlavaConfig, LlavaProcessor

    tokenizer = wrap_plain_tokenizer()
    image_processor = CLIPImageProcessor(size={"shortest_edge": TILE}, crop_size={"height": TILE, "width": TILE})
    settings = {"patch_size": 28, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = LlavaProcessor(image_processor, tokenizer, chat_template=PLAIN_CHAT_TEMPLATE, **settings)
    config = LlavaConfig(
        text_config={"model_type": "llama", **get_text_settings(tokenizer)},
        vision_config={**TILE_VISION, "model_type": "clip_vision_model", "patch_size": 28},
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return config, processor


def build_llava_next() -> tuple["PretrainedConfig", "ProcessorMixin"]:
    from transformers import LlavaNextConfig, LlavaNextImageProcessor, LlavaNextProcessor

    tokenizer = wrap_plain_tokenizer()
    image_processor = LlavaNextImageProcessor(
        size={"shortest_edge": TILE}, crop_size={"height": TILE, "width": TILE}, image_grid_pinpoints=GRIDS
    )
    settings = {"patch_size": 28, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    processor = LlavaNextProcessor(image_processor, tokenizer, chat_template=PLAIN_CHAT_TEMPLATE, **settings)
    config = LlavaNextConfig(
        text_config={"model_type": "llama", **get_text_settings(tokenizer)},
        vision_config={**TILE_VISION, "model_type": "clip_vision_model", "patch_size": 28},
        image_grid_pinpoints=GRIDS,
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return config, processor


def build_llava_onevision() -> tuple["PretrainedConfig", "ProcessorMixin"]:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    tokenizer = wrap_plain_tokenizer()
    size = {"height": TILE, "width": TILE}
    processor = LlavaOnevisionProcessor(
        LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=GRIDS),
        tokenizer,
        LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=PLAIN_CHAT_TEMPLATE,
    )
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", **get_text_settings(tokenizer)},
        vision_config={**TILE_VISION, "model_type": "siglip_vision_model", "patch_size": 28, "vision_use_head": False},
        image_grid_pinpoints=GRIDS,
        image_token_index=processor.image_token_id,
        video_token_index=processor.video_token_id,
    )
    return config, processor


OMNI_CHAT_TEMPLATE = (
    tiny.CHAT_TEMPLATE.replace(tiny.VISION_START, "<|vision_bos|>")
    .replace(tiny.VISION_END, "<|vision_eos|>")
    .replace(tiny.IMAGE_PAD, "<|IMAGE|>")
    .replace(tiny.VIDEO_PAD, "<|VIDEO|>")
    .replace(
        "{% else %}{{ part", "{% elif part['type'] == 'audio' %}<|audio_bos|><|AUDIO|><|audio_eos|>{% else %}{{ part"
    )
)


def build_qwen2_5_omni() -> tuple["PretrainedConfig", "ProcessorMixin"]:
    """Of the thinker, which is the part that is trained."""
    from transformers import (
        Qwen2_5OmniProcessor,
        Qwen2_5OmniThinkerConfig,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
        WhisperFeatureExtractor,
    )

    tokens = {f"{kind}_token": f"<|{kind.upper()}|>" for kind in ("image", "video", "audio")}
    tokens |= {f"{kind}_token": f"<|{kind}|>" for kind in ("vision_bos", "vision_eos", "audio_bos", "audio_eos")}
    tokenizer = wrap_tokenizer(tokens, OMNI_CHAT_TEMPLATE)
    size = {"shortest_edge": 28 * 28, "longest_edge": MAX_PIXELS}  # areas, in spite of the names
    processor = Qwen2_5OmniProcessor(
        image_processor=Qwen2VLImageProcessor(size=size),
        video_processor=Qwen2VLVideoProcessor(size=size),
        feature_extractor=WhisperFeatureExtractor(feature_size=16, chunk_length=300),
        tokenizer=tokenizer,
        chat_template=OMNI_CHAT_TEMPLATE,
    )
    ids = {name: tokenizer.convert_tokens_to_ids(token) for name, token in tokens.items()}
    config = Qwen2_5OmniThinkerConfig(
        text_config={**get_text_settings(tokenizer), "rope_parameters": build_rope(2, 3, 3)},
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
        audio_config={
            "num_mel_bins": 16,
            "encoder_layers": 2,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 48,
            "d_model": VISION_WIDTH,
            "output_dim": TEXT_WIDTH,
            "initializer_range": INIT_SPREAD,
        },
        **{f"{kind}_token_index": ids[f"{kind}_token"] for kind in ("image", "video", "audio")},
        audio_start_token_id=ids["audio_bos_token"],
        audio_end_token_id=ids["audio_eos_token"],
        vision_start_token_id=ids["vision_bos_token"],
        vision_end_token_id=ids["vision_eos_token"],
        initializer_range=INIT_SPREAD,
        tie_word_embeddings=False,
    )
    return config, processor


FAMILIES: dict[str, Callable[[], tuple["PretrainedConfig", "ProcessorMixin"]]] = {
    "qwen2_vl": build_qwen2_vl,
    "qwen2_5_vl": build_qwen2_5_vl,
    "qwen3_vl": build_qwen3_vl,
    "qwen2_5_omni_thinker": build_qwen2_5_omni,
    "internvl": build_internvl,
    "glm4v": build_glm4v,
    "idefics3": build_idefics3,
    "smolvlm": build_smolvlm,
    "aria": build_aria,
    "llava": build_llava,
    "llava_next": build_llava_next,
    "llava_onevision": build_llava_onevision,
}
IMAGES_ONLY = ("idefics3", "aria", "llava", "llava_next")
VIDEO_FAMILIES = tuple(name for name in FAMILIES if name not in IMAGES_ONLY)


def fit_media(model_type: str, sizes: list[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Sizes of images, and of videos with their numbers of frames, without what a family does not take."""
    if model_type == "llava_onevision":  # videos of one length at a time, where the tower is trained
        return [(*size[:2], 4) if len(size) == 3 else size for size in sizes]
    return [size for size in sizes if len(size) == 2 or model_type not in IMAGES_ONLY]


# Half as many heads of twice the size, which is the least that vLLM takes on CPUs.
WIDE_HEADS = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32}


def widen_heads(config: "PretrainedConfig") -> None:
    text = config.get_text_config()
    for name, value in WIDE_HEADS.items():
        setattr(text, name, value)
    if "mrope_section" in text.rope_parameters:
        text.rope_parameters["mrope_section"] = [2 * size for size in text.rope_parameters["mrope_section"]]


def build_checkpoint(model_type: str, folder: Path, has_wide_heads: bool = False) -> str:
    """Writes model and processor of a family to a folder, and returns it; the caller's random state is left alone.

    Args:
        model_type: One of `FAMILIES`.
        folder: To write to.
        has_wide_heads: Whether vLLM is to take it.
    """
    import torch
    from transformers import AutoModelForImageTextToText, GenerationConfig

    config, processor = FAMILIES[model_type]()
    if has_wide_heads:
        widen_heads(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForImageTextToText.from_config(config)
    tokenizer = processor.tokenizer
    end_ids = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    model.generation_config = GenerationConfig(eos_token_id=end_ids, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return str(folder)

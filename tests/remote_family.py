"""A checkpoint that brings its own code, as InternVL's authors publish theirs (`remote_internvl/`)."""

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from families import INIT_SPREAD, VISION_WIDTH, WIDE_HEADS, get_text_settings, wrap_tokenizer
from safetensors.torch import save_file

from open_r1.vlm_modules.internvl_chat_model import load_model_class
from open_r1.vlm_modules.remote_code import load_config


CODE = Path(__file__).parent / "remote_internvl"
MEDIA_TOKENS = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>"}


def build_remote_checkpoint(
    folder: Path,
    language_model: str = "Qwen2ForCausalLM",
    chat_template: str | None = None,
    has_wide_heads: bool = False,
    **settings: Any,
) -> str:
    """Writes code, weights and tokenizer to a folder, and returns it; the caller's random state is left alone.

    Args:
        folder: To write to; new.
        language_model: Or `PlainForCausalLM`, which does not go through transformers' attention interface.
        chat_template: Of the tokenizer.
        has_wide_heads: Whether vLLM is to take it.
        settings: Of the configuration.
    """
    from transformers import GenerationConfig

    shutil.copytree(CODE, folder, ignore=shutil.ignore_patterns("__pycache__"))
    tokenizer = wrap_tokenizer(MEDIA_TOKENS, chat_template)
    config = {
        "auto_map": {
            "AutoConfig": "configuration_internvl_chat.InternVLChatConfig",
            "AutoModel": "modeling_internvl_chat.InternVLChatModel",
        },
        "architectures": ["InternVLChatModel"],
        "model_type": "internvl_chat",
        "vision_config": {"hidden_size": VISION_WIDTH, "drop_path_rate": 0.1, "initializer_range": INIT_SPREAD},
        "llm_config": {**get_text_settings(tokenizer), "architectures": [language_model]},
        "template": "internvl2_5",
        "force_image_size": 56,  # 4 x 4 patches, 2 x 2 visual tokens
        "use_thumbnail": True,
        "dtype": "float32",
        "tie_word_embeddings": False,
        **settings,
    }
    if has_wide_heads:
        config["llm_config"] |= WIDE_HEADS
    path = folder / "config.json"
    path.write_text(json.dumps(config), encoding="utf-8")
    tokenizer.save_pretrained(folder)
    loaded = load_config(str(folder), trust_remote_code=True)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = load_model_class(loaded)(loaded)
        for name, parameter in model.named_parameters():
            if "norm" not in name and "mlp1.0" not in name:
                torch.nn.init.normal_(parameter, std=INIT_SPREAD)
    save_file(model.state_dict(), folder / "model.safetensors", metadata={"format": "pt"})
    config["llm_config"]["attn_implementation"] = "flash_attention_2"  # as published ones demand, needlessly
    path.write_text(json.dumps(config), encoding="utf-8")
    # The end of a turn is known from the conversation format alone.
    ids = {"eos_token_id": tokenizer.pad_token_id, "pad_token_id": tokenizer.pad_token_id}
    GenerationConfig(**ids).save_pretrained(folder)
    return str(folder)

"""Packing is refused for decoders whose attention it would not compute exactly, each for its own reason."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MllamaConfig,
    MllamaForConditionalGeneration,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
    PreTrainedModel,
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3_5Config,
    Qwen3_5ForConditionalGeneration,
)

from open_r1.configs import GRPOModelConfig
from open_r1.inference.hf_generator import HFGenerator
from open_r1.trainer.attention import choose_layout, enable_packing, find_packing_obstacle
from open_r1.trainer.loading import load_policy, load_vlm_module


SIZES = {"hidden_size": 32, "intermediate_size": 32, "vocab_size": 64, "pad_token_id": 0}
TEXT = {**SIZES, "num_hidden_layers": 6, "num_attention_heads": 2, "num_key_value_heads": 1}
TOWER = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "image_size": 28, "patch_size": 14}
HEADS = {"head_dim": 16}


def build(model_class: type[PreTrainedModel], config, **kwargs) -> PreTrainedModel:
    """A model without weights: the guard looks at configuration and modules alone."""
    with torch.device("meta"):
        return model_class._from_config(config, **kwargs)


def build_gemma3() -> PreTrainedModel:
    config = Gemma3Config(text_config={**TEXT, **HEADS}, vision_config={**TOWER, "num_attention_heads": 2})
    assert "sliding_attention" in config.text_config.layer_types
    return build(Gemma3ForConditionalGeneration, config)


def build_mllama() -> PreTrainedModel:
    tower = {**TOWER, "num_global_layers": 1, "attention_heads": 2, "vision_output_dim": 64}
    config = MllamaConfig(
        text_config={**TEXT, "cross_attention_layers": [1, 3]},
        vision_config={**tower, "intermediate_layers_indices": [0]},
    )
    return build(MllamaForConditionalGeneration, config)


def build_paligemma() -> PreTrainedModel:
    text = {**TEXT, **HEADS, "model_type": "gemma"}
    tower = {**TOWER, "num_attention_heads": 2, "model_type": "siglip_vision_model"}
    return build(PaliGemmaForConditionalGeneration, PaliGemmaConfig(text_config=text, vision_config=tower))


def build_qwen3_5() -> PreTrainedModel:
    tower = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 32}
    config = Qwen3_5Config(text_config={**TEXT, **HEADS}, vision_config=tower)
    assert "linear_attention" in config.text_config.layer_types
    return build(Qwen3_5ForConditionalGeneration, config)


def build_bart() -> PreTrainedModel:
    layers = {"encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 32, "decoder_ffn_dim": 32}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    return build(BartForConditionalGeneration, BartConfig(d_model=32, vocab_size=64, **layers, **heads))


def build_qwen2_5_vl(**settings: float) -> PreTrainedModel:
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    tower = {"depth": 1, "hidden_size": 32, "num_heads": 2, "intermediate_size": 32, "out_hidden_size": 32}
    text = {**TEXT, "rope_parameters": rope, **settings}
    config = Qwen2_5_VLConfig(text_config=text, vision_config={**tower, "fullatt_block_indexes": [0]})
    return build(Qwen2_5_VLForConditionalGeneration, config)


REFUSED = {
    "layers with a sliding window": (build_gemma3, "not full attention"),
    "linear attention": (build_qwen3_5, "not full attention"),
    "cross-attention to the image": (build_mllama, "attends to an encoder"),
    "an encoder and a decoder": (build_bart, "attends to an encoder"),
    "a prefix without causality": (build_paligemma, "not causal"),
    "a window on every layer": (lambda: build(MistralForCausalLM, MistralConfig(**TEXT)), "sliding window"),
    "windows from some layer on": (
        lambda: build(Qwen2ForCausalLM, Qwen2Config(**TEXT, use_sliding_window=True, max_window_layers=3)),
        "not full attention",
    ),
    "a bias on distances": (
        lambda: build(BloomForCausalLM, BloomConfig(hidden_size=32, n_layer=1, n_head=2, vocab_size=64)),
        "attention interface",
    ),
    "capped logits": (
        lambda: build(Gemma2ForCausalLM, Gemma2Config(**TEXT, **HEADS, layer_types=["full_attention"] * 6)),
        "capped",
    ),
    "dropout": (lambda: build_qwen2_5_vl(attention_dropout=0.1), "dropout"),
    "another implementation": (
        lambda: build(LlamaForCausalLM, LlamaConfig(**TEXT), attn_implementation="eager"),
        "not on eager",
    ),
}
ACCEPTED = {
    "a window that no layer uses": lambda: build_qwen2_5_vl(use_sliding_window=False, sliding_window=4096),
    "a window that begins behind the last layer": lambda: build(
        Qwen2ForCausalLM, Qwen2Config(**TEXT, use_sliding_window=True, max_window_layers=6)
    ),
    "no window": lambda: build(MistralForCausalLM, MistralConfig(**TEXT, sliding_window=None)),
}


@pytest.mark.parametrize(("build_model", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_model_that_packing_would_get_wrong_is_refused_with_the_reason(build_model, reason):
    assert reason in (find_packing_obstacle(build_model()) or "")


@pytest.mark.parametrize("build_model", ACCEPTED.values(), ids=ACCEPTED)
def test_a_window_that_acts_on_no_layer_is_no_obstacle(build_model):
    assert find_packing_obstacle(build_model()) is None


def test_every_family_is_packed_with_adapters_and_when_it_is_enabled_already(family_checkpoint):
    model = HFGenerator.from_pretrained(family_checkpoint, device="cpu").model
    assert find_packing_obstacle(model) is None
    enable_packing(model)
    assert find_packing_obstacle(model) is None
    assert find_packing_obstacle(get_peft_model(model, LoraConfig(target_modules=["q_proj"]))) is None


@pytest.mark.parametrize("option", [{}, {"attn_implementation": "auto"}, {"attn_implementation": "sdpa"}])
def test_attention_is_the_one_that_packed_rows_need_unless_another_is_named(tiny_checkpoint, option):
    model_args = GRPOModelConfig(model_name_or_path=tiny_checkpoint, **option)
    assert find_packing_obstacle(load_policy(model_args, load_vlm_module(model_args))) is None


def test_another_attention_that_is_named_costs_packed_rows(tiny_checkpoint):
    model_args = GRPOModelConfig(model_name_or_path=tiny_checkpoint, attn_implementation="eager")
    model = load_policy(model_args, load_vlm_module(model_args))
    assert "leave out --attn_implementation" in find_packing_obstacle(model)
    assert not choose_layout(model, "auto")

"""VLM modules: chosen by configuration, and what they say of a model."""

import shutil

import pytest
import torch
from builders import ask, make_image
from transformers import AutoConfig, BertConfig

from open_r1.inference.hf_generator import HFGenerator
from open_r1.trainer.parts import find_linears, freeze_parts
from open_r1.vlm_modules import get_vlm_module, select_vlm_module
from open_r1.vlm_modules.qwen_module import QwenVLModule


@pytest.fixture(scope="module")
def generator(tiny_checkpoint: str) -> HFGenerator:
    return HFGenerator.from_pretrained(tiny_checkpoint, device="cpu")


def test_the_module_is_chosen_by_the_checkpoint_and_not_by_the_name_of_its_folder(tiny_checkpoint, tmp_path):
    renamed = tmp_path / "internvl-and-glm"
    shutil.copytree(tiny_checkpoint, renamed)
    assert get_vlm_module(str(renamed)) is QwenVLModule


def test_an_unknown_model_type_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'bert'.*qwen2_5_vl, qwen2_vl"):
        select_vlm_module(BertConfig())


def test_both_qwen_generations_get_their_own_model_class(tiny_checkpoint):
    config = AutoConfig.from_pretrained(tiny_checkpoint)
    assert QwenVLModule().get_model_class(config).__name__ == "Qwen2_5_VLForConditionalGeneration"
    config.model_type = "qwen2_vl"
    assert QwenVLModule().get_model_class(config).__name__ == "Qwen2VLForConditionalGeneration"


def test_a_prompt_is_encoded_with_its_images_and_without_a_batch_dimension(generator):
    prompt = generator.encode(ask("Compare.", 2), [make_image(56, 84), make_image(112, 56)])
    assert prompt.input_ids.ndim == 1
    assert prompt.token_inputs["mm_token_type_ids"].shape == prompt.input_ids.shape
    # 84 x 56 and 56 x 112 pixels in patches of 14: 6 x 4 and 4 x 8; four patches make a visual token
    assert prompt.media_inputs["image_grid_thw"].tolist() == [[1, 6, 4], [1, 4, 8]]
    assert prompt.media_inputs["pixel_values"].shape[0] == 24 + 32
    image_id = generator.model.config.image_token_id
    assert (prompt.input_ids == image_id).sum() == (24 + 32) / 4


def test_positions_of_an_image_take_less_room_than_its_tokens(generator):
    prompt = generator.encode(ask("?", 1), [make_image(112, 112)])
    positions = generator.vlm_module.compute_position_ids(generator.model, prompt)
    assert positions.shape == (3, prompt.num_tokens)
    # 16 visual tokens lie on a grid of 4 x 4 positions
    assert positions.max() + 1 == prompt.num_tokens - 16 + 4
    text = generator.encode(ask("?", 0), [])
    assert generator.vlm_module.compute_position_ids(generator.model, text)[0].tolist() == list(range(text.num_tokens))


def test_end_tokens_are_those_of_the_model_and_of_the_tokenizer(generator):
    saved = generator.model.generation_config.eos_token_id
    generator.model.generation_config.eos_token_id = 7
    try:
        ids = generator.vlm_module.get_eos_token_ids(generator.model, generator.processor)
    finally:
        generator.model.generation_config.eos_token_id = saved
    assert ids == sorted({7, generator.processor.tokenizer.eos_token_id})


def test_freezing_finds_the_tower_and_lora_targets_avoid_it_and_the_head(tiny_checkpoint):
    model = HFGenerator.from_pretrained(tiny_checkpoint, device="cpu").model
    module = QwenVLModule()
    freeze_parts(model, module, ["projector", "vision"])
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen and all("visual" in name for name in frozen)
    targets = find_linears(model, module, ["language"])
    assert all("language_model" in name for name in targets)
    assert len(targets) == 7 * model.config.text_config.num_hidden_layers  # q k v o, gate up down
    with pytest.raises(ValueError, match="found no parameter"):
        freeze_parts(torch.nn.Linear(1, 1), module, ["vision"])

"""The tiny model: an ordinary checkpoint of the family, small, and the same for the same seed."""

import numpy as np
import pytest
import torch
from PIL import Image

from open_r1.completions import IQA_QUESTION, get_answer_contract
from open_r1.tiny import PRESETS, build_config, build_processor, build_tiny_vlm, compute_spectral_filters


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return build_tiny_vlm(tmp_path_factory.mktemp("tiny"), preset="test", seed=3)


@pytest.fixture(scope="module")
def processor():
    return build_processor()


def encode(processor, picture):
    question = get_answer_contract("scoring").render(IQA_QUESTION)
    content = [{"type": "image"}, {"type": "text", "text": question}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    return processor(text=[text], images=[picture], return_tensors="pt")


def test_the_folder_loads_through_the_auto_classes_and_answers_a_picture(checkpoint):
    from transformers import AutoModelForImageTextToText, AutoProcessor

    processor = AutoProcessor.from_pretrained(checkpoint)
    model = AutoModelForImageTextToText.from_pretrained(checkpoint)
    inputs = encode(processor, Image.new("RGB", (112, 112), "gray"))
    completion = model.generate(**inputs, max_new_tokens=4)[0, inputs["input_ids"].shape[1] :]
    assert model.config.model_type == "qwen2_5_vl"
    assert (inputs["input_ids"] == processor.image_token_id).sum() == 16  # 112 / 14 / 2, squared
    assert 1 <= len(completion) <= 4
    assert not model.generation_config.do_sample


def test_parameters_stay_within_the_sizes_that_the_presets_promise(processor):
    from transformers import Qwen2_5_VLForConditionalGeneration

    counts = {}
    for name, preset in PRESETS.items():
        with torch.device("meta"):
            model = Qwen2_5_VLForConditionalGeneration(build_config(preset, processor.tokenizer))
        counts[name] = model.num_parameters()
    assert counts["test"] < 1_000_000
    assert 3_000_000 < counts["demo"] < 10_000_000


def test_the_seed_decides_the_weights(tmp_path):
    from safetensors.torch import load_file

    first, same, other = (
        load_file(build_tiny_vlm(tmp_path / str(index), preset="test", seed=seed) / "model.safetensors")
        for index, seed in enumerate((0, 0, 1))
    )
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_building_leaves_the_global_random_state_alone(tmp_path):
    torch.manual_seed(11)
    expected = torch.rand(3)
    torch.manual_seed(11)
    build_tiny_vlm(tmp_path, preset="test", seed=5)
    assert torch.equal(torch.rand(3), expected)


def test_an_unknown_preset_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ValueError, match="huge.*test, demo"):
        build_tiny_vlm(tmp_path, preset="huge")


@pytest.mark.parametrize("text", ["plain", "Ünïcode, 漢字", "3.14 and 2024\n", "two  blanks", "{braces}"])
def test_any_text_survives_the_tokenizer(processor, text):
    assert processor.tokenizer.decode(processor.tokenizer(text)["input_ids"]) == text


def test_a_composed_answer_is_eight_tokens_and_decodes_to_a_well_formed_answer(processor):
    contract = get_answer_contract("scoring")
    ids = processor.tokenizer(contract.compose(think="motion blur", answer="3.4"))["input_ids"]
    text = processor.tokenizer.decode(ids, skip_special_tokens=True)
    assert len(ids) == 8  # <think>, motion blur, </think>, <answer>, 3, ., 4, </answer>
    assert contract.is_well_formed(text)


def test_the_prompt_is_short_and_carries_the_family_markers(processor):
    inputs = encode(processor, Image.new("RGB", (112, 112)))
    text = processor.tokenizer.decode(inputs["input_ids"][0])
    assert inputs["input_ids"].shape[1] < 60
    assert text.startswith("<|im_start|>system\n") and text.endswith("<|im_start|>assistant\n")
    assert text.count("<|vision_start|>") == 1


def test_string_content_and_system_messages_are_rendered(processor):
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
    expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n"
    assert processor.apply_chat_template(messages) == expected


def test_luminance_filters_are_orthogonal_and_high_frequencies_are_amplified():
    filters = compute_spectral_filters(64)  # 56 rows of luminance, 4 for each colour difference
    luminance = filters[:56, 1]
    gram = np.einsum("iyx,jyx->ij", luminance, luminance)
    off_diagonal = gram - np.diag(np.diag(gram))
    assert np.abs(off_diagonal).max() < 1e-9 * np.diag(gram).max()
    assert np.diag(gram)[-1] > 1000 * np.diag(gram)[0]


def test_grey_pictures_leave_the_color_filters_silent():
    filters = compute_spectral_filters(64)
    assert np.abs(filters[56:].sum(axis=1)).max() < 1e-9 * np.abs(filters).max()

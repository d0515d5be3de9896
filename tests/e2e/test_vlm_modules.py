"""VLM modules: chosen by configuration, and what they say of a model."""

import shutil

import pytest
import torch
from builders import ask, make_image
from families import FAMILIES
from transformers import AutoModelForImageTextToText, BertConfig

from open_r1.inference.hf_generator import HFGenerator
from open_r1.trainer.collator import GroupCollator
from open_r1.trainer.parts import find_linears, freeze_parts, get_part
from open_r1.vlm_modules import VLM_MODULES, get_vlm_module, select_vlm_module
from open_r1.vlm_modules.internvl_module import InternVLModule
from open_r1.vlm_modules.qwen_module import QwenVLModule


@pytest.fixture(scope="module")
def generator(tiny_checkpoint: str) -> HFGenerator:
    return HFGenerator.from_pretrained(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def family(family_checkpoint: str) -> HFGenerator:
    """A model of each family in turn."""
    return HFGenerator.from_pretrained(family_checkpoint, device="cpu")


def test_the_module_is_chosen_by_the_checkpoint_and_not_by_the_name_of_its_folder(tiny_checkpoint, tmp_path):
    renamed = tmp_path / "internvl-and-glm"
    shutil.copytree(tiny_checkpoint, renamed)
    assert get_vlm_module(str(renamed)) is QwenVLModule


def test_an_unknown_model_type_is_refused_with_the_known_ones():
    with pytest.raises(ValueError, match="'bert'.*aria, .*qwen2_5_vl, qwen2_vl, qwen3_vl.*add-a-model"):
        select_vlm_module(BertConfig())


def test_every_model_type_has_a_tiny_checkpoint_to_be_tested_on():
    assert {*FAMILIES, "internvl_chat"} == VLM_MODULES.keys()  # the second by `remote_family`


def test_the_model_class_is_the_one_that_transformers_would_choose(family, family_checkpoint):
    with torch.device("meta"):
        chosen = AutoModelForImageTextToText.from_config(family.model.config)
    assert type(chosen) in type(family.model).__mro__
    assert type(family.model).__name__ == type(chosen).__name__
    assert type(family.vlm_module) is get_vlm_module(family_checkpoint)


SIZES = {
    "no image": [],
    "one image": [(84, 56)],
    "images of several sizes": [(56, 56), (112, 64), (56, 56), (40, 150)],
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("interleaved", [False, True])
def test_a_prompt_is_encoded_exactly_as_the_processor_encodes_it_with_its_images(family, sizes, interleaved):
    images = [make_image(*size, seed=i) for i, size in enumerate(sizes)]
    messages = ask("Which is better?", len(images))
    if interleaved:
        text, parts = {"type": "text", "text": "and\nthen"}, messages[0]["content"]
        messages[0]["content"] = [part for shown in parts for part in (text, shown)]
        messages.insert(0, {"role": "system", "content": "Judge."})
    prompt = family.encode(messages, images)

    text = family.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    options = family.vlm_module.get_image_options(family.processor) if family.model.config.model_type == "aria" else {}
    nested = [images] if family.model.config.model_type == "llava_onevision" else images
    expected = dict(family.processor(text=[text], images=nested if images else None, return_tensors="pt", **options))
    assert torch.equal(prompt.input_ids, expected.pop("input_ids")[0])
    assert expected.pop("attention_mask").all()
    if "image_sizes" in expected:  # padded to as many tiles as the image that has most of them
        tiles = [len(item.inputs["pixel_values"]) for item in prompt.media]
        expected["pixel_values"] = torch.cat([own[:n] for own, n in zip(expected["pixel_values"], tiles, strict=True)])
    ours = {name: values[None] for name, values in prompt.token_inputs.items()}
    ours |= family.vlm_module.join_inputs(prompt.media)
    assert ours.keys() == expected.keys()
    for name, values in expected.items():
        assert torch.equal(ours[name], values), name


def test_a_conversation_about_another_number_of_images_is_refused(family):
    with pytest.raises(ValueError, match="places for 2 images, not for 1"):
        family.encode(ask("?", 2), [make_image(56, 56)])


def test_positions_are_those_that_the_model_finds_by_itself(family):
    prompt = family.encode(ask("Compare.", 2), [make_image(112, 84), make_image(56, 140)])
    prompt = family.vlm_module.with_positions(family.model, prompt)
    tokens = {name: values[None] for name, values in prompt.token_inputs.items()}
    inputs = {"input_ids": prompt.input_ids[None], **tokens, **family.vlm_module.join_inputs(prompt.media)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])  # without it Qwen2.5-Omni finds no positions
    with torch.no_grad():
        ours = family.model(**inputs, position_ids=prompt.position_ids.unsqueeze(-2)).logits
        assert torch.equal(ours, family.model(**inputs).logits)


def test_every_token_that_stands_for_an_image_is_a_media_token_and_no_word_is(family):
    media = set(family.vlm_module.get_media_token_ids(family.model.config, family.processor))
    prompt = family.encode(ask("How good is this?", 1), [make_image(84, 56)])
    shown = set(prompt.input_ids.tolist()) - set(family.encode(ask("How good is this?", 0), []).input_ids.tolist())
    newline = family.processor.tokenizer.convert_tokens_to_ids("Ċ")  # InternVL breaks the line after an image
    assert shown - {newline} <= media
    assert family.model.config.image_token_id in shown
    assert media <= set(family.processor.tokenizer.get_added_vocab().values())
    assert not media & set(family.eos_token_ids)


def test_features_of_images_are_what_the_model_computes_of_their_pixels(family):
    """Through the record that goes into the model as `mm_encoder_outputs`, deeper levels of Qwen3-VL included."""
    prompt = family.encode(ask("Compare.", 3), [make_image(84, 56), make_image(112, 112), make_image(56, 56)])
    module, model = family.vlm_module, family.model
    with torch.no_grad():
        expected = model.get_image_features(**module.join_inputs(prompt.media), return_dict=True)
        joined = module.join_features(module.compute_features(model, prompt.images))
    assert ("deepstack_features" in joined) == (model.config.model_type == "qwen3_vl")
    for name in joined:
        for ours, theirs in zip(joined[name], expected[name], strict=True):
            for mine, wanted in zip(ours, theirs, strict=True):
                assert torch.equal(mine, wanted), name


@pytest.mark.parametrize("size", [(1, 1), (5, 9), (20, 20), (10, 300), (600, 3)], ids=str)
def test_tiny_and_very_long_pictures_are_seen(family, size):
    prompt = family.encode(ask("?", 1), [make_image(*size)])
    with torch.no_grad():
        (features,) = family.vlm_module.compute_features(family.model, prompt.media)
    assert all(level.numel() and torch.isfinite(level).all() for level in features)


def test_a_picture_too_long_for_a_family_is_refused_with_the_reason(family):
    if not hasattr(family.vlm_module, "bounds_whole_video"):  # Qwen-VL's and those like it
        pytest.skip("this family takes pictures of any shape")
    with pytest.raises(ValueError, match="aspect ratio"):
        family.encode(ask("?", 1), [make_image(1, 250)])


def test_tower_projector_and_language_model_are_told_apart(family):
    model, module = family.model, family.vlm_module
    parts = {name: get_part(name, module) for name, _ in model.named_parameters()}
    by_part = {
        part: {name for name, own in parts.items() if own == part} for part in ("vision", "projector", "language")
    }
    tower, projector = {
        "qwen2_vl": ("model.visual.", ("merger",)),
        "qwen2_5_vl": ("model.visual.", ("merger",)),
        "qwen3_vl": ("model.visual.", ("merger", "deepstack_merger_list")),
        "qwen2_5_omni_thinker": (("visual.", "audio_tower."), ("merger",)),
        "internvl": ("model.vision_tower.", ("multi_modal_projector",)),
        "glm4v": ("model.visual.", ("merger", "downsample")),
        "idefics3": ("model.vision_model.", ("connector",)),
        "smolvlm": ("model.vision_model.", ("connector",)),
        "llava": ("model.vision_tower.", ("multi_modal_projector",)),
        "aria": ("model.vision_tower.", ("multi_modal_projector",)),
        "llava_next": ("model.vision_tower.", ("multi_modal_projector", "image_newline")),
        "llava_onevision": ("model.vision_tower.", ("multi_modal_projector", "image_newline")),
    }[model.config.model_type]
    assert by_part["vision"] and all(name.startswith(tower) for name in by_part["vision"])
    for component in projector:
        assert any(component in name.split(".") for name in by_part["projector"])
    assert all(set(name.split(".")) & set(projector) for name in by_part["projector"])
    text = model.config.text_config
    decoders = ("language_model", "text_model", "lm_head")
    if model.config.model_type == "qwen2_5_omni_thinker":
        decoders = ("model", "lm_head")
    assert all(set(name.split(".")) & set(decoders) for name in by_part["language"])
    targets = find_linears(model, module, ["language"])
    num_linears = 6 if "glm" in text.model_type else 7  # q k v o, gate up down; GLM has gate and up in one
    assert len(targets) == num_linears * text.num_hidden_layers


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
        ids = generator.vlm_module.get_eos_token_ids(generator.model.generation_config, generator.processor)
    finally:
        generator.model.generation_config.eos_token_id = saved
    assert ids == sorted({7, generator.processor.tokenizer.eos_token_id})


def test_freezing_finds_tower_and_projector_or_says_that_they_are_not_there(family_checkpoint):
    generator = HFGenerator.from_pretrained(family_checkpoint, device="cpu")
    model, module = generator.model, generator.vlm_module
    freeze_parts(model, module, ["projector", "vision"])
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert frozen == {name for name, _ in model.named_parameters() if module.is_vision_parameter(name)}
    assert frozen and not any("language_model" in name or "text_model" in name for name in frozen)
    with pytest.raises(ValueError, match="found no parameter"):
        freeze_parts(torch.nn.Linear(1, 1), module, ["vision"])


def test_internvl_cuts_an_image_into_tiles_as_its_shape_asks_for():
    """The checkpoint's image processor says `crop_to_patches=False`; the family's processor does not listen to it."""
    module = InternVLModule()
    processor = FAMILIES["internvl"]()[1]
    assert not processor.image_processor.crop_to_patches
    tiles = {(56, 56): 1, (112, 56): 3, (56, 168): 4, (224, 224): 5}  # of 56 pixels, and a thumbnail where several
    for size, expected in tiles.items():
        assert len(module.encode_image(processor, make_image(*size)).inputs["pixel_values"]) == expected


@pytest.mark.parametrize("bounds", [{"min_pixels": 1000}, {"max_pixels": 100_000}])
def test_internvl_refuses_pixel_bounds_and_says_what_decides(bounds):
    with pytest.raises(ValueError, match="max_patches"):
        InternVLModule().load_processor("nowhere", **bounds)


def test_an_encoded_picture_knows_its_own_size_and_the_size_it_was_resized_to(family):
    """Patches are of 14 pixels (16 for Qwen3-VL), two by two of them a token; others have tiles of a fixed size."""
    encoded = family.vlm_module.encode_image(family.processor, make_image(90, 60))
    assert encoded.image_size == (90, 60)
    if family.vlm_module.get_vlm_key() not in ("qwen", "glm", "qwen_omni"):
        assert encoded.input_size is None
    else:
        assert encoded.input_size == ((96, 64) if family.model.config.model_type == "qwen3_vl" else (84, 56))


def test_only_qwen2_5_vl_writes_boxes_in_pixels_of_the_resized_picture(family):
    box_format = family.vlm_module.get_box_format(family.model.config)
    relative = "relative_1000" if family.vlm_module.get_vlm_key() in ("qwen", "internvl", "glm") else None  # not known
    assert box_format == ("input_pixel" if family.model.config.model_type == "qwen2_5_vl" else relative)


def test_rows_learn_the_sizes_of_their_pictures_when_they_are_encoded(generator, tmp_path):
    paths = [str(tmp_path / name) for name in ("a.png", "b.png")]
    for path, size in zip(paths, [(70, 50), (100, 40)], strict=True):
        make_image(*size).save(path)
    collate = GroupCollator(generator.vlm_module, generator.processor)
    shown, blind = collate(
        [{"prompt": ask("?", 2), "image_path": paths, "id": "1"}, {"prompt": ask("?", 0), "image_path": [], "id": "2"}]
    )
    assert shown.row["image_size"] == [(70, 50), (100, 40)]
    assert shown.row["input_size"] == [(56, 56), (112, 28)]  # multiples of 28
    assert (blind.row["image_size"], blind.row["input_size"]) == ([], [])

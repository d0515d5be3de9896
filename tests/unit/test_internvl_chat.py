"""InternVL checkpoints that bring their own code: when it runs, how pictures are cut and conversations written."""

import json
import shutil
import sys
from pathlib import Path

import pytest
import torch
from builders import ask, make_frames, make_image
from families import FAMILIES, INTERNVL_CHAT_TEMPLATE
from remote_family import build_remote_checkpoint
from transformers import AutoConfig
from transformers.models.got_ocr2.image_processing_got_ocr2 import get_optimal_tiled_canvas

from open_r1.inference.hf_generator import HFGenerator
from open_r1.trainer.parts import get_part
from open_r1.utils.adapters import find_model_source, load_base_config
from open_r1.vlm_modules import get_vlm_module
from open_r1.vlm_modules.internvl_chat_module import InternVLChatModule
from open_r1.vlm_modules.internvl_chat_processor import InternVLChatProcessor
from open_r1.vlm_modules.internvl_module import InternVLModule
from open_r1.vlm_modules.processors import ImageBounds, load_processor
from open_r1.vlm_modules.qwen_module import QwenVLModule
from open_r1.vlm_modules.tiles import choose_grid, cut_into_tiles


MODULE = InternVLChatModule()


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return build_remote_checkpoint(tmp_path_factory.mktemp("remote") / "checkpoint")


@pytest.fixture(scope="module")
def generator(checkpoint) -> HFGenerator:
    return HFGenerator.from_pretrained(checkpoint, device="cpu", trust_remote_code=True)


# ---- whose code runs ----------------------------------------------------------------------------------------------


@pytest.fixture
def traitor(checkpoint, tmp_path) -> Path:
    """The same checkpoint in a folder of another name, every file of which leaves a trace when it runs."""
    folder = tmp_path / "Vintern-1B"
    shutil.copytree(checkpoint, folder)
    for path in folder.glob("*.py"):
        path.write_text(f"open({str(tmp_path / 'trace')!r}, 'w').close()\n" + path.read_text())
    return folder


def test_without_consent_the_refusal_says_what_it_means_and_no_code_runs(traitor, tmp_path, monkeypatch):
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # a library that asks gets a yes
    monkeypatch.setattr(sys, "stdin", None)
    for load in (load_base_config, lambda source: HFGenerator.from_pretrained(source.base_path, device="cpu")):
        with pytest.raises(ValueError, match=r"(?s)run that code with all your rights.*--trust_remote_code.*-hf"):
            load(find_model_source(str(traitor)))
    assert not (tmp_path / "trace").exists()
    HFGenerator.from_pretrained(str(traitor), device="cpu", trust_remote_code=True)
    assert (tmp_path / "trace").exists()


def test_the_family_is_known_without_running_code_and_whatever_the_folder_is_called(traitor, tmp_path):
    assert get_vlm_module(str(traitor)) is InternVLChatModule
    assert not (tmp_path / "trace").exists()


def test_code_that_comes_with_a_model_of_transformers_never_runs(tiny_checkpoint, traitor, tmp_path):
    folder = tmp_path / "Qwen"
    shutil.copytree(tiny_checkpoint, folder)
    for path in traitor.glob("*.py"):
        shutil.copy(path, folder)
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = json.loads((traitor / "config.json").read_text())["auto_map"]
    (folder / "config.json").write_text(json.dumps(config))
    source = find_model_source(str(folder), trust_remote_code=True)
    assert type(load_base_config(source)) is type(AutoConfig.from_pretrained(tiny_checkpoint))
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize(
    "changes, message",
    [({"model_type": "their_own"}, "'their_own', which neither"), ({"auto_map": {}}, "without its code")],
)
def test_code_of_other_kinds_is_refused_in_words(traitor, tmp_path, changes, message):
    path = traitor / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ValueError, match=message):
        load_base_config(find_model_source(str(traitor), trust_remote_code=True))
    assert not (tmp_path / "trace").exists()


# ---- tiles --------------------------------------------------------------------------------------------------------


def test_grids_of_tiles_are_those_of_the_layout_of_transformers():
    sizes = [(448 * i // 3, 448 * j // 3) for i in range(1, 22) for j in range(1, 22)] + [(640, 480), (1, 5000)]
    for max_tiles in (1, 2, 6, 12):
        for width, height in sizes:
            expected = get_optimal_tiled_canvas((height, width), (448, 448), 1, max_tiles)
            assert choose_grid(width, height, 448, max_tiles) == expected, (width, height, max_tiles)


def test_tiles_go_row_by_row_and_a_thumbnail_ends_them():
    image = make_image(112, 56)
    first, second, thumbnail = cut_into_tiles(image, tile_size=56, max_tiles=12)
    assert first.tobytes() == image.crop((0, 0, 56, 56)).tobytes()
    assert second.tobytes() == image.crop((56, 0, 112, 56)).tobytes()
    assert thumbnail.size == (56, 56)
    assert len(cut_into_tiles(image, tile_size=56, max_tiles=12, has_thumbnail=False)) == 2
    assert len(cut_into_tiles(make_image(60, 56), tile_size=56, max_tiles=12)) == 1  # the thumbnail would be the same


def test_pictures_are_normalised_as_in_the_layout_of_transformers(generator):
    """Both resize with bicubic filters, one in bytes and one in numbers; a picture of whole tiles needs none."""
    theirs = FAMILIES["internvl"]()[1].image_processor
    theirs.image_mean, theirs.image_std = generator.processor.image_mean, generator.processor.image_std
    image = make_image(112, 56)
    expected = theirs(images=[image], crop_to_patches=True, return_tensors="pt")["pixel_values"]
    ours = generator.vlm_module.encode_image(generator.processor, image).inputs["pixel_values"]
    assert torch.allclose(ours[:2], expected[:2], atol=1e-6)
    assert (ours - expected).abs().max() < 0.1


@pytest.mark.parametrize("style", ["own code", "transformers"])
def test_max_anyres_num_bounds_the_tiles_of_both_layouts(style, checkpoint, tmp_path):
    if style == "transformers":
        module = InternVLModule()
        FAMILIES["internvl"]()[1].save_pretrained(tmp_path)
    else:
        module = MODULE
        shutil.copytree(checkpoint, tmp_path, dirs_exist_ok=True)
    source = find_model_source(str(tmp_path))

    def count(bounds: ImageBounds | None) -> int:
        processor = load_processor(module, source, bounds)
        return len(module.encode_image(processor, make_image(56 * 4, 56)).inputs["pixel_values"])

    assert count(None) == 5
    assert count(ImageBounds(max_tiles=2)) == 3
    assert count(ImageBounds(max_tiles=1)) == 1


def test_max_anyres_num_is_refused_where_it_does_nothing(tiny_checkpoint):
    with pytest.raises(ValueError, match="--max_anyres_num 6 does nothing for the family qwen"):
        load_processor(QwenVLModule(), find_model_source(tiny_checkpoint), ImageBounds(max_tiles=6))
    with pytest.raises(ValueError, match="--max_anyres_num must be at least 1"):
        ImageBounds(max_tiles=0)


@pytest.mark.parametrize("bounds", [{"min_pixels": 1000}, {"max_pixels": 100_000}])
def test_pixel_bounds_are_refused_and_the_other_bound_named(bounds, checkpoint):
    with pytest.raises(ValueError, match="--max_anyres_num"):
        MODULE.load_processor(checkpoint, **bounds)


def test_a_saved_processor_needs_no_configuration_of_the_model(generator, tmp_path):
    generator.processor.save_pretrained(tmp_path)
    loaded = InternVLChatProcessor.from_pretrained(str(tmp_path))
    names = ("tile_size", "tokens_per_tile", "max_tiles", "has_thumbnail", "template", "image_mean", "image_std")
    for name in names:
        assert getattr(loaded, name) == getattr(generator.processor, name)
    assert (loaded.tile_size, loaded.tokens_per_tile, loaded.max_tiles) == (56, 4, 12)
    text = "How good?"
    assert loaded.tokenizer(text)["input_ids"] == generator.processor.tokenizer(text)["input_ids"]


# ---- conversations ------------------------------------------------------------------------------------------------


def read(generator: HFGenerator, messages: list[dict], images: list) -> str:
    return generator.processor.tokenizer.decode(generator.encode(messages, images).input_ids)


def test_an_image_is_a_placeholder_per_feature_of_each_tile(generator):
    first, second = "<IMG_CONTEXT>" * 4 * 3, "<IMG_CONTEXT>" * 4
    assert read(generator, ask("How good?", 2), [make_image(112, 56), make_image(56, 56)]) == (
        f"<|im_start|>user\n<img>{first}</img>\n<img>{second}</img>\nHow good?<|im_end|>\n<|im_start|>assistant\n"
    )


def test_prompts_are_those_of_the_layout_of_transformers(generator):
    native, module = FAMILIES["internvl"]()[1], InternVLModule()
    images, frames = [make_image(112, 56), make_image(56, 56)], make_frames(56, 56, 3)
    messages = [{"role": "system", "content": "Judge."}, *ask("Which one?", 2, num_videos=1)]
    encoded = [module.encode_image(native, image) for image in images]
    video = module.encode_video(native, frames, [0, 1, 2], 1.0)
    expected = native.tokenizer.decode(module.encode_prompt(native, messages, encoded, [video]).input_ids)
    ours = MODULE.encode_video(generator.processor, frames, [0, 1, 2], 1.0)
    prompt = generator.encode(messages, images, [ours])
    assert generator.processor.tokenizer.decode(prompt.input_ids) == expected
    assert prompt.media_inputs["image_flags"].shape == (len(prompt.media_inputs["pixel_values"]), 1)


def test_the_word_image_in_angle_brackets_is_text_and_the_real_placeholder_is_refused(generator):
    assert "What does <image> mean?" in read(generator, ask("What does <image> mean?", 1), [make_image(56, 56)])
    with pytest.raises(ValueError, match="places for 1 images, not for 0"):
        generator.encode(ask("What does <IMG_CONTEXT> mean?", 0), [])


def test_the_tokenizers_chat_template_goes_before_the_conversation_format(tmp_path):
    folder = build_remote_checkpoint(tmp_path / "own", chat_template="[{{ messages[0]['content'] }}]")
    processor = InternVLChatProcessor.from_pretrained(folder)
    assert processor.apply_chat_template(ask("Why?", 1)) == "[<IMG_CONTEXT>\nWhy?]"


def test_a_format_that_is_not_known_is_refused_unless_the_tokenizer_has_a_template(checkpoint, tmp_path):
    folder = tmp_path / "odd"
    shutil.copytree(checkpoint, folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"template": "odd"}))
    with pytest.raises(ValueError, match="'odd' is not one of Hermes-2.*chat_template"):
        InternVLChatProcessor.from_pretrained(str(folder))
    (folder / "chat_template.jinja").write_text(INTERNVL_CHAT_TEMPLATE)
    InternVLChatProcessor.from_pretrained(str(folder))


def test_ends_are_those_of_format_tokenizer_and_model(generator):
    tokenizer = generator.processor.tokenizer
    separator, of_model = tokenizer.convert_tokens_to_ids(["<|im_end|>", tokenizer.pad_token])
    assert generator.model.generation_config.eos_token_id == of_model != separator
    tokenizer.eos_token = None
    try:
        ids = generator.vlm_module.get_eos_token_ids(generator.model.generation_config, generator.processor)
    finally:
        tokenizer.eos_token = "<|im_end|>"
    assert ids == sorted({separator, of_model})
    assert generator.suppressed_token_ids == sorted(
        tokenizer.convert_tokens_to_ids(["<img>", "</img>", "<IMG_CONTEXT>"])
    )


def test_tower_projector_and_language_model_are_told_apart(generator):
    parts = {name: get_part(name, MODULE) for name, _ in generator.model.named_parameters()}
    firsts = {"vision_model": "vision", "mlp1": "projector", "language_model": "language"}
    assert all(part == firsts[name.split(".")[0]] for name, part in parts.items())
    assert set(parts.values()) == set(firsts.values())

"""A picture is prepared once, and where the vision tower is frozen it runs once per picture and round."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from builders import ask, make_image
from datasets import Dataset

from open_r1.inference.generator import SamplingSettings
from open_r1.inference.hf_generator import HFGenerator
from open_r1.trainer.attention import enable_packing
from open_r1.trainer.batch import RolloutBatch, pad_completions
from open_r1.trainer.collator import GroupCollator
from open_r1.trainer.logps import LogpsScorer
from open_r1.trainer.parts import freeze_parts
from open_r1.trainer.vision import (
    attach_media_features,
    drop_media_features,
    find_media_kinds,
    has_same_vision,
    is_vision_frozen,
)
from open_r1.vlm_modules.vlm_module import EncodedPrompt


@pytest.fixture(scope="module")
def generator(family_checkpoint: str) -> HFGenerator:
    generator = HFGenerator.from_pretrained(family_checkpoint, device="cpu")
    freeze_parts(generator.model, generator.vlm_module, ["vision", "projector"])
    enable_packing(generator.model)
    return generator


@pytest.fixture(scope="module")
def prompts(generator: HFGenerator) -> list[EncodedPrompt]:
    """Four groups over three pictures: one of them is shown by three groups, and no two have the same size."""
    shared, second, third = make_image(84, 56, 1), make_image(112, 84, 2), make_image(56, 140, 3)
    prompts = [
        generator.encode(ask("How good?", 1), [shared]),
        generator.encode(ask("Which is better?", 2), [second, shared.copy()]),
        generator.encode(ask("No picture.", 0), []),
        generator.encode(ask("And these three?", 3), [third, shared.copy(), second.copy()]),
    ]
    return [generator.vlm_module.with_positions(generator.model, prompt) for prompt in prompts]


def count_patches(prompts: list[EncodedPrompt]) -> int:
    """Rows of pixels over the different pictures of some prompts: patches, or the tiles of InternVL."""
    images = {image.key: image for prompt in prompts for image in prompt.images}
    return sum(len(image.inputs["pixel_values"]) for image in images.values())


@contextmanager
def watch_tower(generator: HFGenerator, model: torch.nn.Module) -> Iterator[list[int]]:
    """A list that gets the number of patches (tiles) of every run of a model's vision tower."""
    sizes = []

    def note(module, args, kwargs):
        sizes.append(len(args[0] if args else kwargs["pixel_values"]))

    keyword = generator.vlm_module.get_vision_modules_keywords()[0]
    tower = next(module for name, module in model.named_modules() if name.split(".")[-1] == keyword)
    hook = tower.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield sizes
    finally:
        hook.remove()


def attach(generator: HFGenerator, prompts: list[EncodedPrompt], **options) -> list[EncodedPrompt]:
    return attach_media_features(
        generator.model, generator.vlm_module, prompts, **{"images_per_pass": 2, "offload": False} | options
    )


def draw_batch(generator: HFGenerator, prompts: list[EncodedPrompt]) -> RolloutBatch:
    completions = generator.generate(prompts, 3, SamplingSettings(max_new_tokens=5, seed=0))
    ids, mask = pad_completions(completions.token_ids, generator.pad_token_id, torch.device("cpu"))
    return RolloutBatch(prompts=prompts, completion_ids=ids, completion_mask=mask)


def score(generator: HFGenerator, batch: RolloutBatch, model: torch.nn.Module | None = None) -> torch.Tensor:
    model = model or generator.model
    family = {"vlm_module": generator.vlm_module, "pad_token_id": generator.pad_token_id}
    return LogpsScorer(**family, is_packed=True).score(model, model.get_output_embeddings(), batch).per_token_logps


def test_a_whole_round_runs_the_tower_once_per_picture(generator, prompts):
    reference = copy.deepcopy(generator.model)
    assert is_vision_frozen(generator.model, generator.vlm_module)
    assert has_same_vision(generator.model, reference, generator.vlm_module)
    with watch_tower(generator, generator.model) as runs, watch_tower(generator, reference) as runs_of_reference:
        attached = attach(generator, prompts)
        assert len(runs) == 2  # three pictures, two at a time
        # A padded tile of LLaVA-OneVision that is alone in a pass goes in twice.
        spare = int(generator.model.config.model_type == "llava_onevision")
        assert sum(runs) == count_patches(prompts) + spare
        batch = draw_batch(generator, attached)
        with torch.no_grad():
            score(generator, batch, reference)
        for _ in range(2):
            score(generator, batch).sum().backward()
        generator.model.zero_grad()
        assert len(runs) == 2
        assert runs_of_reference == []


def test_the_tower_runs_without_gradient_and_prompts_keep_their_pixels(generator, prompts):
    attached = attach(generator, prompts)
    for before, after in zip(prompts, attached, strict=True):
        assert [image.key for image in after.images] == [image.key for image in before.images]
        for own, image in zip(before.images, after.images):
            assert own.features is None
            assert image.inputs is own.inputs
            assert image.features and not any(level.requires_grad for level in image.features)
    assert attached[1].images[1].features is attached[3].images[1].features  # the shared picture's


def test_a_pass_takes_the_features_that_belong_to_its_pictures(generator):
    pictures = [make_image(84, 56, seed) for seed in range(3)]
    prompts = [
        generator.encode(ask("Which?", 2), [pictures[0], pictures[1]]),
        generator.encode(ask("Which one is better?", 2), [pictures[2], pictures[0]]),
    ]
    prompts = [generator.vlm_module.with_positions(generator.model, prompt) for prompt in prompts]
    batch = draw_batch(generator, prompts)
    expected = score(generator, batch)
    for images_per_pass in (1, 2, 100):
        attached = attach(generator, prompts, images_per_pass=images_per_pass)
        assert torch.allclose(score(generator, replace(batch, prompts=attached)), expected, atol=1e-5)
    exchanged = [replace(attached[0], media=attached[0].media[::-1]), attached[1]]
    wrong = score(generator, replace(batch, prompts=exchanged)) - expected
    assert wrong[:3].abs().max() > 1e-2
    assert wrong[3:].abs().max() < 1e-5


def test_features_in_cpu_memory_give_the_same_numbers(generator, prompts):
    offloaded = attach(generator, prompts, offload=True)
    devices = {level.device.type for prompt in offloaded for image in prompt.images for level in image.features}
    assert devices == {"cpu"}
    batch = draw_batch(generator, attach(generator, prompts))
    assert torch.equal(score(generator, replace(batch, prompts=offloaded)), score(generator, batch))


def test_a_reference_with_another_tower_takes_the_pixels(generator, prompts):
    reference = copy.deepcopy(generator.model)
    with torch.no_grad():
        for name, parameter in reference.named_parameters():
            if generator.vlm_module.is_projector_parameter(name):
                parameter.mul_(1.5)
    assert not has_same_vision(generator.model, reference, generator.vlm_module)

    attached = attach(generator, prompts)
    batch = draw_batch(generator, attached)
    dropped = replace(batch, prompts=[drop_media_features(prompt) for prompt in attached])
    with torch.no_grad(), watch_tower(generator, reference) as runs:
        ours = score(generator, dropped, reference)
        expected = score(generator, replace(batch, prompts=prompts), reference)
        wrong = score(generator, batch, reference)
    assert len(runs) == 2
    assert torch.equal(ours, expected)
    assert (wrong - expected).abs().max() > 1e-2


def test_a_tower_in_another_dtype_is_another_tower(generator):
    assert not has_same_vision(generator.model, copy.deepcopy(generator.model).double(), generator.vlm_module)


def test_one_trained_parameter_of_tower_or_projector_is_enough_to_run_it_in_every_pass(generator):
    model = copy.deepcopy(generator.model)
    name = next(name for name, _ in model.named_parameters() if generator.vlm_module.is_projector_parameter(name))
    model.get_parameter(name).requires_grad_(True)
    assert not is_vision_frozen(model, generator.vlm_module)


def test_each_different_picture_of_a_round_is_prepared_once(generator, tmp_path, monkeypatch):
    """Rows that show the same file, and rows whose different files hold the same picture."""
    for name, seed in [("a", 0), ("copy of a", 0), ("b", 1), ("c", 2)]:
        make_image(84, 56, seed).save(tmp_path / f"{name}.png")
    shown = [["a"], ["copy of a"], ["b", "a"], [], ["c", "copy of a", "b"]]
    rows = [
        {"image_path": [str(tmp_path / f"{name}.png") for name in names], "prompt": ask("How good?", len(names))}
        for names in shown
    ]
    prepared = []
    processor_class = type(generator.processor.image_processor)
    original = processor_class.preprocess

    def watch(self, images, *args, **kwargs):
        prepared.append(len(images))
        return original(self, images, *args, **kwargs)

    monkeypatch.setattr(processor_class, "preprocess", watch)
    groups = GroupCollator(generator.vlm_module, generator.processor)(rows)
    if generator.model.config.model_type == "llava_onevision":  # alone, and beside others
        assert prepared == [1] * 6
    else:
        assert prepared == [1, 1, 1]  # a, b, c
    keys = [[image.key.removesuffix(" padded") for image in group.prompt.images] for group in groups]
    assert len({key for own in keys for key in own}) == 3
    assert keys[0] == keys[1] == [keys[2][1]] == [keys[4][1]]


def test_the_kinds_of_media_are_those_that_any_row_shows():
    def find(**columns: list[list[str]]) -> tuple[str, ...]:
        return find_media_kinds(Dataset.from_dict(columns))

    assert find(image_path=[[], ["a.png"]]) == ("image",)
    assert find(image_path=[[], ["a.png"]], video_path=[["a.mp4"], []]) == ("image", "video")
    assert find(image_path=[["a.png"], []], video_path=[[], []]) == ("image",)
    assert find(image_path=[[], []], video_path=[[], ["frames"]]) == ("video",)
    assert find(image_path=[[], []], video_path=[[], []]) == ("image",)  # the tower's gradients are waited for

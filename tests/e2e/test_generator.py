"""Generation with one prefill per prompt equals plain generation with every prompt copied G times."""

import pytest
import torch
from builders import ask, make_image
from transformers import GenerationConfig

from open_r1.inference.batching import collate_prompts, list_media, pad_left
from open_r1.inference.generator import SamplingSettings
from open_r1.inference.hf_generator import HFGenerator
from open_r1.trainer.attention import enable_packing
from open_r1.trainer.vision import attach_media_features
from open_r1.vlm_modules.vlm_module import EncodedPrompt


@pytest.fixture(scope="module")
def generator(tiny_checkpoint: str) -> HFGenerator:
    return HFGenerator.from_pretrained(tiny_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def family(family_checkpoint: str) -> HFGenerator:
    """A model of each family in turn."""
    return HFGenerator.from_pretrained(family_checkpoint, device="cpu")


@pytest.fixture(scope="module")
def prompts(generator: HFGenerator) -> list[EncodedPrompt]:
    return build_prompts(generator)


def build_prompts(generator: HFGenerator) -> list[EncodedPrompt]:
    """One image, two images of other sizes, none: three lengths."""
    return [
        generator.encode(ask("What is the quality?", 1), [make_image(112, 84)]),
        generator.encode(ask("Which is better, this or that?", 2), [make_image(56, 84, 1), make_image(140, 56, 2)]),
        generator.encode(ask("No picture at all.", 0), []),
    ]


def generate_replicated(
    generator: HFGenerator, prompts: list[EncodedPrompt], num_generations: int, sampling: SamplingSettings
) -> list[list[int]]:
    """transformers' own `generate` over a row per completion: vision tower and prompt run G times."""
    placed = [generator.vlm_module.with_positions(generator.model, prompt) for prompt in prompts]
    replicas = [prompt for prompt in placed for _ in range(num_generations)]
    tokens = collate_prompts(replicas, 0)
    media = generator.vlm_module.build_media_inputs(list_media(replicas), generator.model.device)
    tokens.pop("position_ids")  # the model finds its own
    tokens["input_ids"][tokens["attention_mask"] == 0] = generator.pad_token_id
    if hasattr(generator.model.model, "rope_deltas"):  # left over from another prompt
        generator.model.model.rope_deltas = None
    config = generator._build_generation_config(sampling)
    output = generator.model.generate(**tokens, **media, generation_config=config)
    return generator._cut(output[:, tokens["input_ids"].shape[1] :].tolist()).token_ids


@pytest.mark.parametrize("settings", [{}, {"top_k": 5}, {"top_p": 0.7, "temperature": 1.5}, {"temperature": 0.0}])
def test_sampled_tokens_equal_those_of_replicated_generation_under_the_same_seed(generator, prompts, settings):
    sampling = SamplingSettings(max_new_tokens=10, **settings)
    torch.manual_seed(3)
    ours = generator.generate(prompts, 3, sampling).token_ids
    torch.manual_seed(3)
    assert ours == generate_replicated(generator, prompts, 3, sampling)
    assert len(ours) == 9


@pytest.mark.parametrize("with_features", [False, True])
def test_every_family_samples_the_tokens_of_replicated_generation(family, with_features):
    """With features where the vision tower has run already, and with the attention that training uses."""
    sampling = SamplingSettings(max_new_tokens=12, temperature=1.2)
    prompts = build_prompts(family)
    torch.manual_seed(5)
    expected = generate_replicated(family, prompts, 4, sampling)
    enable_packing(family.model)
    if with_features:
        prompts = attach_media_features(family.model, family.vlm_module, prompts, images_per_pass=2)
    torch.manual_seed(5)
    assert family.generate(prompts, 4, sampling).token_ids == expected
    assert len({tuple(row) for row in expected}) == 12  # no two alike, so that an order would show


def test_the_prompt_and_its_image_run_once_per_group(generator, prompts):
    widths, encodings = [], []
    hooks = [
        generator.model.model.language_model.layers[0].register_forward_hook(
            lambda module, args, output: widths.append(tuple(args[0].shape[:2]))
        ),
        generator.model.model.visual.register_forward_hook(lambda *_: encodings.append(1)),
    ]
    generator.generate(prompts[:1], 6, SamplingSettings(max_new_tokens=3))
    for hook in hooks:
        hook.remove()
    assert widths[0] == (1, prompts[0].num_tokens - 1)
    assert set(widths[1:]) == {(6, 1)}
    assert len(encodings) == 1


def test_a_seed_makes_sampling_repeatable_and_leaves_the_global_stream_alone(generator, prompts):
    sampling = SamplingSettings(max_new_tokens=8, seed=11)
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    first = generator.generate(prompts, 2, sampling)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert generator.generate(prompts, 2, sampling) == first


def test_greedy_completions_of_a_prompt_are_all_alike(generator, prompts):
    token_ids = generator.generate(prompts[:1], 3, SamplingSettings(max_new_tokens=6, temperature=0.0)).token_ids
    assert token_ids[0] == token_ids[1] == token_ids[2]


def test_the_checkpoints_own_generation_settings_do_not_leak_in(generator, prompts):
    sampling = SamplingSettings(max_new_tokens=8, seed=5)
    expected = generator.generate(prompts, 2, sampling)
    saved = generator.model.generation_config
    generator.model.generation_config = GenerationConfig(
        temperature=0.01, top_k=1, repetition_penalty=3.0, eos_token_id=saved.eos_token_id
    )
    try:
        assert generator.generate(prompts, 2, sampling) == expected
        assert generator.model.generation_config.top_k == 1
    finally:
        generator.model.generation_config = saved


def test_a_completion_ends_at_its_first_end_token_which_is_kept(generator):
    end = generator.eos_token_ids[0]
    completions = generator._cut([[4, end, 5, end], [4, 5, 6, 7]])
    assert completions.token_ids == [[4, end], [4, 5, 6, 7]]
    assert completions.finish_reasons == ["stop", "length"]


def test_media_tokens_are_never_sampled(generator, prompts):
    # At a temperature this high every token is about equally likely.
    sampling = SamplingSettings(max_new_tokens=40, temperature=1e6, seed=0)
    drawn = {i for row in generator.generate(prompts, 8, sampling).token_ids for i in row}
    assert len(drawn) > 100
    assert not drawn & set(generator.vlm_module.get_media_token_ids(generator.model.config, generator.processor))


def test_generation_runs_in_evaluation_mode_and_restores_training_mode(generator, prompts):
    modes = []
    generator.model.train()
    hook = generator.model.register_forward_hook(lambda module, *_: modes.append(module.training))
    generator.generate(prompts[:1], 2, SamplingSettings(max_new_tokens=2))
    hook.remove()
    assert set(modes) == {False}
    assert generator.model.training
    generator.model.eval()


def test_pixel_bounds_reach_the_image_processor(tiny_checkpoint):
    small = HFGenerator.from_pretrained(tiny_checkpoint, device="cpu", min_pixels=28 * 28, max_pixels=56 * 56)
    prompt = small.encode(ask("?", 1), [make_image(224, 224)])
    assert prompt.media_inputs["image_grid_thw"].tolist() == [[1, 4, 4]]  # 56 / 14 patches a side


def test_contradictory_pixel_bounds_are_refused(tiny_checkpoint):
    with pytest.raises(ValueError, match="exceeds max_pixels"):
        HFGenerator.from_pretrained(tiny_checkpoint, device="cpu", min_pixels=10_000, max_pixels=1000)


def test_padding_goes_to_the_left():
    padded = pad_left([torch.tensor([1, 2, 3]), torch.tensor([4])], padding_value=9)
    assert padded.tolist() == [[1, 2, 3], [9, 9, 4]]


@pytest.mark.parametrize(
    ("name", "value"),
    [("max_new_tokens", 0), ("temperature", -1.0), ("top_p", 0.0), ("top_k", -1), ("repetition_penalty", 0.0)],
)
def test_impossible_sampling_settings_are_refused_by_name(name: str, value: float):
    with pytest.raises(ValueError, match=name):
        SamplingSettings(**{name: value})

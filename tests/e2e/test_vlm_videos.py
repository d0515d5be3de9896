"""Videos as each family takes them: tensors, text, positions and features are those of transformers."""

from fractions import Fraction

import pytest
import torch
from builders import ask, encode_frames, make_frames, make_image
from families import build_checkpoint
from transformers.video_utils import VideoMetadata

from open_r1.inference.generator import SamplingSettings
from open_r1.inference.hf_generator import HFGenerator
from open_r1.trainer.vision import attach_media_features, build_idle_prompt
from open_r1.vlm_modules.internvl_module import InternVLModule
from open_r1.vlm_modules.qwen_module import QwenVLModule


# Families whose tensors are compared here; what the others compute of theirs is.
KNOWN_TENSORS = ("qwen2_vl", "qwen2_5_vl", "qwen3_vl", "internvl", "glm4v")


@pytest.fixture(scope="module")
def family(video_family_checkpoint: str) -> HFGenerator:
    """A model of each family in turn."""
    return HFGenerator.from_pretrained(video_family_checkpoint, device="cpu")


@pytest.fixture(scope="module", params=KNOWN_TENSORS)
def known_family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HFGenerator:
    checkpoint = build_checkpoint(request.param, tmp_path_factory.mktemp(request.param))
    return HFGenerator.from_pretrained(checkpoint, device="cpu")


def split_by_type(types: torch.Tensor) -> list[int]:
    return torch.unique_consecutive(types, return_counts=True)[1].tolist()


def test_a_prompt_is_encoded_exactly_as_the_processor_encodes_it_with_images_and_videos(known_family):
    """16 frames out of 8 seconds at 30 frames per second; the image stands between two videos."""
    family = known_family
    module, processor = family.vlm_module, family.processor
    clips = [make_frames(84, 56, 16, seed=1), make_frames(56, 112, 16, seed=2)]
    image, numbers = make_image(112, 84), [15 * number + 7 for number in range(16)]
    times = [number / 30 for number in numbers]
    videos = [module.encode_video(processor, frames, times, 0.5) for frames in clips]
    content = [{"type": kind} for kind in ("video", "image", "video")]
    messages = [{"role": "user", "content": [*content, {"type": "text", "text": "What happens?"}]}]
    prompt = family.encode(messages, [image], videos)
    assert [item.kind for item in prompt.media] == ["video", "image", "video"]

    options = {"do_sample_frames": False}
    if not isinstance(module, InternVLModule):
        options = module.get_video_options(processor, 16, None)
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    metadata = [VideoMetadata(total_num_frames=240, fps=30, frames_indices=list(numbers)) for _ in clips]
    expected = processor(
        text=[text],
        images=[image],
        videos=[torch.from_numpy(frames).permute(0, 3, 1, 2) for frames in clips],
        videos_kwargs=options | {"video_metadata": metadata},
        return_tensors="pt",
    )
    assert torch.equal(prompt.input_ids, expected["input_ids"][0])
    ours = prompt.media_inputs
    if family.model.config.model_type == "glm4v":  # all frames go to the model as images
        for name, of_videos in {"pixel_values": "pixel_values_videos", "image_grid_thw": "video_grid_thw"}.items():
            first, between, last = (item.inputs[name] for item in prompt.media)
            assert torch.equal(between, expected[name])
            if name == "pixel_values":
                assert torch.equal(torch.cat([first, last]), expected[of_videos])
            else:
                assert [len(first), len(last)] == expected[of_videos][:, 0].tolist() == [8, 8]
        return
    assert ours.keys() == expected.keys() - {"input_ids", "attention_mask", "mm_token_type_ids"}
    for name in ours:
        assert torch.equal(ours[name], expected[name]), name
    for name, values in prompt.token_inputs.items():
        assert torch.equal(values, expected[name][0])


def test_features_of_videos_are_what_the_model_computes_of_their_pixels(known_family):
    """One pass over images and videos of several sizes together, against passes of the model itself."""
    family = known_family
    module, model = family.vlm_module, family.model
    clips = [encode_frames(family, make_frames(84, 56, 4)), encode_frames(family, make_frames(56, 112, 6, seed=1))]
    image = module.encode_image(family.processor, make_image(112, 84))
    mixed = [clips[0], image, clips[1]]
    with torch.no_grad():
        features = module.compute_features(model, mixed)
        joined = module.join_features([features[0], features[2]])
        if "pixel_values_videos" in clips[0].inputs:
            inputs = {name: torch.cat([clip.inputs[name] for clip in clips]) for name in clips[0].inputs}
            inputs.pop("second_per_grid_ts", None)
            expected = model.get_video_features(**inputs, return_dict=True)
        else:
            inputs = {name: torch.cat([clip.inputs[name] for clip in clips]) for name in clips[0].inputs}
            expected = model.get_image_features(**inputs, return_dict=True)
        alone = module.compute_features(model, [image])[0]
    assert torch.allclose(
        torch.cat(tuple(joined["pooler_output"])), torch.cat(tuple(expected["pooler_output"])), atol=1e-5
    )
    if model.config.model_type == "qwen3_vl":
        for ours, theirs in zip(joined["deepstack_features"], expected["deepstack_features"], strict=True):
            assert torch.allclose(torch.cat(tuple(ours)), torch.cat(tuple(theirs)), atol=1e-5)
    for mine, wanted in zip(features[1], alone, strict=True):
        assert torch.allclose(mine, wanted, atol=1e-5)


def test_positions_are_those_that_the_model_finds_by_itself_where_a_video_is_no_longer_than_wide(family):
    video = encode_frames(family, make_frames(112, 84, 4))
    prompt = family.encode(ask("What happens?", 1, 1), [make_image(56, 84)], [video])
    prompt = family.vlm_module.with_positions(family.model, prompt)
    inputs = {name: values[None] for name, values in prompt.token_inputs.items()}
    media = family.vlm_module.build_media_inputs(prompt.media, torch.device("cpu"))
    inputs |= {"input_ids": prompt.input_ids[None], **media}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])  # without it Qwen2.5-Omni finds no positions
    with torch.no_grad():
        ours = family.model(**inputs, position_ids=prompt.position_ids.unsqueeze(-2)).logits
        assert torch.equal(ours, family.model(**inputs).logits)


@pytest.mark.parametrize("seconds", [0.25, 0.5, 2.0])
def test_text_goes_on_behind_the_last_frame_of_a_long_video(family, seconds):
    """The definition of M-RoPE: what follows a video begins at one more than its largest position on any axis."""
    model, config = family.model, family.model.config
    video = encode_frames(family, make_frames(56, 56, 32), seconds)
    prompt = family.encode(ask("What happens?", 0, 1), [], [video])
    positions = family.vlm_module.compute_position_ids(model, prompt)
    if positions.ndim == 1:
        assert positions.tolist() == list(range(prompt.num_tokens))
        return
    is_omni = config.model_type == "qwen2_5_omni_thinker"  # which does not tell kinds of tokens apart
    types = (prompt.input_ids == config.video_token_id) if is_omni else prompt.token_inputs["mm_token_type_ids"]
    runs = positions.split(split_by_type(types), dim=1)
    for before, after in zip(runs, runs[1:]):
        assert after.min() == before.max() + 1
    if config.model_type not in (
        "qwen2_vl",
        "qwen2_5_vl",
        "qwen2_5_omni_thinker",
    ):  # each pair of frames is a run of its own
        assert len(runs) == 2 * 16 + 1
        assert all(run[0].unique().numel() == 1 for run in runs[1::2])
        return
    before, frames, behind = runs
    owner, name = (config, "position_id_per_seconds") if is_omni else (config.vision_config, "tokens_per_second")
    step = 1 if config.model_type == "qwen2_vl" else getattr(owner, name) * 2 * Fraction(seconds)
    steps = frames[0].unique() - frames[0].min()
    assert steps.tolist() == [int(step * number) for number in range(16)]
    assert behind.min() == max(before.max() + 1 + int(step * 15), frames.max()) + 1


def test_the_times_of_frames_stand_in_the_prompt_of_families_that_write_them(family):
    frames, times = make_frames(56, 56, 4), [0.0, 1.0, 2.5, 7.1]
    text = family.vlm_module.encode_video(family.processor, frames, times, 2.0).text
    written = {"qwen3_vl": ["<0.5 seconds>", "<4.8 seconds>"], "glm4v": ["<|end_of_image|>0", "<|end_of_image|>2"]}
    for part in written.get(family.model.config.model_type, []):
        assert part in text
    if family.model.config.model_type == "internvl":
        assert text.count("Frame") == 4


def test_frames_are_reduced_to_the_bound_that_is_given_at_call_time(family):
    module, frames = family.vlm_module, make_frames(280, 168, 4)
    if not isinstance(module, QwenVLModule):
        with pytest.raises(ValueError, match="--video_max_pixels"):
            module.encode_video(family.processor, frames, [0, 1, 2, 3], 1.0, max_pixels=10_000)
        return
    patch = family.processor.video_processor.patch_size

    def measure_frame(max_pixels: int | None) -> int:
        inputs = module.encode_video(family.processor, frames, [0, 1, 2, 3], 1.0, max_pixels).inputs
        grid = inputs.get("video_grid_thw", inputs.get("image_grid_thw"))[0]
        return int(grid[1] * grid[2]) * patch**2

    assert 5_000 < measure_frame(10_000) <= 10_000
    assert 15_000 < measure_frame(30_000) <= 30_000
    assert 40_000 < measure_frame(None) < 60_000  # 280 x 168, whatever the checkpoint's processor was saved with


def test_generation_with_features_of_videos_draws_what_it_draws_from_pixels(family):
    prompts = [
        family.encode(ask("What happens?", 0, 1), [], [encode_frames(family, make_frames(56, 84, 4))]),
        family.encode(ask("No picture.", 0), []),
        family.encode(ask("Compare.", 1, 1), [make_image(84, 56)], [encode_frames(family, make_frames(84, 84, 4, 1))]),
    ]
    prompts = [family.vlm_module.with_positions(family.model, prompt) for prompt in prompts]
    greedy = SamplingSettings(max_new_tokens=8, temperature=0)
    expected = family.generate(prompts, 2, greedy).token_ids
    attached = attach_media_features(family.model, family.vlm_module, prompts, images_per_pass=4)
    assert family.generate(attached, 2, greedy).token_ids == expected
    alone = [family.generate([prompt], 1, greedy).token_ids[0] for prompt in prompts]
    assert alone == expected[::2]


def test_generation_is_that_of_transformers(family):
    """Greedy, one prompt, through nothing of ours; the video is no longer than wide, so that positions agree."""
    video = encode_frames(family, make_frames(112, 84, 4))
    prompt = family.encode(ask("What happens?", 0, 1), [], [video])
    greedy = SamplingSettings(max_new_tokens=8, temperature=0)
    ours = family.generate([prompt], 1, greedy).token_ids[0]
    inputs = {name: values[None] for name, values in prompt.token_inputs.items()}
    media = family.vlm_module.build_media_inputs(prompt.media, torch.device("cpu"))
    inputs |= {"input_ids": prompt.input_ids[None], **media}
    theirs = family.model.generate(
        **inputs,
        attention_mask=torch.ones_like(inputs["input_ids"]),
        max_new_tokens=8,
        do_sample=False,
        suppress_tokens=family.suppressed_token_ids,
    )
    theirs = theirs[0, prompt.num_tokens :].tolist()
    assert ours == theirs[: len(ours)]


def test_a_conversation_about_another_number_of_videos_is_refused(family):
    with pytest.raises(ValueError, match="places for 2 videos, not for 1"):
        family.encode(ask("?", 0, 2), [], [encode_frames(family, make_frames(56, 56, 2))])


@pytest.mark.parametrize("kinds", [("image",), ("video",), ("image", "video")])
def test_an_idle_prompt_shows_one_of_each_kind(family, kinds):
    prompt = build_idle_prompt(family.vlm_module, family.processor, kinds)
    assert tuple(item.kind for item in prompt.media) == kinds
    assert family.vlm_module.with_positions(family.model, prompt).num_tokens < 200

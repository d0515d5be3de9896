"""Qwen2.5-Omni: what a video says is heard, as transformers' processor and model hear it, and learnt from.

What it has in common with other families (pictures, videos without sound, packed rows, LoRA, freezing) is tested with
them: it is one of `families.FAMILIES`.
"""

import copy
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import ask, make_frames, make_image, make_sound, write_clip, write_video
from families import build_checkpoint
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file

from open_r1 import grpo_jsonl
from open_r1.data.video import VideoSettings, load_sound, load_video
from open_r1.inference.generator import SamplingSettings
from open_r1.inference.hf_generator import HFGenerator
from open_r1.trainer.attention import enable_packing
from open_r1.trainer.batch import RolloutBatch, pad_completions
from open_r1.trainer.collator import GroupCollator
from open_r1.trainer.logps import LogpsScorer
from open_r1.trainer.parts import find_linears, freeze_unused
from open_r1.trainer.vision import attach_media_features, build_idle_prompt, list_towers
from open_r1.vlm_modules import VLM_MODULES, get_vlm_module
from open_r1.vlm_modules.vlm_module import EncodedMedia, EncodedPrompt


MODEL_TYPE = "qwen2_5_omni_thinker"
RATE = 16000
QUESTION = "Which emotion?"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    return build_checkpoint(MODEL_TYPE, tmp_path_factory.mktemp("omni"))


@pytest.fixture(scope="module")
def generator(checkpoint) -> HFGenerator:
    generator = HFGenerator.from_pretrained(checkpoint, dtype="float32", device="cpu")
    enable_packing(generator.model)
    return generator


def encode_clip(
    generator: HFGenerator, num_frames: int, sound: np.ndarray | None, seconds: float = 0.5, seed: int = 0
) -> EncodedMedia:
    frames, times = make_frames(84, 56, num_frames, seed=seed), [seconds * number for number in range(num_frames)]
    given = {} if sound is None else {"sound": sound}
    return generator.vlm_module.encode_video(generator.processor, frames, times, seconds, **given)


def encode(generator: HFGenerator, *videos: EncodedMedia, images: tuple = ()) -> EncodedPrompt:
    prompt = generator.encode(ask(QUESTION, len(images), len(videos)), list(images), videos)
    return generator.vlm_module.with_positions(generator.model, prompt)


def process(
    generator: HFGenerator, messages: list[dict], clips: list[np.ndarray], sounds: list[np.ndarray], **options
) -> dict[str, torch.Tensor]:
    """What the checkpoint's own processor makes of a conversation; frames are half a second apart."""
    processor, module = generator.processor, generator.vlm_module
    text = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    if clips:
        options |= {"videos": [torch.from_numpy(clip).permute(0, 3, 1, 2) for clip in clips], "fps": 2.0}
        options |= {"do_sample_frames": False, "size": module.get_video_options(processor, 0, None)["size"]}
    return dict(processor(text=[text], audio=sounds or None, return_tensors="pt", **options))


def assert_same_inputs(generator: HFGenerator, prompt: EncodedPrompt, expected: dict[str, torch.Tensor]) -> None:
    """Token by token and value by value; the processor pads sounds to five minutes."""
    ours = generator.vlm_module.join_inputs(prompt.media)
    assert torch.equal(prompt.input_ids, expected["input_ids"][0])
    assert {*ours, "input_ids", "attention_mask"} == expected.keys()
    for name, values in ours.items():
        wanted = torch.as_tensor(expected[name])
        if name in ("input_features", "feature_attention_mask"):
            assert not expected["feature_attention_mask"][..., values.shape[-1] :].any()
            wanted = wanted[..., : values.shape[-1]]
        if name == "input_features":
            mask = ours["feature_attention_mask"].bool()[:, None].expand_as(values)
            assert torch.allclose(values[mask], wanted[mask], atol=1e-5)
        else:
            assert torch.equal(values, wanted), name


# ---- what the model is shown --------------------------------------------------------------------------------------

LENGTHS = {
    "as long as its frames": (10, 5.0),
    "shorter than its frames": (12, 2.7),
    "longer than its frames": (4, 5.3),
    "a fraction of a second": (2, 0.31),
}


@pytest.mark.parametrize(("num_frames", "seconds"), LENGTHS.values(), ids=LENGTHS)
def test_a_clip_with_its_sound_is_encoded_as_the_checkpoints_processor_and_model_do_it(generator, num_frames, seconds):
    frames, sound = make_frames(84, 56, num_frames), make_sound(seconds)
    prompt = encode(generator, encode_clip(generator, num_frames, sound))
    expected = process(generator, ask(QUESTION, 0, 1), [frames], [sound], use_audio_in_video=True)
    assert_same_inputs(generator, prompt, expected)
    with torch.no_grad():
        theirs = generator.model(**expected, use_audio_in_video=True).logits
        ours = generator.model(
            input_ids=prompt.input_ids[None],
            position_ids=prompt.position_ids[:, None],
            **generator.vlm_module.join_inputs(prompt.media),
        ).logits
    assert torch.allclose(ours, theirs, atol=1e-4)


def test_two_clips_with_their_sounds_and_an_image_are_encoded_in_their_order(generator):
    image, clips = make_image(56, 84), [make_frames(84, 56, 6), make_frames(56, 56, 4, seed=1)]
    sounds = [make_sound(3.1), make_sound(2.2, seed=1)]
    module, processor = generator.vlm_module, generator.processor
    videos = [
        module.encode_video(processor, clip, [0.5 * n for n in range(len(clip))], 0.5, sound=sound)
        for clip, sound in zip(clips, sounds)
    ]
    prompt = encode(generator, *videos, images=(image,))
    expected = process(generator, ask(QUESTION, 1, 2), clips, sounds, use_audio_in_video=True, images=[image])
    assert_same_inputs(generator, prompt, expected)
    positions, _ = generator.model.get_rope_index(
        expected["input_ids"],
        image_grid_thw=expected["image_grid_thw"],
        video_grid_thw=expected["video_grid_thw"],
        attention_mask=expected["attention_mask"],
        use_audio_in_video=True,
        audio_seqlens=expected["feature_attention_mask"].sum(-1),
        second_per_grids=torch.as_tensor(expected["video_second_per_grid"]),
    )
    assert torch.equal(prompt.position_ids, positions[:, 0])


def test_a_sound_by_itself_is_encoded_as_the_processor_does_it(generator):
    samples = make_sound(1.7)
    sound = generator.vlm_module.encode_sound(generator.processor, samples)
    messages = [{"role": "user", "content": [{"type": "audio"}, {"type": "text", "text": QUESTION}]}]
    prompt = generator.vlm_module.encode_prompt(generator.processor, messages, [], sounds=[sound])
    prompt = generator.vlm_module.with_positions(generator.model, prompt)
    assert [item.kind for item in prompt.media] == ["audio"]
    assert_same_inputs(generator, prompt, process(generator, messages, [], [samples]))
    assert torch.equal(prompt.position_ids, torch.arange(prompt.num_tokens).expand(3, -1))
    with pytest.raises(ValueError, match="places for 1 sounds, not for 0"):
        generator.vlm_module.encode_prompt(generator.processor, messages, [])


def test_in_one_prompt_a_clip_may_have_a_sound_and_the_next_one_none(generator):
    """Positions go on behind each as if the other were alone."""
    heard, silent = encode_clip(generator, 6, make_sound(3.0)), encode_clip(generator, 4, None, seed=1)
    both = encode(generator, heard, silent)
    alone = encode(generator, heard)
    shared = next(i for i, (a, b) in enumerate(zip(both.input_ids, alone.input_ids)) if a != b)
    assert torch.equal(both.position_ids[:, :shared], alone.position_ids[:, :shared])
    of_silent = encode(generator, silent)
    after = both.position_ids[:, -of_silent.num_tokens + 12 :]
    wanted = of_silent.position_ids[:, 12:]
    assert torch.equal(after - after[:, -1:], wanted - wanted[:, -1:])


# ---- how it is computed -------------------------------------------------------------------------------------------


def build_mixed_prompts(generator: HFGenerator) -> list[EncodedPrompt]:
    """Text alone, an image, a clip, a clip with its sound, and an image with two clips, one of which has a sound."""
    heard = [encode_clip(generator, 6, make_sound(3.1)), encode_clip(generator, 4, make_sound(1.4, seed=2), seed=2)]
    silent = encode_clip(generator, 4, None, seed=3)
    return [
        encode(generator),
        encode(generator, images=(make_image(84, 56),)),
        encode(generator, silent),
        encode(generator, heard[0]),
        encode(generator, silent, heard[1], images=(make_image(56, 56, seed=5),)),
    ]


def build_batch(prompts: list[EncodedPrompt]) -> RolloutBatch:
    """Two completions of each; they are arbitrary words."""
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(300, 600, (1 + n % 5,), generator=draw).tolist() for n in range(2 * len(prompts))]
    ids, mask = pad_completions(rows, 0, torch.device("cpu"))
    return RolloutBatch(prompts=prompts, completion_ids=ids, completion_mask=mask)


def score(generator: HFGenerator, batch: RolloutBatch, packed: bool, model: torch.nn.Module | None = None):
    """Log-probabilities, and the gradient of their sum."""
    model = model or generator.model
    scorer = LogpsScorer(vlm_module=generator.vlm_module, pad_token_id=generator.pad_token_id, is_packed=packed)
    model.zero_grad()
    logps = scorer.score(model, model.get_output_embeddings(), batch).per_token_logps
    logps.sum().backward()
    return logps.detach(), {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def prepare_model(generator: HFGenerator, with_adapters: bool) -> torch.nn.Module:
    model = copy.deepcopy(generator.model).double()
    if with_adapters:
        torch.manual_seed(0)
        targets = find_linears(model, generator.vlm_module, ["language"])
        model = get_peft_model(model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False)).double()
    freeze_unused(model, generator.vlm_module)
    return model


@pytest.mark.parametrize("kept", [False, True], ids=["pixels and spectrograms", "features"])
@pytest.mark.parametrize("with_adapters", [False, True], ids=["whole", "LoRA"])
def test_packed_rows_give_values_and_gradients_of_replicated_ones(generator, with_adapters, kept):
    model = prepare_model(generator, with_adapters)
    prompts = build_mixed_prompts(generator)
    expected, gradients = score(generator, build_batch(prompts), packed=False, model=model)
    if kept:
        bare = model.get_base_model() if with_adapters else model
        prompts = attach_media_features(bare, generator.vlm_module, prompts, images_per_pass=2)
    logps, found = score(generator, build_batch(prompts), packed=True, model=model)
    assert torch.allclose(logps, expected, rtol=0, atol=1e-9)
    assert not any("audio_tower" in name for name in found)
    for name in gradients.keys() & found.keys():
        error = (found[name] - gradients[name]).norm() / gradients[name].norm().clamp(min=1e-3)
        assert error < 1e-6, (name, error)
    of_towers = gradients.keys() - found.keys()
    assert all(name.startswith("visual.") for name in of_towers) and bool(of_towers) == (kept and not with_adapters)


def test_prompts_of_every_kind_in_one_batch_are_answered_as_each_alone_with_and_without_features(generator):
    prompts = build_mixed_prompts(generator)
    greedy = SamplingSettings(max_new_tokens=8, temperature=0)
    alone = [generator.generate([prompt], 1, greedy).token_ids[0] for prompt in prompts]
    together = generator.generate(prompts, 1, greedy).token_ids
    with_features = attach_media_features(generator.model, generator.vlm_module, prompts, images_per_pass=2)
    kept = generator.generate(with_features, 2, greedy).token_ids
    assert together == alone
    assert kept == [ids for ids in alone for _ in range(2)]
    assert len({tuple(ids) for ids in alone}) > 1


def test_decoding_goes_on_where_the_sound_left_off(generator):
    """A prefilled prompt and its cache give what whole passes give, whose positions the model finds by itself."""
    prompt = encode(generator, encode_clip(generator, 6, make_sound(3.1)))
    found = generator.generate([prompt], 1, SamplingSettings(max_new_tokens=6, temperature=0)).token_ids[0]
    inputs, ids = generator.vlm_module.join_inputs(prompt.media), prompt.input_ids
    for token in found:
        with torch.no_grad():
            logits = generator.model(
                input_ids=ids[None], attention_mask=torch.ones_like(ids)[None], use_audio_in_video=True, **inputs
            ).logits[0, -1]
        logits[generator.suppressed_token_ids] = -torch.inf
        assert token == int(logits.argmax())
        ids = torch.cat([ids, torch.tensor([token])])


def test_what_is_heard_changes_the_log_probabilities(generator):
    clips = [encode_clip(generator, 6, sound) for sound in (make_sound(3.0), make_sound(3.0, seed=1), None)]
    assert len({clip.key for clip in clips}) == 3
    logps = [score(generator, build_batch([encode(generator, clip)]), packed=True)[0] for clip in clips]
    for first in range(3):
        for second in range(first):
            assert (logps[first] - logps[second]).abs().max() > 1e-3
    again, _ = score(generator, build_batch([encode(generator, clips[0])]), packed=True)
    assert torch.equal(again, logps[0])


def test_a_group_that_stands_in_for_a_sound_runs_the_audio_tower(generator):
    prompt = build_idle_prompt(generator.vlm_module, generator.processor, ("audio",))
    assert list_towers(prompt.media) == {"video", "audio"}
    assert list_towers(encode_clip(generator, 2, None) for _ in range(1)) == {"video"}


# ---- checkpoints --------------------------------------------------------------------------------------------------


def test_a_full_checkpoint_gives_its_thinker_and_what_is_saved_loads_again(generator, checkpoint, tmp_path):
    """A talker's weights beside the thinker's are left alone."""
    from transformers import Qwen2_5OmniConfig, Qwen2_5OmniThinkerForConditionalGeneration

    full = tmp_path / "full"
    shutil.copytree(checkpoint, full)
    own = json.loads((full / "config.json").read_text())
    Qwen2_5OmniConfig(thinker_config=own).save_pretrained(full)
    weights = {f"thinker.{name}": tensor for name, tensor in load_file(full / "model.safetensors").items()}
    weights["talker.codec_head.weight"] = torch.zeros(2, 2)
    save_file(weights, full / "model.safetensors", metadata={"format": "pt"})
    assert get_vlm_module(str(full)) is VLM_MODULES[MODEL_TYPE]

    loaded = HFGenerator.from_pretrained(str(full), device="cpu")
    loaded.model.save_pretrained(tmp_path / "saved")
    loaded.processor.save_pretrained(tmp_path / "saved")
    again = HFGenerator.from_pretrained(str(tmp_path / "saved"), device="cpu").model
    elsewhere = Qwen2_5OmniThinkerForConditionalGeneration.from_pretrained(tmp_path / "saved")
    for model in (loaded.model, again, elsewhere):
        assert model.config.model_type == MODEL_TYPE
        assert model.state_dict().keys() == generator.model.state_dict().keys()
        for name, tensor in generator.model.state_dict().items():
            assert torch.equal(model.state_dict()[name], tensor), name


# ---- training -----------------------------------------------------------------------------------------------------

ROWS = [  # as they lie in a file; the first and the third show the same clip
    {"id": "heard", "video": "aac.mp4"},
    {"id": "also heard", "video": "pcm.mkv", "image": "0.png"},
    {"id": "heard again", "video": "aac.mp4"},
    {"id": "without sound", "video": "silent.mp4"},
    {"id": "seen", "image": "0.png"},
    {"id": "read"},
]


@pytest.fixture(scope="module")
def media(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    make_image(84, 56).save(folder / "0.png")
    write_clip(folder / "aac.mp4", make_frames(84, 56, 30, seed=1), make_sound(3.0))
    write_clip(folder / "pcm.mkv", make_frames(56, 84, 22, seed=2), make_sound(2.2, seed=2), codec="pcm_s16le")
    write_video(folder / "silent.mp4", make_frames(56, 56, 20, seed=3))
    lines = []
    for row in ROWS:
        turns = [{"from": "human", "value": "Which emotion?"}, {"from": "gpt", "value": "happy"}]
        lines.append(json.dumps(row | {"conversations": turns}))
    (folder / "train.jsonl").write_text("\n".join(lines))
    return folder


def build_trainer(checkpoint: str, media: Path, output_dir: Path, **options):
    defaults = {
        "model_name_or_path": checkpoint,
        "data_file_paths": media / "train.jsonl",
        "image_folders": media,
        "task_type": "emotion",
        "video_audio": "true",
        "video_max_frames": 6,
        "num_generations": 2,
        "per_device_train_batch_size": 2 * len(ROWS),
        "max_completion_length": 6,
        "max_steps": 2,
        "output_dir": output_dir,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": "true",
    }
    flags = [text for name, value in (defaults | options).items() for text in (f"--{name}", str(value))]
    return grpo_jsonl.build_trainer(*grpo_jsonl.parse_arguments(flags))


def collate(trainer) -> dict[str, EncodedPrompt]:
    groups = trainer.data_collator([trainer.train_dataset[index] for index in range(len(ROWS))])
    return {group.row["id"]: group.prompt for group in groups}


def read_metrics(output_dir: Path) -> list[dict]:
    lines = map(json.loads, (output_dir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "loss" in line]


def test_rows_of_text_pictures_and_clips_with_sound_are_learnt_from_by_the_command(checkpoint, media, tmp_path):
    (tmp_path / "reward.py").write_text(
        "def ids_reward(completions, completion_ids, **columns):\n"
        "    return [sum(ids) % 17 / 17 for ids in completion_ids]\n"
    )
    options = {"reward_funcs": f"{tmp_path}/reward.py:ids_reward", "beta": 0.04, "learning_rate": 1e-3}
    trainer = build_trainer(checkpoint, media, tmp_path / "run", **options)
    prompts = collate(trainer)
    has_sound = {name: any(item.has_sound for item in prompt.media) for name, prompt in prompts.items()}
    assert has_sound == {row["id"]: "heard" in row["id"] for row in ROWS}
    sound = load_sound(media / "aac.mp4", RATE)
    clip = load_video(media / "aac.mp4", VideoSettings(max_frames=6), 2)
    [heard] = prompts["heard"].media
    module, processor = trainer.vlm_module, trainer.processing_class
    expected = module.encode_video(processor, clip.frames, clip.timestamps, clip.seconds_per_frame, sound=sound)
    assert heard.key == expected.key and heard.text == expected.text
    assert prompts["heard again"].media[0] is heard
    assert trainer.media_kinds == ("image", "video", "audio")

    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    steps = read_metrics(tmp_path / "run")
    assert len(steps) == 2
    moved = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    assert all(0.01 < step["grad_norm"] < 1e4 for step in steps) and steps[1]["kl"] > 0
    assert {name.split(".")[0] for name in moved} == {"model", "lm_head", "visual"}


def test_towers_that_are_frozen_run_once_per_clip_and_round(checkpoint, media, tmp_path):
    """Two rounds of two steps and two iterations each, with a reference; every row is in every round."""
    options = {"freeze_vision_modules": "true", "num_iterations": 2, "beta": 0.04, "max_steps": 4}
    trainer = build_trainer(checkpoint, media, tmp_path / "run", **options)
    assert trainer.reuses_features and trainer.ref_reuses_features
    heard, seen = [], []
    trainer.model.audio_tower.register_forward_pre_hook(lambda module, args: heard.append(args[0].shape[-1]))
    trainer.model.visual.register_forward_pre_hook(lambda module, args: seen.append(1))
    lengths = [
        int(item.inputs["sound_length"])
        for item in {item.key: item for prompt in collate(trainer).values() for item in prompt.media}.values()
        if item.has_sound
    ]
    assert len(lengths) == 2
    trainer.train()
    assert sorted(heard) == sorted(2 * lengths)
    assert len(seen) == 2 * (1 + 3)  # the picture, and three clips each by itself


def test_without_the_flag_nothing_is_heard(checkpoint, media, tmp_path):
    trainer = build_trainer(checkpoint, media, tmp_path / "run", video_audio="false")
    assert trainer.media_kinds == ("image", "video")
    assert not any(item.has_sound for prompt in collate(trainer).values() for item in prompt.media)


def test_families_that_take_no_sound_refuse_it(tiny_checkpoint, media, tmp_path):
    with pytest.raises(ValueError, match="--video_audio true: models of the family qwen take no sound"):
        build_trainer(tiny_checkpoint, media, tmp_path / "run")


def test_a_collator_names_the_row_whose_clip_cannot_be_read(generator, tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    collator = GroupCollator(
        generator.vlm_module, generator.processor, video_settings=replace(VideoSettings(), audio=True)
    )
    row = {"image_path": [], "video_path": [str(tmp_path / "broken.mp4")], "prompt": ask("?", 0, 1), "source": "a:1"}
    with pytest.raises(ValueError, match="a:1.*broken.mp4"):
        collator([row])

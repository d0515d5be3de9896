"""Videos through the trainer, beside images and text in the same batch, in every family."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from builders import ask, make_frames, make_image, write_video
from datasets import Dataset

from open_r1 import grpo_jsonl
from open_r1.configs import GRPOModelConfig
from open_r1.data.video import VideoSettings
from open_r1.trainer.batch import RolloutBatch, pad_completions
from open_r1.trainer.collator import GroupCollator
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.grpo_trainer import VLMGRPOTrainer
from open_r1.trainer.loading import load_policy, load_reference, load_vlm_module


# Numbers of images and of videos in each row.
SHOWN = {"text": (0, 0), "image": (1, 0), "images": (3, 0), "video": (0, 1), "both": (1, 1)}


def token_reward(completions, completion_ids, **columns):
    """Something that differs within a group."""
    return [sum(ids) % 17 / 17 for ids in completion_ids]


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    """One row of each kind; `both` shows the folder of frames, `video` the file of 8 seconds."""
    folder = tmp_path_factory.mktemp("media")
    for number in range(3):
        make_image(56 + 28 * number, 84, seed=number).save(folder / f"{number}.png")
    write_video(folder / "clip.mp4", make_frames(84, 56, 80, seed=3), rate=10)
    (folder / "frames").mkdir()
    for number, frame in enumerate(make_frames(56, 112, 5, seed=4)):
        image = make_image(56, 112)
        image.putdata([tuple(pixel) for pixel in frame.reshape(-1, 3).tolist()])
        image.save(folder / "frames" / f"{number}.png")
    built = []
    for name, (num_images, num_videos) in SHOWN.items():
        row = {"id": name, "dataset_name": "MIXED", "source": f"rows.jsonl:{len(built) + 1}"}
        row["image_path"] = [str(folder / f"{number}.png") for number in range(num_images)]
        row["video_path"] = [str(folder / ("frames" if num_images else "clip.mp4"))] * num_videos
        built.append(row | {"prompt": ask("What happens here?", num_images, num_videos)})
    for row in built:
        for part in row["prompt"][0]["content"]:
            part.setdefault("text", None)
    return built


def build_trainer(
    checkpoint: str,
    rows: list[dict],
    output_dir: Path,
    model_options: dict | None = None,
    video_settings: VideoSettings | None = None,
    **settings,
) -> VLMGRPOTrainer:
    defaults = {
        "output_dir": str(output_dir),
        "num_generations": 2,
        "per_device_train_batch_size": 2 * len(rows),
        "max_completion_length": 6,
        "learning_rate": 1e-3,
        "max_steps": 2,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    model_args = GRPOModelConfig(model_name_or_path=checkpoint, **(model_options or {}))
    args = GRPOConfig(**(defaults | settings))
    torch.manual_seed(0)
    vlm_module = load_vlm_module(model_args)
    return VLMGRPOTrainer(
        load_policy(model_args, vlm_module),
        load_reference(model_args, vlm_module, args.beta),
        [token_reward],
        args,
        vlm_module=vlm_module,
        processing_class=vlm_module.load_processor(checkpoint),
        train_dataset=Dataset.from_list(rows),
        video_settings=video_settings,
    )


def read_metrics(output_dir: Path) -> list[dict]:
    lines = map(json.loads, (output_dir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "loss" in line]


@contextmanager
def watch_tower(trainer: VLMGRPOTrainer, model: torch.nn.Module) -> Iterator[list[int]]:
    """A list that gets the number of patches (tiles) of every run of a model's vision tower."""
    sizes = []

    def note(module, args, kwargs):
        sizes.append(len(args[0] if args else kwargs["pixel_values"]))

    keyword = trainer.vlm_module.get_vision_modules_keywords()[0]
    tower = next(module for name, module in model.named_modules() if name.split(".")[-1] == keyword)
    hook = tower.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield sizes
    finally:
        hook.remove()


@pytest.mark.parametrize("options", [{}, {"freeze_vision_modules": True}], ids=["tower trained", "tower frozen"])
def test_a_batch_of_text_images_and_videos_is_learnt_from(video_family_checkpoint, rows, tmp_path, options):
    four = VideoSettings(min_frames=4, max_frames=4)  # of each, since LLaVA-OneVision takes one length at a time
    trainer = build_trainer(video_family_checkpoint, rows, tmp_path / "run", options, four, beta=0.04)
    before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
    trainer.train()
    assert trainer.media_kinds == ("image", "video")
    steps = read_metrics(tmp_path / "run")
    assert len(steps) == 2
    assert all(0.01 < step["grad_norm"] < 1e4 for step in steps)
    assert steps[1]["kl"] > 0
    moved = {
        name
        for name, parameter in trainer.model.named_parameters()
        if parameter.requires_grad and not torch.equal(parameter, before[name])
    }
    in_tower = {name for name in moved if trainer.vlm_module.is_vision_parameter(name)}
    assert bool(in_tower) == (options == {})
    lines = (tmp_path / "run" / "rollouts" / "rank0.jsonl").read_text().splitlines()
    assert {json.loads(line)["row"]["id"] for line in lines} == SHOWN.keys()


def test_a_frozen_tower_runs_once_per_picture_and_clip_and_round(video_family_checkpoint, rows, tmp_path):
    """Two rounds of two steps and two iterations each, with a reference; every row is in every round."""
    settings = {"num_iterations": 2, "beta": 0.04, "max_steps": 4}
    frozen = {"freeze_vision_modules": True}
    trainer = build_trainer(video_family_checkpoint, rows, tmp_path / "run", frozen, **settings)
    if trainer.model.config.model_type == "llava_onevision":
        pytest.skip("one that stands alone goes in twice, and pictures are cut otherwise beside others")
    assert trainer.reuses_features and trainer.ref_reuses_features
    groups = trainer.data_collator([trainer.train_dataset[index] for index in range(len(rows))])
    media = {item.key: item for group in groups for item in group.prompt.media}
    assert sorted(item.kind for item in media.values()) == ["image"] * 3 + ["video"] * 2
    patches = sum(
        len(item.inputs.get("pixel_values", item.inputs.get("pixel_values_videos"))) for item in media.values()
    )
    with watch_tower(trainer, trainer.model) as sizes, watch_tower(trainer, trainer.ref_model) as of_reference:
        trainer.train()
    assert sum(sizes) / (2 * patches) == 1.0
    assert len(sizes) == 2 * (1 + 2)  # all images together, each clip by itself
    assert of_reference == []


def test_the_loss_of_a_group_depends_on_its_clip(video_family_checkpoint, rows, tmp_path):
    """The same completions behind 16 frames, behind other frames, and behind the same frames in reverse."""
    trainer = build_trainer(video_family_checkpoint, rows[3:4], tmp_path / "run")
    module, generator = trainer.vlm_module, trainer.generator
    [group] = trainer.data_collator(rows[3:4])
    frames, times = make_frames(84, 56, 16, seed=7), [number / 2 for number in range(16)]
    videos = [
        module.encode_video(trainer.processing_class, clip, times, 0.5) for clip in (frames, frames[::-1].copy())
    ]
    shown = [group.prompt, *(generator.encode(rows[3]["prompt"], [], [video]) for video in videos)]
    without = generator.encode(ask("What happens here?", 0), [])
    ids, mask = pad_completions([[300, 301, 302], [303, 304]], generator.pad_token_id, torch.device("cpu"))

    def score(prompt) -> torch.Tensor:
        prompt = module.with_positions(trainer.model, prompt)
        batch = RolloutBatch(prompts=[prompt], completion_ids=ids, completion_mask=mask)
        return trainer._score_without_gradient(trainer.model, batch)

    logps = [score(prompt) for prompt in [*shown, without]]
    assert shown[0].num_tokens == shown[1].num_tokens > without.num_tokens + 16
    for first in range(4):
        for second in range(first):
            assert (logps[first] - logps[second]).abs().max() > 1e-3
    assert torch.equal(score(shown[0]), logps[0])


def test_rows_that_show_the_same_clip_share_the_work_and_settings_bound_its_frames(
    video_family_checkpoint, rows, tmp_path, monkeypatch
):
    trainer = build_trainer(video_family_checkpoint, rows, tmp_path / "run")
    module, processor = trainer.vlm_module, trainer.processing_class
    copied = tmp_path / "copy.mp4"
    copied.write_bytes(Path(rows[3]["video_path"][0]).read_bytes())
    again = [rows[3], rows[3] | {"video_path": [str(copied)]}, rows[3]]
    prepared = []
    original = type(processor.video_processor).preprocess

    def watch(self, videos, *args, **kwargs):
        prepared.append(len(videos[0]))
        return original(self, videos, *args, **kwargs)

    monkeypatch.setattr(type(processor.video_processor), "preprocess", watch)
    groups = GroupCollator(module, processor, video_settings=VideoSettings(fps=2))(again)
    assert prepared == [16]
    assert len({id(group.prompt.media[0]) for group in groups}) == 1
    GroupCollator(module, processor, video_settings=VideoSettings(fps=2, max_frames=6))(again)
    assert prepared == [16, 6]
    with pytest.raises(ValueError, match="rows.jsonl:4.*--video_max_frames"):
        GroupCollator(module, processor, 20, VideoSettings())(again)


def test_a_clip_that_cannot_be_read_is_named_with_its_row(video_family_checkpoint, rows, tmp_path):
    trainer = build_trainer(video_family_checkpoint, rows, tmp_path / "run")
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(b"no video")
    with pytest.raises(ValueError, match="rows.jsonl:4.*broken.mp4.*cannot be decoded"):
        trainer.data_collator([rows[3] | {"video_path": [str(broken)]}])


def test_rows_of_a_file_are_learnt_from_by_the_command(tiny_checkpoint, rows, tmp_path):
    """Four rows of a picture, a clip, a folder of frames, and neither; the options of videos reach the processor."""
    media = Path(rows[3]["video_path"][0]).parent
    shown = [{"image": "0.png"}, {"video": "clip.mp4"}, {"image": ["1.png"], "video": ["frames"]}, {}]
    lines = []
    for number, own in enumerate(shown):
        turns = [{"from": "human", "value": "<video>Which emotion?" if "video" in own else "Which emotion?"}]
        turns.append({"from": "gpt", "value": "happy"})
        lines.append(json.dumps({"id": number, "conversations": turns} | own))
    (tmp_path / "train.jsonl").write_text("\n".join(lines))
    options = {
        "model_name_or_path": tiny_checkpoint,
        "data_file_paths": tmp_path / "train.jsonl",
        "image_folders": media,
        "task_type": "emotion",
        "video_max_frames": 6,
        "video_max_pixels": 3200,
        "num_generations": 2,
        "per_device_train_batch_size": 8,
        "max_completion_length": 6,
        "max_steps": 2,
        "output_dir": tmp_path / "run",
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
    }
    flags = [text for name, value in options.items() for text in (f"--{name}", str(value))]
    trainer = grpo_jsonl.build_trainer(*grpo_jsonl.parse_arguments(flags))
    groups = {
        group.row["id"]: group for group in trainer.data_collator([trainer.train_dataset[index] for index in range(4)])
    }
    grids = {name: group.prompt.media_inputs.get("video_grid_thw") for name, group in groups.items()}
    assert grids["0"] is None and grids["3"] is None
    assert grids["1"].tolist() == [[3, 2, 4]]  # six frames of 84 x 56, of at most 3200 pixels each
    assert grids["2"].tolist() == [[3, 4, 2]]
    trainer.train()
    assert len(read_metrics(tmp_path / "run")) == 2
    [record] = [
        record
        for record in map(json.loads, (tmp_path / "run" / "rollouts" / "rank0.jsonl").read_text().splitlines())
        if record["row"]["id"] == "1" and record["step"] == 0
    ]
    assert record["row"]["video_path"] == [str(media / "clip.mp4")]

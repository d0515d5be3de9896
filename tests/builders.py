"""Small things that tests of several tiers build: images, conversations, data sets."""

import json
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from open_r1.completions import IQA_QUESTION


if TYPE_CHECKING:
    from open_r1.inference.hf_generator import HFGenerator
    from open_r1.vlm_modules import EncodedMedia


def make_image(width: int, height: int, seed: int = 0) -> Image.Image:
    """Noise of this size in pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def make_frames(width: int, height: int, num_frames: int, seed: int = 0) -> np.ndarray:
    """Frames (T, H, W, 3) of noise."""
    return np.random.default_rng(seed).integers(0, 256, (num_frames, height, width, 3), dtype=np.uint8)


def ask(text: str, num_images: int, num_videos: int = 0) -> list[dict]:
    """A conversation of one question about this many images, and then this many videos."""
    media = [{"type": "image"}] * num_images + [{"type": "video"}] * num_videos
    return [{"role": "user", "content": [*media, {"type": "text", "text": text}]}]


def encode_frames(generator: "HFGenerator", frames: np.ndarray, seconds_per_frame: float = 0.25) -> "EncodedMedia":
    """A video of these frames, at a constant rate."""
    times = [seconds_per_frame * number for number in range(len(frames))]
    return generator.vlm_module.encode_video(generator.processor, frames, times, seconds_per_frame)


def write_iqa_data(folder: Path, num_rows: int, name: str = "train.jsonl") -> tuple[Path, Path]:
    """Writes labelled images of 56 by 56 pixels as real data sets have them; returns JSONL file and image folder."""
    lines = []
    for i in range(num_rows):
        make_image(56, 56, seed=i).save(folder / f"{i}.png")
        turns = [{"from": "human", "value": IQA_QUESTION}, {"from": "gpt", "value": 1 + 4 * i / num_rows}]
        lines.append(json.dumps({"id": i + 1, "dataset_name": "NOISE", "image": [f"{i}.png"], "conversations": turns}))
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path, folder


def write_video(
    path: Path,
    frames: np.ndarray,
    rate: int = 10,
    times: list[int] | None = None,
    codec: str = "mpeg4",
    rotation: int = 0,
    **options: str,
) -> Path:
    """Writes frames (T, H, W, 3) as a video file.

    Args:
        path: Its suffix is the container.
        frames: What it shows.
        rate: Frames per second.
        times: When each frame is shown, in hundredths of a second; in place of the rate.
        codec: Of FFmpeg.
        rotation: Degrees by which a player turns it, against the clock.
        options: Of the container.
    """
    import av

    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream(codec, rate=rate if times is None else 100)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        if rotation:
            stream.set_display_rotation(rotation)
        for number, frame in enumerate(frames):
            picture = av.VideoFrame.from_ndarray(frame, format="rgb24")
            if times is not None:
                picture.pts, picture.time_base = times[number], Fraction(1, 100)
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    return path


def make_sound(seconds: float, seed: int = 0, rate: int = 16000) -> np.ndarray:
    """A tone (samples,) whose pitch and loudness change, mono; every seed has tones of its own."""
    draw = np.random.default_rng(seed)
    time = np.arange(round(seconds * rate)) / rate
    pitch = 200 + 2000 * draw.random() + 300 * np.sin(2 * np.pi * (1 + draw.random()) * time)
    tone = np.sin(2 * np.pi * np.cumsum(pitch) / rate)
    return (0.4 * (1 + np.sin(2 * np.pi * 3 * time)) * tone).astype(np.float32)


def write_clip(
    path: Path, frames: np.ndarray, sound: np.ndarray, codec: str = "aac", rate: int = 10, sound_rate: int = 16000
) -> Path:
    """Writes a video file with a stream of sound, mono, of `sound_rate` samples per second; PCM is `pcm_s16le`."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=rate)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        heard = container.add_stream(codec, rate=sound_rate, layout="mono")
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
        for start in range(0, len(sound), 1024):
            part = (sound[None, start : start + 1024] * 32767).astype(np.int16)
            samples = av.AudioFrame.from_ndarray(part, format="s16", layout="mono")
            samples.sample_rate, samples.pts, samples.time_base = sound_rate, start, Fraction(1, sound_rate)
            container.mux(heard.encode(samples))
        container.mux(heard.encode())
    return path

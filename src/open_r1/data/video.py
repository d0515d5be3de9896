"""Opens videos: the one place that decides which frames of a video the model sees.

    times of all frames  ->  pick_frames: how many, and which  ->  those alone are kept

A video is a file (`video_files.py`), a folder of pictures in the order of their names, or a `.npy` array of frames
(T, H, W, 3), uint8. Folders and arrays have no clock: their frames count as one step of `fps` apart.

Files are untrusted: whatever is wrong with one ends as `BadVideoError`, with the path and the reason.
"""

import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from open_r1.data.media import IMAGE_SUFFIXES, BadImageError, load_image
from open_r1.data.video_files import BadVideoError, read_frames, read_index, read_sound


__all__ = [
    *("BadVideoError", "VideoClip", "VideoSettings", "check_video", "list_frames", "load_sound", "load_video"),
    "pick_frames",
]

MAX_SOUND_SECONDS = 300  # of a video's sound; what follows is left out
MIN_SOUND_SECONDS = 0.04  # shorter ones count as none


@dataclass(frozen=True, kw_only=True)
class VideoSettings:
    """Which frames of a video are taken, and how large they may be. Options of the same names with `video_` before."""

    fps: float = 2.0  # frames per second of the video
    min_frames: int = 4  # where it has as many
    max_frames: int = 32
    max_pixels: int | None = None  # height times width of a frame after resizing; None: the family's default
    audio: bool = False  # whether a video comes with its sound

    def __post_init__(self):
        if not self.fps > 0:
            raise ValueError(f"--video_fps must be positive, not {self.fps}.")
        if not 1 <= self.min_frames <= self.max_frames:
            raise ValueError(
                f"--video_min_frames ({self.min_frames}) must be at least 1, and at most --video_max_frames "
                f"({self.max_frames})."
            )
        if self.max_pixels is not None and self.max_pixels < 28 * 28:
            raise ValueError(f"--video_max_pixels must be at least {28 * 28}, not {self.max_pixels}.")


@dataclass(frozen=True, kw_only=True)
class VideoClip:
    """Frames of a video. Example: 16 frames of 8 seconds have `seconds_per_frame` 0.5."""

    frames: np.ndarray  # (T, H, W, 3) uint8, RGB
    timestamps: tuple[float, ...]  # T seconds from the first frame of the video, ascending
    seconds_per_frame: float  # mean distance


def load_video(path: str | os.PathLike, settings: VideoSettings, multiple: int = 1) -> VideoClip:
    """The frames of a video, upright, evenly spread over its time.

    Args:
        path: A file, a folder of frames, or a `.npy` array.
        settings: How many frames.
        multiple: The number of frames is a multiple of this; the last one is repeated where the video is too short.

    Raises:
        BadVideoError: no such file, no video in it, damaged or truncated; frames of different sizes in a folder.
    """
    path = os.fspath(path)
    with _blame(path):
        if os.path.isdir(path):
            return _load_folder(path, settings, multiple)
        if not os.path.isfile(path):
            raise BadVideoError(path, "no such file")
        if path.endswith(".npy"):
            return _load_array(path, settings, multiple)
        index = read_index(path)
        return _build_clip(
            index.times, index.duration, settings, multiple, lambda picked: read_frames(path, index, picked)
        )


def load_sound(path: str | os.PathLike, rate: int) -> np.ndarray | None:
    """The sound of a video from its first frame on: (samples,) float32 between -1 and 1, mono, `rate` per second.

    None where it has none, or none to speak of; folders of frames and arrays never have one.

    Raises:
        BadVideoError: no such file, no video, or a sound that cannot be decoded.
    """
    path = os.fspath(path)
    if os.path.isdir(path) or path.endswith(".npy"):
        return None
    with _blame(path):
        if not os.path.isfile(path):
            raise BadVideoError(path, "no such file")
        sound = read_sound(path, rate, MAX_SOUND_SECONDS)
    return None if sound is None or len(sound) < MIN_SOUND_SECONDS * rate else sound


@contextmanager
def _blame(path: str) -> Iterator[None]:
    """Whatever is wrong with a file ends as `BadVideoError`."""
    try:
        yield
    except BadVideoError:
        raise
    except BadImageError as error:
        raise BadVideoError(path, str(error)) from error
    except (OSError, ValueError, EOFError, IndexError, OverflowError, struct.error) as error:
        raise BadVideoError(path, f"cannot be decoded: {error or type(error).__name__}") from error


def check_video(path: str | os.PathLike, settings: VideoSettings | None = None) -> str | None:
    """Why `load_video` would fail, or None. Decodes the frames that training would take."""
    try:
        load_video(path, settings or VideoSettings())
    except BadVideoError as error:
        return error.reason
    return None


def pick_frames(times: Sequence[float], duration: float, settings: VideoSettings, multiple: int = 1) -> list[int]:
    """Numbers of the frames to take, before padding: those on display at the middles of equal parts of the time.

    Where frames do not come at a constant rate, one may be taken twice. All frames are taken where there are no more.

    >>> pick_frames([0.0, 0.25, 0.5, 0.75], 1.0, VideoSettings(fps=2, min_frames=1))
    [1, 3]

    Args:
        times: Seconds from the first frame, ascending, at least one.
        duration: Seconds, the last frame's included.
        settings: How many frames.
        multiple: See `load_video`.
    """
    available = len(times)
    wanted = min(max(round(duration * settings.fps), settings.min_frames), settings.max_frames)
    wanted += -wanted % multiple
    if wanted > settings.max_frames:
        wanted = max(wanted - multiple, min(multiple, settings.max_frames))
    if wanted >= available:
        return list(range(available))
    middles = duration * (np.arange(wanted) + 0.5) / wanted
    return (np.searchsorted(times, middles, side="right") - 1).clip(0).tolist()


def _build_clip(
    times: Sequence[float],
    duration: float,
    settings: VideoSettings,
    multiple: int,
    read: Callable[[list[int]], np.ndarray],
) -> VideoClip:
    """Picks frames, lets them be read (their numbers -> (T, H, W, 3)), and repeats the last one up to a multiple."""
    picked = pick_frames(times, duration, settings, multiple)
    seconds_per_frame = duration / len(picked)
    frames = read(picked)
    rows = np.arange(len(picked) + -len(picked) % multiple).clip(max=len(picked) - 1)
    return VideoClip(
        frames=np.ascontiguousarray(frames[rows] if len(rows) > len(frames) else frames),
        timestamps=tuple(float(times[picked[row]]) for row in rows),
        seconds_per_frame=seconds_per_frame,
    )


# ---- folders and arrays -----------------------------------------------------------------------------------------


def list_frames(folder: str | os.PathLike) -> list[Path]:
    """The pictures of a folder, by name, numbers by their value: `2.png` comes before `10.png`."""
    files = [path for path in Path(folder).iterdir() if path.suffix.lower() in IMAGE_SUFFIXES]
    visible = [path for path in files if not path.name.startswith(".") and path.is_file()]
    return sorted(visible, key=lambda path: ([int(part) for part in re.findall(r"\d+", path.name)], path.name))


def _load_folder(path: str, settings: VideoSettings, multiple: int) -> VideoClip:
    files = list_frames(path)
    if not files:
        raise BadVideoError(path, "no pictures in this folder")

    def read(picked: list[int]) -> np.ndarray:
        frames = [np.asarray(load_image(files[number])) for number in picked]
        for number, frame in zip(picked, frames):
            if frame.shape != frames[0].shape:
                sizes = " and ".join(f"{height} x {width}" for height, width, _ in (frames[0].shape, frame.shape))
                raise BadVideoError(path, f"frames of different sizes, {sizes}: {files[number].name}")
        return np.stack(frames)

    return _build_clip(*_count_off(len(files), settings), settings, multiple, read)


def _load_array(path: str, settings: VideoSettings, multiple: int) -> VideoClip:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim != 4 or array.shape[-1] != 3 or array.dtype != np.uint8 or array.size == 0:
        raise BadVideoError(path, f"must be uint8 of shape (T, H, W, 3), not {array.dtype} of shape {array.shape}")
    return _build_clip(*_count_off(len(array), settings), settings, multiple, lambda picked: array[picked])


def _count_off(num_frames: int, settings: VideoSettings) -> tuple[np.ndarray, float]:
    """Times and duration of frames without a clock."""
    return np.arange(num_frames) / settings.fps, num_frames / settings.fps

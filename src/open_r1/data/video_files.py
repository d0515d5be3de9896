"""Reads video files through PyAV (extra `video`), for `video.py`: first the times of all frames, then some frames.

    packets, not decoded  ->  read_index  ->  (a choice)  ->  read_frames: from the key frames before them

Files are untrusted: only containers of video are opened, no playlists, which would open other files.
"""

import bisect
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from open_r1.data.media import BadImageError
from open_r1.utils.extras import require


if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import InputContainer


MAX_DECODED_PIXELS = 1920 * 1088  # of a frame; larger ones are scaled down as they are decoded, which bounds memory
MAX_FILE_PIXELS = 8192 * 8192  # of a frame; larger ones are refused
# Containers of video, and of sound for the sake of a better message.
_FORMATS = "mov,matroska,avi,gif,mpegts,mpeg,mpegvideo,ogg,flv,asf,ivf,h264,hevc,m4v,nut,wav,mp3,flac,aac"
_OPTIONS = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}


class BadVideoError(BadImageError):
    """A video that cannot be used. `BadVideoError("a.mp4", "no such file")` reads `a.mp4: no such file`."""


@dataclass(frozen=True, kw_only=True)
class FrameIndex:
    """What the packets of a stream say, without decoding them."""

    times: list[float]  # of all frames, in seconds from the first one, ascending
    pts: list[int] | None  # the same in the stream's units; None where packets carry no times
    key_pts: list[int]  # of frames that decoding can start from
    duration: float  # seconds, the last frame's included


def read_index(path: str | os.PathLike) -> FrameIndex:
    """The times of all frames.

    Raises:
        BadVideoError: no video in the file, or a part of it is missing.
    """
    with _open(path) as (container, stream):
        return _index_packets(container, stream, path)


def read_frames(path: str | os.PathLike, index: FrameIndex, picked: Sequence[int]) -> np.ndarray:
    """These frames (T, H, W, 3), uint8: found by their times, or counted where that does not lead to them.

    Raises:
        BadVideoError: they cannot be decoded.
    """
    with _open(path) as (container, stream):
        frames = [] if index.pts is None else _convert(path, _seek_frames(container, stream, index, picked))
    if len(frames) < len(picked):
        with _open(path) as (container, stream):
            frames = _convert(path, _count_frames(container.decode(stream), picked))
    if len(frames) < len(picked):
        raise BadVideoError(path, f"damaged: frame {picked[len(frames)]} of {len(index.times)} cannot be decoded")
    return np.stack(frames)


def read_sound(path: str | os.PathLike, rate: int, max_seconds: float) -> np.ndarray | None:
    """The first stream of sound (samples,), mono, `rate` samples per second, silent where it begins after the frames.

    None where there is none.

    Raises:
        BadVideoError: it cannot be decoded.
    """
    import av

    with _open(path) as (container, pictures):
        if not container.streams.audio:
            return None
        stream = container.streams.audio[0]
        stream.codec_context.thread_count = 1
        resampler = av.AudioResampler(format="flt", layout="mono", rate=rate)
        start = (pictures.start_time or 0) * pictures.time_base
        pieces, num_samples, lead = [], 0, None
        for frame in container.decode(stream):
            if lead is None:  # samples of silence; below zero, samples that come before the first frame
                lead = round(((frame.pts or 0) * frame.time_base - start) * rate) if frame.time_base else 0
            pieces += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
            num_samples += len(pieces[-1]) if pieces else 0
            if num_samples + lead > max_seconds * rate:
                break
        if not pieces:
            raise BadVideoError(path, "its sound cannot be decoded: there is nothing in its stream")
        pieces += [piece.to_ndarray()[0] for piece in resampler.resample(None)]
    sound = np.concatenate([np.zeros(min(max(lead, 0), int(max_seconds * rate)), dtype=np.float32), *pieces])
    return np.nan_to_num(sound[max(-lead, 0) :][: int(max_seconds * rate)]).clip(-1, 1)


@contextmanager
def _open(path: str | os.PathLike) -> "Iterator[tuple[InputContainer, VideoStream]]":
    """The container and its first stream of moving pictures; the cover of an album is none."""
    av = require("av", "video")
    try:
        with av.open(os.fspath(path), options=_OPTIONS, metadata_errors="replace") as container:
            cover = av.stream.Disposition.attached_pic
            streams = [stream for stream in container.streams.video if not stream.disposition & cover]
            if not streams:
                raise BadVideoError(path, "has no video stream, or was cut off before its index")
            context = streams[0].codec_context
            if context.width * context.height > MAX_FILE_PIXELS:
                raise BadVideoError(path, f"frames of {context.width} x {context.height} pixels are too large")
            context.thread_count = 1  # data loaders have workers of their own
            yield container, streams[0]
    except av.FFmpegError as error:
        raise BadVideoError(path, f"cannot be decoded: {error.strerror or type(error).__name__}") from error


def _index_packets(container: "InputContainer", stream: "VideoStream", path: str | os.PathLike) -> FrameIndex:
    packets, end = [], 0.0  # of this stream; the latest time in any stream
    for packet in container.demux():
        if packet.size and packet.pts is not None:
            end = max(end, float((packet.pts + (packet.duration or 0)) * packet.time_base))
        if packet.size and packet.stream is stream:
            packets.append((packet.pts, packet.duration, packet.is_keyframe, packet.is_discard))
    if len(packets) < stream.frames:
        raise BadVideoError(path, f"truncated: {len(packets)} of {stream.frames} frames are there")
    shown = [packet for packet in packets if not packet[3]]  # an edit list may leave out some
    if not shown:
        raise BadVideoError(path, "has no frames")
    rate = float(stream.average_rate or stream.guessed_rate or 25)
    if any(pts is None for pts, *_ in shown):
        times = [number / rate for number in range(len(shown))]
        return FrameIndex(times=times, pts=None, key_pts=[], duration=len(shown) / rate)
    unit, pts = float(stream.time_base), sorted(pts for pts, *_ in shown)
    gaps = np.diff(pts) * unit
    start, declared = (container.start_time or 0) / 1e6, (container.duration or 0) / 1e6
    if start + declared - end > max(0.25, 0.05 * declared, 2 * gaps.max(initial=0.0)):
        raise BadVideoError(path, f"truncated: {end - start:.1f} of {declared:.1f} seconds are there")
    last = max((duration or 0 for at, duration, *_ in shown if at == pts[-1])) * unit
    last = last or (float(np.median(gaps)) if len(gaps) else 1 / rate)
    return FrameIndex(
        times=[(at - pts[0]) * unit for at in pts],
        pts=pts,
        key_pts=sorted(at for at, _, is_key, _ in shown if is_key) or pts[:1],
        duration=(pts[-1] - pts[0]) * unit + last,
    )


def _seek_frames(
    container: "InputContainer", stream: "VideoStream", index: FrameIndex, picked: Sequence[int]
) -> "Iterator[VideoFrame]":
    """Decodes from the key frame before each one, unless that has been passed; ends at the first that is not found."""
    frames, current = iter(()), None
    for pts in (index.pts[number] for number in picked):
        key = index.key_pts[max(0, bisect.bisect_right(index.key_pts, pts) - 1)]
        if current is None or key > current.pts:
            container.seek(key, stream=stream)
            frames = (frame for frame in container.decode(stream) if frame.pts is not None)
            current = next(frames, None)
        while current is not None and current.pts < pts:
            current = next(frames, None)
        if current is None or current.pts != pts:
            return
        yield current


def _count_frames(frames: "Iterator[VideoFrame]", picked: Sequence[int]) -> "Iterator[VideoFrame]":
    remaining = list(reversed(picked))
    for number, frame in enumerate(frames):
        while remaining and remaining[-1] == number:
            yield frame
            remaining.pop()
        if not remaining:
            return


def _convert(path: str | os.PathLike, frames: "Iterator[VideoFrame]") -> list[np.ndarray]:
    """Frames as (H, W, 3), all of the first one's size, upright, and of MAX_DECODED_PIXELS at most."""
    arrays: list[np.ndarray] = []
    for frame in frames:
        if frame.is_corrupt:
            raise BadVideoError(path, f"damaged at {frame.time or 0:.1f} seconds")
        if not arrays:
            scale = min(1.0, (MAX_DECODED_PIXELS / (frame.width * frame.height)) ** 0.5)
            width, height = round(frame.width * scale), round(frame.height * scale)
            turns = frame.rotation // 90  # anticlockwise
        array = frame.to_ndarray(format="rgb24", width=width, height=height, interpolation="AREA")
        arrays.append(np.rot90(array, turns))
    return arrays

"""Which frames of a video are taken, from files, folders and arrays; and what is said of videos that are none."""

import pickle
import wave

import numpy as np
import pytest
from builders import make_frames, make_image, write_video

from open_r1.data.video import (
    BadVideoError,
    VideoSettings,
    check_video,
    list_frames,
    load_video,
    pick_frames,
)


def count_up(num_frames: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Grey frames, each 4 lighter than the one before it."""
    greys = (4 * np.arange(num_frames, dtype=np.uint8))[:, None, None, None]
    return np.broadcast_to(greys, (num_frames, height, width, 3)).copy()


def read_numbers(frames: np.ndarray) -> list[int]:
    """Which frames of `count_up` these are."""
    return np.round(frames.mean(axis=(1, 2, 3)) / 4).astype(int).tolist()


# ---- how many, and which ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("duration", [0.04, 1, 3, 7.9, 8.0, 8.1, 60, 3600])
@pytest.mark.parametrize("settings", [{}, {"fps": 0.5}, {"max_frames": 7}, {"min_frames": 9, "max_frames": 9}])
def test_the_number_of_frames_follows_the_time_within_its_bounds_for_videos_of_any_length(duration, settings):
    settings = VideoSettings(**settings)
    times = np.arange(max(1, round(25 * duration))) / 25
    picked = pick_frames(times, duration, settings, multiple=2)
    wanted = min(max(duration * settings.fps, settings.min_frames), settings.max_frames)
    assert abs(len(picked) - min(wanted, len(times))) <= 1.5
    assert len(picked) <= settings.max_frames
    assert len(picked) % 2 == 0 or len(picked) == len(times)
    assert picked == sorted(set(picked))


def test_frames_stand_at_the_middles_of_equal_parts_of_the_time():
    picked = pick_frames(np.arange(240) / 30, 8.0, VideoSettings(fps=2), multiple=2)
    assert picked == [7 + 15 * number for number in range(16)]


def test_where_frames_come_at_no_constant_rate_they_are_taken_by_time_and_not_by_number():
    """Nine seconds of one picture, then a hundred frames in one second."""
    times = [0.0, *(9 + np.arange(100) / 100)]
    picked = pick_frames(times, 10.0, VideoSettings(fps=1, min_frames=1))
    assert picked[:9] == [0] * 9
    assert picked[9] == 51


def test_a_video_that_is_too_short_is_filled_up_with_its_last_frame(tmp_path):
    np.save(tmp_path / "a.npy", count_up(3))
    clip = load_video(tmp_path / "a.npy", VideoSettings(fps=2), multiple=2)
    assert read_numbers(clip.frames) == [0, 1, 2, 2]
    assert clip.timestamps == (0.0, 0.5, 1.0, 1.0)
    assert clip.seconds_per_frame == 0.5


@pytest.mark.parametrize("most", [1, 2, 3])
def test_the_number_is_a_multiple_even_where_the_bound_is_not(tmp_path, most):
    np.save(tmp_path / "a.npy", count_up(20))
    clip = load_video(tmp_path / "a.npy", VideoSettings(min_frames=1, max_frames=most), multiple=2)
    assert len(clip.frames) == len(clip.timestamps) == 2


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"fps": 0}, "--video_fps must be positive, not 0"),
        ({"fps": float("nan")}, "--video_fps"),
        ({"min_frames": 0}, "--video_min_frames"),
        ({"min_frames": 9, "max_frames": 8}, r"\(9\).*\(8\)"),
        ({"max_pixels": 10}, "--video_max_pixels must be at least 784, not 10"),
    ],
)
def test_settings_that_cannot_be_met_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        VideoSettings(**settings)


# ---- files ------------------------------------------------------------------------------------------------------

CODECS = {"a.mp4": "libx264", "a.mkv": "libx264", "a.webm": "libvpx-vp9", "a.avi": "ffv1", "a.ts": "mpeg2video"}


@pytest.mark.parametrize("name", CODECS)
def test_the_frames_of_a_file_are_those_on_display_at_their_times(tmp_path, name):
    path = write_video(tmp_path / name, count_up(60), rate=10 if name != "a.ts" else 25, codec=CODECS[name])
    clip = load_video(path, VideoSettings(fps=2 if name != "a.ts" else 5), multiple=2)
    assert clip.frames.shape == (12, 48, 64, 3) and clip.frames.dtype == np.uint8
    assert clip.seconds_per_frame == pytest.approx(0.5 if name != "a.ts" else 0.2, rel=0.01)
    assert read_numbers(clip.frames) == [2 + 5 * number for number in range(12)]
    steps = np.diff(clip.timestamps)
    assert steps == pytest.approx(clip.seconds_per_frame, abs=2e-3)


def test_a_long_video_is_decoded_from_key_frames_to_the_same_frames(tmp_path):
    path = write_video(tmp_path / "a.mp4", np.tile(count_up(60), (10, 1, 1, 1)), rate=30, codec="libx264")
    few = load_video(path, VideoSettings(max_frames=4))
    assert read_numbers(few.frames) == [number % 60 for number in (75, 225, 375, 525)]


def test_times_of_a_file_without_a_constant_rate(tmp_path):
    times = [0, 10, 20, 300, 310, 900]  # hundredths of a second
    path = write_video(tmp_path / "a.mkv", count_up(6), times=times, codec="libx264")
    clip = load_video(path, VideoSettings(fps=0.5, min_frames=1))
    assert read_numbers(clip.frames) == [2, 2, 4, 4, 4]  # at 0.9, 2.7, 4.5, 6.4 and 8.2 seconds
    assert clip.timestamps == pytest.approx((0.2, 0.2, 3.1, 3.1, 3.1), abs=0.01)


def test_a_file_whose_packets_have_no_times_is_counted(tmp_path):
    path = write_video(tmp_path / "a.h264", count_up(20), rate=10, codec="libx264")
    clip = load_video(path, VideoSettings(max_frames=4))
    assert len(clip.frames) == 4
    assert read_numbers(clip.frames) == sorted(read_numbers(clip.frames))
    assert clip.seconds_per_frame > 0


def test_a_video_of_one_frame_is_that_frame_twice(tmp_path):
    clip = load_video(write_video(tmp_path / "a.mp4", count_up(1)), VideoSettings(), multiple=2)
    assert len(clip.frames) == 2 and clip.seconds_per_frame > 0
    assert np.array_equal(clip.frames[0], clip.frames[1])


@pytest.mark.parametrize("degrees, corner", [(90, (1, 0)), (180, (1, 1)), (270, (0, 1))])
def test_a_video_that_was_filmed_turned_is_upright(tmp_path, degrees, corner):
    """The corner that is bright in the file is elsewhere after a turn against the clock."""
    frames = np.zeros((4, 48, 64, 3), dtype=np.uint8)
    frames[:, :24, :32] = 255
    frame = load_video(write_video(tmp_path / "a.mp4", frames, rotation=degrees), VideoSettings()).frames[0]
    assert frame.shape[:2] == ((48, 64) if degrees == 180 else (64, 48))
    quarters = [np.split(half, 2, axis=1) for half in np.split(frame, 2, axis=0)]
    is_bright = np.array([[quarter.mean() > 128 for quarter in row] for row in quarters])
    assert np.argwhere(is_bright).tolist() == [list(corner)]


def test_frames_larger_than_full_hd_are_scaled_down_as_they_are_decoded(tmp_path):
    path = write_video(tmp_path / "a.mp4", make_frames(2560, 1440, 2), codec="mpeg4")
    height, width = load_video(path, VideoSettings()).frames.shape[1:3]
    assert height * width <= 1.01 * 1920 * 1088 and width / height == pytest.approx(2560 / 1440, rel=0.01)


# ---- folders ----------------------------------------------------------------------------------------------------


def test_a_folder_of_frames_is_read_in_the_order_of_the_numbers_in_their_names(tmp_path):
    for number, frame in enumerate(count_up(12)):
        image = make_image(64, 48)
        image.paste(tuple(frame[0, 0].tolist()), (0, 0, 64, 48))
        image.save(tmp_path / f"frame_{number}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / ".hidden.png").write_bytes(b"")
    assert [path.stem for path in list_frames(tmp_path)][8:] == ["frame_8", "frame_9", "frame_10", "frame_11"]
    clip = load_video(tmp_path, VideoSettings(fps=4), multiple=2)
    assert read_numbers(clip.frames) == list(range(12))
    assert clip.timestamps[-1] == 11 / 4 and clip.seconds_per_frame == 0.25


# ---- what is no video -------------------------------------------------------------------------------------------


def truncate(path, share: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])


def make_bad_videos(folder) -> dict[str, str]:
    """Paths with what must be said of them."""
    frames = make_frames(64, 48, 40)
    for name in ("index lost.mp4", "cut.mp4", "cut.mkv", "cut.avi"):
        options = {"movflags": "faststart"} if name == "cut.mp4" else {}
        truncate(write_video(folder / name, frames, **options), 0.6)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "text.mp4").write_text("This is no video.\n" * 50)
    (folder / "list.mp4").write_text(
        f"#EXTM3U\n#EXTINF:4,\n{write_video(folder / 'good.mp4', frames)}\n#EXT-X-ENDLIST\n"
    )
    with wave.open(str(folder / "sound.wav"), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8000)
        sound.writeframes(bytes(8000))
    (folder / "no frames").mkdir()
    (folder / "sizes").mkdir()
    for number, size in enumerate([(56, 56), (56, 56), (70, 56)]):
        make_image(*size).save(folder / "sizes" / f"{number}.png")
    (folder / "damaged frame").mkdir()
    make_image(56, 56).save(folder / "damaged frame" / "0.png")
    truncate(folder / "damaged frame" / "0.png", 0.5)
    np.save(folder / "floats.npy", np.zeros((4, 8, 8, 3)))
    np.save(folder / "flat.npy", np.zeros((8, 8, 3), dtype=np.uint8))
    np.save(folder / "none.npy", np.zeros((0, 8, 8, 3), dtype=np.uint8))
    np.save(folder / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    np.save(folder / "cut.npy", frames)
    truncate(folder / "cut.npy", 0.5)
    return {
        "nowhere.mp4": "no such file",
        "index lost.mp4": "cannot be decoded",
        "cut.mp4": "truncated: [0-9]+ of 40 frames",
        "cut.mkv": "truncated: [12].[0-9] of 4.0 seconds",
        "cut.avi": "truncated: [0-9]+ of 40 frames",
        "empty.mp4": "cannot be decoded",
        "text.mp4": "cannot be decoded",
        "list.mp4": "cannot be decoded",
        "sound.wav": "no video stream",
        "no frames": "no pictures in this folder",
        "sizes": "frames of different sizes, 56 x 56 and 56 x 70: 2.png",
        "damaged frame": "0.png: cannot be decoded",
        "floats.npy": "uint8 of shape .*, not float64 of shape",
        "flat.npy": r"not uint8 of shape \(8, 8, 3\)",
        "none.npy": r"not uint8 of shape \(0, 8, 8, 3\)",
        "objects.npy": "cannot be decoded",
        "cut.npy": "cannot be decoded",
    }


def test_every_bad_video_is_named_with_the_reason(tmp_path):
    for name, reason in make_bad_videos(tmp_path).items():
        with pytest.raises(BadVideoError, match=reason) as caught:
            load_video(tmp_path / name, VideoSettings())
        assert str(caught.value).startswith(str(tmp_path / name)), name
        assert check_video(tmp_path / name) == caught.value.reason
    assert check_video(tmp_path / "good.mp4") is None


def test_the_error_survives_the_way_out_of_a_data_loaders_worker():
    error = pickle.loads(pickle.dumps(BadVideoError("a.mp4", "no such file")))
    assert isinstance(error, BadVideoError) and str(error) == "a.mp4: no such file"

"""The sound of a video: read from its file, mono, at any rate, from the first frame on; nothing else comes out."""

from pathlib import Path

import numpy as np
import pytest
from builders import make_frames, make_sound, write_clip, write_video

from open_r1.data import video
from open_r1.data.file_check import FileChecker
from open_r1.data.video import BadVideoError, VideoSettings, load_sound, load_video


RATE = 16000


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    return make_frames(64, 48, 20)


def test_samples_of_pcm_come_back_as_they_are(tmp_path, frames):
    sound = make_sound(2.0)
    found = load_sound(write_clip(tmp_path / "a.mkv", frames, sound, codec="pcm_s16le"), RATE)
    assert found.dtype == np.float32 and found.shape == sound.shape
    assert np.abs(found - sound).max() < 2 / 32767


def test_aac_comes_back_in_time_and_nearly_as_it_was(tmp_path, frames):
    sound = make_sound(2.0)
    found = load_sound(write_clip(tmp_path / "a.mp4", frames, sound), RATE)
    assert abs(len(found) - len(sound)) <= 1024
    size = min(len(found), len(sound))
    assert np.corrcoef(found[:size], sound[:size])[0, 1] > 0.95


def test_another_rate_is_resampled(tmp_path, frames):
    sound = make_sound(2.0, rate=48000)
    found = load_sound(write_clip(tmp_path / "a.mkv", frames, sound, codec="pcm_s16le", sound_rate=48000), RATE)
    expected = sound[::3]  # it has no tones that a third of the samples could not hold
    assert abs(len(found) - len(expected)) < 64
    size = min(len(found), len(expected))
    assert np.corrcoef(found[:size], expected[:size])[0, 1] > 0.99


def test_a_clip_without_sound_a_folder_and_an_array_have_none(tmp_path, frames):
    np.save(tmp_path / "a.npy", frames)
    paths = [write_video(tmp_path / "a.mp4", frames), tmp_path, tmp_path / "a.npy"]
    assert [load_sound(path, RATE) for path in paths] == [None] * 3


def test_a_sound_too_short_to_be_heard_counts_as_none(tmp_path, frames):
    path = write_clip(tmp_path / "a.mkv", frames, make_sound(0.03), codec="pcm_s16le")
    assert load_sound(path, RATE) is None


def test_a_long_sound_is_cut(tmp_path, frames, monkeypatch):
    monkeypatch.setattr(video, "MAX_SOUND_SECONDS", 1)
    path = write_clip(tmp_path / "a.mkv", frames, make_sound(2.0), codec="pcm_s16le")
    assert load_sound(path, RATE).shape == (RATE,)


def test_a_file_that_is_not_there_or_no_video_is_refused_with_its_name(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"no video")
    with pytest.raises(BadVideoError, match="gone.mp4: no such file"):
        load_sound(tmp_path / "gone.mp4", RATE)
    with pytest.raises(BadVideoError, match="broken.mp4: cannot be decoded"):
        load_sound(tmp_path / "broken.mp4", RATE)


def spoil_sound(path: Path) -> Path:
    """Overwrites the packets of the sound with what their codec does not know."""
    import av

    with av.open(str(path)) as container:
        packets = [(packet.pos, packet.size) for packet in container.demux(audio=0) if packet.size]
    content = bytearray(path.read_bytes())
    for position, size in packets:
        content[position : position + size] = b"\xff" * size
    path.write_bytes(content)
    return path


def test_a_sound_that_cannot_be_decoded_is_refused_though_its_pictures_can_be(tmp_path, frames):
    path = spoil_sound(write_clip(tmp_path / "spoilt.mp4", frames, make_sound(2.0)))
    assert len(load_video(path, VideoSettings()).frames) == 4
    for with_sound in (False, True):
        with FileChecker("decode", with_sound) as checker:
            checker.check_videos([str(path)])
        assert bool(checker.reasons) == with_sound
    with pytest.raises(BadVideoError, match="spoilt.mp4: .*(cannot be decoded|its sound)"):
        load_sound(path, RATE)


def test_clips_without_sound_are_counted_before_training(tmp_path, frames, caplog):
    paths = [write_video(tmp_path / f"{n}.mp4", frames) for n in range(2)]
    paths.append(write_clip(tmp_path / "2.mp4", frames, make_sound(1.0)))
    with FileChecker("decode", with_sound=True) as checker:
        checker.check_videos(map(str, paths))
    assert checker.reasons == {}
    assert "2 videos have no sound and are shown without it, as " in caplog.text

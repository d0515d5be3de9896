"""Images of every kind become upright 8-bit RGB, or are refused with path and reason."""

import os
import pickle

import numpy as np
import pytest
from PIL import Image

from open_r1.data.media import BadImageError, check_image, list_images, load_image


def save_noise(path, size=(64, 48), mode="RGB"):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)).convert(mode).save(path)
    return path


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [("RGB", "png"), ("L", "png"), ("P", "png"), ("1", "png"), ("RGBA", "png"), ("LA", "png"), ("CMYK", "jpg"),
     ("P", "gif"), ("RGB", "bmp"), ("RGB", "tiff"), ("RGB", "webp")],
)  # fmt: skip
def test_every_mode_and_format_loads_as_rgb_of_the_same_size(tmp_path, mode, suffix):
    image = load_image(save_noise(tmp_path / f"a.{suffix}", mode=mode))
    assert image.mode == "RGB"
    assert image.size == (64, 48)


def test_exif_orientation_is_applied(tmp_path):
    picture = Image.new("RGB", (40, 20), "red")
    picture.paste("blue", (0, 0, 20, 20))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by 90 degrees clockwise: the left half comes to the top
    picture.save(tmp_path / "a.png", exif=exif)
    image = load_image(tmp_path / "a.png")
    assert image.size == (20, 40)
    assert image.getpixel((10, 5)) == (0, 0, 255)
    assert image.getpixel((10, 35)) == (255, 0, 0)


def test_transparent_pixels_become_white_whatever_colour_hides_in_them(tmp_path):
    Image.new("RGBA", (4, 4), (255, 0, 0, 0)).save(tmp_path / "rgba.png")
    assert load_image(tmp_path / "rgba.png").getpixel((0, 0)) == (255, 255, 255)
    palette = Image.new("P", (4, 4), 0)
    palette.putpalette([255, 0, 0, 0, 255, 0])
    palette.putpixel((1, 1), 1)
    palette.save(tmp_path / "palette.png", transparency=0)
    image = load_image(tmp_path / "palette.png")
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert image.getpixel((1, 1)) == (0, 255, 0)


def test_half_transparent_pixels_are_blended(tmp_path):
    Image.new("RGBA", (4, 4), (0, 0, 0, 51)).save(tmp_path / "a.png")
    assert load_image(tmp_path / "a.png").getpixel((0, 0)) == (204, 204, 204)  # 255 * (1 - 51/255)


def test_sixteen_bit_greys_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 128 * 257, 65535]], dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png")
    image = load_image(tmp_path / "a.png")
    assert [image.getpixel((x, 0))[0] for x in range(4)] == [0, 1, 128, 255]


def test_floating_point_images_are_read_from_0_to_1_and_refused_elsewhere(tmp_path):
    Image.fromarray(np.array([[0.0, 0.2, 1.0]], dtype=np.float32)).save(tmp_path / "a.tiff")
    assert [load_image(tmp_path / "a.tiff").getpixel((x, 0))[0] for x in range(3)] == [0, 51, 255]
    Image.fromarray(np.array([[0.0, 200.0]], dtype=np.float32)).save(tmp_path / "b.tiff")
    assert "outside 0 to 1" in check_image(tmp_path / "b.tiff")
    Image.fromarray(np.array([[np.nan]], dtype=np.float32)).save(tmp_path / "c.tiff")
    assert "outside 0 to 1" in check_image(tmp_path / "c.tiff")


@pytest.mark.parametrize("suffix", ["jpg", "png", "bmp", "webp", "gif", "tiff"])
def test_a_file_cut_in_half_is_found(tmp_path, suffix):
    path = save_noise(tmp_path / f"a.{suffix}", size=(200, 150))
    assert check_image(path) is None
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert check_image(path)
    with pytest.raises(BadImageError, match=f"a.{suffix}: "):
        load_image(path)


def test_a_file_with_flipped_bytes_is_refused_or_loads_but_raises_nothing_else(tmp_path):
    content = save_noise(tmp_path / "a.png").read_bytes()
    rng = np.random.default_rng(0)
    reasons = []
    for trial in range(200):
        damaged = bytearray(content)
        damaged[rng.integers(len(content) if trial % 2 else 60)] ^= 1 << rng.integers(8)
        (tmp_path / "b.png").write_bytes(damaged)
        reasons.append(check_image(tmp_path / "b.png"))
    assert any(reasons)


def test_missing_files_folders_and_texts_say_what_they_are(tmp_path):
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    assert check_image(tmp_path / "missing.png") == "no such file"
    assert "folder" in check_image(tmp_path)
    assert "not an image" in check_image(tmp_path / "text.png")
    assert "not an image" in check_image(tmp_path / "empty.png")
    assert "cannot be decoded" in check_image("nul\0byte.png")


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files through /proc")
def test_no_file_stays_open(tmp_path):
    path = save_noise(tmp_path / "a.png")
    before = len(os.listdir("/proc/self/fd"))
    images = [load_image(path) for _ in range(20)]
    assert len(os.listdir("/proc/self/fd")) == before
    path.unlink()
    assert images[0].getpixel((0, 0)) == images[1].getpixel((0, 0))


def test_the_error_survives_pickling_and_being_raised_anew_from_its_message():
    error = BadImageError("a.png", "no such file")
    assert str(pickle.loads(pickle.dumps(error))) == "a.png: no such file"
    assert str(type(error)(str(error))) == "a.png: no such file"


def test_images_are_listed_recursively_in_order_without_hidden_and_other_files(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ["b.PNG", "a.jpg", "sub/c.webp", "._a.jpg", "notes.txt"]:
        (tmp_path / name).write_bytes(b"x")
    assert [str(path.relative_to(tmp_path)) for path in list_images(tmp_path)] == ["a.jpg", "b.PNG", "sub/c.webp"]
    assert list_images(tmp_path / "a.jpg") == [tmp_path / "a.jpg"]
    with pytest.raises(ValueError, match="no such file or folder"):
        list_images(tmp_path / "nowhere")


def test_links_to_folders_are_followed_and_a_loop_of_them_ends(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "a.png").write_bytes(b"x")
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "linked").symlink_to(tmp_path / "elsewhere")
    (folder / "loop").symlink_to(folder)
    assert list_images(folder) == [folder / "linked" / "a.png"]

"""Opens images: the one place that decides what a picture file looks like as RGB.

Used by the loader (are all images readable?), the trainer's data loader, scoring and evaluation. Files are untrusted:
whatever Pillow makes of a damaged one ends as `BadImageError`, with the path and the reason.
"""

import io
import os
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


# A path, or {"bytes", "path"} as data sets of Hugging Face have it.
ImageSource = str | os.PathLike | Mapping[str, Any]

IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")

VIDEO_SUFFIXES = (".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".npy", ".ogv", ".webm", ".wmv")

_DECODE_ERRORS = (
    OSError,  # truncated and unidentified files
    SyntaxError,  # broken PNG chunks
    ValueError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    struct.error,
    Image.DecompressionBombError,
)


class BadImageError(ValueError):
    """An image that cannot be used. `BadImageError("a.png", "no such file")` reads `a.png: no such file`."""

    def __init__(self, path: str | os.PathLike, reason: str | None = None):
        # One argument must do: a data loader's worker hands its errors over as `type(error)(message)`.
        super().__init__(str(path) if reason is None else f"{path}: {reason}")
        self.reason = str(path) if reason is None else reason

    def __reduce__(self):
        return type(self), (str(self),)


def load_image(source: ImageSource) -> Image.Image:
    """The image as 8-bit RGB, upright by its EXIF orientation, decoded, its file closed.

    Transparent parts are laid over white, 16-bit images are scaled to 8 bits (Pillow would clip them), of an animation
    the first frame is taken.

    Raises:
        BadImageError: no such file, not an image, damaged, truncated, or of a depth that has no agreed range.
    """
    name, file = _open_source(source)
    try:
        with Image.open(file) as image:
            return convert_image(image, name)
    except FileNotFoundError as error:
        raise BadImageError(name, "no such file") from error
    except IsADirectoryError as error:
        raise BadImageError(name, "is a folder, not an image file") from error
    except UnidentifiedImageError as error:
        raise BadImageError(name, "not an image, or of a kind that Pillow cannot read") from error
    except BadImageError:
        raise
    except _DECODE_ERRORS as error:
        raise BadImageError(name, f"cannot be decoded: {error or type(error).__name__}") from error


def convert_image(image: Image.Image, name: str | os.PathLike) -> Image.Image:
    """An opened image as `load_image` returns it; BadImageError with the name where that cannot be."""
    try:
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except _DECODE_ERRORS as error:
        raise BadImageError(name, f"cannot be decoded: {error or type(error).__name__}") from error


def read_image_size(path: str | os.PathLike) -> tuple[int, int] | None:
    """Width and height by the header alone, as they are stored; None where it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.size
    except _DECODE_ERRORS:
        return None


def load_row_images(row: Mapping[str, Any]) -> list[Image.Image]:
    """The images of a row, from its column `image` where it has one, else from the files of `image_path`.

    Raises:
        BadImageError: one of them cannot be used.
    """
    return [load_image(source) for source in list_image_sources(row)]


def list_image_sources(row: Mapping[str, Any]) -> Sequence[ImageSource]:
    """What `load_image` takes for each image of a row, in order."""
    pictures = row.get("image")
    if pictures is None:
        return row["image_path"]
    return [pictures] if isinstance(pictures, Mapping) else pictures


def _open_source(source: ImageSource) -> tuple[str | os.PathLike, str | os.PathLike | io.BytesIO]:
    """The name of an image for messages, and what Pillow opens."""
    if not isinstance(source, Mapping):
        return source, source
    name = source.get("path") or "a picture without a name"
    content = source.get("bytes")
    return name, name if content is None else io.BytesIO(content)


def check_image(source: ImageSource) -> str | None:
    """Why `load_image` would fail, or None. Decodes the whole image, since truncation shows at the end only."""
    try:
        load_image(source)
    except BadImageError as error:
        return error.reason
    return None


def list_images(path: str | os.PathLike) -> list[Path]:
    """The image files below a folder, by suffix, sorted by path; hidden files are left out. A file gives itself.

    Links to folders are followed, each folder is entered once.

    Raises:
        ValueError: nothing exists at `path`.
    """
    root = Path(path)
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise ValueError(f"{path}: no such file or folder")
    found: list[Path] = []
    entered: set[str] = set()
    for folder, subfolders, names in os.walk(root, followlinks=True):
        if os.path.realpath(folder) in entered:
            subfolders.clear()
            continue
        entered.add(os.path.realpath(folder))
        subfolders.sort()
        files = [Path(folder, name) for name in names if not name.startswith(".")]
        found += [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES and file.is_file()]
    return sorted(found)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        image = _to_8_bit(image)
    elif image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Greys of 16 bits (0 to 65535) or of floating point (0 to 1) as 8 bits."""
    values = np.asarray(image)  # (H, W)
    top = 1.0 if image.mode == "F" else 65535.0
    if not ((values >= 0) & (values <= top)).all():
        raise ValueError(f"{image.mode!r} pixels outside 0 to {top:g}: the range of such images is not defined")
    return Image.fromarray(np.round(values * (255.0 / top)).astype(np.uint8))

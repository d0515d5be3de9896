"""Digests of images and videos: what is equal has equal keys, whatever file it comes from."""

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING


if TYPE_CHECKING:
    import numpy as np
    from PIL import Image


def compute_image_key(image: "Image.Image") -> str:
    """A digest of the pixels: equal pictures have equal keys."""
    digest = hashlib.blake2b(f"{image.mode} {image.size}".encode(), digest_size=16)
    digest.update(image.tobytes())
    return digest.hexdigest()


def compute_video_key(frames: "np.ndarray", timestamps: Sequence[float], sound: "np.ndarray | None" = None) -> str:
    """A digest of pixels, times and sound: equal clips have equal keys, and none has that of an image."""
    digest = hashlib.blake2b(f"video {frames.shape} {list(timestamps)}".encode(), digest_size=16)
    digest.update(frames.tobytes())
    return digest.hexdigest() if sound is None else f"{digest.hexdigest()} {compute_sound_key(sound)}"


def compute_sound_key(samples: "np.ndarray") -> str:
    """A digest of the samples of a sound."""
    digest = hashlib.blake2b(f"sound {samples.shape}".encode(), digest_size=16)
    digest.update(samples.tobytes())
    return digest.hexdigest()

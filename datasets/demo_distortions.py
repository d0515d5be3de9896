"""The distortions of the demo data: KADID-10k's types with KADID-10k's level parameters, in a few lines each.

Used by `make_demo.py` beside it. KADID-10k (Lin, Hosu, Saupe, QoMEX 2019) distorts photographs of 512 x 384 pixels
in 25 ways at 5 levels. Type 20 (displaced patches) is left out; the others are close relatives of the originals, not
replicas: denoising is non-local means instead of a network, and the blocks of type 23 are scaled to the smaller crop.

Every function takes an image (H, W, 3) of floats in 0..1, the level's parameter and a random generator, and returns
an image that may leave 0..1 (the caller clips).

Labels are the mean DMOS that people gave to each (type, level) of the real KADID-10k, 1 (bad) to 5 (good). Level is
not severity for types 18 (mean shift) and 25 (contrast): their level 3 is the undistorted picture.
"""

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image
from scipy import ndimage
from skimage import color, restoration


@dataclass(frozen=True)
class Distortion:
    """One type of KADID-10k: number, words for it, function, its 5 level parameters and its 5 mean DMOS."""

    type_id: int
    name: str
    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]
    parameters: tuple[float, ...]
    dmos: tuple[float, ...]
    needs_color: bool = False  # leaves a grey picture as it is, so its label would be wrong there

    @property
    def is_visible(self) -> bool:
        """Whether it can be told from the texture of the crop alone, without the original beside it."""
        return self.apply not in _SUBTLE + _LOCAL


def distort(image: np.ndarray, distortion: Distortion, level: int, rng: np.random.Generator) -> np.ndarray:
    """`image` (H, W, 3), uint8, distorted at `level` (1 to 5); same shape and type."""
    distorted = distortion.apply(image / 255.0, distortion.parameters[level - 1], rng)
    return np.round(np.clip(distorted, 0.0, 1.0) * 255.0).astype(np.uint8)


def _filter(image, kernel):
    """Each channel of `image` (H, W, K) correlated with `kernel` (h, w), borders mirrored."""
    return ndimage.correlate(image, kernel[:, :, None], mode="mirror")


def gaussian_blur(image, sigma, rng):
    return ndimage.gaussian_filter(image, sigma=(sigma, sigma, 0), mode="mirror")


def lens_blur(image, radius, rng):
    """A disk with a soft rim one pixel wide."""
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    disk = np.clip(radius + 0.5 - np.hypot(x, y), 0.0, 1.0)
    return _filter(image, disk / disk.sum())


def motion_blur(image, length, rng):
    """A line of `length` pixels at a random angle, drawn by bilinear weights."""
    angle = rng.uniform(0, np.pi)
    half = int(np.ceil(length / 2)) + 1
    kernel = np.zeros((2 * half + 1, 2 * half + 1))
    for step in np.linspace(-(length - 1) / 2, (length - 1) / 2, 8 * int(length) + 1):
        y, x = half + step * np.sin(angle), half + step * np.cos(angle)
        top, left = int(y), int(x)
        weights = np.outer([1 - (y - top), y - top], [1 - (x - left), x - left])
        kernel[top : top + 2, left : left + 2] += weights
    return _filter(image, kernel / kernel.sum())


def _with_lab(image, change):
    """`change` applied to the Lab form (L in 0..100) of `image`; colours that RGB cannot show are cut, silently."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Conversion from CIE-LAB")
        return color.lab2rgb(change(color.rgb2lab(image)))


def color_diffusion(image, amount, rng):
    sigma = 1.5 * amount + 2

    def diffuse(lab):
        lab[..., 1:] = amount * ndimage.gaussian_filter(lab[..., 1:], sigma=(sigma, sigma, 0), mode="mirror")
        return lab

    return _with_lab(image, diffuse)


def color_shift(image, amount, rng):
    """The green channel moved by `amount` pixels where the picture has edges."""
    grey = ndimage.gaussian_filter(image.mean(axis=2), 0.5)
    edges = ndimage.gaussian_filter(np.hypot(ndimage.sobel(grey, 0), ndimage.sobel(grey, 1)), 4)
    low, high = np.percentile(edges, (1, 99))
    mask = np.clip((edges - low) / max(high - low, 1e-6), 0.0, 1.0)
    angle = rng.uniform(0, np.pi / 2)
    offset = np.round(amount * np.array([np.sin(angle), np.cos(angle)]))
    shifted = image.copy()
    moved = ndimage.shift(image[..., 1], offset, order=0, mode="nearest")
    shifted[..., 1] = mask * moved + (1 - mask) * image[..., 1]
    return shifted


def color_quantization(image, num_colors, rng):
    picture = Image.fromarray((image * 255).round().astype(np.uint8))
    dithered = picture.quantize(int(num_colors), method=Image.Quantize.MEDIANCUT, dither=Image.Dither.FLOYDSTEINBERG)
    return np.asarray(dithered.convert("RGB")) / 255.0


def hsv_saturation(image, factor, rng):
    hsv = color.rgb2hsv(image)
    grey = hsv[..., 2:]
    return grey + (image - grey) * factor


def lab_saturation(image, factor, rng):
    return _with_lab(image, lambda lab: lab * np.array([1.0, factor, factor]))


def _recompress(image, **options):
    buffer = io.BytesIO()
    Image.fromarray((image * 255).round().astype(np.uint8)).save(buffer, **options)
    return np.asarray(Image.open(buffer).convert("RGB")) / 255.0


def jpeg2000(image, ratio, rng):
    """Compressed as part of a mirrored mosaic: in one small crop the file's header would eat the bits."""
    height, width = image.shape[:2]
    mosaic = np.pad(image, ((height, height), (width, width), (0, 0)), mode="symmetric")
    decoded = _recompress(mosaic, format="JPEG2000", quality_mode="rates", quality_layers=[ratio], irreversible=True)
    return decoded[height : 2 * height, width : 2 * width]


def jpeg(image, quality, rng):
    return _recompress(image, format="JPEG", quality=int(quality))


def white_noise(image, variance, rng):
    return image + rng.normal(0.0, np.sqrt(variance), image.shape)


def color_noise(image, variance, rng):
    return color.ycbcr2rgb(color.rgb2ycbcr(image) + 255.0 * rng.normal(0.0, np.sqrt(variance), image.shape))


def impulse_noise(image, density, rng):
    draw = rng.random(image.shape)
    return np.where(draw < density / 2, 0.0, np.where(draw > 1 - density / 2, 1.0, image))


def speckle_noise(image, variance, rng):
    return image * (1.0 + rng.normal(0.0, np.sqrt(variance), image.shape))


def denoise(image, variance, rng):
    noisy = np.clip(image + rng.normal(0.0, np.sqrt(variance), image.shape), 0.0, 1.0)
    sigma = np.sqrt(variance)
    options = {"patch_size": 3, "patch_distance": 3, "h": 0.8 * sigma, "sigma": sigma, "fast_mode": True}
    return restoration.denoise_nl_means(noisy.astype(np.float32), channel_axis=2, **options)


def _tone_curve(image, anchors, values):
    """A smooth tone curve through (0, 0), the anchors and (1, 1)."""
    coefficients = np.polyfit((0.0, *anchors, 1.0), (0.0, *values, 1.0), len(anchors) + 1)
    return np.clip(np.polyval(coefficients, image), 0.0, 1.0)


def brighten(image, amount, rng):
    return _tone_curve(image, (0.5,), (0.5 + amount / 2,))


def darken(image, amount, rng):
    return _tone_curve(image, (0.5,), (0.5 - amount / 2,))


def mean_shift(image, amount, rng):
    return image + amount


def jitter(image, amount, rng):
    """Every pixel takes the colour of a random neighbour, five times over."""
    height, width = image.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    for _ in range(5):
        source_rows = np.clip(np.round(rows + amount * rng.normal(size=rows.shape)).astype(int), 0, height - 1)
        source_columns = np.clip(np.round(columns + amount * rng.normal(size=rows.shape)).astype(int), 0, width - 1)
        image = image[source_rows, source_columns]
    return image


def pixelate(image, strength, rng):
    height, width = image.shape[:2]
    share = 0.95 - strength**0.6
    picture = Image.fromarray((image * 255).round().astype(np.uint8))
    small = picture.resize((int(width * share), int(height * share)), Image.Resampling.NEAREST)
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST)) / 255.0


def quantization(image, num_levels, rng):
    return np.minimum(np.floor(image * num_levels), num_levels - 1) / (num_levels - 1)


def color_blocks(image, num_blocks, rng):
    size = image.shape[1] * 32 // 384  # 32 of 384 pixels in KADID-10k
    image = image.copy()
    for _ in range(int(num_blocks)):
        row, column = rng.integers(0, image.shape[0] - size), rng.integers(0, image.shape[1] - size)
        image[row : row + size, column : column + size] = rng.random(3)
    return image


def sharpen(image, amount, rng):
    def unsharp(lab):
        lab[..., 0] += amount * (lab[..., 0] - ndimage.gaussian_filter(lab[..., 0], 3.0, mode="mirror"))
        lab[..., 0] = np.clip(lab[..., 0], 0.0, 100.0)
        return lab

    return _with_lab(image, unsharp)


def contrast(image, amount, rng):
    return _tone_curve(image, (0.25, 0.75), (0.25 - amount / 4, 0.75 + amount / 4))


# Changes of tone or tint, which without the original might as well be the photograph's own.
_SUBTLE = (
    *(color_diffusion, color_shift, color_quantization, hsv_saturation, lab_saturation),
    *(brighten, darken, mean_shift, quantization, contrast),
)
# Touch a few places of the picture; a tower of two layers averages them away.
_LOCAL = (impulse_noise, color_blocks)

DISTORTIONS = (
    Distortion(1, "gaussian blur", gaussian_blur, (0.1, 0.5, 1, 2, 5), (4.61, 4.38, 2.91, 1.87, 1.30)),
    Distortion(2, "lens blur", lens_blur, (1, 2, 4, 6, 8), (3.86, 2.65, 1.76, 1.44, 1.30)),
    Distortion(3, "motion blur", motion_blur, (1, 2, 4, 6, 10), (4.60, 4.10, 2.85, 2.18, 1.67)),
    Distortion(4, "color diffusion", color_diffusion, (1, 3, 6, 8, 12), (4.50, 2.60, 1.76, 1.61, 1.39), True),
    Distortion(5, "color shift", color_shift, (1, 3, 6, 8, 12), (4.23, 2.55, 1.92, 1.85, 1.86)),
    Distortion(6, "color quantization", color_quantization, (64, 48, 32, 16, 8), (4.11, 3.97, 3.72, 3.20, 2.42)),
    Distortion(7, "desaturation", hsv_saturation, (0.4, 0.2, 0.1, 0, -0.4), (2.75, 2.33, 2.26, 2.24, 2.03), True),
    Distortion(8, "oversaturation", lab_saturation, (1, 2, 3, 6, 9), (4.58, 3.33, 2.65, 1.82, 1.52), True),
    Distortion(9, "jpeg2000", jpeg2000, (16, 32, 45, 120, 170), (4.55, 4.20, 3.87, 2.44, 1.39)),
    Distortion(10, "jpeg", jpeg, (43, 36, 24, 7, 4), (4.34, 4.25, 3.87, 1.95, 1.35)),
    Distortion(11, "white noise", white_noise, (0.001, 0.002, 0.003, 0.005, 0.01), (3.89, 3.39, 3.05, 2.71, 2.30)),
    Distortion(12, "color noise", color_noise, (0.0001, 0.0005, 0.001, 0.002, 0.003), (4.47, 3.68, 3.17, 2.69, 2.38)),
    Distortion(13, "impulse noise", impulse_noise, (0.001, 0.005, 0.01, 0.02, 0.03), (3.58, 2.93, 2.61, 2.31, 2.13)),
    Distortion(14, "speckle noise", speckle_noise, (0.001, 0.005, 0.01, 0.02, 0.05), (4.40, 3.58, 3.08, 2.64, 2.12)),
    Distortion(15, "denoising", denoise, (0.01, 0.03, 0.05, 0.1, 0.15), (3.67, 2.73, 2.20, 1.65, 1.47)),
    Distortion(16, "brightening", brighten, (0.1, 0.2, 0.4, 0.7, 1.1), (4.51, 4.29, 3.63, 2.70, 1.81)),
    Distortion(17, "darkening", darken, (0.05, 0.1, 0.2, 0.4, 0.8), (4.60, 4.53, 4.23, 3.53, 2.22)),
    Distortion(18, "mean shift", mean_shift, (0.15, 0.08, 0, -0.08, -0.15), (4.22, 4.52, 4.60, 4.37, 3.90)),
    Distortion(19, "jitter", jitter, (0.05, 0.1, 0.2, 0.5, 1), (4.42, 4.09, 3.24, 1.85, 1.34)),
    Distortion(21, "pixelation", pixelate, (0.01, 0.05, 0.1, 0.2, 0.5), (3.89, 3.10, 2.90, 2.79, 1.50)),
    Distortion(22, "quantization", quantization, (20, 16, 13, 10, 7), (4.17, 3.93, 3.69, 3.37, 2.80)),
    Distortion(23, "color blocks", color_blocks, (2, 4, 6, 8, 10), (2.69, 2.36, 2.30, 2.13, 2.04)),
    Distortion(24, "sharpening", sharpen, (1, 2, 3, 6, 12), (3.58, 2.64, 2.14, 1.61, 1.34)),
    Distortion(25, "contrast change", contrast, (0.3, 0.15, 0, -0.4, -0.6), (3.42, 3.86, 4.29, 4.14, 3.32)),
)

"""Pictures as InternVL's own code sees them: square tiles of one size, and a thumbnail where there are several.

A picture is resized to the grid of tiles whose shape is nearest to its own, and cut along that grid. Described in
"How Far Are We to GPT-4V?" (arXiv 2404.16821, section 3.3).
"""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image


IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def choose_grid(width: int, height: int, tile_size: int, max_tiles: int) -> tuple[int, int]:
    """Columns and rows of the grid that changes the shape of a picture least.

    Of grids of equal fit it is the largest that has less than twice the pixels of the picture, else the smallest.

    >>> choose_grid(896, 448, tile_size=448, max_tiles=12)
    (2, 1)
    >>> choose_grid(1800, 900, tile_size=448, max_tiles=12)
    (4, 2)
    """
    grids = [(columns, rows) for columns in range(1, max_tiles + 1) for rows in range(1, max_tiles // columns + 1)]
    misfits = {grid: abs(width / height - grid[0] / grid[1]) for grid in grids}
    best = min(misfits.values())
    fitting = sorted((grid for grid in grids if misfits[grid] == best), key=lambda grid: grid[0] * grid[1])
    small_enough = [grid for grid in fitting if grid[0] * grid[1] * tile_size**2 < 2 * width * height]
    return (small_enough or fitting[:1])[-1]


def cut_into_tiles(
    image: Image.Image, tile_size: int, max_tiles: int, has_thumbnail: bool = True
) -> list[Image.Image]:
    """The tiles of a picture, row by row, and a thumbnail of the whole behind them where there are several."""
    image = image.convert("RGB")
    columns, rows = choose_grid(*image.size, tile_size, max_tiles)
    resized = image.resize((columns * tile_size, rows * tile_size), Image.Resampling.BICUBIC)
    corners = [(column * tile_size, row * tile_size) for row in range(rows) for column in range(columns)]
    tiles = [resized.crop((left, top, left + tile_size, top + tile_size)) for left, top in corners]
    if has_thumbnail and len(tiles) > 1:
        tiles.append(image.resize((tile_size, tile_size), Image.Resampling.BICUBIC))
    return tiles


def normalise_tiles(tiles: Sequence[Image.Image], mean: Sequence[float], std: Sequence[float]) -> torch.Tensor:
    """Tiles as the vision tower takes them: (tiles, 3, height, width) in float32."""
    pixels = torch.from_numpy(np.stack([np.asarray(tile) for tile in tiles])).permute(0, 3, 1, 2).float() / 255
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]

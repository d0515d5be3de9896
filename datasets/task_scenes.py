"""Drawings whose content is known exactly, for `make_task_samples.py`: shapes, screens, formulas, faces that move."""

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont


COLOURS = {
    "red": (214, 48, 49), "green": (46, 160, 67), "blue": (45, 100, 220), "yellow": (240, 200, 30),
    "purple": (130, 60, 180), "orange": (235, 130, 30),
}  # fmt: skip
SHAPES = ("circle", "square", "triangle")
EMOTIONS = ("happy", "sad", "surprise", "angry", "neutral")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """One drawn shape. Example: `Shape(colour="red", kind="circle", box=(10, 12, 50, 52))`, box in pixels."""

    colour: str
    kind: str
    box: tuple[int, int, int, int]  # left, top, right, bottom

    @property
    def name(self) -> str:
        return f"{self.colour} {self.kind}"


def draw_shapes(rng: np.random.Generator, width: int, height: int, num_shapes: int) -> tuple[Image.Image, list[Shape]]:
    """Shapes of different names that do not overlap, each in a cell of a grid, on a plain ground."""
    image = Image.new("RGB", (width, height), tuple(int(value) for value in rng.integers(225, 250, 3)))
    draw = ImageDraw.Draw(image)
    columns = math.ceil(math.sqrt(num_shapes))
    cell_width, cell_height = width // columns, height // math.ceil(num_shapes / columns)
    names = [(colour, kind) for colour in COLOURS for kind in SHAPES]
    shapes = []
    for cell, index in enumerate(rng.choice(len(names), size=num_shapes, replace=False)):
        colour, kind = names[index]
        size = int(rng.uniform(0.45, 0.85) * min(cell_width, cell_height))
        left = cell % columns * cell_width + int(rng.integers(0, cell_width - size))
        top = cell // columns * cell_height + int(rng.integers(0, cell_height - size))
        shape = Shape(colour=colour, kind=kind, box=(left, top, left + size, top + size))
        _draw_shape(draw, shape)
        shapes.append(shape)
    return image, shapes


def _draw_shape(draw: ImageDraw.ImageDraw, shape: Shape) -> None:
    left, top, right, bottom = shape.box
    fill = COLOURS[shape.colour]
    if shape.kind == "circle":
        draw.ellipse(shape.box, fill=fill)
    elif shape.kind == "square":
        draw.rectangle(shape.box, fill=fill)
    else:
        draw.polygon([((left + right) // 2, top), (right, bottom), (left, bottom)], fill=fill)


def draw_screen(title: str, buttons: tuple[str, ...], dialog: str | None = None) -> Image.Image:
    """The screen of a program: a title bar, a row of buttons, and a dialog where one is open."""
    image = Image.new("RGB", (224, 168), "white")
    draw = ImageDraw.Draw(image)
    font = ImageFont.load_default(size=12)
    draw.rectangle((0, 0, 223, 20), fill=(60, 70, 90))
    draw.text((6, 3), title, fill="white", font=font)
    for index, text in enumerate(buttons):
        box = (8 + 72 * index, 32, 72 + 72 * index, 54)
        draw.rectangle(box, fill=(225, 230, 240), outline=(90, 90, 90))
        draw.text((box[0] + 6, box[1] + 4), text, fill="black", font=font)
    if dialog is not None:
        draw.rectangle((30, 74, 194, 144), fill=(250, 245, 215), outline=(90, 90, 90))
        draw.text((40, 98), dialog, fill="black", font=font)
    return image


def draw_text(text: str) -> Image.Image:
    """Black text on white, as a photographed exercise would show it."""
    image = Image.new("RGB", (168, 84), "white")
    ImageDraw.Draw(image).text((14, 26), text, fill="black", font=ImageFont.load_default(size=24))
    return image


def draw_faces(emotion: str, rng: np.random.Generator, num_frames: int = 12, size: int = 112) -> list[Image.Image]:
    """A face that moves a little, from neutral to the emotion."""
    frames = []
    phase = rng.uniform(0, math.pi)
    for index in range(num_frames):
        strength = min(1.0, index / (num_frames / 2))
        shift = int(4 * math.sin(phase + index / 2))
        frames.append(_draw_face(emotion, strength, shift, size))
    return frames


def _draw_face(emotion: str, strength: float, shift: int, size: int) -> Image.Image:
    image = Image.new("RGB", (size, size), (210, 225, 240))
    draw = ImageDraw.Draw(image)
    unit = size / 14
    x, y = size / 2 + shift, size / 2
    draw.ellipse((x - 5 * unit, y - 5 * unit, x + 5 * unit, y + 5 * unit), fill=(245, 215, 180), outline="black")
    slope = {"angry": 1.0, "sad": -0.8}.get(emotion, 0.0) * strength * unit
    for side in (-1, 1):
        eye_x = x + side * 2 * unit
        draw.ellipse((eye_x - unit / 2, y - 1.5 * unit, eye_x + unit / 2, y - 0.5 * unit), fill="black")
        inner, outer = (eye_x - side * unit, y - 2.5 * unit + slope), (eye_x + side * unit, y - 2.5 * unit - slope)
        draw.line([inner, outer], fill="black", width=2)
    mouth = (x - 2 * unit, y + unit, x + 2 * unit, y + 3 * unit)
    if emotion == "surprise":
        radius = unit * (0.4 + strength)
        draw.ellipse((x - radius, y + 2 * unit - radius, x + radius, y + 2 * unit + radius), fill="black")
    elif emotion == "happy" and strength > 0:
        draw.arc(mouth, 20, 160, fill="black", width=2)
    elif emotion in ("sad", "angry") and strength > 0:
        draw.arc(mouth, 200, 340, fill="black", width=2)
    else:
        draw.line([(x - 2 * unit, y + 2 * unit), (x + 2 * unit, y + 2 * unit)], fill="black", width=2)
    return image

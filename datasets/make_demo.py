"""Makes the demo data: distorted crops of photographs that ship inside Python packages, labelled as in KADID-10k.

    python datasets/make_demo.py --output_dir output/demo/data --seed 42

writes `images/*.png` (112 x 112 pixels), `demo_train.jsonl`, `demo_val.jsonl` and `demo_test.jsonl` (the row format of
the real datasets, with the extra keys `distortion`, `level` and `reference`), `manifest.json` and `LICENSES.md`.
Nothing is downloaded. The same seed gives the same files.

The splits are made by source photograph, fixed below: no test crop comes from a photograph that a training crop was
cut from. Labels are the mean DMOS of the (type, level) over all pictures of the real KADID-10k, so they are honest but
coarse: they explain 89 % of the variance of KADID-10k's own labels. See `demo_distortions.py`.

Photographs: scikit-image's astronaut (NASA, public domain), rocket (SpaceX, public domain), hubble_deep_field (NASA
and ESA, public domain), chelsea, coffee, camera, brick, grass, gravel, retina and ihc (CC0), moon and coins (no known
restrictions), motorcycle (Middlebury stereo data 2014, published for research); scikit-learn's china and flower
(CC-BY 2.0); matplotlib's grace_hopper (public domain).
"""

import argparse
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from demo_distortions import DISTORTIONS, Distortion, distort
from PIL import Image

from open_r1.completions import IQA_QUESTION


CROP_SIZE = 112  # pixels
ZOOM_OUT = (1.5, 3.0)  # a crop covers this many times CROP_SIZE of the photograph; scaled down, it is sharp and clean
MIN_DETAIL = 0.02  # mean gradient of a usable crop, in grey levels of 0..1 per pixel
MAX_TRIES = 30


@dataclass(frozen=True)
class Photo:
    """A source photograph: where it lies in an installed package (several files: views of one scene), its terms."""

    name: str
    package: str
    files: tuple[str, ...]
    split: str
    terms: str
    has_color: bool = True


_CC_BY = "CC-BY 2.0, https://creativecommons.org/licenses/by/2.0/"
PHOTOS = (
    Photo("astronaut", "skimage", ("data/astronaut.png",), "train", "NASA, public domain"),
    Photo("rocket", "skimage", ("data/rocket.jpg",), "train", "SpaceX, public domain"),
    Photo(
        "motorcycle",
        "skimage",
        ("data/motorcycle_left.png", "data/motorcycle_right.png"),
        "train",
        "Middlebury Stereo Datasets 2014 (D. Scharstein et al., GCPR 2014), published for research",
    ),
    Photo("china", "sklearn", ("datasets/images/china.jpg",), "train", f"danielbuechele on Flickr, {_CC_BY}"),
    Photo("coffee", "skimage", ("data/coffee.png",), "test", "Rachel Michetti, Pikolo Espresso Bar, CC0"),
    Photo("brick", "skimage", ("data/brick.png",), "train", "CC0Textures, CC0", has_color=False),
    Photo("grass", "skimage", ("data/grass.png",), "test", "linolafett on DeviantArt, CC0", has_color=False),
    Photo("gravel", "skimage", ("data/gravel.png",), "train", "CC0Textures, CC0", has_color=False),
    Photo("hubble", "skimage", ("data/hubble_deep_field.jpg",), "train", "NASA and ESA, public domain"),
    Photo("moon", "skimage", ("data/moon.png",), "train", "no known restrictions", has_color=False),
    Photo("retina", "skimage", ("data/retina.jpg",), "train", "Mikael Haeggstroem, CC0"),
    Photo("tissue", "skimage", ("data/ihc.png",), "train", "Human Protein Atlas (M. Uhlen et al. 2015), CC0"),
    Photo("coins", "skimage", ("data/coins.png",), "val", "Brooklyn Museum, no known restrictions", has_color=False),
    Photo("chelsea", "skimage", ("data/chelsea.png",), "test", "Stefan van der Walt, CC0"),
    Photo("camera", "skimage", ("data/camera.png",), "train", "Lav Varshney, CC0", has_color=False),
    Photo("flower", "sklearn", ("datasets/images/flower.jpg",), "train", f"vultilion on Flickr, {_CC_BY}"),
    Photo("grace_hopper", "matplotlib", ("mpl-data/sample_data/grace_hopper.jpg",), "test", "US Navy, public domain"),
)


def load_photo(photo: Photo) -> list[np.ndarray]:
    """The views of a photograph, each (H, W, 3) uint8; ModuleNotFoundError where its package is not installed."""
    spec = importlib.util.find_spec(photo.package)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{photo.name!r} ships inside the package {photo.package!r}: install that")
    folder = Path(spec.origin).parent
    return [np.asarray(Image.open(folder / file).convert("RGB")) for file in photo.files]


def cut_crop(view: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """A random square of `view` (H, W, 3), scaled to CROP_SIZE, perhaps mirrored; of flat ones the least flat."""
    best, best_detail = None, -1.0
    for _ in range(MAX_TRIES):
        zoom = rng.uniform(ZOOM_OUT[0], min(ZOOM_OUT[1], min(view.shape[:2]) / CROP_SIZE))
        side = int(CROP_SIZE * zoom)
        top = rng.integers(0, view.shape[0] - side + 1)
        left = rng.integers(0, view.shape[1] - side + 1)
        picture = Image.fromarray(view[top : top + side, left : left + side])
        crop = np.asarray(picture.resize((CROP_SIZE, CROP_SIZE), Image.Resampling.LANCZOS))
        grey = crop.mean(axis=2) / 255.0
        detail = np.abs(np.diff(grey, axis=0)).mean() + np.abs(np.diff(grey, axis=1)).mean()
        if detail > best_detail:
            best, best_detail = crop, detail
        if best_detail >= MIN_DETAIL:
            break
    return best[:, ::-1] if rng.random() < 0.5 else best


def plan_split(
    photos: list[Photo], distortions: list[Distortion], size: int, rng: np.random.Generator
) -> list[tuple[Photo, Distortion, int]]:
    """`size` triples of photograph, distortion and level (1 to 5): photographs and (type, level) pairs equally often.

    Distortions of colour alone are given to photographs in colour only, as far as there are any.
    """
    pairs = [(distortion, level) for distortion in distortions for level in range(1, 6)]
    plan = []
    while len(plan) < size:
        for index in rng.permutation(len(pairs)):
            distortion, level = pairs[index]
            usable = [photo for photo in photos if photo.has_color or not distortion.needs_color]
            if usable:
                plan.append((usable[rng.integers(len(usable))], distortion, level))
    return plan[:size]


def build_row(row_id: int, name: str, photo: Photo, distortion: Distortion, level: int) -> dict:
    """A JSONL row in the format of the real datasets, with what the picture is in extra keys."""
    conversations = [
        {"from": "human", "value": IQA_QUESTION},
        {"from": "gpt", "value": distortion.dmos[level - 1]},
    ]
    extra = {"distortion": distortion.name, "level": level, "reference": photo.name}
    return {"id": row_id, "dataset_name": "DEMO", "image": [name], "conversations": conversations, **extra}


def write_split(output_dir: Path, split: str, distortions: list[Distortion], size: int, seed: int) -> None:
    """Writes the images and the JSONL of one split."""
    rng = np.random.default_rng([seed, ("train", "val", "test").index(split)])
    photos = [photo for photo in PHOTOS if photo.split == split]
    views = {photo.name: load_photo(photo) for photo in photos}
    with open(output_dir / f"demo_{split}.jsonl", "w", encoding="utf-8") as file:
        for row_id, (photo, distortion, level) in enumerate(plan_split(photos, distortions, size, rng), start=1):
            crop = cut_crop(views[photo.name][rng.integers(len(photo.files))], rng)
            name = f"{split}_{row_id:05d}.png"
            Image.fromarray(distort(crop, distortion, level, rng)).save(output_dir / "images" / name)
            file.write(json.dumps(build_row(row_id, name, photo, distortion, level)) + "\n")


def write_notes(output_dir: Path, distortions: list[Distortion], sizes: dict[str, int], seed: int) -> None:
    """Writes `manifest.json` (what was made of what) and `LICENSES.md` (the terms of the photographs)."""
    sources = {split: [photo.name for photo in PHOTOS if photo.split == split] for split in sizes}
    manifest = {"seed": seed, "crop_size": CROP_SIZE, "sizes": sizes, "photographs": sources}
    manifest["distortions"] = [distortion.name for distortion in distortions]
    (output_dir / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    lines = ["# Photographs of the demo data", "", "The crops are cut from these, then distorted.", ""]
    lines += ["| photograph | ships in | split | terms |", "|---|---|---|---|"]
    lines += [f"| {photo.name} | {photo.package} | {photo.split} | {photo.terms} |" for photo in PHOTOS]
    (output_dir / "LICENSES.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def make_demo(output_dir: Path, sizes: dict[str, int], seed: int, all_types: bool = False) -> None:
    """Writes the whole data set; `sizes` has the number of crops of "train", "val" and "test"."""
    distortions = [distortion for distortion in DISTORTIONS if all_types or distortion.is_visible]
    (output_dir / "images").mkdir(parents=True, exist_ok=True)
    for split, size in sizes.items():
        write_split(output_dir, split, distortions, size, seed)
    write_notes(output_dir, distortions, sizes, seed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output_dir", type=Path, required=True, help="folder to write to")
    parser.add_argument("--seed", type=int, default=42, help="seed of crops and distortions")
    parser.add_argument("--num_train", type=int, default=2400, help="training crops")
    parser.add_argument("--num_val", type=int, default=120, help="validation crops")
    parser.add_argument("--num_test", type=int, default=600, help="test crops")
    parser.add_argument("--all_types", action="store_true", help="also distortions that need the original to be seen")
    args = parser.parse_args()
    sizes = {"train": args.num_train, "val": args.num_val, "test": args.num_test}
    make_demo(args.output_dir, sizes, args.seed, args.all_types)
    print(f"wrote {sum(sizes.values())} pictures and demo_{{{','.join(sizes)}}}.jsonl to {args.output_dir}")


if __name__ == "__main__":
    main()

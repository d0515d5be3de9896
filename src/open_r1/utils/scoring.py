"""What scoring needs besides a model: image paths, batches, a checkpoint's fingerprint, rows out of answers."""

import glob
import hashlib
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from open_r1.completions import parse_score
from open_r1.data.schema import BadDataError, BadRow
from open_r1.utils.predictions import ENCODING_ERRORS, UNPARSED, Prediction


BATCH_SIZES = {"hf": 8, "vllm": 64}  # images per batch: padded rows side by side, or requests that vLLM plans itself
_WEIGHTS = ("*.safetensors", "pytorch_model*.bin")
_CONFIGS = ("config.json", "tokenizer.json", "*processor_config.json", "chat_template.*", "generation_config.json")
_WHOLE_SIZE = 64 << 20  # bytes up to which a file is fingerprinted whole; of longer ones, blocks are
_NUM_BLOCKS, _BLOCK_SIZE = 256, 1 << 16


def find_image_paths(values: Sequence[str], image_folder: Path | None = None) -> list[str]:
    """Resolves folders (recursively), files, glob patterns, JSONL files and lists of paths (`.txt`) into paths.

    The images of a folder or pattern come sorted, those of a JSONL file or list in its order; one that is named twice
    is kept once. Videos are taken by file, pattern, row or line; in folders, images alone are looked for. Nothing is
    opened but the JSONL files and lists.

    Args:
        image_folder: root of relative paths in JSONL files and lists; the folder of each file where it is None.

    Raises:
        ValueError: a value stands for nothing.
        BadDataError: rows of a JSONL file that have not exactly one image or video.
    """
    paths: dict[str, None] = {}
    for value in values:
        found = _find_images(value, image_folder)
        if not found:
            raise ValueError(f"{value}: no images there (videos are named one by one, or by a pattern: 'clips/*.mp4')")
        paths.update(dict.fromkeys(found))
    return list(paths)


def _find_images(value: str, image_folder: Path | None) -> list[str]:
    from open_r1.data.media import list_images

    path = Path(value)
    if path.is_dir():
        return [str(image) for image in list_images(path)]
    if path.is_file():
        root = image_folder or path.parent
        if path.suffix == ".jsonl":
            return _read_jsonl_images(path, root)
        return _read_list(path, root) if path.suffix == ".txt" else [value]
    return sorted(match for match in glob.glob(value, recursive=True) if Path(match).is_file())


def _read_list(path: Path, root: Path) -> list[str]:
    """One path a line; blank lines do not count."""
    lines = path.read_text(encoding="utf-8-sig", errors=ENCODING_ERRORS).split("\n")
    return [str(root / line.strip("\r")) for line in lines if line.strip()]


def _read_jsonl_images(path: Path, root: Path) -> list[str]:
    images, bad_rows = [], []
    for line, text in enumerate(path.read_bytes().split(b"\n"), start=1):
        if not text.strip():
            continue
        try:
            images.append(str(root / _parse_name(text)))
        except ValueError as error:
            bad_rows.append(BadRow(str(path), line, str(error)))
    if bad_rows:
        raise BadDataError(bad_rows)
    return images


def _parse_name(text: bytes) -> str:
    row = json.loads(text)
    values = [row.get(kind) for kind in ("image", "video")] if isinstance(row, dict) else []
    names = [name for value in values for name in (value if isinstance(value, list) else [value]) if name is not None]
    if len(names) != 1 or not isinstance(names[0], str) or not names[0]:
        raise ValueError(f"a row to be scored must name one image or one video, not {names!r}")
    return names[0]


def plan_batches(
    sizes: Sequence[tuple[int, int] | None], are_videos: Sequence[bool], batch_size: int
) -> list[list[int]]:
    """Cuts N pictures into batches of similar areas, so that little is padded; images first, videos behind them.

    Pictures of one size stay in their order, and one of unknown size with the one before it.

    >>> plan_batches([(4, 4), (9, 9), None, (4, 4), (5, 3)], [False] * 5, batch_size=2)
    [[4, 0], [3, 1], [2]]

    Args:
        sizes: Width and height of each, None where it is not known.
        are_videos: Whether each is a video.
        batch_size: At most so many in a batch.
    """
    keys, area = [], 0
    for size, is_video in zip(sizes, are_videos, strict=True):
        area = area if size is None else size[0] * size[1]
        keys.append((is_video, 0 if is_video else area))
    order = sorted(range(len(keys)), key=keys.__getitem__)
    num_images = sum(not is_video for is_video in are_videos)
    parts = (order[:num_images], order[num_images:])
    return [part[start : start + batch_size] for part in parts for start in range(0, len(part), batch_size)]


def compute_checkpoint_id(model: str) -> str | None:
    """Fingerprint of a checkpoint folder, to notice that it was trained on; None for a name on the hub.

    Hashes weights and configuration files: whole, or evenly spaced blocks of long ones, so that it takes a fraction of
    a second at any size. It follows the contents, not the times, so a copy has the same one.
    """
    folder = Path(model)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    for path in sorted({path for pattern in (*_WEIGHTS, *_CONFIGS) for path in folder.glob(pattern)}):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with open(path, "rb") as file:
            if size <= _WHOLE_SIZE:
                digest.update(file.read())
                continue
            for index in range(_NUM_BLOCKS):  # the first at the start of the file, the last at its end
                file.seek((size - _BLOCK_SIZE) * index // (_NUM_BLOCKS - 1))
                digest.update(file.read(_BLOCK_SIZE))
    return digest.hexdigest()[:16]


def compute_batch_seed(seed: int, paths: Sequence[str]) -> int:
    """A seed of its own for every batch, from the names of its images and not from what was scored before.

    A resumed run therefore draws what an uninterrupted one would have drawn, and in batches of one image the samples
    of an image depend on nothing but its name and `seed`.
    """
    names = "\n".join(Path(path).name for path in paths)
    return int.from_bytes(hashlib.sha256(f"{seed}\n{names}".encode(errors="surrogateescape")).digest()[:4], "big")


def build_prediction(path: str, texts: Sequence[str]) -> Prediction:
    """The row of one image out of its one or several answers.

    >>> build_prediction("a.png", ["<answer>3</answer>", "<answer>4</answer>", "no idea"]).score
    3.5
    """
    scores = [score for score in map(parse_score, texts) if score is not None]
    has_samples = len(texts) > 1
    return Prediction(
        path=path,
        score=statistics.fmean(scores) if scores else None,
        text=list(texts) if has_samples else texts[0],
        error="" if scores else UNPARSED,
        score_std=statistics.stdev(scores) if len(scores) > 1 else None,
        num_parsed=len(scores) if has_samples else None,
    )

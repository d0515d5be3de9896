"""Dataset cards (`configs/data/*.yaml`): what is known of a data set, of its release and of its label files.

    card = load_card("KADID-10K")        # by name, or the path of a YAML file
    card.find_layout("dmos.csv", header=("dist_img", "ref_img", "dmos", "var"))

A layout says what the columns of a label file are. Roles: `dis` (the image), `ref` (its reference, or whatever else
must not be torn apart by a split), `mos`, `std` and `var` (of the ratings), `num` (number of ratings), `set` (part of
the official split), `skip` (rows with 1 are left out), `type` and `level` (of the distortion), `-` (not used).
"""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path, PurePath
from typing import Any


CARD_FOLDER = Path(__file__).parents[3] / "configs" / "data"
ROLES = ("dis", "ref", "mos", "std", "var", "num", "set", "skip", "type", "level", "-")
DIRECTIONS = ("mos", "dmos")
_LISTS = ("labels", "images", "official_split", "exclude", "notes")


@dataclass(frozen=True, kw_only=True)
class LabelLayout:
    """One layout of label files. Example: `columns=("ref", "dis", "mos", "std"), file="KADID-10K_mos.txt"`."""

    columns: tuple[str, ...]  # roles: of all columns in order, or of those that `header` names
    header: tuple[str, ...] | None = None  # what the file's header calls these columns, wherever they stand
    file: str | None = None  # pattern of the file's name
    sheet: str | None = None  # of a spreadsheet; default: the first
    image: str | Mapping[str, str] | None = None  # how an image is called, as `DatabaseImage{dis:0>4}.JPG`; by `type`
    part: str | None = None  # part of the official split to which all images of the file belong
    mos_range: tuple[float, float] | None = None  # lowest and highest possible label
    direction: str = "mos"  # "mos": higher is better; "dmos": lower is better
    sha256: str | None = None

    def __post_init__(self):
        check_columns(self.columns)
        if self.direction not in DIRECTIONS:
            raise ValueError(f"the direction must be {' or '.join(DIRECTIONS)}, not {self.direction!r}")
        if self.mos_range is not None and not self.mos_range[0] < self.mos_range[1]:
            raise ValueError(f"the MOS range must be two rising numbers, not {list(self.mos_range)}")
        if isinstance(self.image, Mapping) and "type" not in self.columns:
            raise ValueError("names of images by type need a column type")

    def is_of(self, file_name: str, header: Sequence[str] | None) -> bool:
        """Whether a file of this name and header (None: it has none) has this layout."""
        if self.file is not None and not fnmatchcase(file_name, self.file):
            return False
        if header is None or self.header is None:
            return header is None and self.header is None and self.file is not None
        return set(self.header) <= set(header)


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """What is known of a data set. Example: configs/data/KADID-10K.yaml."""

    name: str
    source: str
    kind: str  # "fr": distorted versions of references; "nr": photographs as they are
    num_items: int | None = None  # labelled images of the release, without the excluded ones
    license: str | None = None  # None: see the release
    labels: tuple[str, ...] = ()  # the release's label files, as patterns; the first that is there is read
    images: tuple[str, ...] = ()  # folders of the release's images; the first that is there is used
    official_split: tuple[str, ...] = ()  # files of the release that say the parts, where the labels do not
    layouts: tuple[LabelLayout, ...] = ()
    reference_pattern: str | None = None  # its group 1 is the reference in an image name; used where no column has it
    kind_pattern: str | None = None  # its groups `distortion` and `level` are those in an image name
    distortions: Mapping[str, str] | None = None  # what the distortions in image names are called
    exclude: tuple[str, ...] = ()  # names of images in label files that are not to be used
    notes: tuple[str, ...] = ()  # traps

    def __post_init__(self):
        if self.kind not in ("fr", "nr"):
            raise ValueError(f"the kind must be fr or nr, not {self.kind!r}")
        if self.reference_pattern is not None and re.compile(self.reference_pattern).groups != 1:
            raise ValueError(f"the reference pattern {self.reference_pattern!r} must have one group")
        if self.kind_pattern is not None and set(re.compile(self.kind_pattern).groupindex) != {"distortion", "level"}:
            raise ValueError(f"the kind pattern {self.kind_pattern!r} must have the groups distortion and level")

    def find_layout(self, file_name: str, header: Sequence[str] | None = None) -> LabelLayout | None:
        """The first layout of label files with this name and header; None where unknown."""
        return next((layout for layout in self.layouts if layout.is_of(file_name, header)), None)

    def get_reference(self, image: str) -> str | None:
        """The reference that the file name of an image speaks of, or None."""
        match = re.search(self.reference_pattern, PurePath(image).name) if self.reference_pattern else None
        return match.group(1) if match else None

    def get_kind(self, image: str) -> tuple[str | None, str | None]:
        """Distortion and level that the file name of an image speaks of, or None for each."""
        match = re.search(self.kind_pattern, PurePath(image).name) if self.kind_pattern else None
        if match is None:
            return None, None
        distortion = match.group("distortion")
        return (self.distortions or {}).get(distortion, distortion), match.group("level")

    def is_excluded(self, image: str) -> bool:
        return PurePath(image).name in self.exclude


def check_columns(columns: Sequence[str]) -> None:
    """ValueError unless `columns` are roles, one `dis` and one `mos` among them, each but `-` at most once."""
    unknown = [column for column in columns if column not in ROLES]
    if unknown:
        raise ValueError(f"unknown column {unknown[0]!r}; known: {' '.join(ROLES)}")
    repeated = [role for role in ROLES if role != "-" and columns.count(role) > 1]
    if repeated or "dis" not in columns or "mos" not in columns or {"std", "var"} <= set(columns):
        raise ValueError(
            f"the columns {' '.join(columns)!r} must name dis and mos, std or var but not both, and none of them twice"
        )


def load_card(name_or_path: str | os.PathLike) -> DatasetCard:
    """The card of a data set by name (in any case), or a YAML file.

    Raises:
        ValueError: no such card, or one with unknown, missing or impossible entries; the message names the file.
    """
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        files = {file.stem.casefold(): file for file in CARD_FOLDER.glob("*.yaml")}
        if str(name_or_path).casefold() not in files:
            known = ", ".join(sorted(file.stem for file in files.values()))
            raise ValueError(f"there is no card of {str(name_or_path)!r} in {CARD_FOLDER}; known: {known or 'none'}")
        path = files[str(name_or_path).casefold()]
    elif not path.is_file():
        raise ValueError(f"the card {path} does not exist")
    return _parse_card(path)


@cache
def list_cards() -> tuple[DatasetCard, ...]:
    """The cards that ship with the repository, by name; none where it is installed without `configs/`."""
    return tuple(_parse_card(path) for path in sorted(CARD_FOLDER.glob("*.yaml")))


def _parse_card(path: Path) -> DatasetCard:
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            entries = _check_keys(yaml.safe_load(file), DatasetCard)
        layouts = tuple(_parse_layout(layout) for layout in entries.pop("layouts", ()))
        lists = {key: tuple(entries.pop(key, ())) for key in _LISTS}
        return DatasetCard(layouts=layouts, **lists, **entries)
    except (ValueError, TypeError, yaml.YAMLError, re.error) as error:
        raise ValueError(f"{path}: {error}") from error


def _parse_layout(content: Any) -> LabelLayout:
    """`columns` is a text of roles in order, or a mapping of roles to the header's names."""
    entries = _check_keys(content, LabelLayout)
    columns = entries.pop("columns")
    if "header" in entries:
        raise ValueError("write the header's names into columns, as {dis: image_name, mos: MOS}")
    if isinstance(columns, dict):
        entries["header"] = tuple(map(str, columns.values()))
    mos_range = entries.pop("mos_range", None)
    return LabelLayout(
        columns=tuple(columns) if isinstance(columns, dict) else tuple(str(columns).split()),
        mos_range=None if mos_range is None else tuple(float(value) for value in mos_range),
        **entries,
    )


def _check_keys(content: Any, record: type) -> dict[str, Any]:
    """A copy of `content`, whose keys must be fields of the data class `record`."""
    if not isinstance(content, dict):
        raise ValueError(f"must be a mapping, not {content!r}")
    known = [item.name for item in fields(record)]
    unknown = [key for key in content if key not in known]
    if unknown:
        raise ValueError(f"unknown key {unknown[0]!r}; known: {', '.join(known)}")
    return dict(content)

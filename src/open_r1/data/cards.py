"""Dataset cards (`configs/data/*.yaml`): what is known of a data set and of the layouts of its label files.

    card = load_card("KADID-10K")        # by name, or the path of a YAML file
    card.find_layout("dmos.csv", header=("dist_img", "ref_img", "dmos", "var"))

A layout names the columns of a label file in order. Roles: `dis` (the image), `ref` (its reference, or whatever else
must not be torn apart by a split), `mos`, `std` and `var` (of the ratings), `num` (number of ratings), `-` (not used).
"""

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any


CARD_FOLDER = Path(__file__).parents[3] / "configs" / "data"
ROLES = ("dis", "ref", "mos", "std", "var", "num", "-")
DIRECTIONS = ("mos", "dmos")


@dataclass(frozen=True, kw_only=True)
class LabelLayout:
    """One layout of label files. Example: `columns=("ref", "dis", "mos", "std"), file="KADID-10K_mos.txt"`."""

    columns: tuple[str, ...]
    file: str | None = None  # pattern of the file's name, for files without a header
    header: tuple[str, ...] | None = None  # the header of a CSV file, exactly
    mos_range: tuple[float, float] | None = None  # lowest and highest possible label
    direction: str = "mos"  # "mos": higher is better; "dmos": lower is better
    sha256: str | None = None

    def __post_init__(self):
        check_columns(self.columns)
        if self.direction not in DIRECTIONS:
            raise ValueError(f"the direction must be {' or '.join(DIRECTIONS)}, not {self.direction!r}")
        if self.mos_range is not None and not self.mos_range[0] < self.mos_range[1]:
            raise ValueError(f"the MOS range must be two rising numbers, not {list(self.mos_range)}")
        if self.header is not None and len(self.header) != len(self.columns):
            raise ValueError(f"the header has {len(self.header)} columns, the layout {len(self.columns)}")


@dataclass(frozen=True, kw_only=True)
class DatasetCard:
    """What is known of a data set. Example: configs/data/KADID-10K.yaml."""

    name: str
    source: str
    kind: str  # "fr": distorted versions of references; "nr": photographs as they are
    num_items: int | None = None  # labelled images of the release, without the excluded ones
    license: str | None = None  # None: see the release
    layouts: tuple[LabelLayout, ...] = ()
    reference_pattern: str | None = None  # its group 1 is the reference in an image name; used where no column has it
    exclude: tuple[str, ...] = ()  # names of images in label files that are not to be used
    notes: tuple[str, ...] = ()  # traps

    def __post_init__(self):
        if self.kind not in ("fr", "nr"):
            raise ValueError(f"the kind must be fr or nr, not {self.kind!r}")
        if self.reference_pattern is not None and re.compile(self.reference_pattern).groups != 1:
            raise ValueError(f"the reference pattern {self.reference_pattern!r} must have one group")

    def find_layout(self, file_name: str, header: Sequence[str] | None = None) -> LabelLayout | None:
        """The layout of a label file: by its header where it has one, by its name otherwise; None where unknown."""
        for layout in self.layouts:
            if header is not None and layout.header == tuple(header):
                return layout
            if header is None and layout.file is not None and fnmatchcase(file_name, layout.file):
                return layout
        return None

    def get_reference(self, image: str) -> str | None:
        """The reference that an image's name speaks of, or None."""
        match = re.search(self.reference_pattern, image) if self.reference_pattern else None
        return match.group(1) if match else None


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


def list_cards() -> list[DatasetCard]:
    """The cards that ship with the repository, by name; none where it is installed without `configs/`."""
    return [_parse_card(path) for path in sorted(CARD_FOLDER.glob("*.yaml"))]


def _parse_card(path: Path) -> DatasetCard:
    import yaml

    try:
        with open(path, encoding="utf-8") as file:
            entries = _check_keys(yaml.safe_load(file), DatasetCard)
        layouts = tuple(_parse_layout(layout) for layout in entries.pop("layouts", ()))
        lists = {key: tuple(entries.pop(key, ())) for key in ("exclude", "notes")}
        return DatasetCard(layouts=layouts, **lists, **entries)
    except (ValueError, TypeError, yaml.YAMLError, re.error) as error:
        raise ValueError(f"{path}: {error}") from error


def _parse_layout(content: Any) -> LabelLayout:
    entries = _check_keys(content, LabelLayout)
    columns = tuple(str(entries.pop("columns")).split())
    header = entries.pop("header", None)
    mos_range = entries.pop("mos_range", None)
    return LabelLayout(
        columns=columns,
        header=None if header is None else tuple(header.split(",")),
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

"""MATLAB label files as tables with a header. Which variables of which files make up a table is known here.

LIVE Challenge       AllImages_release.mat, AllMOS_release.mat, AllStdDev_release.mat, side by side
LIVE, release 2      dmos.mat or dmos_realigned.mat, and refnames_all.mat beside it
"""

from pathlib import Path
from typing import Any


_CHALLENGE = ("AllImages_release", "AllMOS_release", "AllStdDev_release")
_LIVE_VARIABLES = {"dmos": ("dmos",), "dmos_realigned": ("dmos_new", "dmos_std")}
_LIVE_FOLDERS = (
    ("jp2k", 227),
    ("jpeg", 233),
    ("wn", 174),
    ("gblur", 174),
    ("fastfading", 174),
)  # in the labels' order


def read_mat_table(path: Path) -> list[tuple[str, ...]]:
    """The table to which a file belongs, as text; the first row is the header.

    Raises:
        ValueError: an unknown file, one of the table's files is missing or not readable, or their lengths differ.
    """
    if path.stem in _CHALLENGE:
        columns = {name: _load_vector(path.with_name(f"{name}.mat"), name) for name in _CHALLENGE}
    elif path.stem in _LIVE_VARIABLES:
        columns = {
            "image": [f"{folder}/img{number + 1}.bmp" for folder, count in _LIVE_FOLDERS for number in range(count)]
        }
        columns["refnames_all"] = _load_vector(path.with_name("refnames_all.mat"), "refnames_all")
        columns |= {name: _load_vector(path, name) for name in (*_LIVE_VARIABLES[path.stem], "orgs")}
    else:
        known = ", ".join(f"{stem}.mat" for stem in (*_CHALLENGE, *_LIVE_VARIABLES))
        raise ValueError(f"{path}: known MATLAB files are {known}; export another as .csv, with a header")
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{path}: the columns differ in length: {lengths}")
    return [tuple(columns), *zip(*columns.values(), strict=True)]


def _load_vector(path: Path, variable: str) -> list[str]:
    """The elements of a row, a column or a cell array, as text."""
    import numpy as np
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    if not path.is_file():
        raise ValueError(f"{path} is missing; the labels need it")
    try:
        content: dict[str, Any] = loadmat(path, squeeze_me=True)
    except (ValueError, TypeError, NotImplementedError, MatReadError) as error:
        raise ValueError(f"{path}: not a MATLAB file that can be read: {error}") from error
    if variable not in content:
        raise ValueError(f"{path}: there is no variable {variable}")
    return [str(value) for value in np.atleast_1d(content[variable]).tolist()]

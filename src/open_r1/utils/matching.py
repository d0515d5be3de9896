"""Pairs file names in a label file with the paths of scored images. Used by `utils/evaluation.py`."""

from collections import defaultdict
from collections.abc import Callable, Sequence


_MAX_SHOWN = 5  # names on either side of an ambiguity


def match_names(names: Sequence[str], paths: Sequence[str]) -> dict[int, int]:
    """Pairs label names with prediction paths that end alike: index of a name -> index of its path.

    The longest common ending, counted in whole path components, decides: `b/1.png` is `data/b/1.png` rather than
    `data/a/1.png`, and plain `1.png` is either. Exact matches come first, then those that differ in case only.

    Raises:
        ValueError: several names or several paths have the same claim; nothing is guessed.
    """
    pairs: dict[int, int] = {}
    for fold in (str, str.casefold):
        name_parts, path_parts = ([_split(value, fold) for value in values] for values in (names, paths))
        for depth in range(max(map(len, name_parts), default=0), 0, -1):
            free_names = _group_by_ending(name_parts, depth, taken=set(pairs))
            free_paths = _group_by_ending(path_parts, depth, taken=set(pairs.values()))
            for ending in free_names.keys() & free_paths.keys():
                if len(free_names[ending]) > 1 or len(free_paths[ending]) > 1:
                    claims = [names[i] for i in free_names[ending]], [paths[i] for i in free_paths[ending]]
                    shown = " and ".join(", ".join(values[:_MAX_SHOWN]) for values in claims)
                    raise ValueError(
                        f"ambiguous file name {'/'.join(ending)}: labels and predictions cannot be paired ({shown}). "
                        "Remove duplicates, or give labels with as much of the path as tells them apart"
                    )
                pairs[free_names[ending][0]] = free_paths[ending][0]
    return pairs


def _split(value: str, fold: Callable[[str], str]) -> tuple[str, ...]:
    return tuple(part for part in fold(value).replace("\\", "/").split("/") if part not in ("", "."))


def _group_by_ending(
    parts: Sequence[tuple[str, ...]], depth: int, taken: set[int]
) -> dict[tuple[str, ...], list[int]]:
    groups = defaultdict(list)
    for index, components in enumerate(parts):
        if index not in taken and len(components) >= depth:
            groups[components[-depth:]].append(index)
    return groups

"""Takes lists of paths from the command line apart: `a.jsonl:b.jsonl`, or the paths one by one."""

import os
import re
from collections.abc import Sequence


_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+")
_PORT = re.compile(r"\d+(/|$)")


def split_paths(values: str | Sequence[str]) -> list[str]:
    """The paths in `values`, each of which may hold several, joined by ':'.

    A ':' does not split inside a path that exists, after the scheme of a URI or its port, or after a drive letter.

    >>> split_paths(["a.jsonl:b.jsonl", "s3://bucket/c.jsonl:C:\\\\data\\\\d.jsonl"])
    ['a.jsonl', 'b.jsonl', 's3://bucket/c.jsonl', 'C:\\\\data\\\\d.jsonl']

    Raises:
        ValueError: an empty path, as an unset variable leaves behind.
    """
    paths = []
    for value in [values] if isinstance(values, str) else values:
        pieces = value.split(":")
        while pieces:
            length = _count_pieces(pieces)
            paths.append(":".join(pieces[:length]))
            pieces = pieces[length:]
            if not paths[-1].strip():
                raise ValueError(f"there is an empty path in {value!r}: is a variable unset, or a ':' too many?")
    return paths


def _count_pieces(pieces: list[str]) -> int:
    """How many of the pieces between colons make up the first path."""
    for length in range(len(pieces), 0, -1):
        if os.path.exists(":".join(pieces[:length])):
            return length
    first, second = pieces[0], pieces[1] if len(pieces) > 1 else ""
    if len(first) == 1 and first.isalpha() and second.startswith(("\\", "/")):
        return 2  # C:\data
    if _SCHEME.fullmatch(first) and second.startswith("//"):
        has_port = len(pieces) > 2 and "/" not in second[2:] and _PORT.match(pieces[2])
        return 3 if has_port else 2
    return 1

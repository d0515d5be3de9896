"""What a judge has said, by a hash of what it was asked: in memory, and in a folder where one is given.

A folder may serve several processes and runs at once: a verdict is one small file, put into place whole.
"""

import hashlib
import json
import os
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

from open_r1.utils.judge_protocol import parse_verdict


_MAX_IN_MEMORY = 100_000


def compute_key(request: dict[str, Any]) -> str:
    """A hash of everything that a verdict depends on.

    >>> compute_key({"a": 1, "b": 2}) == compute_key({"b": 2, "a": 1})
    True
    """
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


class JudgeCache:
    """Replies that could be read, by key.

    Args:
        folder: Where they are kept; None: in memory alone.
    """

    def __init__(self, folder: str | None = None):
        self._folder = None if folder is None else Path(folder)
        self._replies: OrderedDict[str, str] = OrderedDict()

    def get(self, key: str) -> float | None:
        """The score that was given; None where nobody asked, or a file holds no verdict."""
        reply = self._replies.get(key)
        if reply is None and self._folder is not None and self._locate(key).is_file():
            reply = self._locate(key).read_text(encoding="utf-8", errors="replace")
            self._remember(key, reply)
        return None if reply is None else parse_verdict(reply)

    def put(self, key: str, reply: str) -> None:
        """Keeps a reply. It is written beside its place and moved there, so that no reader finds half of it."""
        self._remember(key, reply)
        if self._folder is None:
            return
        path = self._locate(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, suffix=".part")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(reply)
        os.replace(name, path)

    def _remember(self, key: str, reply: str) -> None:
        self._replies[key] = reply
        if len(self._replies) > _MAX_IN_MEMORY:
            self._replies.popitem(last=False)

    def _locate(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.json"

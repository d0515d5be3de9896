"""Checks the files that rows name, each once, and remembers in what state they were.

Images are decoded in full, and videos as far as training would; or both are looked for, or left alone. The state is
one number out of paths, sizes and times of change, by which a stored table is known to be still true.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType

from open_r1.data.media import check_image
from open_r1.data.video import BadVideoError, check_video, load_sound


logger = logging.getLogger(__name__)

VERIFY_CHOICES = ("decode", "exists", "none")
_MAX_THREADS = 8
_PROGRESS_BAR_AFTER = 3.0  # seconds


def count_threads() -> int:
    """Threads that decode pictures."""
    return min(_MAX_THREADS, os.cpu_count() or 1)


class FileChecker:
    """Remembers which files were checked and what was wrong with them. To be used as a context.

    Args:
        verify: One of VERIFY_CHOICES.
        with_sound: Whether the sound of videos is decoded, too, where they are. Those that have none are counted.
    """

    def __init__(self, verify: str, with_sound: bool = False):
        self.verify = verify
        self.with_sound = with_sound
        self.silent: set[str] = set()  # videos without sound
        self.reasons: dict[str, str] = {}  # path -> why it cannot be used
        self._seen: set[str] = set()

    def __enter__(self) -> "FileChecker":
        from tqdm import tqdm

        self._pool = ThreadPoolExecutor(count_threads())
        self._progress = tqdm(desc="checking images", unit="img", delay=_PROGRESS_BAR_AFTER)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        self._progress.close()
        self._pool.shutdown(cancel_futures=True)
        if self.silent:
            logger.warning(
                "%d videos have no sound and are shown without it, as %s.", len(self.silent), min(self.silent)
            )

    def check_images(self, paths: Iterable[str]) -> None:
        if self.verify == "decode":
            new = self._take_new(paths)
            self._note(new, self._pool.map(check_image, new))
        elif self.verify == "exists":
            self._look_for(paths)

    def check_videos(self, paths: Iterable[str]) -> None:
        """A video is a file, or a folder of its frames."""
        if self.verify == "decode":
            new = self._take_new(paths)
            self._note(new, self._pool.map(self._check_video, new))
        elif self.verify == "exists":
            self._look_for(paths, find=os.path.exists)

    def _check_video(self, path: str) -> str | None:
        reason = check_video(path)
        if reason is not None or not self.with_sound:
            return reason
        try:
            sound = load_sound(path, rate=16000)
        except BadVideoError as error:
            return f"its sound: {error.reason}"
        if sound is None:
            self.silent.add(path)
        return None

    def _look_for(self, paths: Iterable[str], find: Callable[[str], bool] = os.path.isfile) -> None:
        new = self._take_new(paths)
        self._note(new, (None if _exists(find, path) else "no such file" for path in new))

    def _take_new(self, paths: Iterable[str]) -> list[str]:
        new = [path for path in dict.fromkeys(paths) if path not in self._seen]
        self._seen.update(new)
        return new

    def _note(self, paths: Sequence[str], reasons: Iterable[str | None]) -> None:
        for path, reason in zip(paths, reasons, strict=True):
            self._progress.update()
            if reason is not None:
                self.reasons[path] = reason

    def compute_state(self) -> str:
        """The state of all files that were checked."""
        return compute_state(self._seen)


def compute_state(paths: Iterable[str]) -> str:
    """A digest of these files' paths, sizes and times of change, whatever their order; each path counts once."""
    total = 0
    for path in paths if isinstance(paths, set) else set(paths):
        try:
            status = os.stat(path)
            text = f"{path}\0{status.st_size}\0{status.st_mtime_ns}"
        except (OSError, ValueError):  # it is not there, or its name has a NUL
            text = f"{path}\0"
        digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()
        total += int.from_bytes(digest)
    return f"{total % 2**128:032x}"


def _exists(find: Callable[[str], bool], path: str) -> bool:
    try:
        return find(path)
    except ValueError:  # a NUL in the name
        return False

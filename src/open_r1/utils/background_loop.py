"""One event loop for the whole process, in a thread of its own.

A program that has a loop running already (a notebook) can still wait for coroutines, and clients that are bound to the
loop of their first call are built once.
"""

import asyncio
import concurrent.futures
import functools
import os
import threading
from collections.abc import Coroutine
from typing import Any


def start(coroutine: Coroutine[Any, Any, Any]) -> concurrent.futures.Future:
    """Lets a coroutine run in the process's loop; cancelling the future cancels the coroutine."""
    return asyncio.run_coroutine_threadsafe(coroutine, _get_loop(os.getpid()))


def wait(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of a coroutine that runs in the process's loop; not to be called by another one that runs there."""
    return start(coroutine).result()


@functools.cache
def _get_loop(pid: int) -> asyncio.AbstractEventLoop:
    """The loop of this process; a forked one has no thread for its parent's."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name=f"event loop of {pid}", daemon=True).start()
    return loop

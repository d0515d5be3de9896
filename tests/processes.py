"""Runs a function of a test file in a process of its own, or in several that torchrun starts.

The function lies at the top level of its file; arguments and result are pickled. Whatever it starts or keeps, threads,
an engine, process groups, ends with its process.
"""

import importlib.util
import inspect
import os
import pickle
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from open_r1.utils.compat import guard_child_processes


TESTS = Path(__file__).parent


def find_free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_alone(
    function: Callable,
    *arguments: Any,
    num_processes: int = 1,
    timeout: float = 300,
    environment: Mapping[str, str] | None = None,
) -> Any:
    """Calls the function in a process of its own.

    Args:
        function: At the top level of a file.
        arguments: What it is called with.
        num_processes: More than one are started by torchrun.
        timeout: Seconds after which they are killed.
        environment: Variables beside those of this process.

    Returns:
        What the function returned; of several processes a list, by rank.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "arguments").write_bytes(pickle.dumps(arguments))
        command = [__file__, inspect.getfile(function), function.__name__, folder]
        if num_processes > 1:
            launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
            command = [*launcher, *command]
        result = subprocess.run(
            [sys.executable, *command],
            env=build_environment(**(environment or {})),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )
        assert result.returncode == 0, result.stdout[-6000:]
        results = [pickle.loads((Path(folder) / f"result{rank}").read_bytes()) for rank in range(num_processes)]
    return results if num_processes > 1 else results[0]


def build_environment(**variables: str) -> dict[str, str]:
    """The environment of a process that this one starts: it finds the helpers of the tests, and torchvision loads."""
    environment = os.environ | variables
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(TESTS), environment.get("PYTHONPATH")]))
    guard_child_processes(environment)
    return environment


def main(path: str, name: str, folder: str) -> None:
    """What runs in the process: calls function `name` of the file at `path`."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    result = getattr(module, name)(*pickle.loads((Path(folder) / "arguments").read_bytes()))
    (Path(folder) / f"result{os.environ.get('RANK', 0)}").write_bytes(pickle.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])

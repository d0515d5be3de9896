"""vLLM's own server as `open_r1.vllm_serve` starts it, in a process group of its own that tests can kill."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx
from processes import build_environment, find_free_port


_START_S = 600  # on a busy machine; 20 seconds on an idle one


class Server:
    """A server of one model on this machine.

    Args:
        model_path: What it serves.
        folder: Where its log goes.
        options: Further ones of `vllm_serve`.
    """

    def __init__(self, model_path: str, folder: Path, *options: str):
        self.port = find_free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self._log = folder / f"server{self.port}.log"
        self._command = [
            *(sys.executable, "-m", "open_r1.vllm_serve", "--model", model_path, "--port", str(self.port)),
            *("--dtype", "float32", "--enforce_eager", "--max_model_len", "2048"),
            *("--worker-extension-cls", "worker_methods.WorkerMethods", *options),
        ]
        self._process: subprocess.Popen | None = None

    def start(self, waits: bool = True) -> None:
        """Starts it, or starts it again."""
        here = str(Path(__file__).parent)
        environment = build_environment(PYTHONPATH=os.pathsep.join([here, os.environ.get("PYTHONPATH", "")]))
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                self._command, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        deadline = time.monotonic() + _START_S
        while waits and not self.is_ready():
            assert self._process.poll() is None and time.monotonic() < deadline, self._log.read_text()[-6000:]
            time.sleep(0.5)

    def is_ready(self) -> bool:
        try:
            return httpx.get(f"{self.address}/health", timeout=10, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def send_signal(self, number: int) -> None:
        """To every process of the server."""
        os.killpg(self._process.pid, number)

    def kill(self) -> None:
        """Ends it as a machine that loses power does."""
        if self._process is not None:
            self.send_signal(signal.SIGKILL)
            self._process.wait()
            self._process = None

    def read_metric(self, name: str) -> float:
        """Sum over the lines of a Prometheus metric, 0.0 where it has none."""
        text = httpx.get(f"{self.address}/metrics", timeout=60, trust_env=False).text
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if line.partition("{")[0] == name)

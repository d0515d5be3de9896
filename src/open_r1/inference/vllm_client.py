"""HTTP to vLLM's own server: its token endpoint, and those by which weights are renewed.

Nothing waits for ever. A server that is gone for a moment is asked again, until `timeout_s` in all; one that is busy
generating may take as long as it needs, so long as its engine shows signs of life.
"""

import asyncio
import socket
import time
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from open_r1.inference.vllm_engine import EngineError
from open_r1.utils import background_loop


if TYPE_CHECKING:
    import httpx

GENERATE_PATH = "/inference/v1/generate"
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.25, 5.0  # between attempts
_PULSE_S = 5.0  # how often the engine's life is asked for while it generates
_CONCURRENCY = 64  # requests on their way at the same time, of this process
_SHOWN = 300  # characters of a server's message


class ServerClient:
    """Talks to one server. To vLLM's weight transfer it is the trainer's way to the workers.

    Args:
        address: URL, without a slash at its end.
        timeout_s: How long a server may be gone, or silent.

    Raises:
        ValueError: the address is no URL.
    """

    def __init__(self, address: str, timeout_s: float):
        parts = urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"{address} is no address of a server: take http://HOST:PORT, for instance.")
        self.address = address
        self.timeout_s = timeout_s
        self._host, self._port = parts.hostname, parts.port or {"http": 80, "https": 443}[parts.scheme]
        self._slots = asyncio.Semaphore(_CONCURRENCY)

    @cached_property
    def _http(self) -> "httpx.AsyncClient":
        import httpx

        # A connection for each call: the server hangs up on idle ones, perhaps when a call that is made once takes it.
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        return httpx.AsyncClient(base_url=self.address, timeout=self.timeout_s, limits=limits, trust_env=False)

    # ---- single calls -----------------------------------------------------------------------------------------

    def get(self, path: str) -> Any:
        """What the server answers, asked again while it is gone.

        Raises:
            EngineError: it is gone for longer than `timeout_s`, or refuses.
        """
        return background_loop.wait(self._call("GET", path))

    def post(self, path: str, body: dict[str, Any] | None = None, is_repeatable: bool = True) -> Any:
        """The same; where a call may not be made twice, a server that is gone is an error at once."""
        return background_loop.wait(self._call("POST", path, body, is_repeatable=is_repeatable))

    def has(self, path: str) -> bool:
        """Whether the server has this endpoint."""
        return background_loop.wait(self._ask("GET", path)).status_code != 404

    def get_weight_version(self) -> str:
        """What the server calls its weights; answered by its engine, which must therefore be alive."""
        return self.get("/weight_info")["weight_version"]

    def find_own_host(self) -> str:
        """The address by which this machine is known where the server runs."""
        try:
            with socket.create_connection((self._host, self._port), timeout=self.timeout_s) as connection:
                return connection.getsockname()[0]
        except OSError as error:
            raise EngineError(f"The vLLM server {self.address} cannot be reached: {error}") from error

    def close(self) -> None:
        """Closes the connections."""
        if "_http" in vars(self):
            background_loop.wait(self._http.aclose())

    async def _call(self, method: str, path: str, body: dict[str, Any] | None = None, **options: Any) -> Any:
        response = await self._ask(method, path, body, **options)
        if response.status_code >= 400:
            raise EngineError(f"The vLLM server {self.address} refuses {path}: {_shorten(response.text)}")
        return response.json() if response.content else None

    async def _ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        is_repeatable: bool = True,
        is_watched: bool = False,
    ) -> "httpx.Response":
        """The answer, whatever it says, unless the server fails.

        Args:
            method: Of HTTP.
            path: Of the endpoint.
            body: Sent as JSON.
            is_repeatable: Whether to ask again.
            is_watched: Whether somebody else notices that the server is silent; the time then only counts from the
                first failure.
        """
        import httpx

        http, pause = self._http, _FIRST_PAUSE_S  # a new one takes a moment to be ready
        deadline = None if is_watched else time.monotonic() + self.timeout_s
        while True:
            try:
                async with asyncio.timeout(None if is_watched else deadline - time.monotonic()):
                    timeout = httpx.Timeout(self.timeout_s, read=None if is_watched else self.timeout_s)
                    response = await http.request(method, path, json=body, timeout=timeout)
                if response.status_code < 500:
                    return response
                problem = f"{response.status_code} {_shorten(response.text)}"
            except (httpx.TransportError, TimeoutError) as error:
                problem = f"{type(error).__name__} {error}".strip()
            deadline = deadline or time.monotonic() + self.timeout_s
            if not is_repeatable or time.monotonic() + pause > deadline:
                waited = f" for {self.timeout_s:g} s" if is_repeatable else ""
                raise EngineError(f"The vLLM server {self.address} fails{waited} ({path}: {problem}).")
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_S)

    # ---- completions ------------------------------------------------------------------------------------------

    def generate(self, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Sends requests for completions, many at a time.

        Args:
            bodies: As the endpoint takes them.

        Returns:
            Its answers, in order.

        Raises:
            EngineError: the server fails or is silent for longer than `timeout_s`, or refuses a request.
        """
        return background_loop.wait(self._generate(bodies))

    async def _generate(self, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
        answers = asyncio.gather(*(self._complete(body) for body in bodies))
        pulse = asyncio.create_task(self._watch_pulse())
        try:
            await asyncio.wait([answers, pulse], return_when=asyncio.FIRST_COMPLETED)
            return (answers if answers.done() else pulse).result()  # the pulse has none, only an error
        finally:
            answers.cancel()
            pulse.cancel()
            await asyncio.gather(answers, pulse, return_exceptions=True)

    async def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        async with self._slots:
            return await self._call("POST", GENERATE_PATH, body, is_watched=True)

    async def _watch_pulse(self) -> None:
        """Runs until the engine is silent for too long: then it raises."""
        while True:
            await self._call("GET", "/weight_info")
            await asyncio.sleep(_PULSE_S)

    # ---- weights: what vLLM's senders ask of the server -------------------------------------------------------

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Lets the workers connect."""
        self.post("/init_weight_transfer_engine", {"init_info": init_info}, is_repeatable=False)

    def start_weight_update(self) -> None:
        """Gets the workers ready; a round that a dead trainer has left open is ended first."""
        try:
            self.post("/start_weight_update", is_repeatable=False)
        except EngineError:
            self.finish_weight_update()
            self.post("/start_weight_update", is_repeatable=False)

    def update_weights(self, update_info: dict[str, Any] | list[dict[str, Any]]) -> None:
        """Lets the workers take what is sent; answered when they have it all."""
        self.post("/update_weights", {"update_info": update_info}, is_repeatable=False)

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Lets the workers use what they have got."""
        body = None if weight_version is None else {"weight_version": weight_version}
        self.post("/finish_weight_update", body, is_repeatable=False)


def _shorten(message: str) -> str:
    return message if len(message) <= _SHOWN else f"{message[:_SHOWN]}…"

"""vLLM on devices of its own: completions and weights over the network, by the endpoints of vLLM's own server.

    start      ServerEngine(settings, address)    waits for the server, refuses one that training cannot use
    a round    engine.update_weights(…)           the first process sends, over NCCL or gloo; the others help to gather
               engine.generate(…)                 one request per prompt for all G completions, images as pixels

Every set of weights has a version, which the server tells with each completion: one that was restarted, or that got
weights of another run, is noticed.
"""

import contextlib
import os
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch

from open_r1.inference.vllm_client import ServerClient
from open_r1.inference.vllm_engine import (
    REQUIRED_OPTIONS,
    EngineCompletion,
    EngineError,
    EngineSettings,
    LostWeightsError,
    NamedWeights,
    check_vllm,
)
from open_r1.inference.vllm_plugin import GLOO, register
from open_r1.inference.vllm_server_checks import ServerInfo, check_server
from open_r1.inference.vllm_wire import build_body, list_versions, read_completions
from open_r1.utils.compat import guard_child_processes


if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import ModelConfig
    from vllm.distributed.weight_transfer.base import TrainerInitInfo, TrainerWeightTransferEngine
    from vllm.inputs import EngineInput

_MAX_LOSSES = 3  # of weights, in a row
_RESET_ATTEMPTS, _RESET_PAUSE_S = 10, 0.5  # requests that were cancelled take a moment to end


class ServerEngine:
    """A vLLM server, as `open_r1.vllm_serve` starts it.

    Args:
        settings: The model, and what the log-probabilities must be. How the engine runs is the server's.
        address: URL of the server.
        timeout_s: How long the server may be gone or silent, and how long sending all weights may take.
        group_port: Port of this machine by which the server's workers fetch weights.
        rank: Of this process. The first sends the weights; each asks for its own completions.

    Raises:
        EngineError: nobody answers.
        ImportError, ValueError: vLLM is not installed, or the server is not one that can be used.
    """

    def __init__(
        self,
        settings: EngineSettings,
        address: str,
        *,
        timeout_s: float = 240.0,
        group_port: int = 51216,
        rank: int = 0,
    ):
        from open_r1.inference.vllm_transfer import SentWeights

        check_vllm()
        guard_child_processes(os.environ)
        self.client = ServerClient(address, timeout_s)
        self.info: ServerInfo = check_server(self.client, settings)
        self.model_config = _describe_model(settings, self.info.dtype)
        self._group_port = group_port
        self._rank = rank
        device = "cpu" if self.info.transfer == GLOO else f"cuda:{torch.cuda.current_device()}"
        self._source = SentWeights(self.info.dtype, torch.device(device))
        self._transfer: TrainerWeightTransferEngine | None = None
        self._names: set[str] = set()  # of all weights that were ever sent
        self._run = uuid4().hex[:8]
        self._num_updates = 0
        self._num_losses = 0  # in a row

    # ---- completions ------------------------------------------------------------------------------------------

    def generate(self, inputs: "list[EngineInput]", params: "list[SamplingParams]") -> list[list[EngineCompletion]]:
        """The completions of each request, in order.

        Raises:
            LostWeightsError: they were drawn with other weights than those that were sent.
            EngineError: the server gives none.
            ValueError: a request cannot be sent.
        """
        bodies = [build_body(given, of_it) for given, of_it in zip(inputs, params, strict=True)]
        answers = self.client.generate(bodies)
        versions = {version for answer in answers for version in list_versions(answer)}
        if self._num_updates and versions - {self._version}:
            raise self._build_loss(
                f"The vLLM server {self.client.address} has drawn completions with other weights than those that it "
                "got: it was restarted, or another run uses it."
            )
        self._num_losses = 0
        return [read_completions(answer) for answer in answers]

    # ---- weights ----------------------------------------------------------------------------------------------

    @property
    def _version(self) -> str:
        """What the weights of the last update are called on the server; the same on every process."""
        return f"{self._run}:{self._num_updates}"

    @property
    def forgets_weights(self) -> bool:
        """Whether all weights must be given anew, because the server has others; all processes must ask together."""
        found: bool | str = False
        if self._rank == 0:
            try:
                found = self.client.get_weight_version() != self._version
            except EngineError as error:
                found = str(error)
        found = _share(found)
        if isinstance(found, str):
            raise EngineError(found)
        return found

    def update_weights(self, weights: NamedWeights, *, has_vision: bool) -> None:
        """Sends weights to the server; all processes must come here together.

        Args:
            weights: They have `metadata()`, and iterate as often as they are asked; on every process, since gathering
                them may take all.
            has_vision: Whether those of the vision tower are among them.

        Raises:
            LostWeightsError: these are only some, and the server has none of the others.
            EngineError: they did not get there.
        """
        previous, self._run = self._version, _share(self._run)
        self._num_updates += 1
        self._source.use(weights)
        try:
            if self._rank == 0:
                self._send(previous, has_vision)
        finally:
            self._source.finish_pass()

    def _send(self, previous: str, has_vision: bool) -> None:
        names = {weight.name for weight in self._source.metadata()}
        if self.client.get_weight_version() != previous:
            self._disconnect()  # if it was restarted, nobody is at the other end
            if missing := self._names - names:
                raise self._build_loss(
                    f"The vLLM server {self.client.address} was restarted, or another run uses it, and it got "
                    f"{len(names)} weights without the other {len(missing)}."
                )
        try:
            self._transfer = self._transfer or self._connect()
            self._transfer.send_weights()
        except (RuntimeError, OSError, ValueError, TimeoutError) as error:
            reason = str(error) or type(error).__name__
            if self._transfer is None:
                reason = f"no connection by port {self._group_port} of this machine (--vllm_group_port): {reason}"
            self._disconnect()
            problem = f"The weights did not get to the vLLM server {self.client.address}: {reason}"
            is_back = bool(self._names) and self._comes_back()  # the first time something is wrong for good
            raise (self._build_loss(problem) if is_back else EngineError(problem)) from error
        self._names |= names
        self._forget_computed(has_vision)
        self.client.post("/update_weight_version", {"new_version": self._version})

    def _build_loss(self, problem: str) -> EngineError:
        """Worth another attempt with all weights, but not for ever."""
        self._num_losses += 1
        return (LostWeightsError if self._num_losses <= _MAX_LOSSES else EngineError)(problem)

    def _comes_back(self) -> bool:
        try:
            self.client.get_weight_version()
        except EngineError:
            return False
        return True

    def _connect(self) -> "TrainerWeightTransferEngine":
        from vllm.distributed.weight_transfer.factory import WeightTransferTrainerFactory

        register()
        return WeightTransferTrainerFactory.trainer_init(
            self._build_connection(), client=self.client, source=self._source
        )

    def _build_connection(self) -> "TrainerInitInfo":
        place: dict[str, Any] = {
            "rank": self._rank,
            "master_address": self.client.find_own_host(),
            "master_port": self._group_port,
            "world_size": 1 + self.info.num_workers,
        }
        if self.info.transfer == GLOO:
            from open_r1.inference.vllm_transfer import GlooTrainerInfo

            return GlooTrainerInfo(**place, timeout_s=self.client.timeout_s)
        from vllm.distributed.weight_transfer.nccl_engine import NCCLTrainerInitInfo

        return NCCLTrainerInitInfo(**place)

    def _disconnect(self) -> None:
        if self._transfer is not None:
            self._transfer.shutdown()
            self._transfer = None

    def _forget_computed(self, has_vision: bool) -> None:
        if not any(self.client.post("/reset_prefix_cache")["success"] for _ in _spaced(_RESET_ATTEMPTS)):
            raise EngineError(
                f"The vLLM server {self.client.address} still answers requests, so it cannot forget what it computed "
                "with the old weights. Does another run use it?"
            )
        if has_vision:
            self.client.post("/reset_encoder_cache")

    # ---- the rest of the protocol -----------------------------------------------------------------------------

    def awake(self) -> contextlib.AbstractContextManager[None]:
        """The server has its memory always."""
        return contextlib.nullcontext()

    def close(self) -> None:
        """Leaves the server, which stays."""
        if self._transfer is not None:
            self._disconnect()
            with contextlib.suppress(EngineError):  # it may be gone
                self.client.post("/shutdown_weight_transfer_engine", is_repeatable=False)
        self.client.close()


# ---- the model, and other processes -----------------------------------------------------------------------------


def _describe_model(settings: EngineSettings, dtype: torch.dtype) -> "ModelConfig":
    """vLLM's description, as the server has it; no engine is started."""
    from vllm.engine.arg_utils import EngineArgs

    arguments = EngineArgs(
        model=settings.model_path,
        revision=settings.revision,
        dtype=str(dtype).removeprefix("torch."),
        trust_remote_code=settings.trust_remote_code,
        **REQUIRED_OPTIONS,
    )
    return arguments.create_model_config()


def _share(value: Any) -> Any:
    """The first process's, on every process."""
    group = torch.distributed
    if not group.is_available() or not group.is_initialized() or group.get_world_size() == 1:
        return value
    box = [value]
    group.broadcast_object_list(box, src=0)
    return box[0]


def _spaced(num_attempts: int) -> Iterator[None]:
    for attempt in range(num_attempts):
        if attempt:
            time.sleep(_RESET_PAUSE_S)
        yield

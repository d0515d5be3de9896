"""vLLM on devices of its own: completions and weights over the network, by the endpoints of vLLM's own server.

    start      ServerEngine(settings, address)    waits for the server, refuses one that training cannot use
    a round    engine.update_weights(…)           the first process sends, over NCCL or gloo; the others help to gather
               engine.generate(…)                 one request per prompt for all G completions, images as pixels

Every set of weights has a version, which the server tells with each completion: one that was restarted, or that got
weights of another run, is noticed.
"""

import contextlib
import os
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import torch

from open_r1.inference.vllm_client import ServerClient
from open_r1.inference.vllm_engine import EngineCompletion, EngineError, EngineSettings, NamedWeights, check_vllm
from open_r1.inference.vllm_plugin import GLOO, register
from open_r1.inference.vllm_server_checks import ServerInfo, check_server
from open_r1.utils.compat import guard_child_processes


if TYPE_CHECKING:
    from vllm import SamplingParams
    from vllm.config import ModelConfig
    from vllm.distributed.weight_transfer.base import TrainerInitInfo, TrainerWeightTransferEngine
    from vllm.inputs import EngineInput
    from vllm.multimodal.inputs import PlaceholderRange


class LostWeightsError(EngineError):
    """The server answers, but not with the weights that it got: all of them must be sent anew."""


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
        self._source = SentWeights(self.info.dtype)
        self._transfer: TrainerWeightTransferEngine | None = None
        self._names: set[str] = set()  # of all weights that were ever sent
        self._run = uuid4().hex[:8]
        self._num_updates = 0

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
        versions = {span["version"] for answer in answers for span in _list_spans(answer)}
        if self._num_updates and versions - {self._version}:
            raise LostWeightsError(
                f"The vLLM server {self.client.address} has drawn completions with other weights than those that it "
                "got: it was restarted, or another run uses it."
            )
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
                raise LostWeightsError(
                    f"The vLLM server {self.client.address} was restarted, or another run uses it, and it got "
                    f"{len(names)} weights without the other {len(missing)}."
                )
        try:
            self._transfer = self._transfer or self._connect()
            self._transfer.send_weights()
        except (RuntimeError, OSError, ValueError, TimeoutError) as error:
            self._disconnect()
            problem = f"The weights did not get to the vLLM server {self.client.address}: {error}"
            raise EngineError(problem) from error
        self._names |= names
        self._forget_computed(has_vision)
        self.client.post("/update_weight_version", {"new_version": self._version})

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
        if not self.client.post("/reset_prefix_cache")["success"]:
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


# ---- requests and answers ---------------------------------------------------------------------------------------


def build_body(given: "EngineInput", params: "SamplingParams") -> dict[str, Any]:
    """A request as the server takes it.

    Raises:
        ValueError: other tokens stand between the placeholders of one of its media.
    """
    import msgspec

    settings = msgspec.to_builtins(params, str_keys=True)
    body = {
        "token_ids": given["prompt_token_ids"],
        "sampling_params": {name: value for name, value in settings.items() if not name.startswith("_")},
    }
    if given["type"] == "multimodal":
        body["features"] = _build_features(given)
    return body


def _build_features(given: "EngineInput") -> dict[str, Any]:
    from vllm.entrypoints.scale_out.token_in_token_out.mm_serde import encode_mm_kwargs_item

    return {
        "mm_hashes": given["mm_hashes"],
        "mm_placeholders": {
            kind: [_build_place(place) for place in places] for kind, places in given["mm_placeholders"].items()
        },
        "kwargs_data": {
            kind: [encode_mm_kwargs_item(item) for item in items] for kind, items in given["mm_kwargs"].items()
        },
    }


def _build_place(place: "PlaceholderRange") -> dict[str, int]:
    if place.is_embed is None:
        return {"offset": place.offset, "length": place.length}
    own = torch.nonzero(place.is_embed).flatten()
    first, length = int(own[0]), int(own[-1] - own[0]) + 1
    if length != len(own):
        raise ValueError(
            "--vllm_mode server: vLLM's server takes no media whose placeholders have other tokens between them, as "
            "videos with time stamps and images in tiles have. Take --vllm_mode colocate."
        )
    return {"offset": place.offset + first, "length": length}


def read_completions(answer: dict[str, Any]) -> list[EngineCompletion]:
    """The G completions of one request, in order."""
    return [
        EngineCompletion(
            token_ids=choice["token_ids"],
            per_token_logps=[entry["logprob"] for entry in choice["logprobs"]["content"]],
            finish_reason=choice["finish_reason"],
        )
        for choice in sorted(answer["choices"], key=lambda choice: choice["index"])
    ]


def _list_spans(answer: dict[str, Any]) -> list[dict[str, Any]]:
    return [span for choice in answer["choices"] for span in choice["weight_versions"] or ()]


# ---- the model, and other processes -----------------------------------------------------------------------------


def _describe_model(settings: EngineSettings, dtype: torch.dtype) -> "ModelConfig":
    """vLLM's description, as the server has it; no engine is started."""
    from vllm.engine.arg_utils import EngineArgs

    from open_r1.inference.vllm_engine import REQUIRED_OPTIONS

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

"""Weights from the trainer into the workers of a vLLM server, where NCCL does not connect them: over gloo, on CPUs.

A plug-in of vLLM's, with the life cycle of its own NCCL backend, so that either is used by the same calls:

    trainer   GlooSender.trainer_init -> send_weights …         every round: all that `source` yields
    worker    GlooReceiver.init_transfer_engine -> start_weight_update, update_weights, finish_weight_update …

One weight is on its way at a time. A peer that dies or hangs is an error on the other side, within the timeout.
"""

import contextlib
import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import ClassVar, Self
from uuid import uuid4

import torch
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerInitInfo,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)

from open_r1.inference.vllm_plugin import GLOO
from open_r1.inference.vllm_weights import begin_update, end_update


_MEETING_S = 20.0  # until two processes that listen have found each other
_EXPLANATION_S = 2.0  # how long a server may take to tell why it has hung up


# ---- what is sent -----------------------------------------------------------------------------------------------


class SentWeights(WeightSource):
    """The weights of the round, as vLLM's senders take them: a source that is bound once and asked anew every round.

    Args:
        dtype: Floating-point weights are sent in it: the server's.
        device: They are sent from it, wherever the policy keeps them.
    """

    def __init__(self, dtype: torch.dtype, device: torch.device):
        self.dtype = dtype
        self.device = device
        self._weights: Iterable[tuple[str, torch.Tensor]] = ()
        self._pass: Iterator[tuple[str, torch.Tensor]] | None = None

    def use(self, weights: Iterable[tuple[str, torch.Tensor]]) -> None:
        """Sets what the next round sends: it has `metadata()`, and iterates anew each time that it is asked."""
        self._weights, self._pass = weights, None

    def metadata(self) -> list[ParamMeta]:
        return [
            ParamMeta(weight.name, self._get_dtype(weight.dtype), tuple(weight.shape))
            for weight in self._weights.metadata()
        ]

    def __iter__(self) -> Iterator[tuple[str, torch.Tensor]]:
        self._pass = iter(self._weights)
        for name, tensor in self._pass:
            yield name, tensor.detach().to(self.device, self._get_dtype(tensor.dtype))

    def finish_pass(self) -> None:
        """Goes through what is left of the round: other processes take part in gathering each weight."""
        self._pass = iter(self._weights) if self._pass is None else self._pass
        for _ in self._pass:
            continue

    def _get_dtype(self, dtype: torch.dtype) -> torch.dtype:
        return self.dtype if dtype.is_floating_point else dtype


# ---- messages ---------------------------------------------------------------------------------------------------


@dataclass(kw_only=True)
class GlooInitInfo(WeightTransferInitInfo):
    """What a worker needs to join the group."""

    name: str  # of this connection
    host: str  # of the trainer
    port: int
    num_processes: int  # the sender and all workers
    timeout_s: float  # for each weight, and for the others to join


@dataclass(kw_only=True)
class GlooUpdateInfo(WeightTransferUpdateInfo):
    """The weights of a round, in their order."""

    names: list[str]
    dtypes: list[str]  # such as "bfloat16"
    shapes: list[list[int]]


@dataclass(kw_only=True)
class GlooTrainerInfo(TrainerInitInfo):
    """What the trainer's side needs; field names of the connection as in NCCL's."""

    backend: ClassVar[str] = GLOO

    master_address: str
    master_port: int
    world_size: int
    timeout_s: float
    name: str = field(default_factory=lambda: uuid4().hex)

    def describe_to_workers(self) -> GlooInitInfo:
        return GlooInitInfo(
            name=self.name,
            host=self.master_address,
            port=self.master_port,
            num_processes=self.world_size,
            timeout_s=self.timeout_s,
        )


# ---- the group --------------------------------------------------------------------------------------------------


def open_store(info: GlooInitInfo, is_sender: bool) -> torch.distributed.Store:
    """Where the sender and the workers find each other; the sender listens.

    Raises:
        OSError, RuntimeError: the port is taken, or the sender is not there.
    """
    if not is_sender:
        # Where nobody is there, this fails at once; a store would try for several times as long as it is allowed to.
        socket.create_connection((info.host, info.port), timeout=info.timeout_s).close()
    store = torch.distributed.TCPStore(
        info.host,
        info.port,
        info.num_processes,
        is_master=is_sender,
        timeout=timedelta(seconds=min(info.timeout_s, _MEETING_S)),
        wait_for_workers=False,
        multi_tenant=True,  # an earlier connection of this process may still hold the port; names keep them apart
    )
    store.set_timeout(timedelta(seconds=info.timeout_s))
    return torch.distributed.PrefixStore(info.name, store)


class _Group:
    """The sender (rank 0) and the workers of one connection, beside all other groups of their processes.

    Args:
        info: Where they meet.
        rank: Of this process.
        store: Where they meet, if it is open already.
    """

    def __init__(self, info: GlooInitInfo, rank: int, store: torch.distributed.Store | None = None):
        store = open_store(info, is_sender=rank == 0) if store is None else store
        timeout = timedelta(seconds=info.timeout_s)
        self._group = torch.distributed.ProcessGroupGloo(store, rank, info.num_processes, timeout)

    def broadcast(self, tensor: torch.Tensor) -> None:
        """The sender's numbers into every worker's tensor, which is contiguous; RuntimeError where a peer is gone."""
        options = torch.distributed.BroadcastOptions()
        options.rootRank = 0
        if tensor.numel():
            self._group.broadcast([tensor.reshape(-1).view(torch.uint8)], options).wait()


# ---- both sides -------------------------------------------------------------------------------------------------


class GlooReceiver(WeightTransferEngine[GlooInitInfo, GlooUpdateInfo]):
    """A worker's side."""

    init_info_cls = GlooInitInfo
    update_info_cls = GlooUpdateInfo

    _group: _Group | None = None

    def init_transfer_engine(self, init_info: GlooInitInfo) -> None:
        config = self.parallel_config
        self.shutdown()
        self._group = _Group(init_info, rank=1 + config.data_parallel_index * config.world_size + config.rank)

    def start_weight_update(self) -> None:
        begin_update(self.model)

    def update_weights(self, update_info: dict) -> None:
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: GlooUpdateInfo) -> None:
        if self._group is None:
            raise RuntimeError("No trainer is connected: init_weight_transfer_engine comes first.")
        try:
            for name, dtype, shape in zip(update_info.names, update_info.dtypes, update_info.shapes, strict=True):
                weight = torch.empty(shape, dtype=getattr(torch, dtype))
                self._group.broadcast(weight)
                self.model.load_weights([(name, weight.to(self.device))])
        except BaseException:
            self.shutdown()  # the sender notices
            end_update(self.model, self.model_config)  # layers that got nothing have their old weights
            raise

    def finish_weight_update(self) -> None:
        end_update(self.model, self.model_config)

    def shutdown(self) -> None:
        self._group = None


class GlooSender(TrainerWeightTransferEngine[GlooTrainerInfo]):
    """The trainer's side; processes other than the first only help to gather the weights."""

    init_info_cls = GlooTrainerInfo

    _group: _Group | None = None
    _timeout_s: float = 0.0

    @classmethod
    def trainer_init(
        cls, init_info: GlooTrainerInfo, *, client: VLLMWeightSyncClient, source: WeightSource | None = None
    ) -> Self:
        if source is None:
            raise ValueError("Weights are sent from a WeightSource; there is none.")
        sender = cls(client=client, source=source, is_sender=init_info.is_sender)
        if sender.is_sender:
            sender._connect(init_info)
        return sender

    def _connect(self, info: GlooTrainerInfo) -> None:
        self._timeout_s = info.timeout_s
        place = info.describe_to_workers()
        store = open_store(place, is_sender=True)
        threads = ThreadPoolExecutor(max_workers=2)
        try:
            group = threads.submit(_Group, place, 0, store)
            workers = threads.submit(self.client.init_weight_transfer_engine, asdict(place))
            done, _ = wait([group, workers], info.timeout_s, return_when=FIRST_EXCEPTION)
            for finished in done:
                finished.result()
            self._group = group.result(0)
        finally:
            threads.shutdown(wait=False)  # one may still wait for the other side

    def send_weights(self) -> None:
        meta = self.source.metadata()
        if not self.is_sender:
            for _ in self.source:
                continue
            return
        if self._group is None:
            raise RuntimeError("The connection to the workers is closed.")
        message = GlooUpdateInfo(
            names=[weight.name for weight in meta],
            dtypes=[str(weight.dtype).removeprefix("torch.") for weight in meta],
            shapes=[list(weight.shape) for weight in meta],
        )
        self.client.start_weight_update()
        threads = ThreadPoolExecutor(max_workers=1)
        try:
            answer = threads.submit(self.client.update_weights, asdict(message))  # lasts until they have everything
            with _explained_by(answer):
                self._broadcast(meta)
            answer.result(self._timeout_s)
        except BaseException:
            self.shutdown()  # the workers notice
            raise
        finally:
            threads.shutdown(wait=False)
        self.client.finish_weight_update()

    def _broadcast(self, meta: list[ParamMeta]) -> None:
        for weight, (name, tensor) in zip(meta, self.source, strict=True):
            if (name, tensor.dtype, tuple(tensor.shape)) != (weight.name, weight.dtype, weight.shape):
                raise ValueError(
                    f"{weight.name} was announced with {weight.dtype} and {weight.shape}; what came is {name} with "
                    f"{tensor.dtype} and {tuple(tensor.shape)}."
                )
            self._group.broadcast(tensor.contiguous())

    def shutdown(self) -> None:
        self._group = None


@contextlib.contextmanager
def _explained_by(answer: Future) -> Iterator[None]:
    """Where the connection breaks, the server's own error is the better one, if it tells any."""
    try:
        yield
    except RuntimeError:
        with contextlib.suppress(TimeoutError):
            answer.result(_EXPLANATION_S)
        raise

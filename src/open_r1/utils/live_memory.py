"""How many bytes of tensors are alive while some code runs, with real tensors or with shapes alone.

`LiveMemory` counts every storage that an operation makes, from its birth to its end, so a peak is that of what a pass
really holds: activations kept for the backward pass, those computed again under gradient checkpointing, temporaries.
Kernels' own work space and the allocator's waste are not seen.

`ShapeMemory` counts without computing: weights lie on the `meta` device, floating-point tensors have shapes and no
values. Integers and booleans (token ids, positions, masks, indices) stay real on the CPU, since shapes depend on them.
"""

import weakref
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


_TAKES_INDICES = ("index", "index_put", "index_put_", "_index_put_impl_", "_unsafe_index")


class LiveMemory(TorchDispatchMode):
    """Counts the storages that operations make inside the `with` block; what was there before does not count.

    >>> with LiveMemory() as memory:
    ...     kept = torch.zeros(1000) + 1
    >>> memory.live, memory.peak
    (4000, 8000)
    """

    def __init__(self):
        super().__init__()
        self.live = 0  # bytes now
        self.peak = 0  # the most there were
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        result = self.call(func, args, kwargs or {})
        given = {tensor.untyped_storage()._cdata for tensor in _list_tensors(args, kwargs or {})}
        for tensor in _list_tensors((result,), {}):
            storage = tensor.untyped_storage()
            if storage._cdata not in given:  # else a view, of a weight perhaps
                self._count(storage)
        return result

    def call(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Runs an operation."""
        return func(*args, **kwargs)

    def _count(self, storage: torch.UntypedStorage) -> None:
        address = storage._cdata
        if address in self._sizes:
            return
        self._sizes[address] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._forget, address)

    def _forget(self, address: int) -> None:
        self.live -= self._sizes.pop(address, 0)


class ShapeMemory(LiveMemory):
    """The same for modules on the `meta` device, whose inputs are real tensors."""

    def call(self, func: Any, args: tuple, kwargs: dict[str, Any]) -> Any:
        """Runs an operation on shapes where one of its tensors has nothing but a shape, else for real."""
        if str(kwargs.get("device")) == "meta" and self._makes_integers(args, kwargs):
            kwargs = {**kwargs, "device": torch.device("cpu")}
        elif any(tensor.is_meta for tensor in _list_tensors(args, kwargs)):
            if str(func).split(".")[1] in _TAKES_INDICES:
                args = (args[0], _expand_masks(args[1]), *args[2:])
                if not any(tensor.is_meta for tensor in _list_tensors(args, kwargs)):  # the masks alone had no values
                    return func(*args, **kwargs)
            args, kwargs = tree_map(_drop_values, (args, kwargs))
            if str(func) == "aten._grouped_mm.default":  # torch's own is for bfloat16 alone, where there are no values
                return _multiply_groups(*args, **kwargs)
            if kwargs.get("device") is not None:  # what has no values stays where it is
                kwargs["device"] = torch.device("meta")
        return func(*args, **kwargs)

    @staticmethod
    def _makes_integers(args: tuple, kwargs: dict[str, Any]) -> bool:
        tensors, dtype = _list_tensors(args, {}), kwargs.get("dtype")
        if dtype is None and tensors:
            dtype = tensors[0].dtype
        if any(tensor.is_meta for tensor in tensors):
            return False
        if dtype is None:  # arange of whole numbers
            return bool(args) and all(isinstance(value, int) for value in args)
        return not dtype.is_floating_point


def _list_tensors(args: tuple, kwargs: dict[str, Any]) -> list[torch.Tensor]:
    return [value for value in tree_leaves((args, kwargs)) if isinstance(value, torch.Tensor)]


def _expand_masks(indices: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
    """Indices with boolean masks as the positions of what is True: everything, where a mask has no values."""
    expanded: list[torch.Tensor | None] = []
    for index in indices:
        is_mask = index is not None and index.dtype == torch.bool
        if is_mask and index.is_meta:
            index = torch.ones(index.shape, dtype=torch.bool)
        expanded += index.nonzero().unbind(1) if is_mask else [index]
    return expanded


def _multiply_groups(
    left: torch.Tensor,
    right: torch.Tensor,
    ends: torch.Tensor,
    bias: None = None,
    out_dtype: torch.dtype | None = None,
) -> torch.Tensor:
    """The shape of `torch._grouped_mm`: rows that belong to E groups times a matrix of their group's, (S, K) and
    (E, K, N), or, for the gradient of those matrices, (K, S) and (S, N)."""
    groups = (len(ends),) if left.ndim == right.ndim == 2 else ()
    return left.new_empty((*groups, left.shape[0], right.shape[-1]), dtype=out_dtype)


def _drop_values(value: Any) -> Any:
    if not isinstance(value, torch.Tensor) or value.is_meta:
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


class _FusedAttention(torch.autograd.Function):
    """What a fused attention kernel makes and keeps: (..., Q, D), (..., K, D), (..., K, E) -> (..., Q, E)."""

    @staticmethod
    def forward(ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        log_normaliser = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, output, log_normaliser)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        query, key, value, *_ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def attend_shapes(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **kwargs: Any) -> torch.Tensor:
    """Stands in for torch's `scaled_dot_product_attention` where there are shapes alone: grouped queries allowed, no
    matrix of probabilities is made."""
    return _FusedAttention.apply(query, key, value)

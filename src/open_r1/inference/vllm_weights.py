"""New weights into a model of vLLM's: what runs where the model is, in this process or in a server's worker.

vLLM keeps weights in the layout of its kernels: q, k and v in one matrix, some of them packed. Its layerwise reload
undoes that for a layer when the first of its weights comes, and packs it again behind the last one, so that one layer
is in memory twice.
"""

import contextlib
import logging
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch


if TYPE_CHECKING:
    from vllm.config import ModelConfig


@torch.no_grad()
def load_weights(
    model: torch.nn.Module, model_config: "ModelConfig", weights: Iterable[tuple[str, torch.Tensor]]
) -> list[str]:
    """Takes over weights under their names in checkpoints; layers that are left out stay as they are.

    Returns:
        Names that vLLM's model has no use for.
    """
    begin_update(model)
    try:
        return [name for name, tensor in weights if model.load_weights([(name, tensor)]) == set()]
    finally:
        end_update(model, model_config)


def begin_update(model: torch.nn.Module) -> None:
    """Gets all layers ready for new weights."""
    from vllm.model_executor.model_loader.reload import initialize_layerwise_reload

    initialize_layerwise_reload(model)


def end_update(model: torch.nn.Module, model_config: "ModelConfig") -> None:
    """Gives layers that got no weights their old ones back, and packs what is left to be packed."""
    from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

    with _without_warnings("vllm.model_executor.model_loader.reload.layerwise"):  # of layers that are left out
        finalize_layerwise_reload(model, model_config)
    _repack_heads(model)


def _repack_heads(model: torch.nn.Module) -> None:
    """On CPUs a head that shares its weight with the embeddings has a packed copy of it, which vLLM 0.32 leaves as it
    was: only the embeddings get the new weight."""
    for module in model.modules():
        if hasattr(module, "cpu_linear") and getattr(module, "weight", torch.empty(0)).numel():
            module.quant_method.process_weights_after_loading(module)


def forget_computed(engine_core: Any, has_vision: bool) -> None:
    """Drops keys and values of prompts, and features of images where the tower has changed."""
    engine_core.reset_prefix_cache()
    if has_vision:
        engine_core.reset_encoder_cache()


@contextlib.contextmanager
def _without_warnings(name: str) -> Iterator[None]:
    logger = logging.getLogger(name)
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)

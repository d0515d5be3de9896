"""Attention over a packed row, registered through transformers' public attention interface.

The function takes the place of `sdpa` in the language model alone. Without a `packed_layout` among its keyword
arguments (generation, replicated passes) it is `sdpa`. With one, prompts attend causally to themselves, and each
completion to its prompt and to itself (`packing.py` draws it), by two calls of torch's exact softmax attention.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import scaled_dot_product_attention

from open_r1.trainer.packing import PackedLayout
from open_r1.vlm_modules.vlm_module import get_bare_model


if TYPE_CHECKING:
    from transformers import PreTrainedModel


logger = logging.getLogger(__name__)

ATTENTION_NAME = "open_r1_packed"
# What decoders may ask of an attention function, and packed rows do not have.
_UNSUPPORTED = ("dropout", "sliding_window", "softcap", "s_aux")


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    packed_layout: PackedLayout | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """Attention of a decoder layer.

    Args:
        module: The layer's attention module.
        query: (1, H, T, D) for a packed row.
        key: (1, K, T, D), K key-value heads.
        value: (1, K, T, D).
        attention_mask: Used without a layout only.
        packed_layout: Where the groups are; None: ordinary rows.

    Returns:
        (1, T, H, D), and None for the attention weights.
    """
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if packed_layout is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    asked = {name: kwargs.get(name) for name in _UNSUPPORTED}
    unsupported = [name for name, value in asked.items() if isinstance(value, torch.Tensor) or value]
    if unsupported:
        raise ValueError(f"Packed groups allow no {', '.join(unsupported)} in attention: use --logps_mode replicated.")
    attend = attend_concat if packed_layout.varlen is None else attend_varlen
    return attend(query[0], key[0], value[0], packed_layout, kwargs.get("scaling"))[None], None


def attend_varlen(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, layout: PackedLayout, scale: float | None
) -> torch.Tensor:
    """(H, T, D), (K, T, D), (K, T, D) -> (T, H, D) by one call of a FlashAttention kernel for ragged segments.

    Causality is aligned at the end of queries and keys, so a completion sees its whole prompt and itself up to here.
    """
    from torch.nn.attention.varlen import varlen_attn

    if torch.is_autocast_enabled(query.device.type):  # torch's own attention casts by itself; this kernel does not
        dtype = torch.get_autocast_dtype(query.device.type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
    segments = layout.varlen
    return varlen_attn(
        query.transpose(0, 1),
        key[:, segments.key_index].transpose(0, 1),
        value[:, segments.key_index].transpose(0, 1),
        segments.query_starts,
        segments.key_starts,
        segments.longest_query,
        segments.longest_key,
        window_size=(-1, 0),
        scale=scale,
        enable_gqa=query.shape[0] != key.shape[0],
    )


def attend_concat(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: PackedLayout,
    scale: float | None,
    attend: Callable[..., torch.Tensor] = scaled_dot_product_attention,
) -> torch.Tensor:
    """(H, T, D), (K, T, D), (K, T, D) -> (T, H, D) by two calls of torch's attention over padded rectangles.

    Prompts attend to themselves; completions to the keys of their prompt, repeated G times, and to their own.
    `attend` stands in for torch's function where there are shapes alone (`dry_pass.py`).
    """
    sdpa = {"scale": scale, "enable_gqa": query.shape[0] != key.shape[0]}
    prompt_key = key[:, layout.prompt_index].transpose(0, 1)  # (N, K, P', D)
    prompt_value = value[:, layout.prompt_index].transpose(0, 1)
    prompt_query = query[:, layout.prompt_index].transpose(0, 1)  # (N, H, P', D)
    # Padding stands to the right of a prompt, so causality hides it from every real token.
    of_prompts = attend(prompt_query, prompt_key, prompt_value, is_causal=True, **sdpa)

    size = layout.num_generations
    segment_query = query[:, layout.segment_index].transpose(0, 1)  # (B, H, C, D)
    segment_key = key[:, layout.segment_index].transpose(0, 1)
    segment_value = value[:, layout.segment_index].transpose(0, 1)
    seen_key = torch.cat([prompt_key.repeat_interleave(size, dim=0), segment_key], dim=2)  # (B, K, P' + C, D)
    seen_value = torch.cat([prompt_value.repeat_interleave(size, dim=0), segment_value], dim=2)
    mask = _build_segment_mask(layout)
    of_segments = attend(segment_query, seen_key, seen_value, attn_mask=mask, **sdpa)
    return torch.cat(
        [of_prompts.transpose(1, 2)[layout.prompt_mask], of_segments.transpose(1, 2)[layout.segment_mask]]
    )


def _build_segment_mask(layout: PackedLayout) -> torch.Tensor:
    """Which keys each completion token sees: (B, 1, C, P' + C), True where it does."""
    num_rows, width = layout.segment_index.shape
    own = torch.ones(width, width, dtype=torch.bool, device=layout.segment_index.device).tril()
    of_prompt = layout.prompt_mask.repeat_interleave(layout.num_generations, dim=0)  # (B, P')
    return torch.cat(
        [of_prompt[:, None, None].expand(-1, 1, width, -1), own.expand(num_rows, 1, width, width)], dim=-1
    )


def find_packing_obstacle(model: "PreTrainedModel") -> str | None:
    """Why packing would not be exact for this model; None where its configuration and modules speak of no obstacle."""
    model = get_bare_model(model)
    text_config, decoder = model.config.get_text_config(), model.get_decoder()
    layer_types = getattr(text_config, "layer_types", None)
    if model.config.is_encoder_decoder or getattr(text_config, "cross_attention_layers", None):
        return "the decoder attends to an encoder"
    if set(layer_types or ["full_attention"]) != {"full_attention"}:
        return "some layers are not full attention"
    if not decoder.is_backend_compatible():
        return "the decoder does not go through the attention interface of transformers"
    # Where there are layer types they decide: Qwen's configurations have a window even if no layer uses it.
    if not layer_types and getattr(text_config, "sliding_window", None) is not None:
        return "the attention has a sliding window"
    if any(not getattr(module, "is_causal", True) for module in decoder.modules() if hasattr(module, "layer_idx")):
        return "some attention of the decoder is not causal"
    if getattr(text_config, "attn_logit_softcapping", None) is not None:
        return "the attention logits are capped"
    if getattr(text_config, "attention_dropout", None):
        return "the attention has dropout"
    implementation = text_config._attn_implementation
    if implementation not in ("sdpa", ATTENTION_NAME):
        return f"packing works on sdpa, not on {implementation}; leave out --attn_implementation"
    return None


def choose_layout(model: "PreTrainedModel", logps_mode: str) -> bool:
    """Whether to pack, by `--logps_mode`; says so in the log where `auto` does not.

    Raises:
        ValueError: `packed` is demanded of a model for which it would not be exact.
    """
    obstacle = find_packing_obstacle(model)
    if logps_mode == "packed" and obstacle is not None:
        raise ValueError(f"--logps_mode packed: {obstacle}. Use --logps_mode replicated.")
    if logps_mode == "auto" and obstacle is not None:
        logger.warning("Log-probabilities are computed with replicated prompts: %s.", obstacle)
    return logps_mode != "replicated" and obstacle is None


def enable_packing(model: "PreTrainedModel") -> None:
    """Lets the model's decoder take packed rows; its ordinary use stays as it is (`sdpa`)."""
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    AttentionInterface.register(ATTENTION_NAME, packed_attention)
    AttentionMaskInterface.register(ATTENTION_NAME, sdpa_mask)
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    base.set_attn_implementation({"text_config": ATTENTION_NAME})

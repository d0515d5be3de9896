"""The memory of a loss pass, known without weights, GPU or arithmetic: the trainer's own pass over shapes.

    configuration -> model on the meta device, adapters and frozen parts as they would be      build_shape_model
    -> a micro-batch of real prompts and completions of a given length                         build_dry_batch
    -> forward and backward, every tensor's birth and end counted                              measure_loss_pass

Used by `open_r1.preflight`; the counting is `utils/live_memory.py`.
"""

import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from trl import get_peft_config

from open_r1.configs import GRPOModelConfig
from open_r1.inference.batching import list_media
from open_r1.trainer.attention import attend_concat
from open_r1.trainer.batch import RolloutBatch
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.logps import LogpsScorer
from open_r1.trainer.packing import PackedLayout
from open_r1.trainer.parts import find_adapter_targets, freeze_parts, freeze_unused, get_part
from open_r1.trainer.splitting import count_row_tokens, split_into_rows
from open_r1.trainer.vision import is_vision_frozen
from open_r1.utils.adapters import find_model_source, load_adapter_config, load_base_config
from open_r1.utils.estimates import BYTES_IN_4BIT, BYTES_IN_4BIT_NESTED, BYTES_IN_8BIT, ModelSize
from open_r1.utils.live_memory import LiveMemory, ShapeMemory, attend_shapes
from open_r1.vlm_modules.vlm_module import EncodedPrompt, VLMBaseModule, get_bare_model


if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


_PLAIN, _PACKED = "open_r1_shapes", "open_r1_packed_shapes"


def choose_dtype(model_args: GRPOModelConfig, config: "PretrainedConfig") -> torch.dtype:
    """The dtype that the weights would be loaded in; `auto` is the checkpoint's."""
    if model_args.dtype not in (None, "auto"):
        return getattr(torch, model_args.dtype)
    dtype = config.dtype or config.get_text_config().dtype or torch.float32
    return getattr(torch, dtype) if isinstance(dtype, str) else dtype


def build_shape_model(
    model_args: GRPOModelConfig, vlm_module: VLMBaseModule, dtype: torch.dtype | None = None
) -> "PreTrainedModel":
    """The policy as `load_policy` would load it, unquantised, on the meta device.

    Args:
        model_args: Which model, and which part of it is trained.
        vlm_module: Its family.
        dtype: None: as it would be loaded.

    Raises:
        ValueError: the adapters that are asked for do not fit the model.
    """
    from peft import get_peft_model

    source = find_model_source(
        model_args.model_name_or_path, model_args.model_revision, trust_remote_code=model_args.trust_remote_code
    )
    config = load_base_config(source)
    with torch.device("meta"):
        model = vlm_module.get_model_class(config)(copy.deepcopy(config))
        model.to(dtype or choose_dtype(model_args, config))
        if model_args.use_peft and source.adapters_path is not None:
            peft_config = load_adapter_config(source.adapters_path)
            peft_config.inference_mode = False
            model = get_peft_model(model, peft_config)
        elif model_args.use_peft:
            peft_config = get_peft_config(model_args)
            peft_config.lora_dropout = 0.0
            if model_args.adapts_layers:
                targets, parts = model_args.lora_target_modules, model_args.adapted_parts
                peft_config.target_modules = find_adapter_targets(
                    model, vlm_module, targets, parts, model_args.frozen_parts
                )
            model = get_peft_model(model, peft_config)
    freeze_parts(model, vlm_module, model_args.frozen_parts)
    freeze_unused(model, vlm_module)
    _use_shape_attention(model)
    return model.train()


def measure_model_size(
    model: "PreTrainedModel", model_args: GRPOModelConfig, vlm_module: VLMBaseModule, beta: float
) -> ModelSize:
    """What the weights of a policy take, and those of its reference.

    Args:
        model: On the meta device or real, not quantised.
        model_args: Whether it would be.
        vlm_module: Its family.
        beta: Weight of the KL term; without one there is no reference.
    """
    parameters = dict(model.named_parameters())
    trained = [parameter for parameter in parameters.values() if parameter.requires_grad]
    weight_bytes = sum(parameter.nbytes for parameter in parameters.values())
    if model_args.load_in_4bit or model_args.load_in_8bit:
        bytes_per_weight = BYTES_IN_4BIT_NESTED if model_args.use_bnb_nested_quant else BYTES_IN_4BIT
        bytes_per_weight = bytes_per_weight if model_args.load_in_4bit else BYTES_IN_8BIT
        quantised = [module.weight for module in _list_quantised(model, vlm_module)]
        weight_bytes += sum(int(weight.numel() * bytes_per_weight) - weight.nbytes for weight in quantised)
    has_own_adapters = find_model_source(model_args.model_name_or_path).adapters_path is not None
    has_reference = beta != 0 and (has_own_adapters or not model_args.use_peft)
    return ModelSize(
        weight_bytes=weight_bytes,
        trained_weights=sum(parameter.numel() for parameter in trained),
        trained_bytes=sum(parameter.nbytes for parameter in trained),
        trained_tensors=len(trained),
        reference_bytes=weight_bytes if has_reference else 0,
        largest_weight_bytes=max(parameter.element_size() for parameter in parameters.values()),
    )


def _list_quantised(model: "PreTrainedModel", vlm_module: VLMBaseModule) -> list[torch.nn.Linear]:
    """The linear layers of the language model, adapters and output head left out."""
    head = model.get_output_embeddings()
    return [
        module
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear)
        and module is not head
        and "lora_" not in name
        and get_part(name, vlm_module) == "language"
    ]


def build_dry_batch(
    prompts: list[EncodedPrompt], num_generations: int, completion_length: int, token_id: int = 0
) -> RolloutBatch:
    """A micro-batch in which every completion has the same length.

    Args:
        prompts: N prompts with positions.
        num_generations: G.
        completion_length: C.
        token_id: Of all completion tokens.
    """
    shape = (len(prompts) * num_generations, completion_length)
    return RolloutBatch(
        prompts=prompts,
        completion_ids=torch.full(shape, token_id),
        completion_mask=torch.ones(shape, dtype=torch.bool),
    )


def measure_loss_pass(
    model: "PreTrainedModel", vlm_module: VLMBaseModule, batch: RolloutBatch, args: GRPOConfig, is_packed: bool
) -> int:
    """Bytes at the peak of forward and backward pass over the longest row of a micro-batch, gradients left out.

    Works with real models, too, which are changed: their gradients are dropped.

    Args:
        model: The policy, on the meta device or real.
        vlm_module: Its family.
        batch: A micro-batch.
        args: Settings.
        is_packed: Which layout.
    """
    is_dry = next(model.parameters()).is_meta
    if args.gradient_checkpointing:
        model.gradient_checkpointing_enable(args.gradient_checkpointing_kwargs or {"use_reentrant": False})
    scorer = LogpsScorer(
        vlm_module=vlm_module,
        pad_token_id=0,
        is_packed=is_packed,
        is_varlen=is_dry and is_packed and args.packed_attention != "concat" and args.bf16,
        temperature=args.temperature,
        chunk_size=args.logps_chunk_size,
        has_entropy_gradient=args.entropy_coef != 0,
    )
    rows = split_into_rows(batch, args.max_packed_tokens if is_packed else None)
    longest = max(rows, key=lambda row: sum(count_row_tokens(row)))
    handles = [
        parameter.register_post_accumulate_grad_hook(_drop_gradient)
        for parameter in model.parameters()
        if parameter.requires_grad
    ]
    with ShapeMemory() if is_dry else LiveMemory() as memory:
        if is_vision_frozen(model, vlm_module):
            longest = replace(longest, prompts=_attach_features(model, vlm_module, longest.prompts))
        scores = scorer.score(model, get_bare_model(model).get_output_embeddings(), longest)
        torch.autograd.backward([scores.per_token_logps.sum()])
    for handle in handles:
        handle.remove()
    return memory.peak


def _drop_gradient(parameter: torch.nn.Parameter) -> None:
    parameter.grad = None


@torch.no_grad()
def _attach_features(
    model: "PreTrainedModel", vlm_module: VLMBaseModule, prompts: list[EncodedPrompt]
) -> list[EncodedPrompt]:
    """The prompts with features of a frozen tower on their images and videos, one at a time."""
    with_features = {
        id(item): replace(item, features=tuple(vlm_module.compute_features(model, [item])[0]))
        for item in list_media(prompts)
    }
    return [replace(prompt, media=tuple(with_features[id(item)] for item in prompt.media)) for prompt in prompts]


def _use_shape_attention(model: "PreTrainedModel") -> None:
    from transformers import AttentionInterface
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

    for name, function in {_PLAIN: _attend, _PACKED: _attend_packed}.items():
        AttentionInterface.register(name, function)
        AttentionMaskInterface.register(name, sdpa_mask)
    model = get_bare_model(model)
    model.set_attn_implementation(_PLAIN)
    model.set_attn_implementation({"text_config": _PACKED})


def _attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention of a layer over shapes: (B, H, T, D), (B, K, T, D), (B, K, T, D) -> (B, T, H, D)."""
    if attention_mask is not None and query.shape[1] != key.shape[1]:  # as transformers does beside a mask
        groups = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    return attend_shapes(query, key, value).transpose(1, 2).contiguous(), None


def _attend_packed(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    packed_layout: PackedLayout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The same for the decoder, whose row may be packed."""
    if packed_layout is None:
        return _attend(module, query, key, value, attention_mask)
    if packed_layout.varlen is None:
        return attend_concat(query[0], key[0], value[0], packed_layout, None, attend=attend_shapes)[None], None
    seen = packed_layout.varlen.key_index
    output = attend_shapes(query[0], key[0][:, seen], value[0][:, seen])  # (H, T, D)
    return output.transpose(0, 1)[None], None

"""The parts of a vision-language model (language model, projector, vision tower): what is frozen, adapted, counted."""

import re
from collections.abc import Collection
from typing import TYPE_CHECKING

import torch

from open_r1.configs import MODEL_PARTS
from open_r1.trainer.sharding import count_weights
from open_r1.vlm_modules.vlm_module import VLMBaseModule


if TYPE_CHECKING:
    from transformers import PreTrainedModel


def get_part(name: str, vlm_module: VLMBaseModule) -> str:
    """The part that a parameter or module belongs to, by its dotted name. Embedding and output head are language."""
    if vlm_module.is_projector_parameter(name):
        return "projector"
    return "vision" if vlm_module.is_vision_parameter(name) else "language"


def freeze_parts(model: torch.nn.Module, vlm_module: VLMBaseModule, parts: Collection[str]) -> None:
    """Freezes every parameter of these parts, adapters included.

    Raises:
        ValueError: a part has no parameter, so that nothing would be frozen.
    """
    empty = set(parts)
    for name, parameter in model.named_parameters():
        part = get_part(name, vlm_module)
        if part in parts:
            parameter.requires_grad_(False)
            empty.discard(part)
    if empty:
        keywords = {
            "projector": vlm_module.get_projector_keywords(),
            "vision": vlm_module.get_vision_modules_keywords(),
        }
        named = ", ".join(f"{part} ({keywords.get(part, 'the rest')})" for part in sorted(empty))
        raise ValueError(f"Freezing found no parameter of: {named}.")


def freeze_unused(model: "PreTrainedModel", vlm_module: VLMBaseModule) -> None:
    """Freezes what no forward pass reaches, adapters included: devices would wait for its gradients."""
    for name, parameter in model.named_parameters():
        if vlm_module.is_unused_parameter(model.config, name):
            parameter.requires_grad_(False)


def find_linears(model: "PreTrainedModel", vlm_module: VLMBaseModule, parts: Collection[str]) -> list[str]:
    """Names of every linear layer of these parts, the output head left out: LoRA's default targets."""
    head = model.get_output_embeddings()
    attentions = [module for module in model.modules() if isinstance(module, torch.nn.MultiheadAttention)]
    skipped = {head, *(module.out_proj for module in attentions)}  # whose weights the attention takes by itself
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and module not in skipped and get_part(name, vlm_module) in parts
    ]


def find_adapter_targets(
    model: "PreTrainedModel",
    vlm_module: VLMBaseModule,
    targets: list[str] | str | None,
    parts: Collection[str],
    frozen_parts: Collection[str],
) -> list[str]:
    """Full names of the modules that get adapters.

    Args:
        model: The model without adapters.
        vlm_module: Its family.
        targets: The user's choice: names, each of which stands for every module whose dotted name ends in it;
            `all-linear`; or a regular expression that the full name of a linear layer must match. None: all linear
            layers of `parts`.
        parts: Used without `targets` only.
        frozen_parts: Parts that get no adapters, whatever the targets reach.

    Raises:
        ValueError: a name matches no module, or nothing is left.
    """
    if targets is None:
        names = find_linears(model, vlm_module, parts)
    elif targets == "all-linear":
        names = find_linears(model, vlm_module, MODEL_PARTS)
    elif isinstance(targets, str):
        linears = [name for name, module in model.named_modules() if isinstance(module, torch.nn.Linear)]
        names = [name for name in linears if re.fullmatch(targets, name)]
    else:
        names = find_modules(model, targets, "--lora_target_modules")
    chosen = [name for name in names if get_part(name, vlm_module) not in frozen_parts]
    if not chosen:
        where = f" outside of the frozen parts ({', '.join(frozen_parts)})" if names else ""
        raise ValueError(f"LoRA finds no layer to adapt{where}: {targets or sorted(parts)}.")
    return chosen


def find_modules(model: torch.nn.Module, names: Collection[str], option: str) -> list[str]:
    """Full names of the modules that these names end; ValueError, naming the option, where one ends none."""
    everything = [name for name, _ in model.named_modules()]
    found = {wanted: [name for name in everything if f".{name}".endswith(f".{wanted}")] for wanted in names}
    unmatched = [wanted for wanted, matches in found.items() if not matches]
    if unmatched:
        raise ValueError(f"{option}: the model has no module named {', '.join(unmatched)}.")
    chosen = {name for matches in found.values() for name in matches}
    return [name for name in everything if name in chosen]


def summarise_trainable(model: torch.nn.Module, vlm_module: VLMBaseModule) -> dict[str, tuple[int, int]]:
    """Trainable and all parameters per part, adapters included; a quantised weight counts as its full matrix.

    Example: LoRA on a language model gives `{"language": (40370176, 7655986688), "projector": (0, 44574464), …}`.
    """
    counts = dict.fromkeys(MODEL_PARTS, (0, 0))
    for name, parameter in model.named_parameters():
        part, size = get_part(name, vlm_module), _count_weights(parameter)
        trainable, total = counts[part]
        counts[part] = (trainable + size * parameter.requires_grad, total + size)
    return counts


def _count_weights(parameter: torch.nn.Parameter) -> int:
    state = getattr(parameter, "quant_state", None)  # of bitsandbytes: two weights lie in one byte
    return count_weights(parameter) if state is None else state.shape.numel()


def describe_trainable(counts: dict[str, tuple[int, int]]) -> str:
    """One line for the log."""
    return "Trained parameters: " + ", ".join(
        f"{part} {trainable:,} of {total:,}" for part, (trainable, total) in counts.items()
    )

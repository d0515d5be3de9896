"""What a checkpoint says about generation stays as it came.

transformers' trainer turns `use_cache` off in the model's configuration and puts the tokenizer's special tokens into
it, for its own training; written into a checkpoint, the first makes whoever loads it generate many times slower.
"""

import contextlib
import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from open_r1.vlm_modules.vlm_module import get_bare_model


if TYPE_CHECKING:
    from transformers import GenerationConfig, PretrainedConfig, PreTrainedModel


_NAMES = ("use_cache", "bos_token_id", "eos_token_id", "pad_token_id")


@dataclass(frozen=True, kw_only=True)
class GenerationSettings:
    """Of a model: what its configuration and that of its language model say, and its generation config."""

    own: dict[str, Any]
    text: dict[str, Any]
    generation_config: "GenerationConfig | None"


def note_settings(model: "PreTrainedModel") -> GenerationSettings:
    model = get_bare_model(model)
    return GenerationSettings(
        own=_read(model.config),
        text=_read(model.config.get_text_config()),
        generation_config=copy.deepcopy(model.generation_config),
    )


@contextlib.contextmanager
def with_settings(model: "PreTrainedModel", settings: GenerationSettings) -> Iterator[None]:
    """Puts settings into the configurations of a model, for as long as it is written."""
    model = get_bare_model(model)
    present, text_config = note_settings(model), model.config.get_text_config()
    try:
        _write(text_config, settings.text)
        _write(model.config, settings.own)
        model.generation_config = settings.generation_config
        yield
    finally:
        _write(text_config, present.text)
        _write(model.config, present.own)
        model.generation_config = present.generation_config


def _read(config: "PretrainedConfig") -> dict[str, Any]:
    return {name: vars(config)[name] for name in _NAMES if name in vars(config)}


def _write(config: "PretrainedConfig", values: dict[str, Any]) -> None:
    for name in _NAMES:
        if name in values:
            setattr(config, name, values[name])
        elif name in vars(config):
            delattr(config, name)

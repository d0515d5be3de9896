"""Any family that transformers knows as image-text-to-text, and that needs nothing special: LLaVA 1.5 and LLaVA-NeXT.

What it takes for granted, and `check` asks of a model: its class is the one behind `AutoModelForImageTextToText`,
positions count tokens, `get_image_features` turns pixels into features, and the forward pass takes them back
(`mm_encoder_outputs`). Other families override what differs (`idefics_module.py`, `aria_module.py`, ...).

`--vlm_module generic` tries it on a model type that no test covers. `--logps_mode auto` then compares packed with
replicated log-probabilities on the first group of a run; everything else is at the user's own risk.
"""

import inspect
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from open_r1.vlm_modules.vlm_module import (
    EncodedMedia,
    EncodedPrompt,
    MediaFeatures,
    VLMBaseModule,
    compute_image_key,
    get_bare_model,
    join_media_inputs,
)


if TYPE_CHECKING:
    from PIL import Image
    from transformers import PretrainedConfig, PreTrainedModel, ProcessorMixin
    from transformers.modeling_outputs import BaseModelOutputWithPooling


# Kinds of tokens, by which some models attend in both directions within an image, or place its tokens.
_TOKEN_TYPES = ("token_type_ids", "mm_token_type_ids")
# Settings by which a model changes its logits behind the output head, where scoring would not see it; 1 does nothing.
_LOGIT_SETTINGS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "lm_head_multiplier", "output_scale")


class GenericModule(VLMBaseModule):
    nests_pixels: ClassVar[bool] = False  # whether the model wants the tiles of all images below one more dimension
    pixel_remedy: ClassVar[str] = "the image processor's settings in the checkpoint (`preprocessor_config.json`)"

    def get_vlm_key(self) -> str:
        return "generic"

    def get_model_class(self, config: "PretrainedConfig") -> type["PreTrainedModel"]:
        from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

        if type(config) not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
            raise ValueError(f"{config.model_type} is no image-text-to-text model of transformers.")
        model_class = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING[type(config)]
        _check_interface(model_class, config)
        return model_class

    def load_processor(
        self,
        model_name_or_path: str,
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        revision: str = "main",
    ) -> "ProcessorMixin":
        from transformers import AutoProcessor

        processor = AutoProcessor.from_pretrained(model_name_or_path, revision=revision)
        if min_pixels is not None or max_pixels is not None:
            self.bound_pixels(processor, min_pixels, max_pixels)
        return processor

    def bound_pixels(self, processor: "ProcessorMixin", min_pixels: int | None, max_pixels: int | None) -> None:
        """Sets the pixel bounds of a processor, where the family has such.

        Raises:
            ValueError: it has none, or not these.
        """
        raise ValueError(
            f"min_pixels ({min_pixels}) and max_pixels ({max_pixels}) do not apply to the family "
            f"{self.get_vlm_key()}: {self.pixel_remedy} decide. Leave out --min_pixels and --max_pixels."
        )

    def get_vision_modules_keywords(self) -> list[str]:
        return ["vision_tower", "multi_modal_projector", "image_newline"]

    def get_projector_keywords(self) -> list[str]:
        return ["multi_modal_projector", "image_newline"]

    def get_feature_layers(self, config: "PretrainedConfig") -> list[int]:
        """Which hidden states of the tower (its embeddings, then those of each layer) the projector takes; empty where
        that is what the tower returns."""
        chosen = getattr(config, "vision_feature_layer", [])
        return [chosen] if isinstance(chosen, int) else list(chosen)

    def is_unused_parameter(self, config: "PretrainedConfig", name: str) -> bool:
        chosen = self.get_feature_layers(config)
        if not chosen or not self.is_vision_parameter(name) or self.is_projector_parameter(name):
            return False
        depth = config.vision_config.num_hidden_layers
        used = max(layer % (depth + 1) for layer in chosen)
        found = re.search(r"\.layers\.(\d+)\.", name)
        return int(found.group(1)) >= used if found else bool(re.search(r"\.(post_layernorm|head)\.", name))

    def get_media_token_ids(self, config: "PretrainedConfig", processor: "ProcessorMixin") -> list[int]:
        tokens = [processor.image_token, getattr(processor, "video_token", None), *self.get_frame_tokens(processor)]
        vocabulary = processor.tokenizer.get_added_vocab()
        return sorted({vocabulary[token] for token in tokens if token in vocabulary} | {config.image_token_id})

    def get_frame_tokens(self, processor: "ProcessorMixin") -> list[str]:
        """Special tokens that go around the placeholders of an image."""
        return []

    def get_image_options(self, processor: "ProcessorMixin") -> dict[str, Any]:
        """What the image processor is told at each call."""
        return {}

    def encode_image(self, processor: "ProcessorMixin", image: "Image.Image") -> EncodedMedia:
        options = self.get_image_options(processor)
        encoded = processor.image_processor(images=[image], return_tensors="pt", **options)
        text = processor.replace_image_token(encoded, 0)
        unused = {*processor.unused_input_names, "batch_num_images", "rows", "cols"}
        inputs = {name: tensor for name, tensor in encoded.items() if name not in unused}
        if inputs["pixel_values"].ndim == 5:  # (1, tiles, 3, height, width)
            inputs |= {name: tensor[0] for name, tensor in inputs.items() if name.startswith("pixel_")}
        return EncodedMedia(key=compute_image_key(image), text=text, inputs=inputs, image_size=image.size)

    def join_inputs(self, media: Sequence[EncodedMedia]) -> dict[str, torch.Tensor]:
        """Tiles lie one after the other, (tiles, 3, height, width): no image is padded to the tiles of another."""
        inputs = join_media_inputs(media)
        return {name: tensor[None] for name, tensor in inputs.items()} if self.nests_pixels else inputs

    def with_positions(self, model: "PreTrainedModel", prompt: EncodedPrompt) -> EncodedPrompt:
        """Puts the pixels into the model's dtype, too: some towers do not do so by themselves."""
        media = tuple(replace(item, inputs=_cast(item.inputs, model.dtype)) for item in prompt.media)
        return super().with_positions(model, replace(prompt, media=media))

    def compute_features(self, model: "PreTrainedModel", media: Sequence[EncodedMedia]) -> list[MediaFeatures]:
        inputs = {name: tensor.to(model.device) for name, tensor in self.join_inputs(media).items()}
        bare = get_bare_model(model)
        features = bare.get_image_features(**_cast(inputs, model.dtype), return_dict=True).pooler_output
        if isinstance(features, torch.Tensor):  # (tiles, tokens, width)
            return [(part,) for part in features.split([len(item.inputs["pixel_values"]) for item in media])]
        return [(part,) for part in features]  # one for each image: (tokens, width)

    def join_features(self, features: Sequence[MediaFeatures]) -> "BaseModelOutputWithPooling":
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        parts = [pooled for (pooled,) in features]
        return BaseModelOutputWithPooling(pooler_output=torch.cat(parts) if parts[0].ndim == 3 else parts)

    def compute_position_ids(self, model: "PreTrainedModel", prompt: EncodedPrompt) -> torch.Tensor:
        return torch.arange(prompt.num_tokens, device=prompt.input_ids.device)

    def set_decode_offsets(self, model: "PreTrainedModel", offsets: torch.Tensor) -> None:
        """Nothing to tell: positions are token counts."""


def _cast(inputs: dict[str, torch.Tensor], dtype: torch.dtype) -> dict[str, torch.Tensor]:
    return {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}


def _check_interface(model_class: type["PreTrainedModel"], config: "PretrainedConfig") -> None:
    """Refuses a model that the module would not compute rightly; ValueError with what is in the way."""
    obstacle = None
    accepted = inspect.signature(model_class.forward).parameters
    settings = {name: getattr(config.get_text_config(), name, None) for name in _LOGIT_SETTINGS}
    changed = [f"{name} {value}" for name, value in settings.items() if value not in (None, 1)]
    if changed:
        obstacle = f"it changes logits behind its output head ({changed[0]}), which scoring would not see"
    elif config.is_encoder_decoder:
        obstacle = "it is an encoder-decoder"
    elif not hasattr(model_class, "get_image_features"):
        obstacle = "it has no get_image_features"
    elif "mm_encoder_outputs" not in accepted:
        obstacle = "its forward pass does not take features (mm_encoder_outputs)"
    elif any(name in accepted for name in _TOKEN_TYPES) or _has_rope_index(model_class):
        obstacle = "it wants types of tokens, or positions of several dimensions"
    if obstacle is not None:
        raise ValueError(f"The generic module does not fit {config.model_type}: {obstacle}. See docs/add-a-model.md.")


def _has_rope_index(model_class: type["PreTrainedModel"]) -> bool:
    classes = vars(sys.modules[model_class.__module__]).values()
    return any(hasattr(member, "get_rope_index") for member in classes if inspect.isclass(member))

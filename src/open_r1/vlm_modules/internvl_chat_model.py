"""`InternVLChatModel`, whose code comes with its checkpoint, under the interface that models of transformers have.

    class of the checkpoint (vision_model, mlp1, language_model)  --adapt_class-->  the same class and weights, with
        forward     takes features or pixels or neither, and passes what it does not know on to the language model
        generate    goes on behind a prefilled prompt, which holds the images already
        save_...    writes the checkpoint's class and its files, as if it had not been adapted

So PEFT, gradient checkpointing and packed rows work, and what is saved loads wherever the checkpoint did.
"""

import inspect
from typing import TYPE_CHECKING, Any

import torch


if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel
    from transformers.modeling_outputs import BaseModelOutputWithPooling, CausalLMOutputWithPast


MODEL_TYPE = "internvl_chat"


def load_config_class(path: str, revision: str = "main") -> type["PretrainedConfig"]:
    """The class of a checkpoint's configuration, which is the first of its code that runs.

    ValueError where the checkpoint has no code.
    """
    from transformers import PretrainedConfig
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    raw, _ = PretrainedConfig.get_config_dict(path, revision=revision)
    auto_map = raw.get("auto_map") or {}
    if not {"AutoConfig", "AutoModel"} <= auto_map.keys():
        raise ValueError(f"{path} is an InternVLChatModel without its code: `auto_map` in config.json names none.")
    config_class = get_class_from_dynamic_module(auto_map["AutoConfig"], path, revision=revision)
    config_class.register_for_auto_class()  # its files are saved beside those of the model
    config_class.has_no_defaults_at_init = True  # some raise where they are made without arguments
    if not hasattr(config_class, "text_config"):  # where transformers and DeepSpeed look for it
        config_class.text_config = property(_get_text_config)
    return config_class


def _get_text_config(config: "PretrainedConfig") -> "PretrainedConfig":
    return config.llm_config


def load_model_class(config: "PretrainedConfig") -> type["PreTrainedModel"]:
    """The adapted class that belongs to a configuration from `load_config_class`, whose code has run already."""
    from transformers.dynamic_module_utils import get_class_from_dynamic_module

    reference = config.auto_map["AutoModel"]
    revision = getattr(config, "_commit_hash", None)  # of the hub: the very version that the configuration is of
    own_class = get_class_from_dynamic_module(reference, config.name_or_path, revision=revision)
    own_class.register_for_auto_class("AutoModel")  # its files are saved beside its weights
    return adapt_class(own_class)


def adapt_class(own_class: type["PreTrainedModel"]) -> type["PreTrainedModel"]:
    """A subclass under the same name, so that it is the checkpoint's class which a saved configuration names."""
    from transformers import GenerationMixin

    bases = (InternVLChatAdapter, own_class, GenerationMixin)  # the last reads generation_config.json
    return type(own_class.__name__, bases, {"__module__": own_class.__module__})


class InternVLChatAdapter:
    """What is put in front of the checkpoint's class."""

    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True  # the language model decides; the tower has an attention of its own
    _supports_flash_attn = True

    def __init__(self, config: "PretrainedConfig", *args: Any, **kwargs: Any):
        from transformers.initialization import meta_device_safe_creation_ops

        # Published configurations demand FlashAttention, whether or not it is there.
        config.llm_config._attn_implementation = config._attn_implementation
        with meta_device_safe_creation_ops():
            super().__init__(config, *args, **kwargs)
        if not hasattr(self.language_model, "generate"):
            raise ValueError(
                f"The checkpoint's {type(self.language_model).__name__} cannot generate under this version of "
                "transformers: take the same model from a name that ends in -hf."
            )
        if not hasattr(self, "all_tied_weights_keys"):
            self.post_init()
        self.img_context_token_id = config.img_context_token_id
        for module in self.modules():
            if hasattr(module, "gradient_checkpointing"):  # some towers turn it on by themselves
                module.gradient_checkpointing = False

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        image_flags: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        mm_encoder_outputs: dict[str, "BaseModelOutputWithPooling"] | None = None,
        logits_to_keep: int = 0,
        **kwargs: Any,
    ) -> "CausalLMOutputWithPast":
        """Logits, and the loss where there are labels.

        Args:
            input_ids: (B, L)
            pixel_values: (tiles, 3, height, width) of all images of the batch, in order of appearance.
            image_flags: (tiles, 1) 0 for tiles that no image has. None: there are none such.
            inputs_embeds: (B, L, H) in place of `input_ids`, features included.
            mm_encoder_outputs: Features in place of pixels, as `get_image_features` returns them, under `image`.
            logits_to_keep: Logits of so many last tokens; 0: of all.
            kwargs: For the language model.
        """
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
            features = None
            if mm_encoder_outputs is not None:
                features = mm_encoder_outputs["image"].pooler_output
            elif pixel_values is not None:
                features = self.get_image_features(pixel_values).pooler_output
                features = features if image_flags is None else features[image_flags.flatten() == 1]
            if features is not None:
                inputs_embeds = self._put_features(inputs_embeds, input_ids, features)
        given = {name: value for name, value in kwargs.items() if value is not None}
        head = self.get_output_embeddings()
        if "logits_to_keep" in inspect.signature(self.language_model.forward).parameters:
            return self.language_model(inputs_embeds=inputs_embeds, logits_to_keep=logits_to_keep, **given)
        handle = head.register_forward_pre_hook(lambda module, args: (args[0][:, -logits_to_keep:],))
        try:
            return self.language_model(inputs_embeds=inputs_embeds, **given)
        finally:
            handle.remove()

    def _put_features(
        self, inputs_embeds: torch.Tensor, input_ids: torch.Tensor, features: torch.Tensor
    ) -> torch.Tensor:
        """(B, L, H) with features (tiles, tokens, H) in the places of images."""
        is_image = input_ids == self.img_context_token_id  # (B, L)
        num_places, num_features = int(is_image.sum()), features.shape[0] * features.shape[1]
        if num_places != num_features:
            raise ValueError(f"The batch has {num_places} places for features of images, not {num_features}.")
        return inputs_embeds.masked_scatter(is_image[..., None], features.to(inputs_embeds))

    def get_image_features(self, pixel_values: torch.Tensor, **kwargs: Any) -> "BaseModelOutputWithPooling":
        """Features of tiles as `pooler_output` (tiles, tokens, H)."""
        from transformers.modeling_outputs import BaseModelOutputWithPooling

        dtype = next(self.vision_model.parameters()).dtype
        return BaseModelOutputWithPooling(pooler_output=self.extract_feature(pixel_values.to(dtype)))

    def generate(self, **kwargs: Any) -> torch.Tensor:
        """Goes on behind `input_ids`, whose images are in the cache that is given; returns both."""
        self.language_model.generation_config = self.generation_config
        return self.language_model.generate(**kwargs)

    def prepare_inputs_for_generation(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return self.language_model.prepare_inputs_for_generation(*args, **kwargs)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.language_model.get_input_embeddings()

    def get_output_embeddings(self) -> torch.nn.Module:
        return self.language_model.get_output_embeddings()

    def get_decoder(self) -> torch.nn.Module:
        return self.language_model.get_decoder()

    def set_attn_implementation(self, attn_implementation: str | dict[str, str], **kwargs: Any) -> None:
        """Of the language model; the tower has its own."""
        if isinstance(attn_implementation, dict):
            attn_implementation = attn_implementation["text_config"]
        self.language_model.set_attn_implementation(attn_implementation, **kwargs)

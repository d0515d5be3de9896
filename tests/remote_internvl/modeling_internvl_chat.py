"""Vision tower, projector and language model, with the interface of published InternVL checkpoints.

Nothing here calls `post_init`, takes `inputs_embeds` or knows of caches: that is how such files are.
"""

import torch
from torch import nn
from transformers import PreTrainedModel, Qwen2ForCausalLM
from transformers.modeling_outputs import CausalLMOutputWithPast

from .configuration_internvl_chat import InternVLChatConfig
from .conversation import get_conv_template
from .modeling_intern_vit import InternVisionModel
from .modeling_plain_lm import PlainForCausalLM


LANGUAGE_MODELS = {"Qwen2ForCausalLM": Qwen2ForCausalLM, "PlainForCausalLM": PlainForCausalLM}


class InternVLChatModel(PreTrainedModel):
    config_class = InternVLChatConfig
    main_input_name = "pixel_values"
    _no_split_modules = ["InternVisionModel", "Qwen2DecoderLayer"]

    def __init__(self, config, vision_model=None, language_model=None):
        super().__init__(config)
        image_size = config.force_image_size or config.vision_config.image_size
        side = int(image_size // config.vision_config.patch_size * config.downsample_ratio)
        self.select_layer = config.select_layer
        self.downsample_ratio = config.downsample_ratio
        self.template = config.template
        self.num_image_token = side**2
        self.vision_model = vision_model or InternVisionModel(config.vision_config)
        self.language_model = language_model or LANGUAGE_MODELS[config.llm_config.architectures[0]](config.llm_config)
        merged = config.vision_config.hidden_size * int(1 / config.downsample_ratio) ** 2
        width = config.llm_config.hidden_size
        self.mlp1 = nn.Sequential(nn.LayerNorm(merged), nn.Linear(merged, width), nn.GELU(), nn.Linear(width, width))
        self.img_context_token_id = None
        self.conv_template = get_conv_template(self.template)
        self.system_message = self.conv_template.system_message

    def extract_feature(self, pixel_values):
        patches = self.vision_model(pixel_values=pixel_values).last_hidden_state[:, 1:]
        tiles, count, width = patches.shape
        side, step = int(count**0.5), int(1 / self.downsample_ratio)
        squares = patches.view(tiles, side // step, step, side // step, step, width).transpose(2, 3)
        return self.mlp1(squares.reshape(tiles, (side // step) ** 2, step * step * width))

    def forward(
        self,
        pixel_values,
        input_ids=None,
        attention_mask=None,
        position_ids=None,
        image_flags=None,
        past_key_values=None,
        labels=None,
        use_cache=None,
        output_attentions=None,
        output_hidden_states=None,
        return_dict=None,
    ):
        image_flags = image_flags.squeeze(-1)
        embeddings = self.language_model.get_input_embeddings()(input_ids).clone()
        features = self.extract_feature(pixel_values)[image_flags == 1]
        embeddings[input_ids == self.img_context_token_id] = features.reshape(-1, features.shape[-1])
        outputs = self.language_model(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=use_cache,
        )
        return CausalLMOutputWithPast(logits=outputs.logits, past_key_values=outputs.past_key_values)

    @torch.no_grad()
    def generate(
        self,
        pixel_values=None,
        input_ids=None,
        attention_mask=None,
        visual_features=None,
        generation_config=None,
        **generate_kwargs,
    ):
        assert self.img_context_token_id is not None
        embeddings = self.language_model.get_input_embeddings()(input_ids)
        if pixel_values is not None:
            features = self.extract_feature(pixel_values) if visual_features is None else visual_features
            embeddings[input_ids == self.img_context_token_id] = features.reshape(-1, features.shape[-1])
        return self.language_model.generate(
            inputs_embeds=embeddings,
            attention_mask=attention_mask,
            generation_config=generation_config,
            **generate_kwargs,
        )

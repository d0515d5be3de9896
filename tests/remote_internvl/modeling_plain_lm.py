"""A language model with attention of its own and no `logits_to_keep`, as older checkpoints bring one along."""

import torch
from torch import nn
from transformers import DynamicCache, GenerationMixin, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from .configuration_internvl_chat import PlainConfig


class PlainLayer(nn.Module):
    def __init__(self, config, layer_idx):
        super().__init__()
        width = config.hidden_size
        self.layer_idx, self.num_heads = layer_idx, config.num_attention_heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.wqkv, self.wo = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.w1, self.w2 = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, hidden, mask, cache):
        batch, length, width = hidden.shape
        heads = self.wqkv(self.norm1(hidden)).view(batch, length, 3, self.num_heads, -1)
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        scores = (query @ key.transpose(-1, -2)) * query.shape[-1] ** -0.5
        mixed = scores.masked_fill(~mask, torch.finfo(scores.dtype).min).softmax(dim=-1) @ value
        hidden = hidden + self.wo(mixed.transpose(1, 2).reshape(batch, length, width))
        return hidden + self.w2(nn.functional.silu(self.w1(self.norm2(hidden))))


class PlainPreTrainedModel(PreTrainedModel):
    config_class = PlainConfig


class PlainModel(PlainPreTrainedModel):
    def __init__(self, config):
        super().__init__(config)
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.layers = nn.ModuleList([PlainLayer(config, number) for number in range(config.num_hidden_layers)])
        self.post_init()

    def get_input_embeddings(self):
        return self.tok_embeddings

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None,
        use_cache=None, output_attentions=None, output_hidden_states=None, return_dict=None,
    ):  # fmt: skip
        if inputs_embeds is None:
            inputs_embeds = self.tok_embeddings(input_ids)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()
        seen = 0 if past_key_values is None else past_key_values.get_seq_length()
        length = inputs_embeds.shape[1]
        columns = torch.arange(seen + length, device=inputs_embeds.device)
        if position_ids is None:
            position_ids = columns[None, seen:]
        mask = columns[None, :] <= columns[seen:, None]
        if attention_mask is not None:
            mask = mask & attention_mask[:, None, None, :].bool()
        hidden = inputs_embeds + self.positions(position_ids)
        for layer in self.layers:
            hidden = layer(hidden, mask, past_key_values)
        return BaseModelOutputWithPast(last_hidden_state=hidden, past_key_values=past_key_values)


class PlainForCausalLM(PlainPreTrainedModel, GenerationMixin):
    def __init__(self, config):
        super().__init__(config)
        self.model = PlainModel(config)
        self.output = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def get_input_embeddings(self):
        return self.model.tok_embeddings

    def get_output_embeddings(self):
        return self.output

    def get_decoder(self):
        return self.model

    def forward(
        self, input_ids=None, attention_mask=None, position_ids=None, past_key_values=None, inputs_embeds=None,
        labels=None, use_cache=None, output_attentions=None, output_hidden_states=None, return_dict=None,
    ):  # fmt: skip
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
        )
        return CausalLMOutputWithPast(logits=self.output(outputs[0]).float(), past_key_values=outputs.past_key_values)

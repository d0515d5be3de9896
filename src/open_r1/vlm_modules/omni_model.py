"""The thinker of Qwen2.5-Omni (language model, vision tower, audio tower), with two things that its class lacks.

* `input_features` may be the features of sounds, (tokens, width): what the audio tower has computed already.
* `logits_to_keep`: logits of the last tokens only.

It keeps the name of its class, so that what is saved loads with transformers alone.
"""

import functools
from typing import Any

import torch
from transformers.modeling_outputs import BaseModelOutputWithPooling
from transformers.models.qwen2_5_omni import modeling_qwen2_5_omni as omni


class Qwen2_5OmniThinkerForConditionalGeneration(omni.Qwen2_5OmniThinkerForConditionalGeneration):
    # Layer by layer, where weights are spread over devices: the class names its towers, and nothing of the decoder.
    _no_split_modules = ["Qwen2_5OmniDecoderLayer", "Qwen2_5OmniVisionBlock", "Qwen2_5OmniAudioEncoderLayer"]
    _keys_to_ignore_on_load_unexpected = [r"^talker\.", r"^token2wav\."]  # of a full checkpoint

    def get_audio_features(
        self,
        input_features: torch.Tensor,
        feature_attention_mask: torch.Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> BaseModelOutputWithPooling:
        """Features of sounds.

        Args:
            input_features: (N, mel bins, frames), or (tokens, width) where they are features already.
            feature_attention_mask: (N, frames), which frames are no padding.
            args: As in the class of transformers.
            kwargs: As in the class of transformers.
        """
        if input_features.ndim == 2:
            return BaseModelOutputWithPooling(last_hidden_state=input_features)
        return super().get_audio_features(input_features, feature_attention_mask, *args, **kwargs)

    @functools.wraps(omni.Qwen2_5OmniThinkerForConditionalGeneration.forward)
    def forward(
        self, *args: Any, logits_to_keep: int = 0, **kwargs: Any
    ) -> "omni.Qwen2_5OmniThinkerCausalLMOutputWithPast":
        if not logits_to_keep:
            return super().forward(*args, **kwargs)
        handle = self.lm_head.register_forward_pre_hook(lambda module, given: (given[0][:, -logits_to_keep:],))
        try:
            return super().forward(*args, **kwargs)
        finally:
            handle.remove()

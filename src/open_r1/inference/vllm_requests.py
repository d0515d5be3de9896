"""What vLLM is asked: one request per prompt, for all of its G completions.

The engine gets what the trainer's processor has made of the images, past vLLM's own: the same pixels, the same number
of placeholders, and no image is resized twice. In the engine an image goes by its key, so it is encoded once however
many groups show it.

    EncodedPrompt                         vLLM's input
    input_ids     (P,)                    prompt_token_ids     placeholders already as many as features
    media[i]      kind, key, inputs       mm_kwargs, mm_hashes
                  text                    mm_placeholders      where its features go: offset, length
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch

from open_r1.inference.generator import SamplingSettings
from open_r1.vlm_modules.vlm_module import EncodedMedia, EncodedPrompt, VLMBaseModule


if TYPE_CHECKING:
    from transformers import ProcessorMixin
    from vllm import SamplingParams
    from vllm.config import ModelConfig
    from vllm.inputs import EngineInput
    from vllm.multimodal.inputs import MultiModalKwargsItem, MultiModalKwargsItems, PlaceholderRange


# Added to the logits of tokens that may not be drawn: the least that vLLM takes.
_NEVER = -100.0
_KINDS = {"image": "images", "video": "videos", "audio": "sounds"}


def check_vllm_family(vlm_module: VLMBaseModule, kinds: Iterable[str] = ("image",)) -> None:
    """ValueError where vLLM does not take this family of models, or not these kinds of media of it.

    Args:
        vlm_module: The family.
        kinds: Of "image", "video" and "audio"; a video with its sound is of the last two.
    """
    refused = [kind for kind in kinds if kind not in vlm_module.vllm_media]
    if refused:
        of_it = f"{_KINDS[refused[0]]} with models" if vlm_module.vllm_media else "models"
        raise ValueError(
            f"--use_vllm (score: --engine vllm): {of_it} of the family {vlm_module.get_vlm_key()} are not supported "
            "with vLLM: leave it out. What is, is in docs/models.md; a family of your own says so by `vllm_media` "
            "(docs/add-a-model.md)."
        )


class RequestBuilder:
    """Turns encoded prompts into vLLM's inputs.

    Args:
        model_config: vLLM's description of the model.
        processor: The trainer's processor, which has encoded the prompts.
        vlm_module: The family of the model.

    Raises:
        ValueError: vLLM does not take models of this family, or not this one.
    """

    def __init__(self, model_config: "ModelConfig", processor: "ProcessorMixin", vlm_module: VLMBaseModule):
        from vllm.multimodal import MULTIMODAL_REGISTRY

        check_vllm_family(vlm_module)
        vlm_module.check_engine_config(model_config.hf_config)
        self.processor = processor
        self.vlm_module = vlm_module
        self._dtype = model_config.dtype
        self._engine_processor = MULTIMODAL_REGISTRY.create_processor(model_config)

    def build(self, prompt: EncodedPrompt) -> "EngineInput":
        """One request's input, on the CPU.

        Raises:
            ValueError: vLLM does not take one of its media of this family.
        """
        from vllm.inputs import mm_input, tokens_input
        from vllm.multimodal.inputs import MultiModalKwargsItems

        token_ids = prompt.input_ids.tolist()
        if not prompt.media:
            return tokens_input(token_ids)
        items: dict[str, list[MultiModalKwargsItem]] = {}
        hashes: dict[str, list[str]] = {}
        places: dict[str, list[PlaceholderRange]] = {}
        for item, place in zip(prompt.media, self._find_places(prompt), strict=True):
            check_vllm_family(self.vlm_module, [item.kind, "audio"] if item.has_sound else [item.kind])
            [(kind, entries)] = self._build_entries(item).items()  # of vLLM's kinds: a video may be images to it
            items.setdefault(kind, []).extend(entries)
            hashes.setdefault(kind, []).append(item.key)
            places.setdefault(kind, []).append(place)
        return mm_input(token_ids, MultiModalKwargsItems(items), hashes, places)

    def _build_entries(self, item: EncodedMedia) -> "MultiModalKwargsItems":
        from transformers import BatchFeature
        from vllm.multimodal.inputs import MultiModalKwargsItems

        inputs = self.vlm_module.build_engine_inputs(self.processor, item)
        pixels = {name: tensor.to(self._dtype) for name, tensor in inputs.items() if name.startswith("pixel_values")}
        inputs = BatchFeature({name: tensor.cpu() for name, tensor in (inputs | pixels).items()})
        fields = self._engine_processor._get_mm_fields_config(inputs, {})
        return MultiModalKwargsItems.from_hf_inputs(inputs, fields)

    def _find_places(self, prompt: EncodedPrompt) -> "list[PlaceholderRange]":
        """Where the features of each medium go, in order of appearance."""
        from vllm.multimodal.inputs import PlaceholderRange

        tokens = [self._get_placeholder(item) for item in prompt.media]
        positions = {token: iter(self._find(token, prompt)) for token in tokens}
        places = []
        for item, token in zip(prompt.media, tokens, strict=True):
            own = torch.tensor([next(positions[token]) for _ in range(item.text.count(token))])
            # With the mark in front where the medium has one: where vLLM looks for the first frame of Qwen3-VL's.
            first = int(own[0]) - (not item.text.startswith(token))
            length = int(own[-1]) + 1 - first
            is_embed = torch.zeros(length, dtype=torch.bool)
            is_embed[own - first] = True
            places.append(PlaceholderRange(first, length, None if is_embed.all() else is_embed))
        return places

    def _find(self, token: str, prompt: EncodedPrompt) -> list[int]:
        token_id = self.processor.tokenizer.convert_tokens_to_ids(token)
        return torch.nonzero(prompt.input_ids.cpu() == token_id).flatten().tolist()

    def _get_placeholder(self, item: EncodedMedia) -> str:
        """Some families have those of images in their videos."""
        kind = self.vlm_module.feature_names.get(item.kind, item.kind)
        return getattr(self.processor, f"{kind}_token")


def build_sampling_params(
    sampling: SamplingSettings,
    num_generations: int,
    *,
    seed: int | None,
    eos_token_ids: list[int],
    suppressed_token_ids: list[int],
) -> "SamplingParams":
    """How the G completions of one prompt are drawn.

    Args:
        sampling: The settings, their seed apart.
        num_generations: G.
        seed: Completion g is drawn with seed + g. None: the engine's own random state.
        eos_token_ids: Tokens that end a completion and belong to it.
        suppressed_token_ids: Tokens that are never drawn.
    """
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        n=num_generations,
        seed=seed,
        max_tokens=sampling.max_new_tokens,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        min_p=sampling.min_p or 0.0,
        repetition_penalty=sampling.repetition_penalty,
        stop_token_ids=eos_token_ids,
        logit_bias=dict.fromkeys(suppressed_token_ids, _NEVER) or None,
        logprobs=0,  # that of the token drawn, no others
        detokenize=False,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )

"""What vLLM is asked: one request per prompt, for all of its G completions.

The engine gets what the trainer's processor has made of the images, past vLLM's own: the same pixels, the same number
of placeholders, and no image is resized twice. In the engine an image goes by its key, so it is encoded once however
many groups show it.

    EncodedPrompt                         vLLM's input
    input_ids     (P,)                    prompt_token_ids     placeholders already as many as features
    media[i]      kind, key, inputs       mm_kwargs, mm_hashes
                  text                    mm_placeholders      where its features go: offset, length
"""

from typing import TYPE_CHECKING

import torch

from open_r1.inference.generator import SamplingSettings
from open_r1.vlm_modules.vlm_module import EncodedMedia, EncodedPrompt


if TYPE_CHECKING:
    from transformers import ProcessorMixin
    from vllm import SamplingParams
    from vllm.config import ModelConfig
    from vllm.inputs import EngineInput
    from vllm.multimodal.inputs import PlaceholderRange


# Added to the logits of tokens that may not be drawn: the least that vLLM takes.
_NEVER = -100.0


class RequestBuilder:
    """Turns encoded prompts into vLLM's inputs.

    Args:
        model_config: vLLM's description of the model.
        processor: The trainer's processor, which has encoded the prompts.
    """

    def __init__(self, model_config: "ModelConfig", processor: "ProcessorMixin"):
        from vllm.multimodal import MULTIMODAL_REGISTRY

        self.processor = processor
        self._engine_processor = MULTIMODAL_REGISTRY.create_processor(model_config)

    def build(self, prompt: EncodedPrompt) -> "EngineInput":
        """One request's input, on the CPU."""
        from transformers import BatchFeature
        from vllm.inputs import mm_input, tokens_input
        from vllm.multimodal.inputs import MultiModalKwargsItems

        token_ids = prompt.input_ids.tolist()
        if not prompt.media:
            return tokens_input(token_ids)
        inputs = BatchFeature({name: tensor.cpu() for name, tensor in prompt.media_inputs.items()})
        fields = self._engine_processor._get_mm_fields_config(inputs, {})
        hashes: dict[str, list[str]] = {}
        places: dict[str, list[PlaceholderRange]] = {}
        for item, place in zip(prompt.media, self._find_places(prompt), strict=True):
            hashes.setdefault(item.kind, []).append(item.key)
            places.setdefault(item.kind, []).append(place)
        return mm_input(token_ids, MultiModalKwargsItems.from_hf_inputs(inputs, fields), hashes, places)

    def _find_places(self, prompt: EncodedPrompt) -> "list[PlaceholderRange]":
        """Where the features of each medium go, in order of appearance."""
        from vllm.multimodal.inputs import PlaceholderRange

        positions = {kind: iter(found) for kind, found in self._find_placeholders(prompt).items()}
        places = []
        for item in prompt.media:
            own = torch.tensor([next(positions[item.kind]) for _ in range(self._count_placeholders(item))])
            first, length = int(own[0]), int(own[-1] - own[0]) + 1
            is_embed = torch.zeros(length, dtype=torch.bool)
            is_embed[own - first] = True
            places.append(PlaceholderRange(first, length, None if is_embed.all() else is_embed))
        return places

    def _find_placeholders(self, prompt: EncodedPrompt) -> dict[str, list[int]]:
        kinds = {item.kind for item in prompt.media}
        ids = {kind: self.processor.tokenizer.convert_tokens_to_ids(self._get_placeholder(kind)) for kind in kinds}
        return {kind: torch.nonzero(prompt.input_ids.cpu() == ids[kind]).flatten().tolist() for kind in kinds}

    def _count_placeholders(self, item: EncodedMedia) -> int:
        return item.text.count(self._get_placeholder(item.kind))

    def _get_placeholder(self, kind: str) -> str:
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

"""Generation with vLLM: one request per prompt for all of its G completions, each image once."""

from typing import TYPE_CHECKING

import torch

from open_r1.inference.codec import PromptCodec
from open_r1.inference.generator import Completions, SamplingSettings
from open_r1.inference.vllm_engine import Engine
from open_r1.inference.vllm_requests import RequestBuilder, build_sampling_params
from open_r1.vlm_modules.vlm_module import EncodedPrompt, VLMBaseModule


if TYPE_CHECKING:
    from transformers import ProcessorMixin

_LARGEST_SEED = 1 << 31


class VLLMGenerator(PromptCodec):
    """Generates with an engine that has its own copy of the model.

    Args:
        engine: In this process, or on a server.
        processor: The processor that encodes the prompts.
        vlm_module: The family of the model.
        eos_token_ids: Tokens that end a completion.
        suppressed_token_ids: Tokens that are never drawn: those that stand for images.
    """

    def __init__(
        self,
        engine: Engine,
        processor: "ProcessorMixin",
        vlm_module: VLMBaseModule,
        eos_token_ids: list[int],
        suppressed_token_ids: list[int],
    ):
        super().__init__(processor, vlm_module, eos_token_ids, suppressed_token_ids)
        self.engine = engine
        self._builder = RequestBuilder(engine.model_config, processor, vlm_module)

    @torch.no_grad()
    def generate(self, prompts: list[EncodedPrompt], num_generations: int, sampling: SamplingSettings) -> Completions:
        """Draws G completions for each of N prompts.

        Args:
            prompts: N prompts, on any device, with or without positions and features.
            num_generations: G, at least 1.
            sampling: How to draw them; without a seed from torch's global random numbers.

        Returns:
            N * G completions, group-major, with the log-probabilities that the engine tells.

        Raises:
            EngineError: the engine gives none.
        """
        params = [
            build_sampling_params(
                sampling,
                num_generations,
                seed=seed,
                eos_token_ids=self.eos_token_ids,
                suppressed_token_ids=self.suppressed_token_ids,
            )
            for seed in _draw_seeds(len(prompts), sampling.seed)
        ]
        groups = self.engine.generate([self._builder.build(prompt) for prompt in prompts], params)
        completions = [completion for group in groups for completion in group]
        return Completions(
            token_ids=[completion.token_ids for completion in completions],
            finish_reasons=[completion.finish_reason for completion in completions],
            per_token_logps=[completion.per_token_logps for completion in completions],
        )


def _draw_seeds(count: int, seed: int | None) -> list[int]:
    source = None if seed is None else torch.Generator().manual_seed(seed)
    return torch.randint(_LARGEST_SEED, (count,), generator=source).tolist()

"""Generation with transformers: each prompt is prefilled once and its cache expanded to G rows.

`generate(num_return_sequences=G)` runs the prompt through the language model G times; here the N prompts run once
(but for their last token, which `generate` feeds itself), and only the decoding has N * G rows:

    prefill   N rows      [prompt without its last token]  ->  KV cache
    expand    N -> N * G  each row of the cache repeated G times
    decode    N * G rows  [last prompt token] -> c_0 -> c_1 -> ...
"""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from open_r1.inference.batching import collate_prompts, list_media
from open_r1.inference.checkpoint import Checkpoint
from open_r1.inference.codec import PromptCodec, find_special_tokens
from open_r1.inference.generator import Completions, SamplingSettings
from open_r1.vlm_modules.processors import ImageBounds
from open_r1.vlm_modules.vlm_module import EncodedPrompt, VLMBaseModule


if TYPE_CHECKING:
    from transformers import Cache, PreTrainedModel, ProcessorMixin


@contextlib.contextmanager
def eval_mode(model: torch.nn.Module) -> Iterator[None]:
    """Dropout off and caching possible (gradient checkpointing forbids it in training mode), then back."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextlib.contextmanager
def _own_settings_only(model: "PreTrainedModel") -> Iterator[None]:
    """Hides the checkpoint's generation config, which transformers would otherwise merge into ours."""
    from transformers import GenerationConfig

    owner = model.get_base_model() if hasattr(model, "get_base_model") else model
    saved = owner.generation_config
    owner.generation_config = GenerationConfig()
    try:
        yield
    finally:
        owner.generation_config = saved


@contextlib.contextmanager
def _seeded(seed: int | None, device: torch.device) -> Iterator[None]:
    """Draws from a stream of its own where a seed is given; the global one is left as it was."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(seed)
        yield


class HFGenerator(PromptCodec):
    """Generates with the model that is being trained or scored, in this process.

    Args:
        model: The bare model (not wrapped by DDP or DeepSpeed); PEFT models are fine.
        processor: Its processor, with a tokenizer that has a padding token.
        vlm_module: The family it belongs to.
        is_synced: Whether devices hold slices of the weights, so that all must decode as long as one does.
    """

    engine_name: ClassVar[str] = "hf"

    def __init__(
        self,
        model: "PreTrainedModel",
        processor: "ProcessorMixin",
        vlm_module: VLMBaseModule,
        is_synced: bool = False,
    ):
        self.model = model
        self.is_synced = is_synced
        special = find_special_tokens(vlm_module, model.config, model.generation_config, processor)
        super().__init__(processor, vlm_module, *special)

    @classmethod
    def from_pretrained(
        cls,
        model_path: str,
        dtype: str = "auto",
        device: str = "auto",
        min_pixels: int | None = None,
        max_pixels: int | None = None,
        max_tiles: int | None = None,
        vlm_module_name: str | None = None,
        trust_remote_code: bool = False,
    ) -> "HFGenerator":
        """Loads a checkpoint for inference; a folder of adapters is merged into the model that it names.

        `device="auto"` is CUDA where there is one, else the CPU; `vlm_module_name` is that of `select_vlm_module`.
        """
        bounds = ImageBounds(min_pixels=min_pixels, max_pixels=max_pixels, max_tiles=max_tiles)
        checkpoint = Checkpoint.open(model_path, bounds, vlm_module_name, trust_remote_code)
        model = checkpoint.load_model(dtype)
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return cls(model.to(device).eval(), checkpoint.processor, checkpoint.vlm_module)

    @torch.no_grad()
    def generate(self, prompts: list[EncodedPrompt], num_generations: int, sampling: SamplingSettings) -> Completions:
        """Draws G completions for each of N prompts.

        Args:
            prompts: N prompts, on any device, with or without positions.
            num_generations: G, at least 1.
            sampling: How to draw them.

        Returns:
            N * G completions, group-major.
        """
        device = self.model.device
        prompts = [self._place(prompt, device) for prompt in prompts]
        token_inputs = collate_prompts(prompts, self.pad_token_id)
        media_inputs = self.vlm_module.build_media_inputs(list_media(prompts), device)
        with eval_mode(self.model), _own_settings_only(self.model), _seeded(sampling.seed, device):
            cache = self._prefill(token_inputs, media_inputs)
            cache.batch_repeat_interleave(num_generations)
            offsets = [prompt.position_ids.max() + 1 - prompt.num_tokens for prompt in prompts]
            self.vlm_module.set_decode_offsets(
                self.model, torch.stack(offsets).repeat_interleave(num_generations)[:, None]
            )
            input_ids = token_inputs["input_ids"].repeat_interleave(num_generations, dim=0)  # (B, P)
            output = self.model.generate(
                input_ids=input_ids,
                attention_mask=token_inputs["attention_mask"].repeat_interleave(num_generations, dim=0),
                past_key_values=cache,
                generation_config=self._build_generation_config(sampling),
                synced_gpus=self.is_synced,
            )
        return self._cut(output[:, input_ids.shape[1] :].tolist())

    def _place(self, prompt: EncodedPrompt, device: torch.device) -> EncodedPrompt:
        if prompt.position_ids is None:
            prompt = self.vlm_module.with_positions(self.model, prompt)
        return prompt.to(device)

    def _prefill(self, token_inputs: dict[str, torch.Tensor], media_inputs: dict[str, Any]) -> "Cache":
        """The KV cache of N prompts, each without its last token."""
        without_last = {name: tensor[..., :-1] for name, tensor in token_inputs.items()}
        return self.model(**without_last, **media_inputs, use_cache=True, logits_to_keep=1).past_key_values

    def _build_generation_config(self, sampling: SamplingSettings):
        from transformers import GenerationConfig

        drawn = {
            "do_sample": True,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k,
            "min_p": sampling.min_p,
        }
        return GenerationConfig(
            max_new_tokens=sampling.max_new_tokens,
            repetition_penalty=sampling.repetition_penalty,
            eos_token_id=self.eos_token_ids,
            pad_token_id=self.pad_token_id,
            suppress_tokens=self.suppressed_token_ids or None,
            use_cache=True,
            **(drawn if sampling.temperature > 0 else {"do_sample": False}),
        )

    def _cut(self, rows: list[list[int]]) -> Completions:
        """Cuts each row after its first end token; what follows is padding."""
        token_ids, finish_reasons = [], []
        for row in rows:
            end = next((i for i, token_id in enumerate(row) if token_id in self.eos_token_ids), None)
            token_ids.append(row if end is None else row[: end + 1])
            finish_reasons.append("length" if end is None else "stop")
        return Completions(token_ids=token_ids, finish_reasons=finish_reasons)

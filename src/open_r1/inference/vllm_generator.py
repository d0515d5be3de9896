"""Generation with vLLM: one request per prompt for all of its G completions, each image once."""

from typing import TYPE_CHECKING, Any, ClassVar

import torch

from open_r1.inference.checkpoint import Checkpoint
from open_r1.inference.codec import PromptCodec, find_special_tokens
from open_r1.inference.generator import Completions, SamplingSettings
from open_r1.inference.vllm_engine import Engine, EngineSettings, LocalEngine, check_vllm
from open_r1.inference.vllm_requests import RequestBuilder, build_sampling_params, check_vllm_family
from open_r1.vlm_modules.processors import ImageBounds
from open_r1.vlm_modules.vlm_module import EncodedPrompt, VLMBaseModule


if TYPE_CHECKING:
    from transformers import ProcessorMixin

_LARGEST_SEED = 1 << 31
_WHOLE_DEVICE = 0.9  # share of its memory, where no trainer is beside the engine


class VLLMGenerator(PromptCodec):
    """Generates with an engine that has its own copy of the model.

    Args:
        engine: In this process, or on a server.
        processor: The processor that encodes the prompts.
        vlm_module: The family of the model.
        eos_token_ids: Tokens that end a completion.
        suppressed_token_ids: Tokens that are never drawn: those that stand for images.
    """

    engine_name: ClassVar[str] = "vllm"

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
        **engine_options: Any,
    ) -> "VLLMGenerator":
        """Starts an engine in this process with a checkpoint; of a folder of adapters, with the model that it names,
        and then hands it the merged weights. Where torchrun started several processes, all must call this.

        Args:
            model_path: As in `HFGenerator.from_pretrained`, like those up to `trust_remote_code`.
            dtype: `auto` is the checkpoint's precision.
            device: `auto` alone: vLLM takes the kind that it was built for, and torchrun says which of them.
            min_pixels: Lower bound of an image's area.
            max_pixels: Upper bound of an image's area.
            max_tiles: Upper bound of an image's tiles.
            vlm_module_name: That of `select_vlm_module`.
            trust_remote_code: Whether code that comes with the model may run.
            engine_options: `gpu_memory_utilization` (0.9 where none is given), `tensor_parallel_size`,
                `max_model_length` and `enforce_eager` of `EngineSettings`.

        Raises:
            EngineError: the engine does not start.
            ImportError: vLLM is not installed.
            ValueError: it has another version, does not take the family, or the options do not go together.
        """
        check_vllm()
        if device != "auto":
            raise ValueError(
                f"--device {device} does nothing with --engine vllm, which takes the device that it was built for: "
                "leave it out, and choose among GPUs with CUDA_VISIBLE_DEVICES."
            )
        bounds = ImageBounds(min_pixels=min_pixels, max_pixels=max_pixels, max_tiles=max_tiles)
        checkpoint = Checkpoint.open(model_path, bounds, vlm_module_name, trust_remote_code)
        check_vllm_family(checkpoint.vlm_module)
        settings = EngineSettings(
            model_path=checkpoint.source.base_path,
            revision=checkpoint.source.revision,
            dtype=checkpoint.choose_dtype(dtype),
            trust_remote_code=trust_remote_code,
            **({"gpu_memory_utilization": _WHOLE_DEVICE} | engine_options),
        )
        engine = _start_engine(checkpoint, settings)
        generation_config = checkpoint.load_generation_config()
        processor, vlm_module = checkpoint.processor, checkpoint.vlm_module
        special = find_special_tokens(vlm_module, checkpoint.config, generation_config, processor)
        return cls(engine, processor, vlm_module, *special)

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


def _start_engine(checkpoint: Checkpoint, settings: EngineSettings) -> LocalEngine:
    """An engine of this process alone, with merged weights where the checkpoint is one of adapters."""
    from transformers.core_model_loading import revert_weight_conversion

    is_one_of_many = torch.distributed.is_initialized() and torch.distributed.get_world_size() > 1
    has_adapters = checkpoint.source.adapters_path is not None
    if settings.tensor_parallel_size > 1 and is_one_of_many:
        raise ValueError(
            f"--tensor_parallel_size {settings.tensor_parallel_size} under torchrun: each of its processes has an "
            "engine on a GPU of its own; start one process, without torchrun, for one engine on several GPUs."
        )
    if settings.tensor_parallel_size > 1 and has_adapters:
        raise ValueError(
            "Adapters cannot be merged into an engine on several GPUs: merge them first, with `python -m "
            f"open_r1.merge --adapters {checkpoint.source.adapters_path} --output DIR`, and name that folder."
        )
    engine = LocalEngine(settings, is_one_of_many)
    if has_adapters:
        model = checkpoint.load_model(settings.dtype)
        weights = revert_weight_conversion(model, dict(model.named_parameters()))  # names as in checkpoints
        engine.update_weights(weights.items(), has_vision=True)
    return engine


def _draw_seeds(count: int, seed: int | None) -> list[int]:
    source = None if seed is None else torch.Generator().manual_seed(seed)
    return torch.randint(_LARGEST_SEED, (count,), generator=source).tolist()

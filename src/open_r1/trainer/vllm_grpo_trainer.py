"""`VLMGRPOTrainer` with completions from vLLM (`--use_vllm`): in this process, or from a server.

    a round    weights of the last step  ->  engine      PolicyWeights, when the policy has moved since
               N prompts                 ->  N * G completions and their log-probabilities, one request per prompt

Everything else (rewards, log-probabilities, loss, checkpoints) is the trainer's own. Where the engine fails on one
process, all learn of it, save what the last optimizer step has left, and end with the same message.
"""

import contextlib
import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import TrainerCallback

from open_r1.inference.codec import find_special_tokens
from open_r1.inference.generator import Completions, SamplingSettings
from open_r1.inference.vllm_engine import (
    Engine,
    EngineError,
    EngineSettings,
    LocalEngine,
    LostWeightsError,
    check_vllm,
)
from open_r1.inference.vllm_generator import VLLMGenerator
from open_r1.inference.vllm_requests import check_vllm_family
from open_r1.trainer.batch import PromptGroup
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.grpo_trainer import VLMGRPOTrainer
from open_r1.trainer.policy_weights import PolicyWeights
from open_r1.trainer.vision import find_media_kinds
from open_r1.utils.adapters import ModelSource
from open_r1.utils.scoring import compute_batch_seed
from open_r1.vlm_modules.vlm_module import EncodedPrompt


logger = logging.getLogger(__name__)


class VLLMGRPOTrainer(VLMGRPOTrainer):
    """As `VLMGRPOTrainer`.

    Args:
        args: Its own.
        source: Where the model lies that the engine starts from; it gets the policy's weights before the first round.
        kwargs: Its own.

    Raises:
        EngineError: the engine cannot be started, or its server does not answer in time.
        ImportError, ValueError: vLLM is not installed, of another version, or does not take what is trained here.
    """

    def __init__(self, *args: Any, source: ModelSource, **kwargs: Any):
        check_vllm()
        self._source = source
        self._synced_step: int | None = None  # the policy's, when its weights were sent
        super().__init__(*args, **kwargs)
        self._step_end = _StepEnd(self)
        self.add_callback(self._step_end)

    # ---- the engine -------------------------------------------------------------------------------------------

    def _build_generator(self, args: GRPOConfig, processor: Any) -> VLLMGenerator:
        check_policy(self.model)
        check_vllm_family(
            self.vlm_module, find_media_kinds(self.train_dataset, self.data_collator.video_settings.audio)
        )
        with self._together():
            engine = self._start_engine(args)
        special = find_special_tokens(self.vlm_module, self.model.config, self.model.generation_config, processor)
        return VLLMGenerator(engine, processor, self.vlm_module, *special)

    def _start_engine(self, args: GRPOConfig) -> Engine:
        settings = EngineSettings(
            model_path=self._source.base_path,
            revision=self._source.revision,
            dtype=str(self.compute_dtype).removeprefix("torch."),
            max_model_length=args.longest_sequence,
            gpu_memory_utilization=args.vllm_gpu_memory_utilization,
            tensor_parallel_size=args.vllm_tensor_parallel_size,
            enable_sleep_mode=args.vllm_enable_sleep_mode,
            enforce_eager=args.vllm_enforce_eager,
            trust_remote_code=self._source.trust_remote_code,
            scales_logps=args.temperature != 1,
            seed=args.seed,
        )
        if args.vllm_mode == "colocate":
            return LocalEngine(settings, is_one_of_many=self.accelerator.num_processes > 1)
        from open_r1.inference.vllm_server import ServerEngine

        return ServerEngine(
            settings,
            args.vllm_server_address,
            timeout_s=args.vllm_server_timeout,
            group_port=args.vllm_group_port,
            rank=self.accelerator.process_index,
        )

    def _whole_weights(self) -> contextlib.AbstractContextManager[None]:
        """Nothing but the vision tower is run outside of the passes that all devices make together."""
        return self._whole_vision() if self.reuses_features else contextlib.nullcontext()

    def _ready_to_generate(self) -> contextlib.AbstractContextManager[None]:
        return self._ready_engine()

    def _complete(
        self, groups: list[PromptGroup], prompts: list[EncodedPrompt], weights: contextlib.ExitStack
    ) -> Completions:
        """Completions from the engine; drawn by seeds that depend on the step and the rows alone."""
        weights.close()
        names = [self.accelerator.process_index, self.state.global_step, *(group.index for group in groups)]
        seed = compute_batch_seed(self.args.seed, list(map(str, names)))
        sampling = replace(self.args.build_sampling(), seed=seed)
        return self._repeat_where_lost(lambda: self._generate(prompts, sampling))

    def _generate(self, prompts: list[EncodedPrompt], sampling: SamplingSettings) -> Completions:
        with self._ready_engine(), self.metrics.timed("generate"):
            return self.generator.generate(prompts, self.args.num_generations, sampling)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As the others."""
        return self._repeat_where_lost(partial(super().evaluate, *args, **kwargs))

    def _repeat_where_lost(self, task: Callable[[], Any]) -> Any:
        """Sends all weights again to an engine that has lost them, as a server that was restarted; it ends that."""
        while True:
            try:
                return task()
            except LostWeightsError as error:
                logger.warning("%s All weights are sent again.", error)
                self._synced_step = None

    @contextlib.contextmanager
    def _ready_engine(self) -> Iterator[None]:
        """Inside, the engine is awake and has the policy's weights; all processes must come here."""
        with self._together(), self.generator.engine.awake():
            with self._together(), self.metrics.timed("sync_weights"):
                self._update_engine()
            yield

    def _update_engine(self) -> None:
        """Sends what has changed since the engine got weights; everything, where it knows nothing of them."""
        engine, step = self.generator.engine, self.state.global_step
        knows_none = self._synced_step is None or engine.forgets_weights
        if self._synced_step == step and not knows_none:
            return
        model = self.accelerator.unwrap_model(self.model)
        is_vision = self.vlm_module.is_vision_parameter
        trained = {is_vision(name) for name, parameter in model.named_parameters() if parameter.requires_grad}
        weights = PolicyWeights(
            model, None if knows_none else lambda name: is_vision(name) in trained, dtype=self.compute_dtype
        )
        try:
            engine.update_weights(weights, has_vision=knows_none or True in trained)
        except EngineError:
            weights.finish()
            raise
        self._synced_step = step

    @contextlib.contextmanager
    def _together(self) -> Iterator[None]:
        """Lets an EngineError of one process be one of all; all processes must come here."""
        error: EngineError | None = None
        try:
            yield
        except EngineError as caught:
            error = caught
        failures = [failure for failure in self._all_gather([error and (type(error), str(error))]) if failure]
        if failures:  # the worst of them, the same everywhere
            kind, message = min(failures, key=lambda failure: failure[0] is LostWeightsError)
            raise kind(message) from error

    # ---- training ---------------------------------------------------------------------------------------------

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """As the others; where the engine fails, what the last optimizer step has left is saved first."""
        try:
            return super().train(*args, **kwargs)
        except EngineError as error:
            self._save_after(error)
            raise

    def _save_after(self, error: EngineError) -> None:
        """A checkpoint as it would have been saved at the end of the last step, where there is none."""
        step = self.state.global_step
        name = f"checkpoint-{step}"
        if step == 0:
            logger.error("%s. No optimizer step was taken, so there is nothing to save.", error)
            return
        if not (Path(self.args.output_dir) / name).is_dir():
            self._step_end.restore()
            self._save_checkpoint(self.model, trial=None)
        if self.is_world_process_zero():
            logger.error("%s. %s is saved; go on with --resume_from_checkpoint auto.", error, name)


def check_policy(model: torch.nn.Module) -> None:
    """ValueError where vLLM would draw from another policy than the one that is trained."""
    if getattr(model, "is_quantized", False):
        raise ValueError(
            "--use_vllm with --load_in_4bit or --load_in_8bit: vLLM would generate with other weights than those that "
            "are trained. Leave one of them out."
        )


class _StepEnd(TrainerCallback):
    """Remembers what draws on random numbers as it was at the end of the last optimizer step.

    Args:
        trainer: Whose counters belong to it.
    """

    def __init__(self, trainer: VLLMGRPOTrainer):
        self._trainer = trainer
        self._states: dict[str, Any] = {}

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self._states = {
            "python": random.getstate(),
            "numpy": np.random.get_state(),
            "torch": torch.random.get_rng_state(),
            "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
            "num_refills_drawn": self._trainer.num_refills_drawn,
        }

    def restore(self) -> None:
        """Sets everything back."""
        if not self._states:
            return
        random.setstate(self._states["python"])
        np.random.set_state(self._states["numpy"])
        torch.random.set_rng_state(self._states["torch"])
        if self._states["cuda"]:
            torch.cuda.set_rng_state_all(self._states["cuda"])
        self._trainer.num_refills_drawn = self._states["num_refills_drawn"]

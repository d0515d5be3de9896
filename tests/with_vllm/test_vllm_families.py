"""Families of models in vLLM against transformers, each in a process of its own: tokens, log-probabilities, weights.

The weights are changed all at once, so that a name which vLLM does not find, or a layer that it keeps in another
layout, shows.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from capabilities import proves
from families import build_checkpoint
from PIL import Image
from processes import run_alone
from remote_family import build_remote_checkpoint

from open_r1.vlm_modules import VLM_MODULES


if TYPE_CHECKING:
    from open_r1.inference.generator import Completions
    from open_r1.inference.hf_generator import HFGenerator
    from open_r1.inference.vllm_generator import VLLMGenerator
    from open_r1.vlm_modules.vlm_module import EncodedMedia, EncodedPrompt


NUM_TOKENS, NUM_SAMPLES = 12, 4
SPREAD = 0.05  # of the change of all weights


def draw_pixels(seed: int, *shape: int) -> np.ndarray:
    """Coarse noise, which survives resizing."""
    coarse = [*shape[:-2], shape[-2] // 28, shape[-1] // 28]
    pixels = np.random.default_rng(seed).integers(0, 255, (*coarse, 3), dtype=np.uint8)
    return pixels.repeat(28, axis=-3).repeat(28, axis=-2)


def encode_video(generator: "HFGenerator", seed: int, num_frames: int, seconds: float) -> "EncodedMedia":
    frames = draw_pixels(seed, num_frames, 56, 84)
    times = [index * seconds for index in range(num_frames)]
    return generator.vlm_module.encode_video(generator.processor, frames, times, seconds)


def ask(generator: "HFGenerator", images: list[tuple[int, int]], videos: "list[EncodedMedia]") -> "EncodedPrompt":
    """A prompt with images of these sizes and with videos."""
    parts = [{"type": "image"}] * len(images) + [{"type": "video"}] * len(videos) + [{"type": "text", "text": "Why?"}]
    shown = [Image.fromarray(draw_pixels(seed, *size)) for seed, size in enumerate(images)]
    prompt = generator.encode([{"role": "user", "content": parts}], shown, videos)
    return generator.vlm_module.with_positions(generator.model, prompt)


def build_prompts(generator: "HFGenerator", has_videos: bool) -> "dict[str, EncodedPrompt]":
    prompts = {
        "one image": ask(generator, [(112, 56)], []),
        "two images": ask(generator, [(84, 140), (112, 56)], []),
        "no image": ask(generator, [], []),
    }
    if has_videos:
        short = encode_video(generator, seed=7, num_frames=4, seconds=0.7)
        long = encode_video(generator, seed=8, num_frames=16, seconds=1.3)  # times pass heights and widths
        prompts |= {"video": ask(generator, [], [long]), "image and video": ask(generator, [(112, 56)], [short])}
    return prompts


def score(generator: "HFGenerator", prompt: "EncodedPrompt", token_ids: list[int]) -> list[float]:
    """Log-probabilities of a completion by transformers, over the whole vocabulary."""
    from open_r1.inference.batching import collate_prompts

    count = torch.arange(len(token_ids))
    whole = replace(
        prompt,
        input_ids=torch.cat([prompt.input_ids, torch.tensor(token_ids)]),
        token_inputs={name: torch.cat([kinds, 0 * count]) for name, kinds in prompt.token_inputs.items()},
        position_ids=torch.cat(
            [prompt.position_ids, (prompt.position_ids.max() + 1 + count).expand(*prompt.position_ids.shape[:-1], -1)],
            dim=-1,
        ),
    )
    media_inputs = generator.vlm_module.build_media_inputs(whole.media, generator.model.device)
    logits = generator.model(**collate_prompts([whole], generator.pad_token_id), **media_inputs).logits[0]  # (L, V)
    logps = logits[-len(token_ids) - 1 : -1].log_softmax(dim=-1)
    return logps.gather(1, torch.tensor(token_ids)[:, None])[:, 0].tolist()


class Comparison:
    """What both say to the same prompts, for each state of the weights."""

    def __init__(self, generator: "HFGenerator", engine: "VLLMGenerator", prompts: "dict[str, EncodedPrompt]"):
        self.generator, self.engine, self.prompts = generator, engine, prompts
        self.greedy: dict[str, list[list[int]]] = {}  # state -> tokens by transformers, one list per prompt
        self.found: dict[str, dict[str, Any]] = {}  # state -> prompt -> whether tokens agree, largest difference

    @torch.no_grad()
    def run(self, state: str) -> None:
        from open_r1.inference.generator import SamplingSettings

        greedy = SamplingSettings(max_new_tokens=NUM_TOKENS, temperature=0.0)
        drawn = SamplingSettings(max_new_tokens=NUM_TOKENS, seed=0)
        prompts = list(self.prompts.values())
        ours, theirs = (source.generate(prompts, 1, greedy).token_ids for source in (self.generator, self.engine))
        samples = self.engine.generate(prompts, NUM_SAMPLES, drawn)
        self.greedy[state] = ours
        self.found[state] = {
            name: (ours[index] == theirs[index], self._compare_logps(index, samples))
            for index, name in enumerate(self.prompts)
        }

    def _compare_logps(self, index: int, samples: "Completions") -> float:
        rows = range(index * NUM_SAMPLES, (index + 1) * NUM_SAMPLES)
        prompt = list(self.prompts.values())[index]
        expected = [score(self.generator, prompt, samples.token_ids[row]) for row in rows]
        pairs = zip(sum(expected, []), sum((samples.per_token_logps[row] for row in rows), []), strict=True)
        return max(abs(ours - theirs) for ours, theirs in pairs)


def change_weights(generator: "HFGenerator", has_vision: bool) -> Iterator[tuple[str, torch.Tensor]]:
    """All weights, or those of the language model, under their names."""
    for name, parameter in generator.model.named_parameters():
        if has_vision or not generator.vlm_module.is_vision_parameter(name):
            parameter.data += torch.randn_like(parameter) * SPREAD
            yield name, parameter.data


def compare(checkpoint: str, has_videos: bool, trust_remote_code: bool = False) -> dict[str, dict[str, Any]]:
    """What `Comparison` finds, and whether the policy itself says something else after each change."""
    from open_r1.inference.hf_generator import HFGenerator
    from open_r1.inference.vllm_engine import EngineSettings, LocalEngine
    from open_r1.inference.vllm_generator import VLLMGenerator

    generator = HFGenerator.from_pretrained(checkpoint, dtype="float32", trust_remote_code=trust_remote_code)
    settings = EngineSettings(
        model_path=checkpoint, dtype="float32", enforce_eager=True, trust_remote_code=trust_remote_code
    )
    engine = LocalEngine(settings)
    sampler = VLLMGenerator(
        engine, generator.processor, generator.vlm_module, generator.eos_token_ids, generator.suppressed_token_ids
    )
    comparison = Comparison(generator, sampler, build_prompts(generator, has_videos))
    comparison.run("as loaded")
    torch.manual_seed(1)
    for state, has_vision in (("all weights", True), ("language model", False)):
        engine.update_weights(change_weights(generator, has_vision), has_vision=has_vision)
        comparison.run(state)
    distinct = [str(tokens) for tokens in comparison.greedy.values()]
    assert len(set(distinct)) == len(distinct), "the policy says the same whatever its weights"
    engine.close()
    return comparison.found


QUICK = ("qwen2_5_vl", "internvl")
PROVED = [
    pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow)
    for name, module_class in VLM_MODULES.items()
    if module_class.vllm_media
]


def build(model_type: str, folder: Path) -> str:
    if model_type == "internvl_chat":
        return build_remote_checkpoint(folder / "checkpoint", has_wide_heads=True)
    return build_checkpoint(model_type, folder / "checkpoint", has_wide_heads=True)


@proves("vLLM")
@pytest.mark.parametrize("model_type", PROVED)
def test_a_family_says_in_vllm_what_it_says_in_transformers(
    model_type: str, tmp_path: Path, record_property: Callable
):
    record_property("model_type", model_type)
    record_property("capability", "vLLM")
    media = VLM_MODULES[model_type].vllm_media
    found = run_alone(compare, build(model_type, tmp_path), "video" in media, model_type == "internvl_chat")
    for state, row in found.items():
        for name, (has_equal_tokens, difference) in row.items():
            print(f"{model_type:22} {state:15} {name:16} {has_equal_tokens} {difference:.1e}")
    assert all(is_equal and difference < 1e-3 for row in found.values() for is_equal, difference in row.values())

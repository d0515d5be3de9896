"""Packed and replicated log-probabilities agree on a CUDA device too."""

import pytest
import torch
from builders import ask, make_image

from open_r1.inference.generator import SamplingSettings
from open_r1.inference.hf_generator import HFGenerator
from open_r1.trainer.attention import enable_packing
from open_r1.trainer.batch import RolloutBatch, pad_completions
from open_r1.trainer.logps import LogpsScorer


pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-4), ("bfloat16", 0.2)])
def test_packed_equals_replicated_on_sampled_completions(tiny_checkpoint, dtype, tolerance):
    generator = HFGenerator.from_pretrained(tiny_checkpoint, dtype=dtype, device="cuda")
    enable_packing(generator.model)
    prompts = [
        generator.encode(ask("How good?", 1), [make_image(224, 168)]),
        generator.encode(ask("Compare these two pictures.", 2), [make_image(112, 112, 1), make_image(168, 112, 2)]),
    ]
    prompts = [generator.vlm_module.with_positions(generator.model, prompt).to("cuda") for prompt in prompts]
    completions = generator.generate(prompts, 4, SamplingSettings(max_new_tokens=16, seed=0))
    ids, mask = pad_completions(completions.token_ids, generator.pad_token_id, torch.device("cuda"))
    batch = RolloutBatch(prompts=prompts, completion_ids=ids, completion_mask=mask)
    head = generator.model.get_output_embeddings()
    family = {"vlm_module": generator.vlm_module, "pad_token_id": generator.pad_token_id}
    packed, replicated = (
        LogpsScorer(is_packed=choice, **family).score(generator.model, head, batch) for choice in (True, False)
    )
    assert torch.allclose(packed.per_token_logps, replicated.per_token_logps, atol=tolerance)

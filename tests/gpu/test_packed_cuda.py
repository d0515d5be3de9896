"""Packed and replicated log-probabilities agree on a CUDA device too, through both kernels, with their gradients."""

import pytest
import torch
from builders import ask, make_image

from open_r1.inference.generator import SamplingSettings
from open_r1.inference.hf_generator import HFGenerator
from open_r1.trainer.attention import enable_packing
from open_r1.trainer.batch import RolloutBatch, pad_completions
from open_r1.trainer.layout_check import choose_varlen
from open_r1.trainer.logps import LogpsScorer


pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


@pytest.mark.parametrize(
    ("dtype", "is_varlen", "tolerance"),
    [("float32", False, 1e-4), ("bfloat16", False, 0.2), ("bfloat16", True, 0.2), ("float16", True, 0.05)],
)
def test_packed_equals_replicated_on_sampled_completions(family_checkpoint, dtype, is_varlen, tolerance):
    generator = HFGenerator.from_pretrained(family_checkpoint, dtype=dtype, device="cuda")
    enable_packing(generator.model)
    model = generator.model
    assert choose_varlen(model, "auto", model.dtype, model.device) == (dtype != "float32")
    prompts = [
        generator.encode(ask("How good?", 1), [make_image(224, 168)]),
        generator.encode(ask("Compare these two pictures.", 2), [make_image(112, 112, 1), make_image(168, 112, 2)]),
    ]
    prompts = [generator.vlm_module.with_positions(generator.model, prompt).to("cuda") for prompt in prompts]
    completions = generator.generate(prompts, 4, SamplingSettings(max_new_tokens=16, seed=0))
    ids, mask = pad_completions(completions.token_ids, generator.pad_token_id, torch.device("cuda"))
    batch = RolloutBatch(prompts=prompts, completion_ids=ids, completion_mask=mask)
    head = generator.model.get_output_embeddings()
    scores, gradients = [], []
    for is_packed in (True, False):
        scorer = LogpsScorer(
            vlm_module=generator.vlm_module,
            pad_token_id=generator.pad_token_id,
            is_packed=is_packed,
            is_varlen=is_varlen and is_packed,
        )
        generator.model.zero_grad()
        scored = scorer.score(generator.model, head, batch).per_token_logps
        scored[mask].mean().backward()
        scores.append(scored.detach())
        gradients.append(generator.model.model.language_model.layers[0].self_attn.v_proj.weight.grad.float().clone())
    assert torch.allclose(*scores, atol=tolerance)
    assert (gradients[0] - gradients[1]).norm() < 2 * tolerance * gradients[1].norm()

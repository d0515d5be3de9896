"""Log-probabilities: equal to the plain computation, whatever the layout, the chunks and the wrapper."""

import pytest
import torch
from builders import ask, make_image

from open_r1.inference.hf_generator import HFGenerator
from open_r1.trainer.batch import RolloutBatch, pad_completions
from open_r1.trainer.logps import compute_replicated_logps, scoring_head


@pytest.fixture(scope="module")
def generator(tiny_checkpoint: str) -> HFGenerator:
    return HFGenerator.from_pretrained(tiny_checkpoint, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def batch(generator: HFGenerator) -> RolloutBatch:
    """Three groups of two: one image, two images, none; completions of 1 to 7 tokens."""
    prompts = [
        generator.encode(ask("How good?", 1), [make_image(84, 56)]),
        generator.encode(ask("Compare these two pictures.", 2), [make_image(56, 56, 1), make_image(112, 56, 2)]),
        generator.encode(ask("Nothing to see", 0), []),
    ]
    prompts = [generator.vlm_module.with_positions(generator.model, prompt) for prompt in prompts]
    completions = [[300, 301, 302], [303], [304, 305], [306, 307, 308, 309, 310, 311, 312], [313, 314], [315] * 5]
    ids, mask = pad_completions(completions, generator.pad_token_id, torch.device("cpu"))
    return RolloutBatch(prompts=prompts, completion_ids=ids, completion_mask=mask)


def score(generator: HFGenerator, batch: RolloutBatch, **kwargs):
    head = generator.model.get_output_embeddings()
    return compute_replicated_logps(generator.model, head, batch, pad_token_id=generator.pad_token_id, **kwargs)


def score_row_by_row(generator: HFGenerator, batch: RolloutBatch, temperature: float = 1.0):
    """The slow twin: each completion alone behind its prompt, full logits, positions found by the model itself."""
    logps, entropies = torch.zeros(batch.completion_ids.shape), torch.zeros(batch.completion_ids.shape)
    for row, (ids, mask) in enumerate(zip(batch.completion_ids, batch.completion_mask)):
        prompt, completion = batch.prompts[row // batch.num_generations], ids[mask]
        full = torch.cat([prompt.input_ids, completion])[None]
        extras = {
            name: torch.nn.functional.pad(values, (0, len(completion)))[None]
            for name, values in prompt.token_inputs.items()
        }
        generator.model.model.rope_deltas = None
        output = generator.model(
            input_ids=full, attention_mask=torch.ones_like(full), **extras, **prompt.media_inputs
        )
        predicted = (output.logits[0, prompt.num_tokens - 1 : -1] / temperature).log_softmax(dim=-1)
        logps[row, : len(completion)] = predicted.gather(-1, completion[:, None])[:, 0]
        entropies[row, : len(completion)] = -(predicted.exp() * predicted).sum(dim=-1)
    return logps, entropies


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logps_and_entropies_equal_full_logits_row_by_row(generator, batch, temperature):
    scores = score(generator, batch, temperature=temperature)
    logps, entropies = score_row_by_row(generator, batch, temperature)
    assert torch.allclose(scores.per_token_logps, logps, atol=1e-5)
    assert torch.allclose(scores.entropies, entropies, atol=1e-5)
    assert not scores.entropies.requires_grad


def test_gradients_equal_those_of_full_logits_for_every_parameter(generator, batch):
    weights = torch.linspace(-1, 1, batch.completion_ids.numel()).view(batch.completion_ids.shape)

    def compute_gradients(logps: torch.Tensor) -> dict[str, torch.Tensor]:
        generator.model.zero_grad()
        (logps * weights * batch.completion_mask).sum().backward()
        return {name: parameter.grad.clone() for name, parameter in generator.model.named_parameters()}

    ours = compute_gradients(score(generator, batch, chunk_size=4).per_token_logps)
    expected = compute_gradients(score_row_by_row(generator, batch)[0])
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(ours[name], gradient, atol=1e-4 * max(1.0, gradient.abs().max().item())), name
    generator.model.zero_grad()


@pytest.mark.parametrize("chunk_size", [1, 3, 1000])
def test_the_chunk_size_changes_nothing(generator, batch, chunk_size):
    expected = score(generator, batch).per_token_logps
    assert torch.allclose(score(generator, batch, chunk_size=chunk_size).per_token_logps, expected, atol=1e-6)


def test_no_more_logits_exist_at_a_time_than_a_chunk_has_tokens(generator, batch):
    sizes = []
    original = torch.nn.functional.linear

    def watch(hidden, weight, bias=None):
        if weight.shape[0] == generator.model.config.text_config.vocab_size:
            sizes.append(hidden.shape[0])
        return original(hidden, weight, bias)

    torch.nn.functional.linear = watch
    try:
        score(generator, batch, chunk_size=4)
    finally:
        torch.nn.functional.linear = original
    assert sum(sizes) == int(batch.completion_mask.sum())
    assert max(sizes) == 4


def test_the_output_head_is_itself_again_afterwards_even_after_an_error(generator, batch):
    head = generator.model.get_output_embeddings()
    with pytest.raises(RuntimeError, match="on purpose"):
        with scoring_head(head, batch.completion_ids, batch.completion_mask, 1.0, 4):
            raise RuntimeError("on purpose")
    assert "forward" not in head.__dict__
    assert head(torch.zeros(1, head.in_features)).shape == (1, head.out_features)


def test_selecting_groups_trims_completions_and_keeps_scores(generator, batch):
    part = batch.select([2, 0])
    assert part.completion_ids.shape == (4, 5)
    whole = score(generator, batch).per_token_logps
    assert torch.allclose(score(generator, part).per_token_logps, whole[[4, 5, 0, 1], :5], atol=1e-5)

"""Log-probabilities: equal to the plain computation, whatever the layout, the chunks and the wrapper."""

from dataclasses import replace

import pytest
import torch
from builders import ask, make_image

from open_r1.inference.hf_generator import HFGenerator
from open_r1.trainer.attention import choose_layout, enable_packing, packed_attention
from open_r1.trainer.batch import RolloutBatch, pad_completions
from open_r1.trainer.logps import LogpsScorer, scoring_head
from open_r1.trainer.packing import build_layout
from open_r1.trainer.token_scores import score_tokens


@pytest.fixture(scope="module")
def generator(tiny_checkpoint: str) -> HFGenerator:
    generator = HFGenerator.from_pretrained(tiny_checkpoint, dtype="float32", device="cpu")
    enable_packing(generator.model)
    return generator


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


def score(generator: HFGenerator, batch: RolloutBatch, packed: bool = False, **kwargs):
    scorer = LogpsScorer(
        vlm_module=generator.vlm_module, pad_token_id=generator.pad_token_id, is_packed=packed, **kwargs
    )
    return scorer.score(generator.model, generator.model.get_output_embeddings(), batch)


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
        output = generator.model(input_ids=full, attention_mask=torch.ones_like(full), **extras, **prompt.media_inputs)
        predicted = (output.logits[0, prompt.num_tokens - 1 : -1] / temperature).log_softmax(dim=-1)
        logps[row, : len(completion)] = predicted.gather(-1, completion[:, None])[:, 0]
        entropies[row, : len(completion)] = -(predicted.exp() * predicted).sum(dim=-1)
    return logps, entropies


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_logps_and_entropies_equal_full_logits_row_by_row(generator, batch, temperature, packed):
    scores = score(generator, batch, temperature=temperature, packed=packed)
    logps, entropies = score_row_by_row(generator, batch, temperature)
    assert torch.allclose(scores.per_token_logps, logps, atol=1e-5)
    assert torch.allclose(scores.entropies, entropies, atol=1e-5)
    assert not scores.entropies.requires_grad


@pytest.mark.parametrize("packed", [True, False])
def test_gradients_equal_those_of_full_logits_for_every_parameter(generator, batch, packed):
    weights = torch.linspace(-1, 1, batch.completion_ids.numel()).view(batch.completion_ids.shape)

    def compute_gradients(logps: torch.Tensor) -> dict[str, torch.Tensor]:
        generator.model.zero_grad()
        (logps * weights * batch.completion_mask).sum().backward()
        return {name: parameter.grad.clone() for name, parameter in generator.model.named_parameters()}

    ours = compute_gradients(score(generator, batch, chunk_size=4, packed=packed).per_token_logps)
    expected = compute_gradients(score_row_by_row(generator, batch)[0])
    assert ours.keys() == expected.keys()
    for name, gradient in expected.items():
        assert torch.allclose(ours[name], gradient, atol=1e-4 * max(1.0, gradient.abs().max().item())), name
    generator.model.zero_grad()


def test_packed_and_replicated_gradients_agree_with_gradient_checkpointing_too(generator, batch):
    gradients = {}
    for packed, checkpointing in [(False, False), (True, False), (True, True)]:
        generator.model.zero_grad()
        generator.model.train()
        if checkpointing:
            generator.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        score(generator, batch, packed=packed).per_token_logps.square().sum().backward()
        generator.model.gradient_checkpointing_disable()
        gradients[packed, checkpointing] = {
            name: parameter.grad.clone() for name, parameter in generator.model.named_parameters()
        }
    generator.model.zero_grad()
    generator.model.eval()
    for name, expected in gradients[False, False].items():
        for key in [(True, False), (True, True)]:
            error = (gradients[key][name] - expected).norm() / expected.norm().clamp(min=1e-3)
            assert error < 1e-4, (name, key)


def test_a_packed_pass_computes_each_prompt_and_each_image_once(generator, batch):
    widths, patches = [], []
    hooks = [
        generator.model.model.language_model.layers[0].register_forward_hook(
            lambda module, args, output: widths.append(tuple(args[0].shape[:2]))
        ),
        generator.model.model.visual.register_forward_hook(lambda module, args, output: patches.append(len(args[0]))),
    ]
    score(generator, batch, packed=True)
    score(generator, batch, packed=False)
    for hook in hooks:
        hook.remove()
    num_prompt_tokens = sum(prompt.num_tokens - 1 for prompt in batch.prompts)
    assert widths[0] == (1, num_prompt_tokens + int(batch.completion_mask.sum()))
    num_patches = sum(len(prompt.media_inputs.get("pixel_values", ())) for prompt in batch.prompts)
    assert patches == [num_patches, num_patches * batch.num_generations]


@pytest.mark.parametrize("changed", ["own prompt", "another prompt", "a sibling"])
def test_a_completion_depends_on_its_own_prompt_and_on_nothing_else(generator, batch, changed):
    """Completion 0 belongs to group 0; its siblings are row 1, the other groups' prompts are 1 and 2."""
    before = score(generator, batch, packed=True).per_token_logps[0]
    prompts, ids = list(batch.prompts), batch.completion_ids.clone()
    if changed == "a sibling":
        ids[1:] = 320
    else:
        index = 0 if changed == "own prompt" else 1
        tokens = prompts[index].input_ids.clone()
        tokens[0] = 321
        prompts[index] = replace(prompts[index], input_ids=tokens)
    after = score(generator, replace(batch, prompts=prompts, completion_ids=ids), packed=True).per_token_logps[0]
    assert torch.allclose(before, after, atol=1e-6) == (changed != "own prompt")


def test_auto_falls_back_to_replicated_where_packing_is_not_exact_and_packed_is_refused(generator, caplog):
    config = generator.model.config.text_config
    assert choose_layout(generator.model, "auto")
    assert not choose_layout(generator.model, "replicated")
    saved, config.layer_types = config.layer_types, ["sliding_attention", *config.layer_types[1:]]
    try:
        assert not choose_layout(generator.model, "auto")
        assert "not full attention" in caplog.text
        with pytest.raises(ValueError, match="replicated"):
            choose_layout(generator.model, "packed")
    finally:
        config.layer_types = saved


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
        with scoring_head(head, lambda hidden: hidden[0], batch.completion_ids[0], score_tokens, 4):
            raise RuntimeError("on purpose")
    assert "forward" not in head.__dict__
    assert head(torch.zeros(1, head.in_features)).shape == (1, head.out_features)


def test_selecting_groups_trims_completions_and_keeps_scores(generator, batch):
    part = batch.select([2, 0])
    assert part.completion_ids.shape == (4, 5)
    whole = score(generator, batch).per_token_logps
    assert torch.allclose(score(generator, part).per_token_logps, whole[[4, 5, 0, 1], :5], atol=1e-5)


@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_derivatives_of_token_scores_are_those_of_the_formulas(entropy_gradient):
    torch.manual_seed(0)
    logits = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    targets = torch.tensor([0, 6, 3, 3, 1])

    def by_hand(values: torch.Tensor) -> torch.Tensor:
        log_probabilities = (values / 0.7).log_softmax(dim=-1)
        entropies = -(log_probabilities.exp() * log_probabilities).sum(dim=-1)
        logps = log_probabilities.gather(-1, targets[:, None])[:, 0]
        return torch.stack([logps, entropies if entropy_gradient else entropies.detach()], dim=-1)

    def ours(values: torch.Tensor) -> torch.Tensor:
        return score_tokens(lambda hidden: hidden, values, targets, 0.7, entropy_gradient)

    assert torch.allclose(ours(logits), by_hand(logits), atol=1e-12)
    weights = torch.randn(5, 2, dtype=torch.float64)
    gradients = [torch.autograd.grad((f(logits) * weights).sum(), logits)[0] for f in (ours, by_hand)]
    assert torch.allclose(*gradients, atol=1e-12)
    if entropy_gradient:
        assert torch.autograd.gradcheck(ours, (logits,))


@pytest.mark.parametrize(
    "asked", [{"sliding_window": 8}, {"softcap": 30.0}, {"s_aux": torch.zeros(2)}, {"dropout": 0.1}]
)
def test_a_layer_that_asks_for_more_than_packed_rows_have_is_refused(generator, batch, asked):
    layout = build_layout(batch.prompts, batch.completion_mask)
    states = torch.zeros(1, 2, 4, 8)
    with pytest.raises(ValueError, match=f"{next(iter(asked))}.*--logps_mode replicated"):
        packed_attention(generator.model, states, states, states, None, packed_layout=layout, **asked)

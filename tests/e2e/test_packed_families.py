"""Packed rows give the numbers of the replicated layout, for every family: log-probabilities, loss, every gradient."""

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
from builders import ask, encode_frames, make_frames, make_image
from families import fit_media
from peft import LoraConfig, get_peft_model

from open_r1.inference.hf_generator import HFGenerator
from open_r1.trainer import logps
from open_r1.trainer.attention import enable_packing
from open_r1.trainer.batch import RolloutBatch, pad_completions
from open_r1.trainer.entropy import compute_entropy_weights
from open_r1.trainer.logps import LogpsScorer
from open_r1.trainer.loss_settings import LossSettings
from open_r1.trainer.losses import LossInputs, compute_policy_loss, compute_token_weights
from open_r1.trainer.packing import build_packed_inputs
from open_r1.trainer.parts import find_linears, freeze_parts
from open_r1.trainer.splitting import count_row_tokens, split_into_rows
from open_r1.trainer.vision import attach_media_features
from open_r1.vlm_modules.vlm_module import get_bare_model


# Largest deviation of a log-probability or entropy, and of a gradient tensor relative to its norm.
TOLERANCES = {torch.float64: (1e-9, 1e-6), torch.float32: (1e-5, 1e-4)}
# A gradient that is zero in exact arithmetic (the bias of the keys of a tower without rotary positions) has a norm of
# rounding errors: norms below this share of the largest one of all tensors count as that share.
NORM_FLOOR = 1e-4
SETTINGS = LossSettings(beta=0.04, entropy_coef=0.01)

# Sizes of each prompt's images, and of its videos with their numbers of frames; lengths of each group's completions.
CASES = {
    "several groups in a row": (
        [[(84, 56)], [(56, 56), (112, 70)], [], [(56, 140), (56, 56), (84, 84)], [(56, 84), (112, 84, 4)]],
        [[3, 0, 7, 1], [7, 7, 2, 4], [0, 0, 5, 6], [1, 2, 3, 7], [2, 4, 1, 3]],
    ),
    "videos": ([[(56, 56, 16)], [(112, 56, 2), (84, 84, 6)], [(84, 56)]], [[3, 5], [1, 4], [2, 6]]),
    "one completion per prompt": ([[(112, 84)], [(56, 56), (84, 56)], []], [[5], [6], [1]]),
    "a single group": ([[(56, 84)]], [[4, 6, 6, 2]]),
    "a group of empty completions": ([[(56, 84)], [(112, 56)]], [[0, 0], [3, 4]]),
}
QUESTIONS = (
    *("How good?", "Which of these pictures is the sharper one, and why?", "Nothing to see", "Is it blurred?"),
    "What happens?",
)


@pytest.fixture(scope="module")
def generator(packed_checkpoint: str) -> HFGenerator:
    """A model of each family in turn, in float64, that takes packed rows."""
    options = {"dtype": "float32", "device": "cpu", "trust_remote_code": True}
    generator = HFGenerator.from_pretrained(packed_checkpoint, **options)
    generator.model.double()
    if generator.model.config.model_type == "aria":  # the kernel for experts knows no float64
        generator.model.set_experts_implementation("eager")
    enable_packing(generator.model)
    return generator


def build_batch(generator: HFGenerator, case: str = "several groups in a row") -> RolloutBatch:
    """Groups with everything that the loss reads; the completions are arbitrary words."""
    sizes, lengths = CASES[case]
    sizes = [fit_media(generator.model.config.model_type, own) for own in sizes]
    draw = torch.Generator().manual_seed(0)
    prompts = []
    for n, own in enumerate(sizes):
        images = [make_image(*size, seed=10 * n + i) for i, size in enumerate(own) if len(size) == 2]
        videos = [make_frames(*size, seed=10 * n + i) for i, size in enumerate(own) if len(size) == 3]
        videos = [encode_frames(generator, frames) for frames in videos]
        prompt = generator.encode(ask(QUESTIONS[n], len(images), len(videos)), images, videos)
        prompts.append(generator.vlm_module.with_positions(generator.model, prompt))
    rows = [torch.randint(300, 600, (length,), generator=draw).tolist() for group in lengths for length in group]
    ids, mask = pad_completions(rows, generator.pad_token_id, torch.device("cpu"))
    fixed = {name: -6 + 0.1 * torch.randn(ids.shape, generator=draw) for name in ("old", "ref")}
    return RolloutBatch(
        prompts=prompts,
        completion_ids=ids,
        completion_mask=mask,
        advantages=torch.randn(len(ids), generator=draw),
        ref_per_token_logps=fixed["ref"].double(),
        token_weights=compute_token_weights("grpo", mask, max_completion_length=8),
        entropy_weights=compute_entropy_weights(mask),
        row_index=torch.arange(len(ids)),
    )


@dataclass(frozen=True)
class Outcome:
    logps: torch.Tensor  # (B, C)
    entropies: torch.Tensor  # (B, C)
    loss: float
    gradients: dict[str, torch.Tensor]  # of every parameter that has one


def run(
    generator: HFGenerator, batch: RolloutBatch, packed: bool, model: torch.nn.Module | None = None, **settings
) -> Outcome:
    """Forward and backward pass of the loss of a batch, through the generator's model or another one."""
    model = model or generator.model
    family = {"vlm_module": generator.vlm_module, "pad_token_id": generator.pad_token_id}
    scorer = LogpsScorer(**family, is_packed=packed, has_entropy_gradient=True, **settings)
    names = ("completion_mask", "advantages", "token_weights", "ref_per_token_logps", "entropy_weights")
    inputs = LossInputs(**{name: getattr(batch, name) for name in names})
    model.zero_grad()
    scores = scorer.score(model, model.get_output_embeddings(), batch)
    loss = compute_policy_loss(scores.per_token_logps, scores.entropies, inputs, SETTINGS).loss
    loss.backward()
    gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
    model.zero_grad()
    return Outcome(scores.per_token_logps.detach(), scores.entropies.detach(), loss.item(), gradients)


def assert_same(ours: Outcome, expected: Outcome, tolerances: tuple[float, float] = TOLERANCES[torch.float64]) -> None:
    of_values, of_gradients = tolerances
    assert torch.allclose(ours.logps, expected.logps, rtol=0, atol=of_values)
    assert torch.allclose(ours.entropies, expected.entropies, rtol=0, atol=of_values)
    assert ours.loss == pytest.approx(expected.loss, rel=0, abs=of_values)
    assert ours.gradients.keys() == expected.gradients.keys()
    floor = NORM_FLOOR * max(gradient.norm() for gradient in expected.gradients.values())
    for name, gradient in expected.gradients.items():
        error = (ours.gradients[name] - gradient).norm() / gradient.norm().clamp(min=floor)
        assert error < of_gradients, (name, error.item())


# ---- the two layouts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
@pytest.mark.parametrize("case", CASES)
def test_packed_and_replicated_agree_on_values_and_on_the_gradient_of_every_parameter(generator, case, dtype):
    batch = build_batch(generator, case)
    prompts = [generator.vlm_module.with_positions(generator.model.to(dtype), prompt) for prompt in batch.prompts]
    batch = replace(batch, prompts=prompts)
    try:
        packed, replicated = (run(generator, batch, packed) for packed in (True, False))
    finally:
        generator.model.double()
    assert packed.logps.dtype == dtype
    module, config = generator.vlm_module, generator.model.config
    names = {name for name, _ in generator.model.named_parameters() if not module.is_unused_parameter(config, name)}
    assert packed.gradients.keys() == names
    assert_same(packed, replicated, TOLERANCES[dtype])


def test_packed_log_probabilities_are_those_of_each_completion_alone_behind_its_prompt(generator):
    """Nothing of ours on the other side: full logits, positions that the model finds by itself, one row at a time."""
    batch = build_batch(generator)
    packed = run(generator, batch, packed=True)
    for row, (ids, mask) in enumerate(zip(batch.completion_ids, batch.completion_mask)):
        prompt, completion = batch.prompts[row // batch.num_generations], ids[mask]
        tokens = torch.cat([prompt.input_ids, completion])[None]
        widened = {
            name: torch.nn.functional.pad(values, (0, len(completion)))[None]
            for name, values in prompt.token_inputs.items()
        }
        media_inputs = generator.vlm_module.join_inputs(prompt.media)
        with torch.no_grad():
            output = generator.model(
                input_ids=tokens, attention_mask=torch.ones_like(tokens), **widened, **media_inputs
            )
        logps = output.logits[0, prompt.num_tokens - 1 : -1].log_softmax(dim=-1)
        entropies = torch.distributions.Categorical(logits=logps).entropy()
        assert torch.allclose(packed.logps[row, mask], logps.gather(-1, completion[:, None])[:, 0], atol=1e-9, rtol=0)
        assert torch.allclose(packed.entropies[row, mask], entropies, atol=1e-9, rtol=0)


def run_positions_on(batch: RolloutBatch, varlen: bool) -> dict:
    """Positions count the tokens of the row, so that they do not restart at the end of the prompt."""
    inputs = build_packed_inputs(batch, varlen)
    positions = inputs["position_ids"]
    return inputs | {"position_ids": torch.arange(positions.shape[-1]).expand_as(positions)}


def show_siblings(batch: RolloutBatch, varlen: bool) -> dict:
    """The completions of the only group as if they were one, positions as they are."""
    inputs = build_packed_inputs(batch, varlen)
    layout = inputs["packed_layout"]
    index = layout.segment_index[layout.segment_mask][None]
    layout = replace(layout, segment_index=index, segment_mask=torch.ones_like(index, dtype=torch.bool))
    return inputs | {"packed_layout": layout}


@pytest.mark.parametrize("spoil", [run_positions_on, show_siblings])
def test_wrong_positions_and_visible_siblings_would_show(generator, monkeypatch, spoil):
    batch = build_batch(generator, "a single group")
    expected = run(generator, batch, packed=True)
    monkeypatch.setattr(logps, "build_packed_inputs", spoil)
    spoilt = run(generator, batch, packed=True)
    assert (spoilt.logps - expected.logps).abs().max() > 1e-2


# ---- adapters, checkpointing, features ----------------------------------------------------------------------------


def prepare_full(generator: HFGenerator, batch: RolloutBatch) -> tuple[torch.nn.Module, RolloutBatch]:
    """Everything is trained; the tower takes pixels."""
    return copy.deepcopy(generator.model), batch


def prepare_adapters(generator: HFGenerator, batch: RolloutBatch) -> tuple[torch.nn.Module, RolloutBatch]:
    """Adapters on the language model, that do something from the start; the tower takes pixels."""
    model = copy.deepcopy(generator.model)
    targets = find_linears(model, generator.vlm_module, ["language"])
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    return adapted.double(), batch


def prepare_adapters_with_features(
    generator: HFGenerator, batch: RolloutBatch
) -> tuple[torch.nn.Module, RolloutBatch]:
    """Adapters on the language model; the features of the frozen tower are there already."""
    model, batch = prepare_adapters(generator, batch)
    return model, attach_features(generator, batch)


def attach_features(generator: HFGenerator, batch: RolloutBatch, **options: bool) -> RolloutBatch:
    prompts = attach_media_features(generator.model, generator.vlm_module, batch.prompts, images_per_pass=2, **options)
    return replace(batch, prompts=prompts)


@pytest.mark.parametrize("reentrant", [None, False, True], ids=["kept", "recomputed", "recomputed, reentrant"])
@pytest.mark.parametrize("prepare", [prepare_full, prepare_adapters, prepare_adapters_with_features])
def test_layouts_agree_in_training_mode_with_adapters_features_and_checkpointing(
    generator, prepare: Callable, reentrant: bool | None
):
    model, batch = prepare(generator, build_batch(generator))
    model.train()
    replicated = run(generator, batch, packed=False, model=model)
    if reentrant is not None:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    calls = []
    decoder = get_bare_model(model).get_decoder()
    decoder.layers[0].register_forward_pre_hook(lambda *_: calls.append(1))
    packed = run(generator, batch, packed=True, model=model)
    assert len(calls) == (1 if reentrant is None else 2)
    assert_same(packed, replicated)


@pytest.mark.parametrize("offload", [False, True])
@pytest.mark.parametrize("packed", [True, False])
def test_features_of_a_frozen_tower_stand_in_for_its_pixels(generator, packed, offload):
    model, batch = copy.deepcopy(generator.model), build_batch(generator)
    freeze_parts(model, generator.vlm_module, ["vision", "projector"])
    encodings = []
    keyword = generator.vlm_module.get_vision_modules_keywords()[0]
    tower = next(module for name, module in model.named_modules() if name.split(".")[-1] == keyword)
    tower.register_forward_hook(lambda *_: encodings.append(1))
    expected = run(generator, batch, packed, model=model)
    kinds = {generator.vlm_module.feature_names[item.kind] for prompt in batch.prompts for item in prompt.media}
    assert len(encodings) == len(kinds)  # one run for each kind of input
    with_features = attach_features(generator, batch, offload=offload)
    encodings.clear()
    ours = run(generator, with_features, packed, model=model)
    assert encodings == []
    assert_same(ours, expected)


# ---- rows of bounded length, ragged segments ----------------------------------------------------------------------


def test_rows_of_bounded_length_give_the_values_and_the_summed_gradients_of_one_row(generator):
    batch = build_batch(generator)
    parts = split_into_rows(batch, max_tokens=max(count_row_tokens(batch)) - 1)
    assert any(part.num_generations < batch.num_generations for part in parts)
    has_long_pictures = generator.model.config.model_type == "llava_onevision"  # no two prompts fit one row
    assert has_long_pictures or any(len(part.prompts) > 1 for part in parts)
    whole = run(generator, batch, packed=True)
    scored = [run(generator, part, packed=True) for part in parts]

    logps, entropies = torch.zeros_like(whole.logps), torch.zeros_like(whole.logps)
    for part, outcome in zip(parts, scored):
        logps[part.row_index, : outcome.logps.shape[1]] = outcome.logps
        entropies[part.row_index, : outcome.logps.shape[1]] = outcome.entropies
    gradients = {name: torch.zeros_like(gradient) for name, gradient in whole.gradients.items()}
    for outcome in scored:
        for name, gradient in outcome.gradients.items():  # none of the tower in a row without images
            gradients[name] += gradient
    assert_same(Outcome(logps, entropies, sum(outcome.loss for outcome in scored), gradients), whole)


def attend_segment_by_segment(
    query, key, value, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=(-1, -1), enable_gqa=False
):
    """What torch's `varlen_attn` documents, spelt out: causality is aligned at the ends of queries and keys."""
    assert window_size == (-1, 0)
    repeats = query.shape[1] // key.shape[1] if enable_gqa else 1
    key, value = (tensor.repeat_interleave(repeats, dim=1) for tensor in (key, value))  # (K, H, D)
    outputs = []
    for q, k in zip(cu_seq_q.unfold(0, 2, 1).tolist(), cu_seq_k.unfold(0, 2, 1).tolist()):
        queries, keys, values = query[slice(*q)], key[slice(*k)], value[slice(*k)]
        assert len(queries) <= max_q and len(keys) <= max_k
        scores = torch.einsum("qhd,khd->hqk", queries, keys) * (scale or query.shape[-1] ** -0.5)
        visible = torch.ones(scores.shape[1:], dtype=torch.bool).tril(len(keys) - len(queries))
        weights = scores.masked_fill(~visible, -torch.inf).softmax(dim=-1)
        outputs.append(torch.einsum("hqk,khd->qhd", weights, values))
    return torch.cat(outputs)


@pytest.mark.parametrize("case", CASES)
def test_the_kernel_for_ragged_segments_is_given_the_same_attention(generator, monkeypatch, case):
    """Its kernel is CUDA's alone, so torch's function is replaced by its definition."""
    monkeypatch.setattr("torch.nn.attention.varlen.varlen_attn", attend_segment_by_segment)
    batch = build_batch(generator, case)
    ragged = run(generator, batch, packed=True, is_varlen=True)
    assert_same(ragged, run(generator, batch, packed=True), (1e-9, 1e-9))

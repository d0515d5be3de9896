"""What a step costs, in numbers without a clock: matrix multiplications, what autograd keeps, peak memory.

The model is a Qwen2.5-VL with a frozen vision tower whose features are there already, as in training; one group of 8
completions of 50 tokens behind a prompt of about 290. The meters are those of the benchmarks.
"""

import importlib.util
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import torch
from builders import ask, make_image
from torch.utils.flop_counter import FlopCounterMode

from open_r1.completions import IQA_QUESTION
from open_r1.inference.hf_generator import HFGenerator
from open_r1.tiny import Preset, build_model, build_processor
from open_r1.trainer.attention import enable_packing
from open_r1.trainer.batch import RolloutBatch, pad_completions
from open_r1.trainer.logps import DEFAULT_CHUNK_SIZE, LogpsScorer, scoring_head
from open_r1.trainer.token_scores import score_tokens
from open_r1.trainer.vision import attach_media_features
from open_r1.vlm_modules import select_vlm_module


NUM_GENERATIONS, COMPLETION_TOKENS = 8, 50
# Most of the cost is in the layers, as in a real model: 4 x 440,000 weights there, 130,000 in the output head.
SIZES = Preset(
    text_width=128, text_layers=4, text_heads=4, text_key_value_heads=2, text_mlp_width=1024,
    vision_width=32, vision_layers=2, vision_heads=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def meters() -> ModuleType:
    path = Path(__file__).parents[2] / "benchmarks" / "meters.py"
    spec = importlib.util.spec_from_file_location("meters", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def generator() -> HFGenerator:
    processor = build_processor()
    model = build_model(SIZES, processor.tokenizer, seed=0)
    model.model.visual.requires_grad_(False)
    enable_packing(model)
    return HFGenerator(model, processor, select_vlm_module(model.config))


@pytest.fixture(scope="module")
def batch(generator: HFGenerator) -> RolloutBatch:
    prompt = generator.encode(ask(IQA_QUESTION, 1), [make_image(448, 448)])
    prompt = generator.vlm_module.with_positions(generator.model, prompt)
    prompts = attach_media_features(generator.model, generator.vlm_module, [prompt], images_per_pass=1)
    rng = torch.Generator().manual_seed(0)
    rows = torch.randint(20, 500, (NUM_GENERATIONS, COMPLETION_TOKENS), generator=rng).tolist()
    ids, mask = pad_completions(rows, generator.pad_token_id, torch.device("cpu"))
    return RolloutBatch(prompts=prompts, completion_ids=ids, completion_mask=mask)


def score(generator: HFGenerator, batch: RolloutBatch, is_packed: bool) -> torch.Tensor:
    scorer = LogpsScorer(vlm_module=generator.vlm_module, pad_token_id=generator.pad_token_id, is_packed=is_packed)
    return scorer.score(generator.model, generator.model.get_output_embeddings(), batch).per_token_logps


def count_flops(generator: HFGenerator, batch: RolloutBatch, is_packed: bool) -> int:
    """Matrix multiplications of a reference pass and of a loss, forward and backward: every linear layer and the
    output head. The attention kernel of the CPU is not among them; it would speak for packing even more."""
    with FlopCounterMode(display=False) as counter:
        with torch.no_grad():
            score(generator, batch, is_packed)
        score(generator, batch, is_packed).sum().backward()
    generator.model.zero_grad()
    return counter.get_total_flops()


def test_flops_shrink_as_the_number_of_tokens_does(generator, batch):
    prompt, completions = batch.prompts[0].num_tokens, NUM_GENERATIONS * COMPLETION_TOKENS
    assert 270 < prompt < 310
    fewer_tokens = (NUM_GENERATIONS * prompt + completions) / (prompt + completions)
    saving = count_flops(generator, batch, is_packed=False) / count_flops(generator, batch, is_packed=True)
    assert saving > 0.95 * fewer_tokens


def test_autograd_keeps_a_third_at_most(generator, batch, meters):
    kept = {}
    for is_packed in (True, False):
        with meters.SavedTensors(generator.model) as saved:
            score(generator, batch, is_packed)
        kept[is_packed] = saved.num_bytes
    assert 0 < kept[True] <= kept[False] / 3


def test_peak_memory_of_a_step_is_a_third_at_most(generator, batch, meters):
    for parameter in generator.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    peak = {
        is_packed: meters.measure_peak_bytes(lambda: score(generator, batch, is_packed).sum().backward())  # noqa: B023
        for is_packed in (True, False)
    }
    generator.model.zero_grad()
    assert 0 < peak[True] <= peak[False] / 3


def measure_head_peak(
    meters: ModuleType, num_tokens: int, vocab_size: int, temperature: float = 1.0, entropy_gradient: bool = False
) -> int:
    """Peak of the log-probability stage alone, forward and backward, over head, hidden states and their gradients."""
    head = torch.nn.Linear(32, vocab_size, bias=False)
    hidden = torch.randn(1, num_tokens, 32, requires_grad=True)
    head.weight.grad, hidden.grad = torch.zeros_like(head.weight), torch.zeros_like(hidden)
    targets = torch.arange(num_tokens) % vocab_size
    score_part = partial(score_tokens, temperature=temperature, entropy_gradient=entropy_gradient)

    def step() -> None:
        with scoring_head(head, lambda states: states[0], targets, score_part, DEFAULT_CHUNK_SIZE):
            scores = head(hidden)
        scores.sum().backward()

    return meters.measure_peak_bytes(step)


@pytest.mark.parametrize("entropy_gradient", [False, True])
def test_log_probabilities_over_a_vocabulary_of_150000_take_less_than_a_gigabyte(meters, entropy_gradient):
    num_tokens = DEFAULT_CHUNK_SIZE + 20  # two chunks; the next test shows that more of them take no more memory
    assert measure_head_peak(meters, num_tokens, 150_000, entropy_gradient=entropy_gradient) < 1e9


def test_the_peak_of_log_probabilities_does_not_grow_with_the_number_of_tokens(meters):
    few, many = (measure_head_peak(meters, tokens, 8_000, temperature=0.7) for tokens in (1024, 8192))
    assert many < 1.1 * few


@pytest.mark.slow
def test_log_probabilities_of_4000_tokens_over_a_vocabulary_of_150000_take_less_than_a_gigabyte(meters):
    assert measure_head_peak(meters, 4000, 150_000) < 1e9


def test_the_meter_of_peak_memory_sees_what_lives_at_the_same_time_and_nothing_else(meters):
    def allocate() -> None:
        for _ in range(3):
            first = torch.empty(1_000_000, dtype=torch.uint8)
            second = torch.empty(500_000, dtype=torch.uint8)
            del first, second

    assert 1_500_000 <= meters.measure_peak_bytes(allocate) < 1_600_000


def test_the_meter_of_saved_tensors_counts_storages_once_and_parameters_not_at_all(meters):
    layer = torch.nn.Linear(10, 10, bias=False)
    states = torch.ones(100, 10, requires_grad=True)
    with meters.SavedTensors(layer) as saved:
        layer(states) + layer(states)
    assert saved.num_bytes == states.numel() * 4

"""Estimates of memory against what tensors really take, in every family, and their arithmetic by hand."""

import gc
from dataclasses import replace

import pytest
import torch
from builders import ask, make_image
from transformers import AutoConfig

from open_r1.configs import GRPOModelConfig
from open_r1.trainer.attention import enable_packing
from open_r1.trainer.batch import RolloutBatch
from open_r1.trainer.dry_pass import build_dry_batch, build_shape_model, measure_loss_pass, measure_model_size
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.loading import load_policy, load_reference
from open_r1.trainer.logps import LogpsScorer
from open_r1.utils.estimates import (
    FIXED_OVERHEAD,
    FRAGMENTATION,
    EngineShare,
    ModelSize,
    Sharding,
    count_kv_bytes,
    count_optimizer_bytes,
    estimate_memory,
)
from open_r1.utils.live_memory import LiveMemory
from open_r1.vlm_modules import select_vlm_module


TOLERANCE = 0.2
CHANGES = {"full": {}, "frozen_vision": {"freeze_vision_modules": True}, "lora": {"use_peft": True, "lora_r": 4}}


def get_module(checkpoint: str):
    return select_vlm_module(AutoConfig.from_pretrained(checkpoint))


def build_batch(checkpoint: str, model) -> RolloutBatch:
    """Two groups of four completions of twenty tokens, about pictures of different sizes."""
    module, prompts = get_module(checkpoint), []
    processor = module.load_processor(checkpoint)
    for n in range(2):
        image = module.encode_image(processor, make_image(112, 84 + 28 * n, seed=n))
        prompt = module.encode_prompt(processor, ask("What does this picture show, and how well?", 1), [image])
        prompts.append(module.with_positions(model, prompt))
    return build_dry_batch(prompts, num_generations=4, completion_length=20)


@pytest.fixture
def build_args(tmp_path):
    return lambda **settings: GRPOConfig(output_dir=str(tmp_path), use_cpu=True, num_generations=4, **settings)


def measure(checkpoint: str, model, args: GRPOConfig, is_packed: bool) -> int:
    batch = build_batch(checkpoint, model)
    return measure_loss_pass(model, get_module(checkpoint), batch, args, is_packed)


@pytest.mark.parametrize(
    "change, is_packed, checkpointing",
    [
        ("full", True, False),
        ("full", True, True),
        ("full", False, False),
        ("frozen_vision", True, False),
        ("lora", True, True),
    ],
)
def test_a_pass_over_shapes_takes_what_the_real_pass_takes(
    family_checkpoint, change, is_packed, checkpointing, build_args
):
    model_args = GRPOModelConfig(model_name_or_path=family_checkpoint, dtype="float32", **CHANGES[change])
    module, args = get_module(family_checkpoint), build_args(gradient_checkpointing=checkpointing)
    real = load_policy(model_args, module).train()
    if is_packed:
        enable_packing(real)
    measured = measure(family_checkpoint, real, args, is_packed)
    estimated = measure(family_checkpoint, build_shape_model(model_args, module), args, is_packed)
    # A picture is copied to the device, which here is where it lies already.
    picture = module.encode_image(module.load_processor(family_checkpoint), make_image(112, 112)).inputs
    copied = sum(tensor.nbytes for tensor in picture.values())
    assert estimated == pytest.approx(measured, rel=TOLERANCE, abs=copied)


def test_the_estimate_is_near_what_the_backward_pass_is_left(family_checkpoint, build_args):
    """Counted in another way: the tensors that autograd saves in the packed pass."""
    model_args = GRPOModelConfig(model_name_or_path=family_checkpoint, dtype="float32")
    module = get_module(family_checkpoint)
    real = load_policy(model_args, module).train()
    enable_packing(real)
    weights = {parameter.untyped_storage()._cdata for parameter in real.parameters()}
    saved = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            saved[storage._cdata] = (storage.nbytes(), tensor)  # the tensor keeps the address from being used again
        return tensor

    scorer = LogpsScorer(vlm_module=module, pad_token_id=0, is_packed=True)
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        scorer.score(real, real.get_output_embeddings(), build_batch(family_checkpoint, real))
    num_saved = sum(size for size, _ in saved.values())
    estimated = measure(family_checkpoint, build_shape_model(model_args, module), build_args(), is_packed=True)
    # These copy pixels and their masks before the tower runs, which weighs something in a tiny model.
    copies = 0.1 if module.get_vlm_key() in ("idefics", "smolvlm") else 0.0
    assert estimated == pytest.approx(num_saved, rel=TOLERANCE + copies)


@pytest.mark.parametrize("change", CHANGES)
def test_weights_gradients_and_optimizer_are_counted_exactly(family_checkpoint, change):
    model_args = GRPOModelConfig(model_name_or_path=family_checkpoint, dtype="float32", **CHANGES[change])
    module = get_module(family_checkpoint)
    size = measure_model_size(build_shape_model(model_args, module), model_args, module, beta=0.04)
    real, reference = load_policy(model_args, module), load_reference(model_args, module, beta=0.04)
    parameters = list(real.parameters())
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    optimizer = torch.optim.AdamW(trained)
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values()]
    assert size.weight_bytes == sum(parameter.nbytes for parameter in parameters)
    assert size.trained_bytes == sum(parameter.grad.nbytes for parameter in trained)
    assert count_optimizer_bytes(size, "adamw_torch_fused", Sharding()) == sum(value.nbytes for value in states)
    held = sum(parameter.nbytes for parameter in reference.parameters()) if reference is not None else 0
    assert size.reference_bytes == held
    assert (held == 0) == (change == "lora")


def test_memory_that_lives_is_counted_from_birth_to_end():
    kept_before = torch.ones(500)
    with LiveMemory() as memory:
        view = kept_before.view(5, 100)
        first = view + 1
        second = first * 2
        assert (memory.live, memory.peak) == (4000, 4000)
        del first
        gc.collect()
        assert (memory.live, memory.peak) == (2000, 4000)
        second = second[:10]  # a view keeps all of it
        assert memory.live == 2000


def test_replicated_rows_and_kept_activations_take_more(tiny_checkpoint, build_args):
    model_args = GRPOModelConfig(model_name_or_path=tiny_checkpoint, dtype="float32")
    model = build_shape_model(model_args, get_module(tiny_checkpoint))
    packed = measure(tiny_checkpoint, model, build_args(), is_packed=True)
    assert measure(tiny_checkpoint, model, build_args(), is_packed=False) > 1.5 * packed
    assert measure(tiny_checkpoint, model, build_args(max_packed_tokens=150), is_packed=True) < 0.8 * packed
    assert measure(tiny_checkpoint, model, build_args(gradient_checkpointing=True), is_packed=True) < 0.8 * packed


def test_half_precision_takes_about_half(tiny_checkpoint, build_args):
    module = get_module(tiny_checkpoint)
    peaks = []
    for dtype in ("float32", "bfloat16"):
        model_args = GRPOModelConfig(model_name_or_path=tiny_checkpoint, dtype=dtype)
        peaks.append(measure(tiny_checkpoint, build_shape_model(model_args, module), build_args(), is_packed=True))
    assert 0.5 < peaks[1] / peaks[0] < 0.85  # logits and norms are float32 in any case


# The arithmetic: a model of a thousand weights in two bytes, all of them trained, with a reference.

SIZE = ModelSize(weight_bytes=2000, trained_weights=1000, trained_bytes=2000, trained_tensors=10, reference_bytes=2000)
PHASES = {"optimizer": "adamw_torch", "activations": 700, "kv_cache": 300, "logits": 50}


def test_one_gpu_holds_everything():
    estimate = estimate_memory(SIZE, Sharding(), **PHASES)
    assert estimate.held == {"weights": 2000, "reference": 2000, "optimizer": 2 * 2000 + 10 * 4}
    assert estimate.loss == {"gradients": 2000, "activations": 700}
    assert estimate.generation == {"KV cache": 300, "logits": 50}
    assert estimate.peak("loss") == int((8040 + 2700) * (1 + FRAGMENTATION)) + FIXED_OVERHEAD
    assert estimate.highest == estimate.peak("loss")


def test_data_parallelism_reduces_copies_of_the_gradients():
    estimate = estimate_memory(SIZE, Sharding(num_gpus=4), **PHASES)
    assert estimate.loss == {"gradients": 2000, "buckets": 2000, "activations": 700}


@pytest.mark.parametrize(
    "stage, held, gradients",
    [(1, (2000, 2000, 3000), 2000), (2, (2000, 2000, 3000), 500), (3, (500, 500, 3000), 500)],
)
def test_zero_shares_out_states_then_gradients_then_weights(stage, held, gradients):
    sharding = Sharding(stage=stage, num_gpus=4, is_deepspeed=True, bucket_size=100, max_live_weights=300)
    estimate = estimate_memory(SIZE, sharding, **PHASES)
    assert tuple(estimate.held.values()) == held  # 1000 weights x (copy + two moments) x 4 bytes / 4 GPUs
    assert estimate.loss["gradients"] == gradients
    assert estimate.loss["buckets"] == 2 * 100 * 2
    if stage == 3:
        assert estimate.loss["gathered weights"] == 600
        assert estimate.generation["gathered weights"] == 1500


def test_without_gathering_generation_holds_some_layers_only():
    sharding = Sharding(stage=3, num_gpus=4, is_deepspeed=True, max_live_weights=300, gathers_for_generation=False)
    assert estimate_memory(SIZE, sharding, **PHASES).generation["gathered weights"] == 600


def test_an_engine_takes_the_place_of_the_policys_own_generation():
    estimate = estimate_memory(SIZE, Sharding(), **PHASES, engine=EngineShare(bytes_taken=5000))
    assert (estimate.held["vLLM"], estimate.generation) == (5000, {})
    asleep = estimate_memory(SIZE, Sharding(), **PHASES, engine=EngineShare(bytes_taken=5000, sleeps=True))
    assert "vLLM" not in asleep.held and asleep.generation == {"vLLM": 5000}
    assert asleep.peak("loss") == estimate_memory(SIZE, Sharding(), **PHASES).peak("loss") < estimate.peak("loss")


def test_weights_go_to_an_engine_without_being_whole_at_once():
    sharding = Sharding(stage=3, num_gpus=4, is_deepspeed=True, max_live_weights=300)
    estimate = estimate_memory(SIZE, sharding, **PHASES, engine=EngineShare())
    assert estimate.generation == {"gathered weights": 600}


def test_what_is_offloaded_takes_no_gpu_memory():
    sharding = Sharding(stage=3, num_gpus=4, is_deepspeed=True, offloads_optimizer=True, offloads_weights=True)
    estimate = estimate_memory(SIZE, sharding, **PHASES)
    assert sum(estimate.held.values()) == 0
    assert estimate.loss["gradients"] == 0
    assert estimate.generation["gathered weights"] == 2000


@pytest.mark.parametrize("optimizer, expected", [("adamw_bnb_8bit", 2000), ("sgd", 0), ("adamw_torch_fused", 4040)])
def test_optimizers_hold_what_they_hold(optimizer, expected):
    assert count_optimizer_bytes(SIZE, optimizer, Sharding()) == expected


def test_the_cache_grows_with_rows_and_tokens():
    # 2 x (keys, values) x 3 rows x 10 tokens x 4 layers x 16 wide x 2 bytes
    sizes = {"num_rows": 3, "num_tokens": 10, "num_layers": 4, "key_value_width": 16, "bytes_per_value": 2}
    assert count_kv_bytes(**sizes) == 7680


def test_a_quantised_base_takes_a_quarter_of_half_precision(tiny_checkpoint):
    module = get_module(tiny_checkpoint)
    model_args = GRPOModelConfig(model_name_or_path=tiny_checkpoint, dtype="bfloat16", use_peft=True)
    model = build_shape_model(model_args, module)
    plain = measure_model_size(model, model_args, module, beta=0.0)
    model_args.load_in_4bit = True
    quantised = measure_model_size(model, model_args, module, beta=0.0)
    layers = [
        weight
        for name, weight in model.named_parameters()
        if name.endswith("base_layer.weight") and "visual" not in name
    ]
    num_quantised = sum(weight.numel() for weight in layers)
    assert plain.weight_bytes - quantised.weight_bytes == pytest.approx(num_quantised * (2 - 0.5625), abs=100)
    assert replace(plain, weight_bytes=0) == replace(quantised, weight_bytes=0)

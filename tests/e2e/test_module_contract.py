"""Every family keeps the contract of VLM modules, on a tiny random model of its own; pytest prints the table.

Exactness in every corner (float64, gradients of every parameter, adapters, checkpointing) is in
`test_packed_families.py`, encoding against the family's own processor in `test_vlm_modules.py`.
"""

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from builders import ask, encode_frames, make_frames, make_image
from capabilities import can, proves
from families import fit_media
from peft import LoraConfig, get_peft_model

from open_r1.configs import MODEL_PARTS
from open_r1.inference.batching import collate_prompts, list_media
from open_r1.inference.generator import SamplingSettings
from open_r1.inference.hf_generator import HFGenerator
from open_r1.trainer.attention import enable_packing, find_packing_obstacle
from open_r1.trainer.batch import RolloutBatch, pad_completions
from open_r1.trainer.logps import LogpsScorer
from open_r1.trainer.parts import find_linears, freeze_parts, freeze_unused, get_part
from open_r1.trainer.splitting import count_row_tokens, split_into_rows
from open_r1.trainer.vision import attach_media_features
from open_r1.vlm_modules.vlm_module import EncodedPrompt


GREEDY = SamplingSettings(max_new_tokens=6, temperature=0)
QUESTION = "Which of these pictures is the better one?"


@pytest.fixture(scope="module")
def generator(packed_checkpoint: str) -> HFGenerator:
    """A model of each family in turn."""
    return HFGenerator.from_pretrained(packed_checkpoint, device="cpu", trust_remote_code=True)


@pytest.fixture(autouse=True)
def noted(request: pytest.FixtureRequest, generator: HFGenerator, record_property: Callable) -> None:
    """For the table at the end."""
    record_property("model_type", generator.model.config.model_type)
    record_property("capability", request.function.capability)


def encode(generator: HFGenerator, *sizes: tuple[int, ...], seed: int = 0) -> EncodedPrompt:
    """A question about noise of these sizes: (width, height) of images, (width, height, frames) of videos."""
    sizes = fit_media(generator.model.config.model_type, list(sizes))
    images = [make_image(*size, seed=seed + i) for i, size in enumerate(sizes) if len(size) == 2]
    videos = [make_frames(*size, seed=seed + i) for i, size in enumerate(sizes) if len(size) == 3]
    videos = [encode_frames(generator, frames) for frames in videos]
    prompt = generator.encode(ask(QUESTION, len(images), len(videos)), images, videos)
    return generator.vlm_module.with_positions(generator.model, prompt)


@torch.no_grad()
def predict(generator: HFGenerator, *prompts: EncodedPrompt) -> torch.Tensor:
    """Log-probabilities (N, V) of the next token, all prompts in one batch."""
    inputs = collate_prompts(list(prompts), generator.pad_token_id)
    media = generator.vlm_module.build_media_inputs(list_media(prompts), generator.model.device)
    return generator.model(**inputs, **media, logits_to_keep=1).logits[:, -1].float().log_softmax(dim=-1)


def build_batch(generator: HFGenerator) -> RolloutBatch:
    """Three groups of two: an image, several, none; the completions are arbitrary words."""
    prompts = [encode(generator, (84, 56)), encode(generator, (56, 56), (112, 70), seed=5), encode(generator)]
    draw = torch.Generator().manual_seed(0)
    rows = [torch.randint(300, 600, (length,), generator=draw).tolist() for length in (3, 5, 1, 6, 4, 2)]
    ids, mask = pad_completions(rows, generator.pad_token_id, torch.device("cpu"))
    return RolloutBatch(
        prompts=prompts,
        completion_ids=ids,
        completion_mask=mask,
        advantages=torch.randn(len(ids), generator=draw),
        token_weights=mask / mask.sum(),
        row_index=torch.arange(len(ids)),
    )


def score(generator: HFGenerator, batch: RolloutBatch, is_packed: bool, model: torch.nn.Module | None = None):
    model = model or generator.model
    scorer = LogpsScorer(
        vlm_module=generator.vlm_module, pad_token_id=generator.pad_token_id, is_packed=is_packed, chunk_size=7
    )
    return scorer.score(model, model.get_output_embeddings(), batch).per_token_logps


# ---- what a prompt shows ------------------------------------------------------------------------------------------


@proves("no image")
def test_a_question_without_a_picture_is_answered_as_by_the_language_model_alone(generator):
    prompt = encode(generator)
    assert prompt.media == ()
    with torch.no_grad():
        alone = generator.model(input_ids=prompt.input_ids[None]).logits[:, -1].log_softmax(dim=-1)
    assert torch.allclose(predict(generator, prompt), alone, atol=1e-5)


@proves("one image")
def test_another_picture_of_the_same_size_changes_the_answer(generator):
    ours, other = encode(generator, (84, 56)), encode(generator, (84, 56), seed=1)
    assert torch.equal(ours.input_ids, other.input_ids)
    assert (predict(generator, ours) - predict(generator, other)).abs().max() > 1e-3


@proves("several images")
def test_which_of_several_pictures_comes_first_changes_the_answer(generator):
    first, second = make_image(84, 56, seed=1), make_image(84, 56, seed=2)
    prompts = [generator.encode(ask(QUESTION, 2), images) for images in ([first, second], [second, first])]
    ours, other = (generator.vlm_module.with_positions(generator.model, prompt) for prompt in prompts)
    assert len(ours.images) == 2
    assert torch.equal(ours.input_ids, other.input_ids)
    assert (predict(generator, ours) - predict(generator, other)).abs().max() > 1e-3


@proves("video")
def test_the_order_of_frames_changes_the_answer_or_videos_are_refused(generator):
    frames = make_frames(56, 84, 8)
    if not can(generator.model.config.model_type, "video"):
        with pytest.raises(ValueError, match="videos are not supported"):
            encode_frames(generator, frames)
        return
    videos = [encode_frames(generator, shown) for shown in (frames, frames[::-1].copy())]
    prompts = [generator.encode(ask(QUESTION, 0, 1), [], [video]) for video in videos]
    ours, other = (generator.vlm_module.with_positions(generator.model, prompt) for prompt in prompts)
    assert (predict(generator, ours) - predict(generator, other)).abs().max() > 1e-3


@proves("mixed batch")
def test_prompts_of_every_kind_in_one_batch_give_what_each_gives_alone(generator):
    shown = [((84, 56),), (), ((56, 56), (140, 56), (70, 112)), ((56, 84, 4),), ((56, 56), (84, 84, 4))]
    prompts = [encode(generator, *sizes, seed=10 * n) for n, sizes in enumerate(shown)]
    together = predict(generator, *prompts)
    alone = torch.cat([predict(generator, prompt) for prompt in prompts])
    assert torch.allclose(together, alone, atol=1e-4)


# ---- how it is computed -------------------------------------------------------------------------------------------


@proves("features once")
def test_the_tower_runs_once_over_a_picture_that_several_prompts_show(generator):
    picture, other = (84, 56), (56, 112)
    prompts = [encode(generator, picture), encode(generator, picture), encode(generator, other, seed=3)]
    expected = predict(generator, *prompts)
    seen = []
    keyword = generator.vlm_module.get_vision_modules_keywords()[0]
    tower = next(module for name, module in generator.model.named_modules() if name.split(".")[-1] == keyword)
    hook = tower.register_forward_hook(lambda *_: seen.append(1))
    try:
        attached = attach_media_features(generator.model, generator.vlm_module, prompts, images_per_pass=1)
        assert len(seen) == 2
        ours = predict(generator, *attached)
        assert len(seen) == 2
    finally:
        hook.remove()
    assert torch.allclose(ours, expected, atol=1e-5)


@proves("packed rows")
def test_packed_rows_give_the_log_probabilities_of_replicated_ones(generator):
    model, batch = generator.model, build_batch(generator)
    assert find_packing_obstacle(model) is None
    with torch.no_grad():
        replicated = score(generator, batch, is_packed=False)
        packed_model = copy.deepcopy(model)
        enable_packing(packed_model)
        packed = score(generator, batch, is_packed=True, model=packed_model)
    assert torch.allclose(packed, replicated, atol=1e-4)
    assert replicated[batch.completion_mask].std() > 0.1


@proves("cut batches")
def test_a_batch_that_is_cut_into_rows_gives_what_it_gives_whole(generator):
    batch = build_batch(generator)
    with torch.no_grad():
        whole = score(generator, batch, is_packed=False)
        parts = split_into_rows(batch, max_tokens=max(count_row_tokens(batch)) - 1)
        assert len(parts) > 1
        for part in parts:
            ours = score(generator, part, is_packed=False)
            assert torch.allclose(ours, whole[part.row_index, : ours.shape[1]], atol=1e-4)


@proves("one prefill")
def test_completions_are_those_of_whole_passes_without_a_cache(generator):
    """Greedy, with pictures and without, each prompt alone on one side, all in one batch on the other."""
    prompts = [encode(generator, (84, 56)), encode(generator), encode(generator, (56, 56), (56, 84), seed=4)]
    ours = generator.generate(prompts, 2, GREEDY).token_ids
    assert ours[::2] == ours[1::2]
    assert not {token for row in ours for token in row} & set(generator.suppressed_token_ids)
    for prompt, row in zip(prompts, ours[::2], strict=True):
        for token in row:
            logps = predict(generator, prompt)[0]
            logps[generator.suppressed_token_ids] = -torch.inf
            assert token == logps.argmax()
            prompt = append(prompt, token)


def append(prompt: EncodedPrompt, token: int) -> EncodedPrompt:
    positions = prompt.position_ids
    return replace(
        prompt,
        input_ids=torch.cat([prompt.input_ids, torch.tensor([token])]),
        token_inputs={name: torch.nn.functional.pad(values, (0, 1)) for name, values in prompt.token_inputs.items()},
        position_ids=torch.cat([positions, (positions.max() + 1).expand(*positions.shape[:-1], 1)], dim=-1),
    )


# ---- what is trained ----------------------------------------------------------------------------------------------


@proves("freezing")
def test_a_frozen_part_gets_no_gradient_and_all_others_do(generator):
    batch, module = build_batch(generator), generator.vlm_module
    for frozen in MODEL_PARTS:
        model = copy.deepcopy(generator.model)
        freeze_parts(model, module, [frozen])
        freeze_unused(model, module)
        score(generator, batch, is_packed=False, model=model).sum().backward()
        trained = {name for name, value in model.named_parameters() if value.grad is not None}
        assert trained == {name for name, value in model.named_parameters() if value.requires_grad}
        assert {get_part(name, module) for name in trained} == set(MODEL_PARTS) - {frozen}


@proves("LoRA")
def test_adapters_of_each_part_lie_in_it_and_change_the_answer(generator):
    batch, module = build_batch(generator), generator.vlm_module
    with torch.no_grad():
        before = score(generator, batch, is_packed=False)
    for part in MODEL_PARTS:
        base = copy.deepcopy(generator.model)
        targets = find_linears(base, module, [part])
        assert targets and base.get_output_embeddings() not in [base.get_submodule(name) for name in targets]
        torch.manual_seed(0)
        model = get_peft_model(base, LoraConfig(r=2, target_modules=targets, init_lora_weights=False))
        freeze_unused(model, module)
        after = score(generator, batch, is_packed=False, model=model)
        assert (after - before).abs().max() > 1e-3
        after.sum().backward()
        adapters = {name: value for name, value in model.named_parameters() if value.requires_grad}
        assert {get_part(name, module) for name in adapters} == {part}
        assert [name for name, value in adapters.items() if value.grad is None] == []


@proves("save, reload")
def test_a_saved_model_is_the_same_after_it_is_loaded(generator, packed_checkpoint, tmp_path):
    generator.model.save_pretrained(tmp_path)
    generator.processor.save_pretrained(tmp_path)
    copy_code(Path(packed_checkpoint), tmp_path)
    loaded = HFGenerator.from_pretrained(str(tmp_path), device="cpu", trust_remote_code=True)
    batch = build_batch(loaded)
    with torch.no_grad():
        assert torch.equal(score(loaded, batch, is_packed=False), score(generator, build_batch(generator), False))


def copy_code(source: Path, target: Path) -> None:
    """What a checkpoint that brings its own code has beside its weights."""
    for path in source.glob("*.py"):
        (target / path.name).write_bytes(path.read_bytes())


@proves("bfloat16")
def test_weights_of_half_precision_take_pictures_in_it(generator):
    half = HFGenerator(copy.deepcopy(generator.model).bfloat16(), generator.processor, generator.vlm_module)
    prompt = replace(encode(half, (84, 56)), position_ids=None)
    ours = predict(half, half.vlm_module.with_positions(half.model, prompt))
    assert (ours.exp() - predict(generator, encode(generator, (84, 56))).exp()).abs().max() < 0.1
    attached = attach_media_features(half.model, half.vlm_module, [encode(half, (84, 56))], images_per_pass=1)
    assert torch.allclose(predict(half, *attached), ours, atol=0.2)
    assert half.generate([prompt], 2, GREEDY).token_ids

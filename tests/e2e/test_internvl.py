"""InternVL in both layouts through the trainer: adapters, whole models, and what is left of them on the disk."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from builders import ask, make_image, write_iqa_data
from datasets import Dataset
from families import build_checkpoint
from remote_family import CODE, build_remote_checkpoint

from open_r1 import grpo_jsonl, merge, sft
from open_r1.configs import GRPOModelConfig
from open_r1.inference.generator import SamplingSettings
from open_r1.inference.hf_generator import HFGenerator
from open_r1.trainer.batch import RolloutBatch, pad_completions
from open_r1.trainer.dry_pass import build_shape_model
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.grpo_trainer import VLMGRPOTrainer
from open_r1.trainer.loading import load_policy, load_processor, load_reference, load_vlm_module
from open_r1.trainer.logps import LogpsScorer
from open_r1.trainer.parts import get_part
from open_r1.vlm_modules.vlm_module import get_bare_model


STYLES: dict[str, Callable[[Path], str]] = {
    "transformers": lambda folder: build_checkpoint("internvl", folder),
    "own code": lambda folder: build_remote_checkpoint(folder / "checkpoint"),
    "own code, own attention": lambda folder: build_remote_checkpoint(folder / "checkpoint", "PlainForCausalLM"),
}
SHOWN = [0, 1, 3]  # images of each row


@pytest.fixture(scope="module", params=STYLES)
def checkpoint(request, tmp_path_factory) -> str:
    return STYLES[request.param](tmp_path_factory.mktemp("checkpoint"))


@pytest.fixture(scope="module")
def rows(tmp_path_factory) -> list[dict]:
    """Text alone, one image, three images: of one, three, and five tiles."""
    folder = tmp_path_factory.mktemp("images")
    paths = [str(folder / f"{number}.png") for number in range(3)]
    for number, size in enumerate([(56, 56), (112, 56), (112, 112)]):
        make_image(*size, seed=number).save(paths[number])
    rows = []
    for number, count in enumerate(SHOWN):
        row = {"id": str(number), "dataset_name": "MIXED", "source": f"rows.jsonl:{number + 1}"}
        prompt = ask("What is <image> in a text?", count)
        for part in prompt[0]["content"]:
            part.setdefault("text", None)
        rows.append(row | {"image_path": paths[:count], "prompt": prompt})
    return rows


def token_reward(completions, completion_ids, **columns):
    """Something that differs within a group."""
    return [sum(ids) % 17 / 17 for ids in completion_ids]


def build_trainer(checkpoint: str, rows: list[dict], output_dir: Path, options: dict, **settings) -> VLMGRPOTrainer:
    model_args = GRPOModelConfig(model_name_or_path=checkpoint, trust_remote_code=True, **options)
    defaults = {
        "output_dir": str(output_dir),
        "num_generations": 2,
        "per_device_train_batch_size": 2 * len(rows),
        "max_completion_length": 6,
        "learning_rate": 1e-2,
        "max_steps": 3,
        "beta": 0.04,
        "report_to": "none",
        "save_strategy": "no",
        "use_cpu": True,
        "disable_tqdm": True,
    }
    torch.manual_seed(0)
    vlm_module = load_vlm_module(model_args)
    return VLMGRPOTrainer(
        load_policy(model_args, vlm_module),
        load_reference(model_args, vlm_module, 0.04),
        [token_reward],
        GRPOConfig(**(defaults | settings)),
        vlm_module=vlm_module,
        processing_class=load_processor(model_args, vlm_module),
        train_dataset=Dataset.from_list(rows),
    )


def score(generator: HFGenerator) -> torch.Tensor:
    """Log-probabilities of fixed completions behind fixed prompts."""
    prompts = [
        generator.encode(ask("How good?", count), [make_image(112, 56, seed) for seed in range(count)])
        for count in SHOWN
    ]
    prompts = [generator.vlm_module.with_positions(generator.model, prompt) for prompt in prompts]
    ids, mask = pad_completions([[300, 301, 302], [303], [304, 305]], generator.pad_token_id, torch.device("cpu"))
    batch = RolloutBatch(prompts=prompts, completion_ids=ids, completion_mask=mask)
    scorer = LogpsScorer(vlm_module=generator.vlm_module, pad_token_id=generator.pad_token_id, is_packed=False)
    with torch.no_grad():
        return scorer.score(generator.model, generator.model.get_output_embeddings(), batch).per_token_logps


def load(folder: Path | str) -> HFGenerator:
    return HFGenerator.from_pretrained(str(folder), device="cpu", trust_remote_code=True)


def read_losses(output_dir: Path) -> list[dict]:
    lines = map(json.loads, (output_dir / "metrics.jsonl").read_text().splitlines())
    return [line for line in lines if "loss" in line]


@pytest.mark.parametrize("parts", [["language"], ["language", "projector", "vision"]], ids=" ".join)
def test_adapters_are_trained_saved_merged_and_loaded_again(checkpoint, rows, tmp_path, parts):
    options = {"use_peft": True, "lora_r": 4, "lora_modules": parts}
    trainer = build_trainer(checkpoint, rows, tmp_path / "run", options, gradient_checkpointing=True)
    trainer.train()
    trainer.save_model(str(tmp_path / "adapters"))
    assert len(read_losses(tmp_path / "run")) == 3
    adapters = {name: value for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert {get_part(name, trainer.vlm_module) for name in adapters} == set(parts)
    # The first step moves the second matrix of an adapter away from zero.
    moved = {
        get_part(name, trainer.vlm_module) for name, value in adapters.items() if "lora_B" in name and value.any()
    }
    assert moved == set(parts)
    config = Path(checkpoint, "config.json").read_text(encoding="utf-8")
    assert trainer.scorer.is_packed == ("PlainForCausalLM" not in config)

    trainer.model.eval()
    trained = score(trainer.generator)
    assert (trained - score(load(checkpoint))).abs().max() > 1e-3
    assert torch.allclose(score(load(tmp_path / "adapters")), trained, atol=1e-5)
    merge.main(["--adapters", str(tmp_path / "adapters"), "--output", str(tmp_path / "merged"), "--trust_remote_code"])
    assert torch.allclose(score(load(tmp_path / "merged")), trained, atol=1e-5)


@pytest.mark.parametrize("freezes", [True, False], ids=["tower frozen", "tower trained"])
def test_whole_models_are_trained_and_saved_with_the_code_that_loads_them(checkpoint, rows, tmp_path, freezes):
    options = {"freeze_vision_modules": freezes}
    trainer = build_trainer(checkpoint, rows, tmp_path / "run", options, gradient_checkpointing=True)
    before = {name: value.clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    moved = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    module = trainer.vlm_module
    assert any(module.is_vision_parameter(name) for name in moved) != freezes
    assert any(not module.is_vision_parameter(name) for name in moved)
    assert all(step["kl"] >= 0 for step in read_losses(tmp_path / "run"))
    trainer.model.eval()
    assert torch.allclose(score(load(tmp_path / "saved")), score(trainer.generator), atol=1e-5)
    if module.get_vlm_key() == "internvl_chat":
        assert {path.name for path in CODE.glob("*.py")} <= {path.name for path in (tmp_path / "saved").iterdir()}
        load(tmp_path / "saved").model.save_pretrained(tmp_path / "again")  # and once more, from the saved code
        assert load_policy(GRPOModelConfig(model_name_or_path=str(tmp_path / "again"), trust_remote_code=True), module)


def test_a_frozen_tower_sees_each_picture_once_a_round(checkpoint, rows, tmp_path):
    options = {"freeze_vision_modules": True}
    trainer = build_trainer(checkpoint, rows, tmp_path / "run", options, max_steps=2, num_iterations=2)
    tiles = []
    tower = next(
        module
        for name, module in trainer.model.named_modules()
        if name.split(".")[-1] == trainer.vlm_module.get_vision_modules_keywords()[0]
    )
    tower.register_forward_pre_hook(
        lambda module, args, kwargs: tiles.append(len(args[0] if args else kwargs["pixel_values"])), with_kwargs=True
    )
    trainer.train()
    assert sum(tiles) == 1 + 3 + 5  # prefill, reference, old policy and two updates share them


# ---- own code alone -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["Qwen2ForCausalLM", "PlainForCausalLM"])
def remote(request, tmp_path_factory) -> HFGenerator:
    return load(build_remote_checkpoint(tmp_path_factory.mktemp("remote") / "checkpoint", request.param))


def encode(generator: HFGenerator, count: int = 2):
    return generator.encode(ask("How good?", count), [make_image(112, 56, seed) for seed in range(count)])


def get_own_class(generator: HFGenerator) -> type:
    """The checkpoint's class as it is in its file."""
    return type(generator.model).__mro__[2]


def test_logits_are_those_of_the_code_as_it_came(remote):
    prompt = encode(remote)
    inputs = {"input_ids": prompt.input_ids[None], **prompt.media_inputs}
    with torch.no_grad():
        expected = get_own_class(remote).forward(remote.model, **inputs).logits
        ours = remote.model(**inputs)
        last = remote.model(**inputs, logits_to_keep=3).logits
        given = remote.model(inputs_embeds=remote.model.get_input_embeddings()(prompt.input_ids[None])).logits
    assert torch.equal(ours.logits, expected)
    assert torch.allclose(last, expected[:, -3:], atol=1e-5)
    assert given.shape == expected.shape and not torch.allclose(given, expected, atol=1e-2)


def test_tiles_that_no_image_has_are_left_out(remote):
    prompt = encode(remote)
    pixel_values, flags = prompt.media_inputs["pixel_values"], prompt.media_inputs["image_flags"]
    padded = torch.cat([pixel_values, torch.zeros_like(pixel_values[:1])])
    flagged = torch.cat([flags, torch.zeros_like(flags[:1])])
    ids = prompt.input_ids[None]
    with torch.no_grad():
        expected = remote.model(input_ids=ids, pixel_values=pixel_values).logits
        assert torch.equal(remote.model(input_ids=ids, pixel_values=padded, image_flags=flagged).logits, expected)
        with pytest.raises(ValueError, match="24 places for features of images, not 28"):
            remote.model(input_ids=ids, pixel_values=padded)


def test_completions_are_those_of_the_code_as_it_came(remote):
    prompt = encode(remote)
    pixel_values = prompt.media_inputs["pixel_values"]
    ids = prompt.input_ids[None]
    options = {"max_new_tokens": 8, "do_sample": False, "suppress_tokens": remote.suppressed_token_ids}
    expected = get_own_class(remote).generate(
        remote.model, pixel_values, ids, torch.ones_like(ids), eos_token_id=remote.eos_token_ids, **options
    )
    sampling = SamplingSettings(max_new_tokens=8, temperature=0.0)
    alone = remote.generate([prompt], 2, sampling).token_ids
    assert alone == [expected[0].tolist()] * 2
    beside_others = remote.generate([encode(remote, 0), prompt, encode(remote, 3)], 1, sampling)
    assert beside_others.token_ids[1] == alone[0]


def test_a_language_model_that_cannot_generate_any_more_is_refused(tmp_path):
    folder = build_remote_checkpoint(tmp_path / "checkpoint", "PlainForCausalLM")
    path = Path(folder, "modeling_plain_lm.py")
    code = path.read_text(encoding="utf-8")
    path.write_text(code.replace("(PlainPreTrainedModel, GenerationMixin)", "(PlainPreTrainedModel)"))
    with pytest.raises(ValueError, match="PlainForCausalLM cannot generate .*-hf"):
        load(folder)


def test_packing_is_taken_where_the_language_model_goes_through_the_attention_interface(rows, tmp_path):
    for language_model, is_packed in {"Qwen2ForCausalLM": True, "PlainForCausalLM": False}.items():
        folder = build_remote_checkpoint(tmp_path / language_model / "checkpoint", language_model)
        assert build_trainer(folder, rows, tmp_path / "run", {}).scorer.is_packed == is_packed
    with pytest.raises(ValueError, match="--logps_mode packed: the decoder does not go through"):
        build_trainer(folder, rows, tmp_path / "run", {}, logps_mode="packed")


def test_a_run_is_refused_without_consent_and_goes_through_with_it(tmp_path):
    checkpoint = build_remote_checkpoint(tmp_path / "checkpoint")
    (tmp_path / "data").mkdir()
    data, images = write_iqa_data(tmp_path / "data", num_rows=4)
    command = ["--model_name_or_path", checkpoint, "--data_file_paths", str(data), "--image_folders", str(images)]
    command += ["--output_dir", str(tmp_path / "run"), "--max_steps", "1", "--num_generations", "2", "--use_cpu"]
    command += ["--per_device_train_batch_size", "2", "--max_completion_length", "4", "--report_to", "none"]
    with pytest.raises(ValueError, match="--trust_remote_code"):
        grpo_jsonl.main(command)
    grpo_jsonl.main([*command, "--trust_remote_code", "true", "--max_anyres_num", "2"])
    assert json.loads((tmp_path / "run" / "preprocessor_config.json").read_text())["max_tiles"] == 2
    assert load(tmp_path / "run").processor.max_tiles == 2


def test_the_cold_start_names_the_layout_that_it_takes(tmp_path):
    checkpoint = build_remote_checkpoint(tmp_path / "checkpoint")
    (tmp_path / "data").mkdir()
    data, images = write_iqa_data(tmp_path / "data", num_rows=2)
    command = ["--model_name_or_path", checkpoint, "--data_file_paths", str(data), "--image_folders", str(images)]
    with pytest.raises(ValueError, match="-hf"):
        sft.main([*command, "--trust_remote_code", "true", "--output_dir", str(tmp_path / "run"), "--use_cpu"])


def test_the_memory_of_a_run_is_foreseen_without_weights(tmp_path):
    checkpoint = build_remote_checkpoint(tmp_path / "checkpoint")
    model_args = GRPOModelConfig(model_name_or_path=checkpoint, trust_remote_code=True, use_peft=True)
    model = build_shape_model(model_args, load_vlm_module(model_args))
    assert all(parameter.is_meta for parameter in model.parameters())
    assert get_bare_model(model).config.get_text_config().hidden_size == 64

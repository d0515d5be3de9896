"""What is loaded and what is trained: adapters of every kind, quantised bases, frozen parts, a start from adapters."""

import importlib.util
import json
import logging
import math
import sys
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from builders import ask, make_image
from trl import ModelConfig

from open_r1.configs import GRPOModelConfig
from open_r1.grpo_jsonl import build_trainer, parse_arguments
from open_r1.inference.hf_generator import HFGenerator
from open_r1.trainer.attention import enable_packing
from open_r1.trainer.batch import RolloutBatch, pad_completions
from open_r1.trainer.loading import disable_dropout, load_policy, load_processor, load_reference, load_vlm_module
from open_r1.trainer.logps import LogpsScorer
from open_r1.trainer.parts import summarise_trainable
from open_r1.utils.adapters import find_model_source
from open_r1.vlm_modules.qwen_module import QwenVLModule


needs_bitsandbytes = pytest.mark.skipif(
    importlib.util.find_spec("bitsandbytes") is None, reason='bitsandbytes is missing: pip install -e ".[quant]"'
)
MODULE = QwenVLModule()


@pytest.fixture
def load(tiny_checkpoint):
    """Loads a policy; keyword arguments are options."""

    def load_with(keep_dropout=False, **options):
        torch.manual_seed(0)
        options = {"model_name_or_path": tiny_checkpoint} | options
        return load_policy(GRPOModelConfig(**options), MODULE, keep_dropout=keep_dropout)

    return load_with


@pytest.fixture(scope="module")
def batch(tiny_checkpoint) -> RolloutBatch:
    """Two groups of two fixed completions, each about an image."""
    generator = HFGenerator.from_pretrained(tiny_checkpoint, device="cpu")
    prompts = [generator.encode(ask("How good?", 1), [make_image(84, 56, seed)]) for seed in (0, 1)]
    prompts = [MODULE.with_positions(generator.model, prompt) for prompt in prompts]
    completions = [[300, 301, 302], [303, 304], [305, 306, 307, 308], [309]]
    ids, mask = pad_completions(completions, generator.pad_token_id, torch.device("cpu"))
    return RolloutBatch(prompts=prompts, completion_ids=ids, completion_mask=mask)


def score(model: torch.nn.Module, batch: RolloutBatch) -> torch.Tensor:
    enable_packing(model)
    scorer = LogpsScorer(vlm_module=MODULE, pad_token_id=0, is_packed=True)
    return scorer.score(model, model.get_output_embeddings(), batch).per_token_logps


def learn(
    model: torch.nn.Module, batch: RolloutBatch, num_steps: int = 20, learning_rate: float = 1e-2
) -> list[float]:
    """Maximum likelihood of the batch's completions; the losses, before each step."""
    model.train()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate)
    losses = []
    for _ in range(num_steps):
        loss = -score(model, batch)[batch.completion_mask].mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def list_adapted(model: torch.nn.Module) -> set[str]:
    """Names of the modules with adapters, as the base model knows them."""
    prefix = "base_model.model."
    return {name.split(".lora_")[0].removeprefix(prefix) for name, _ in model.named_parameters() if ".lora_A" in name}


def list_trained_parts(model: torch.nn.Module) -> set[str]:
    return {part for part, (trainable, _) in summarise_trainable(model, MODULE).items() if trainable}


def copy_parameters(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.fixture(scope="module", params=["lora", "dora"])
def adapters(request, tiny_checkpoint, batch, tmp_path_factory) -> tuple[Path, torch.Tensor]:
    """A folder of trained adapters, rank 4, and the log-probabilities of the policy that they make."""
    torch.manual_seed(0)
    options = {"model_name_or_path": tiny_checkpoint, "use_peft": True, "lora_r": 4, "lora_alpha": 8}
    model = load_policy(GRPOModelConfig(**options, use_dora=request.param == "dora"), MODULE)
    learn(model, batch, num_steps=5)
    folder = tmp_path_factory.mktemp("adapters")
    model.save_pretrained(folder)
    return folder, score(model, batch).detach()


# ---- options ------------------------------------------------------------------------------------------------------


def test_every_option_of_trl_is_accounted_for():
    known = """model_name_or_path model_revision dtype attn_implementation use_peft lora_r lora_alpha lora_dropout
        lora_target_modules lora_target_parameters lora_modules_to_save lora_task_type use_rslora use_dora load_in_8bit
        load_in_4bit bnb_4bit_quant_type use_bnb_nested_quant bnb_4bit_quant_storage"""
    assert {option.name for option in fields(ModelConfig)} == set(known.split())


@pytest.mark.parametrize(
    "given, kept",
    [
        (["q_proj", "v_proj"], ["q_proj", "v_proj"]),
        (["down_proj"], ["down_proj"]),
        ("layers.0.mlp.down_proj", ["layers.0.mlp.down_proj"]),
        (["all-linear"], "all-linear"),
        ([r".*layers\.0\..*(q|v)_proj"], r".*layers\.0\..*(q|v)_proj"),
        (None, None),
    ],
)
@pytest.mark.parametrize("spelling", ["lora_target_modules", "target_modules"])
def test_targets_are_names_or_one_expression(given, kept, spelling):
    config = GRPOModelConfig(model_name_or_path="m", use_peft=True, **{spelling: given})
    assert config.lora_target_modules == kept


REFUSED = {
    "give one of them": {"use_peft": True, "target_modules": ["q_proj"], "lora_target_modules": ["v_proj"]},
    "stand alone": {"use_peft": True, "lora_target_modules": ["q_proj", ".*v_proj"]},
    "names whole parts": {"use_peft": True, "lora_modules": ["vision"], "lora_target_modules": ["q_proj"]},
    "take some of language": {"use_peft": True, "lora_modules": ["tower"]},
    "CAUSAL_LM": {"use_peft": True, "lora_task_type": "SEQ_CLS"},
    "--lora_r does nothing without --use_peft": {"lora_r": 8},
    "--use_dora does nothing without --use_peft": {"use_dora": True},
    "add --use_peft": {"load_in_4bit": True},
    "--use_bnb_nested_quant does nothing without --load_in_4bit": {"use_peft": True, "use_bnb_nested_quant": True},
    "4 bit precision": {"use_peft": True, "load_in_4bit": True, "load_in_8bit": True},
    "Everything is frozen": {"freeze_vision_modules": True, "freeze_language_model": True},
    "language would be frozen": {"use_peft": True, "freeze_language_model": True},
    "--freeze_projector false": {
        "use_peft": True,
        "lora_modules": ["language", "projector"],
        "freeze_vision_modules": True,
    },
}


@pytest.mark.parametrize("message, options", REFUSED.items(), ids=REFUSED)
def test_options_that_cannot_work_are_refused_before_anything_is_loaded(message, options):
    with pytest.raises(ValueError, match=message):
        GRPOModelConfig(model_name_or_path="m", **options)


def test_quantisation_without_bitsandbytes_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(ValueError, match=r'pip install -e "\.\[quant\]"'):
        GRPOModelConfig(model_name_or_path="m", use_peft=True, load_in_4bit=True)


# ---- adapters -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, scaling",
    [({}, 8 / 4), ({"use_rslora": True}, 8 / math.sqrt(4)), ({"use_dora": True}, 8 / 4)],
    ids=["lora", "rslora", "dora"],
)
def test_each_kind_of_adapter_starts_at_the_base_and_learns(load, batch, options, scaling):
    model = load(use_peft=True, lora_r=4, lora_alpha=8, **options)
    layer = model.get_base_model().model.language_model.layers[0].self_attn.q_proj
    assert layer.scaling["default"] == pytest.approx(scaling)
    assert bool(len(layer.lora_magnitude_vector)) == ("use_dora" in options)
    torch.testing.assert_close(score(model, batch), score(load(), batch), atol=1e-5, rtol=1e-5)
    losses = learn(model, batch)
    assert losses[-1] < losses[0] - 0.5


@pytest.mark.parametrize("parts", [["language"], ["projector"], ["vision"], ["projector", "vision"]])
def test_adapters_go_to_the_linear_layers_of_the_parts_named(load, parts):
    model = load(use_peft=True, lora_modules=parts)
    assert list_trained_parts(model) == set(parts)
    counts = {"language": 7 * 2, "projector": 2, "vision": 5 * 2}  # linear layers; the test model has two blocks each
    assert len(list_adapted(model)) == sum(counts[part] for part in parts)


def test_a_name_reaches_every_part_and_an_expression_only_what_it_says(load):
    by_name = list_adapted(load(use_peft=True, lora_target_modules=["down_proj"]))
    assert len(by_name) == 4 and sum(".visual." in name for name in by_name) == 2
    expression = r".*language_model\.layers\.1\..*(q|v)_proj"
    by_expression = list_adapted(load(use_peft=True, lora_target_modules=[expression]))
    layer = "model.language_model.layers.1.self_attn"
    assert by_expression == {f"{layer}.q_proj", f"{layer}.v_proj"}


def test_all_linear_is_every_linear_layer_but_the_head(load):
    assert len(list_adapted(load(use_peft=True, lora_target_modules=["all-linear"]))) == 7 * 2 + 2 + 5 * 2


def test_frozen_parts_get_no_adapters_whatever_the_targets_reach(load):
    model = load(use_peft=True, lora_target_modules=["down_proj"], freeze_vision_modules=True)
    assert len(list_adapted(model)) == 2 and list_trained_parts(model) == {"language"}


def test_a_name_that_no_module_bears_is_refused(load):
    with pytest.raises(ValueError, match="no module named w_pack"):
        load(use_peft=True, lora_target_modules=["q_proj", "w_pack"])
    with pytest.raises(ValueError, match="--lora_modules_to_save: the model has no module named absent"):
        load(use_peft=True, lora_modules_to_save=["absent"])


def test_targets_within_a_frozen_part_alone_are_refused(load):
    with pytest.raises(ValueError, match="no layer to adapt outside of the frozen parts"):
        load(use_peft=True, lora_target_modules=["qkv"], freeze_vision_modules=True)


def test_a_module_can_be_trained_whole_beside_adapters(load):
    model = load(use_peft=True, lora_modules_to_save=["merger"])
    assert list_trained_parts(model) == {"language", "projector"}
    with pytest.raises(ValueError, match="merger is of the projector, which is frozen"):
        load(use_peft=True, lora_modules_to_save=["merger"], freeze_projector=True)


def test_single_parameters_can_be_adapted(load, batch):
    model = load(use_peft=True, lora_target_parameters=["q_proj.weight"])
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and all("q_proj" in name for name in trained)
    assert learn(model, batch, num_steps=3)[-1] > 0


@pytest.mark.parametrize("options", [{"lora_target_modules": ["lm_head"]}, {"lora_modules_to_save": ["lm_head"]}])
def test_an_output_head_that_is_the_embedding_too_gets_no_adapters(load, options):
    with pytest.raises(ValueError, match="shares its weight with the input embedding"):
        load(use_peft=True, **options)


def test_dropout_is_off_for_grpo_and_on_for_the_cold_start(load, batch, caplog):
    model = load(use_peft=True, lora_dropout=0.5)
    assert "LoRA dropout is set to 0" in caplog.text
    assert model.peft_config["default"].lora_dropout == 0
    learn(model, batch, num_steps=2)
    model.train()
    assert torch.equal(score(model, batch), score(model, batch))
    kept = load(keep_dropout=True, use_peft=True, lora_dropout=0.5)
    learn(kept, batch, num_steps=2)
    kept.train()
    assert not torch.equal(score(kept, batch), score(kept, batch))


def test_disabled_dropout_drops_nothing_in_training():
    layers = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Dropout(0.5)).train()
    disable_dropout(layers)
    values = torch.randn(8, 4)
    assert torch.equal(layers(values), layers(values))


# ---- freezing -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options, trained",
    [
        ({}, "language projector vision"),
        ({"freeze_vision_modules": True}, "language"),
        ({"freeze_vision_modules": True, "freeze_projector": False}, "language projector"),
        ({"freeze_projector": True}, "language vision"),
        ({"freeze_language_model": True}, "projector vision"),
        ({"freeze_language_model": True, "freeze_vision_modules": True, "freeze_projector": False}, "projector"),
    ],
    ids=str,
)
def test_what_is_frozen_stays_and_the_rest_moves(load, batch, options, trained):
    model = load(**options)
    assert list_trained_parts(model) == set(trained.split())
    before = copy_parameters(model)
    learn(model, batch, num_steps=2)
    moved = {name for name, parameter in model.named_parameters() if not torch.equal(before[name], parameter)}
    parts = {
        "projector" if "visual.merger" in name else "vision" if "visual" in name else "language" for name in moved
    }
    assert parts == set(trained.split())


def test_the_log_says_once_what_is_trained(load, caplog):
    with caplog.at_level(logging.INFO):
        model = load(use_peft=True, lora_r=4)
    [line] = [record.message for record in caplog.records if "Trained parameters" in record.message]
    counts = summarise_trainable(model, MODULE)
    assert f"language {counts['language'][0]:,} of {counts['language'][1]:,}" in line and "vision 0 of" in line
    assert sum(total for _, total in counts.values()) == sum(parameter.numel() for parameter in model.parameters())


def test_freeing_the_projector_beside_adapters_must_train_something(load):
    options = {"use_peft": True, "freeze_vision_modules": True, "freeze_projector": False}
    with pytest.raises(ValueError, match="--lora_modules language projector"):
        load(**options)
    assert list_trained_parts(load(**options, lora_modules=["language", "projector"])) == {"language", "projector"}


# ---- quantised bases ----------------------------------------------------------------------------------------------


QUANTISED = {
    "nf4": {"load_in_4bit": True},
    "fp4, nested": {"load_in_4bit": True, "bnb_4bit_quant_type": "fp4", "use_bnb_nested_quant": True},
    "stored as bfloat16": {"load_in_4bit": True, "bnb_4bit_quant_storage": "bfloat16"},
    "dtype auto": {"load_in_4bit": True, "dtype": "auto"},
    "dora": {"load_in_4bit": True, "use_dora": True},
    "8 bit": {"load_in_8bit": True},
}


@needs_bitsandbytes
@pytest.mark.parametrize("options", QUANTISED.values(), ids=QUANTISED)
def test_the_base_is_quantised_in_memory_and_its_adapters_learn(load, batch, options):
    plain, model = load(), load(use_peft=True, lora_r=4, **options)
    bits = 4 if "load_in_4bit" in options else 8
    whole = dict(plain.named_parameters())
    quantised = {
        name.removeprefix("base_model.model.").replace(".base_layer", ""): parameter
        for name, parameter in model.named_parameters()
        if type(parameter).__name__ in ("Params4bit", "Int8Params")
    }
    assert len(quantised) == 7 * 2 and all("language_model" in name for name in quantised)
    for name, parameter in quantised.items():
        assert parameter.numel() * parameter.element_size() == whole[name].numel() * bits // 8
        assert not parameter.requires_grad
    # Tower, projector and head are what they were.
    kept = model.get_base_model().model.visual
    assert all(torch.equal(whole[f"model.visual.{name}"], value) for name, value in kept.named_parameters())
    assert model.get_output_embeddings().weight.dtype == torch.float32
    counts, expected = summarise_trainable(model, MODULE), summarise_trainable(plain, MODULE)
    assert counts["language"][1] - counts["language"][0] == expected["language"][1]

    bytes_before = {name: parameter.data.view(torch.uint8).clone() for name, parameter in quantised.items()}
    losses = learn(model, batch)
    assert losses[-1] < losses[0] - 0.5
    assert all(torch.equal(bytes_before[name], value.data.view(torch.uint8)) for name, value in quantised.items())


@needs_bitsandbytes
def test_a_quantised_policy_is_near_its_base_and_is_its_own_reference(load, batch):
    model = load(use_peft=True, load_in_4bit=True)
    start = score(model, batch)
    difference = (start - score(load(), batch))[batch.completion_mask].abs()
    assert 0 < difference.mean() < 0.3
    learn(model, batch, num_steps=3)
    assert not torch.allclose(score(model, batch), start, atol=1e-3)
    with model.disable_adapter():
        torch.testing.assert_close(score(model, batch), start)


@needs_bitsandbytes
def test_a_pass_without_gradient_changes_no_later_gradient(load, batch):
    gradients = []
    for passes_first in (False, True):
        model = load(use_peft=True, load_in_4bit=True)
        if passes_first:
            with torch.no_grad():
                score(model.eval(), batch)
        score(model.train(), batch)[batch.completion_mask].mean().backward()
        gradients.append(torch.cat([value.grad.flatten() for value in model.parameters() if value.grad is not None]))
    assert gradients[0].abs().sum() > 0
    torch.testing.assert_close(*gradients)


@needs_bitsandbytes
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_gradient_checkpointing_on_a_quantised_base_changes_no_loss(load, batch, use_reentrant):
    curves = []
    for checkpointing in (False, True):
        model = load(use_peft=True, load_in_4bit=True)
        if checkpointing:
            model.gradient_checkpointing_enable({"use_reentrant": use_reentrant})
        curves.append(learn(model, batch, num_steps=3))
    assert curves[0] == pytest.approx(curves[1], abs=1e-5)


# ---- a start from adapters ----------------------------------------------------------------------------------------


def test_training_goes_on_with_the_adapters_of_a_folder(load, batch, adapters, tmp_path, tiny_checkpoint):
    folder, expected = adapters
    model = load(model_name_or_path=str(folder), use_peft=True)
    torch.testing.assert_close(score(model, batch), expected)
    assert model.peft_config["default"].r == 4
    assert list_trained_parts(model) == {"language"}
    learn(model, batch, num_steps=3)
    assert not torch.allclose(score(model, batch), expected, atol=1e-3)
    # What is saved belongs to the model on disk.
    model.save_pretrained(tmp_path / "more")
    assert find_model_source(str(tmp_path / "more")).base_path == tiny_checkpoint
    again = load(model_name_or_path=str(tmp_path / "more"), use_peft=True)
    torch.testing.assert_close(score(again, batch), score(model, batch))


def test_the_reference_of_such_a_run_is_the_policy_at_its_start(load, batch, adapters):
    folder, expected = adapters
    for use_peft in (True, False):
        reference = load_reference(GRPOModelConfig(model_name_or_path=str(folder), use_peft=use_peft), MODULE, 0.1)
        torch.testing.assert_close(score(reference, batch), expected, atol=1e-5, rtol=1e-5)
        assert not any(parameter.requires_grad for parameter in reference.parameters())
    assert load_reference(GRPOModelConfig(model_name_or_path=str(folder), use_peft=True), MODULE, 0.0) is None


def test_new_adapters_need_no_reference_of_their_own(tiny_checkpoint):
    assert load_reference(GRPOModelConfig(model_name_or_path=tiny_checkpoint, use_peft=True), MODULE, 0.1) is None


def test_without_use_peft_the_adapters_are_merged_and_everything_is_trained(load, batch, adapters):
    folder, expected = adapters
    model = load(model_name_or_path=str(folder))
    torch.testing.assert_close(score(model, batch), expected, atol=1e-5, rtol=1e-5)
    assert not any("lora" in name for name, _ in model.named_parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


@needs_bitsandbytes
def test_adapters_go_on_upon_a_quantised_base(load, batch, tmp_path):
    model = load(use_peft=True, load_in_4bit=True)
    learn(model, batch, num_steps=5)
    model.save_pretrained(tmp_path)
    options = {"model_name_or_path": str(tmp_path), "use_peft": True, "load_in_4bit": True}
    torch.testing.assert_close(score(load(**options), batch), score(model, batch))
    reference = load_reference(GRPOModelConfig(**options), MODULE, 0.1)
    torch.testing.assert_close(score(reference, batch), score(model, batch))


def test_options_for_other_adapters_than_those_of_the_folder_are_refused(load, adapters):
    folder = str(adapters[0])
    load(model_name_or_path=folder, use_peft=True, lora_r=4)  # as it is
    with pytest.raises(ValueError, match="--lora_r 32: the adapters to go on with have 4"):
        load(model_name_or_path=folder, use_peft=True, lora_r=32)
    with pytest.raises(ValueError, match="--lora_target_modules: .* merge the adapters first"):
        load(model_name_or_path=folder, use_peft=True, lora_target_modules=["q_proj"])


def test_adapters_of_another_model_are_refused(load, adapters, tmp_path):
    folder, _ = adapters
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "adapter_model.safetensors")
    renamed = {name.replace("layers.1.", "layers.9."): value for name, value in weights.items()}
    save_file(renamed, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text((folder / "adapter_config.json").read_text())
    with pytest.raises(ValueError, match="do not fit .*: .* of their weights have no place in it"):
        load(model_name_or_path=str(tmp_path), use_peft=True)


def test_a_base_that_is_gone_is_named_with_the_remedy(adapters, tmp_path, tiny_checkpoint):
    folder, _ = adapters
    config = (folder / "adapter_config.json").read_text()
    (tmp_path / "adapter_config.json").write_text(config.replace(tiny_checkpoint, str(tmp_path / "gone")))
    with pytest.raises(ValueError, match=r"belong to .*gone, which cannot be loaded: .*--base"):
        load_vlm_module(GRPOModelConfig(model_name_or_path=str(tmp_path), use_peft=True))


def test_a_folder_of_bare_adapters_takes_the_processor_of_its_base(adapters):
    folder, _ = adapters  # saved by peft alone
    model_args = GRPOModelConfig(model_name_or_path=str(folder), use_peft=True)
    assert load_processor(model_args, MODULE).tokenizer.pad_token_id is not None


# ---- whole runs ---------------------------------------------------------------------------------------------------


@pytest.fixture
def build(tiny_checkpoint, iqa_data, tmp_path):
    """Builds the trainer of the entry, as the command line does; keyword arguments are options."""
    reward = tmp_path / "my_rewards.py"
    reward.write_text(
        "def letters_reward(completions, **kwargs):\n"
        "    return [sum(c.isalpha() for c in completion[0]['content']) / 40 for completion in completions]\n"
    )

    def build_with(**options):
        defaults = {
            "model_name_or_path": tiny_checkpoint,
            "data_file_paths": iqa_data[0],
            "image_folders": iqa_data[1],
            "output_dir": tmp_path / "run",
            "reward_funcs": f"{reward}:letters_reward",
            "num_generations": 4,
            "per_device_train_batch_size": 8,
            "max_completion_length": 8,
            "learning_rate": 1e-2,
            "max_steps": 2,
            "report_to": "none",
            "save_strategy": "no",
            "use_cpu": "true",
            "disable_tqdm": "true",
        }
        return build_trainer(*parse_arguments([f"--{name}={value}" for name, value in (defaults | options).items()]))

    return build_with


def read_kl(trainer) -> list[float]:
    lines = (Path(trainer.args.output_dir) / "metrics.jsonl").read_text().splitlines()
    return [line["kl"] for line in map(json.loads, lines) if "kl" in line]


@needs_bitsandbytes
@pytest.mark.parametrize("bits, rounding", [("load_in_4bit", 1e-6), ("load_in_8bit", 1e-3)])  # 8 bit: float16
def test_a_run_on_a_quantised_base_moves_its_adapters_alone(build, bits, rounding):
    trainer = build(use_peft="true", **{bits: "true"}, gradient_checkpointing="true")
    before = copy_parameters(trainer.model)
    trainer.train()
    after = dict(trainer.model.named_parameters())
    moved = {name for name in before if not torch.equal(before[name].float(), after[name].detach().float())}
    assert moved and all(".lora_" in name for name in moved)
    assert trainer.ref_model is None
    start, later = read_kl(trainer)
    assert start == pytest.approx(0.0, abs=rounding) and later > rounding


def test_a_run_goes_on_from_adapters_and_leaves_adapters(build, adapters, batch, tmp_path):
    folder, expected = adapters
    trainer = build(model_name_or_path=folder, use_peft="true")
    trainer.train()
    start, later = read_kl(trainer)
    assert start == pytest.approx(0.0, abs=1e-6) and later > 1e-6
    torch.testing.assert_close(score(trainer.ref_model, batch), expected)
    trainer.save_model(str(tmp_path / "more"))
    scored = HFGenerator.from_pretrained(str(tmp_path / "more"), device="cpu").model
    torch.testing.assert_close(score(scored, batch), score(trainer.model, batch), atol=1e-5, rtol=1e-5)

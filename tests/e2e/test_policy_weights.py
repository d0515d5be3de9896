"""The policy's weights as another engine gets them: all, under their names, adapters merged, nothing changed."""

import pytest
import torch
from safetensors.torch import load_file

from open_r1.configs import GRPOModelConfig
from open_r1.trainer.loading import load_policy, load_vlm_module
from open_r1.trainer.policy_weights import PolicyWeights
from open_r1.trainer.vllm_grpo_trainer import check_policy


LORA = {"use_peft": True, "lora_r": 4}


@pytest.fixture
def load(tiny_checkpoint):
    """Loads the policy; its adapters are drawn, since new ones change nothing."""

    def load_model(**options) -> torch.nn.Module:
        model_args = GRPOModelConfig(model_name_or_path=tiny_checkpoint, **options)
        torch.manual_seed(0)
        model = load_policy(model_args, load_vlm_module(model_args))
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_" in name or "modules_to_save" in name:
                    parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
        return model

    return load_model


def copy_parameters(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float = 0.0) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=tolerance, msg=name)


def test_weights_of_a_model_come_as_its_parameters_are_called(load, tmp_path):
    model = load()
    assert_equal(dict(PolicyWeights(model)), copy_parameters(model))
    model.save_pretrained(tmp_path)
    assert len(dict(PolicyWeights(model))) == len(load_file(tmp_path / "model.safetensors"))


@pytest.mark.parametrize(
    "options",
    [
        LORA,
        LORA | {"use_dora": True},
        LORA | {"use_rslora": True, "lora_modules": ["language", "vision"]},
        LORA | {"lora_modules_to_save": ["merger.mlp.2"]},
    ],
    ids=["lora", "dora", "rslora of the tower too", "modules to save"],
)
def test_adapters_are_merged_as_peft_merges_them_and_the_model_stays_bit_for_bit(options, load):
    model, merged = load(**options), load(**options).merge_and_unload(safe_merge=True)
    before = copy_parameters(model)
    for _ in range(2):
        assert_equal(dict(PolicyWeights(model)), copy_parameters(merged), tolerance=1e-6)
        assert_equal(copy_parameters(model), before)
        assert not any(getattr(module, "merged_adapters", []) for module in model.modules())


def test_what_is_told_beforehand_is_what_comes(load):
    weights = PolicyWeights(load(**LORA), dtype=torch.bfloat16)
    told = [(info.name, info.dtype, info.shape) for info in weights.metadata()]
    assert told == [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in weights]
    assert {dtype for _, dtype, _ in told} == {torch.bfloat16}


def test_only_those_come_that_are_wanted(load):
    model = load()
    names = [name for name, _ in PolicyWeights(model, lambda name: "visual" not in name)]
    assert names == [name for name, _ in model.named_parameters() if "visual" not in name]


def test_one_layer_at_a_time_is_merged_and_an_error_in_the_middle_leaves_nothing_behind(load):
    model = load(**LORA)
    before = copy_parameters(model)
    weights = PolicyWeights(model)
    merged_at_once = []
    for _ in weights:
        merged = {name for name, module in model.named_modules() if getattr(module, "merged_adapters", [])}
        merged_at_once.append({name.split(".layers.")[1].split(".")[0] for name in merged})
        if len(merged_at_once) == len(before) // 2:
            break
    assert max(map(len, merged_at_once)) == 1
    weights.finish()
    assert_equal(copy_parameters(model), before)


@pytest.mark.parametrize("options", [{"load_in_4bit": True}, {"load_in_8bit": True}])
def test_quantised_weights_are_refused_since_vllm_would_draw_from_others(options, load):
    check_policy(load(**LORA))
    with pytest.raises(ValueError, match="vLLM would generate with other weights than those that are trained"):
        check_policy(load(**LORA, **options))

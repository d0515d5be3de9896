"""The table of families that the docs carry is the one that the tests prove; what is refused says why."""

from pathlib import Path

import pytest
from capabilities import CAPABILITIES, NO, YES, can, read_table, render_expected, render_outcomes
from families import FAMILIES
from transformers import AutoConfig, BertConfig, Cohere2VisionConfig, Gemma3Config, LlavaConfig, PretrainedConfig

from open_r1.vlm_modules import VLM_MODULES, select_vlm_module
from open_r1.vlm_modules.generic_module import GenericModule
from open_r1.vlm_modules.remote_code import load_config
from open_r1.vlm_modules.unsupported import UNSUPPORTED


ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("name", ["README.md", "docs/models.md"])
def test_the_docs_carry_the_table_of_the_tests(name):
    assert read_table(ROOT / name) == render_expected(), "PYTHONPATH=tests python tests/capabilities.py"


def test_every_model_type_of_the_registry_is_on_the_page():
    page = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    assert [name for name in VLM_MODULES if page.count(f"| `{name}`") < 2] == []


class Report:
    """Of pytest."""

    def __init__(self, outcome: str, **properties: str):
        self.outcome, self.user_properties = outcome, list(properties.items())


def test_a_session_prints_what_it_found_and_one_failure_is_enough():
    assert render_outcomes([Report("passed")]) is None
    found = [Report(outcome, model_type="aria", capability="LoRA") for outcome in ("passed", "failed", "passed")]
    found += [
        Report("passed", model_type="aria", capability="video"),
        Report("passed", model_type="glm4v", capability="video"),
    ]
    table = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in render_outcomes(found).splitlines()}
    cells = {name: dict(zip(CAPABILITIES, map(str.strip, row), strict=True)) for name, row in table.items()}
    assert (cells["`aria`"]["LoRA"], cells["`aria`"]["video"], cells["`aria`"]["one image"]) == ("FAILED", NO, "")
    assert cells["`glm4v`"]["video"] == YES == cells["`glm4v`"]["video"]
    assert not can("aria", "video")


@pytest.mark.parametrize("model_type", UNSUPPORTED)
def test_what_cannot_be_supported_is_refused_with_its_reason(model_type, tmp_path):
    (tmp_path / "config.json").write_text(f'{{"model_type": "{model_type}"}}')
    for trusted in (False, True):
        with pytest.raises(ValueError, match="transformers"):
            load_config(str(tmp_path), trust_remote_code=trusted)
    config = PretrainedConfig()
    config.model_type = model_type
    with pytest.raises(ValueError, match="Unsupported model type"):
        select_vlm_module(config)


def test_a_module_is_chosen_by_the_name_of_its_family_or_of_a_model_type():
    for name in ("generic", "llava"):
        assert type(select_vlm_module(BertConfig(), name)) is GenericModule
    assert type(select_vlm_module(BertConfig(), "qwen")) is VLM_MODULES["qwen2_vl"]
    with pytest.raises(ValueError, match=r"--vlm_module bert: known are aria.*path/to/file\.py:Class"):
        select_vlm_module(BertConfig(), "bert")


REFUSED = {
    "a language model": (BertConfig, "no image-text-to-text model"),
    "logits that are scaled": (Cohere2VisionConfig, "changes logits behind its output head"),
    "attention in both directions within an image": (Gemma3Config, "types of tokens"),
    "positions of three axes": (lambda: AutoConfig.for_model("qwen2_5_vl"), "positions of several dimensions"),
}


@pytest.mark.parametrize(("build_config", "reason"), REFUSED.values(), ids=REFUSED)
def test_the_generic_module_refuses_what_it_would_get_wrong(build_config, reason):
    with pytest.raises(ValueError, match=reason):
        GenericModule().get_model_class(build_config())


def test_the_generic_module_takes_what_it_was_made_for():
    assert GenericModule().get_model_class(LlavaConfig()).__name__ == "LlavaForConditionalGeneration"


def load_bounded(model_type: str, folder: Path, **bounds: int):
    FAMILIES[model_type]()[1].save_pretrained(folder)
    return VLM_MODULES[model_type]().load_processor(str(folder), **bounds).image_processor


def test_pixel_bounds_become_what_a_family_has(tmp_path):
    assert load_bounded("idefics3", tmp_path / "a", max_pixels=200**2).size["longest_edge"] == 168  # three tiles of 56
    assert load_bounded("aria", tmp_path / "b", max_pixels=980**2).max_image_size == 980
    assert load_bounded("aria", tmp_path / "c", max_pixels=980**2 - 1).max_image_size == 490
    for model_type, bounds in {
        "idefics3": {"max_pixels": 55**2},
        "smolvlm": {"min_pixels": 1},
        "aria": {"max_pixels": 480**2},
        "llava": {"max_pixels": 1000},
    }.items():
        with pytest.raises(ValueError, match="max_pixels"):
            load_bounded(model_type, tmp_path / model_type, **bounds)

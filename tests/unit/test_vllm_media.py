"""What of which family may go to vLLM, and under which names."""

from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES

from open_r1.inference.vllm_requests import check_vllm_family
from open_r1.vlm_modules import VLM_MODULES
from open_r1.vlm_modules.generic_module import GenericModule
from open_r1.vlm_modules.qwen_module import QwenVLModule


ROOT = Path(__file__).parents[2]


class HeirModule(QwenVLModule):
    """A user's family that starts from one which vLLM takes."""


@pytest.mark.parametrize("module", [VLM_MODULES["qwen2_5_omni_thinker"](), GenericModule(), HeirModule()])
def test_a_family_that_says_nothing_of_vllm_is_refused_whatever_its_parent_says(module):
    with pytest.raises(ValueError, match=rf"--use_vllm.*--engine vllm.*family {module.get_vlm_key()} .*leave it out"):
        check_vllm_family(module)


def test_what_vllm_does_not_take_of_a_family_is_refused_by_name():
    check_vllm_family(VLM_MODULES["idefics3"]())
    check_vllm_family(VLM_MODULES["smolvlm"](), ["image", "video"])
    with pytest.raises(ValueError, match="videos with models of the family idefics are not supported"):
        check_vllm_family(VLM_MODULES["idefics3"](), ["image", "video"])
    with pytest.raises(ValueError, match="sounds with models of the family qwen are not supported"):
        check_vllm_family(VLM_MODULES["qwen2_vl"](), ["video", "audio"])


def test_a_glm_whose_biases_vllm_would_leave_out_is_refused():
    config, _ = FAMILIES["glm4v"]()
    VLM_MODULES["glm4v"]().check_engine_config(config)
    config.text_config.attention_bias = False
    with pytest.raises(ValueError, match=r"`attention_bias`.*config\.json"):
        VLM_MODULES["glm4v"]().check_engine_config(config)


def test_the_page_names_every_model_type_that_is_refused():
    section = (ROOT / "docs" / "models.md").read_text(encoding="utf-8").split("## With vLLM")[1].split("\n## ")[0]
    refused = [name for name, module_class in VLM_MODULES.items() if not module_class.vllm_media]
    assert refused
    assert [name for name in refused if f"`{name}`" not in section] == []


def encode_video(model_type: str, num_frames: int) -> tuple:
    _, processor = FAMILIES[model_type]()
    module = VLM_MODULES[model_type]()
    frames = np.random.default_rng(0).integers(0, 255, (num_frames, 56, 84, 3), dtype=np.uint8)
    item = module.encode_video(processor, frames, [0.5 * index for index in range(num_frames)], 0.5)
    return item, module.build_engine_inputs(processor, item)


def test_a_video_of_glm_is_one_video_to_vllm_though_the_model_sees_images():
    item, given = encode_video("glm4v", num_frames=6)
    assert item.inputs["image_grid_thw"].tolist() == [[1, 4, 6]] * 3
    assert given["video_grid_thw"].tolist() == [[3, 4, 6]]
    assert given["pixel_values_videos"] is item.inputs["pixel_values"]


@pytest.mark.parametrize(("model_type", "name"), [("internvl", "image_num_patches"), ("smolvlm", "num_patches")])
def test_a_video_of_frames_is_an_image_of_as_many_tiles_to_vllm(model_type, name):
    item, given = encode_video(model_type, num_frames=5)
    assert given[name].tolist() == [5] == [len(item.inputs["pixel_values"])]


@pytest.mark.parametrize("milliseconds", [500, 700, 1300, 1733])
def test_vllm_places_the_steps_of_a_video_where_transformers_does(milliseconds):
    _, processor = FAMILIES["qwen2_5_vl"]()
    frames = np.zeros((4, 56, 56, 3), dtype=np.uint8)
    times = [index * milliseconds / 1000 for index in range(4)]
    item = VLM_MODULES["qwen2_5_vl"]().encode_video(processor, frames, times, milliseconds / 1000)
    seconds = item.inputs["second_per_grid_ts"]
    steps, tokens_per_second = 256, 2
    by_transformers = (torch.arange(steps) * (tokens_per_second * seconds)).long().tolist()
    factor = seconds.item() * tokens_per_second  # as vLLM multiplies
    assert [int(step * factor) for step in range(steps)] == by_transformers

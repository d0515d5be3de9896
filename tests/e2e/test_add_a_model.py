"""The example of docs/add-a-model.md works as it stands there: a file, an option, a line."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from builders import ask, make_image
from datasets import Dataset
from families import PLAIN_CHAT_TEMPLATE, TILE, TILE_VISION, get_text_settings, wrap_plain_tokenizer
from transformers import AutoConfig

from open_r1.configs import GRPOModelConfig
from open_r1.inference.generator import SamplingSettings
from open_r1.inference.hf_generator import HFGenerator
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.grpo_trainer import VLMGRPOTrainer
from open_r1.trainer.loading import load_policy, load_processor, load_vlm_module
from open_r1.vlm_modules import VLM_MODULES, select_vlm_module


PAGE = (Path(__file__).parents[2] / "docs" / "add-a-model.md").read_text(encoding="utf-8")
MODULE, LINE = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.fixture(scope="module")
def module_option(tmp_path_factory) -> str:
    """`path/to/file.py:Class`."""
    path = tmp_path_factory.mktemp("module") / "vip_llava_module.py"
    path.write_text(MODULE, encoding="utf-8")
    return f"{path}:VipLlavaModule"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    """A model of a type that is in no registry."""
    from transformers import CLIPImageProcessor, LlavaProcessor, VipLlavaConfig, VipLlavaForConditionalGeneration

    folder = tmp_path_factory.mktemp("vipllava")
    tokenizer = wrap_plain_tokenizer()
    image_processor = CLIPImageProcessor(size={"shortest_edge": TILE}, crop_size={"height": TILE, "width": TILE})
    settings = {"patch_size": 28, "vision_feature_select_strategy": "default", "num_additional_image_tokens": 1}
    LlavaProcessor(image_processor, tokenizer, chat_template=PLAIN_CHAT_TEMPLATE, **settings).save_pretrained(folder)
    config = VipLlavaConfig(
        text_config={"model_type": "llama", **get_text_settings(tokenizer)},
        vision_config={**TILE_VISION, "model_type": "clip_vision_model", "patch_size": 28, "num_hidden_layers": 3},
        vision_feature_layers=[-2, 1],
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        VipLlavaForConditionalGeneration(config).save_pretrained(folder)
    return str(folder)


def some_reward(completion_ids, **columns):
    return [float(ids[0] % 5) for ids in completion_ids]


def test_a_module_of_ones_own_trains_a_model_of_an_unknown_type(checkpoint, module_option, tmp_path):
    with pytest.raises(ValueError, match=r"'vipllava'.*--vlm_module generic.*add-a-model\.md"):
        load_vlm_module(GRPOModelConfig(model_name_or_path=checkpoint))
    model_args = GRPOModelConfig(model_name_or_path=checkpoint, vlm_module=module_option)
    vlm_module = load_vlm_module(model_args)
    make_image(84, 56).save(tmp_path / "a.png")
    row = {"id": "1", "dataset_name": "A", "source": "a.jsonl:1", "image_path": [str(tmp_path / "a.png")]}
    trainer = VLMGRPOTrainer(
        load_policy(model_args, vlm_module),
        None,
        [some_reward],
        GRPOConfig(
            output_dir=str(tmp_path / "run"),
            num_generations=4,
            per_device_train_batch_size=4,
            max_completion_length=4,
            max_steps=2,
            learning_rate=1e-3,
            beta=0.0,
            report_to="none",
            save_strategy="no",
            use_cpu=True,
            disable_tqdm=True,
            dataloader_num_workers=1,
        ),
        vlm_module=vlm_module,
        processing_class=load_processor(model_args, vlm_module),
        train_dataset=Dataset.from_list([row | {"prompt": ask("?", 1)}]),
    )
    before = {name: value.detach().clone() for name, value in trainer.model.named_parameters()}
    trainer.train()
    moved = {name for name, value in trainer.model.named_parameters() if not torch.equal(value, before[name])}
    assert trainer.scorer.is_packed  # the first group agreed with replicated rows
    assert any("layers.1." in name and "vision_tower" in name for name in moved)
    assert not any("layers.2." in name and "vision_tower" in name for name in moved)  # behind the second to last


def test_the_example_sees_its_picture_and_generates(checkpoint, module_option):
    generator = HFGenerator.from_pretrained(checkpoint, device="cpu", vlm_module_name=module_option)
    prompts = [generator.encode(ask("?", 1), [make_image(56, 56, seed)]) for seed in range(2)]
    features = [generator.vlm_module.compute_features(generator.model, prompt.media)[0][0] for prompt in prompts]
    assert features[0].shape[-2] == 4
    assert not np.allclose(*[feature.detach() for feature in features])
    completions = generator.generate(prompts, 2, SamplingSettings(max_new_tokens=3, temperature=0))
    assert len(completions.token_ids) == 4


def test_the_line_adds_it_to_the_registry(checkpoint, monkeypatch):
    names = {"VLM_MODULES": dict(VLM_MODULES)}
    exec(MODULE, names)  # what this page says, and nothing else
    exec(LINE, names)
    monkeypatch.setitem(VLM_MODULES, "vipllava", names["VLM_MODULES"]["vipllava"])
    assert type(select_vlm_module(AutoConfig.from_pretrained(checkpoint))).__name__ == "VipLlavaModule"
    assert select_vlm_module(AutoConfig.from_pretrained(checkpoint), "vip_llava").get_vlm_key() == "vip_llava"


BROKEN = {
    "no such file": ("nowhere.py:A", "no file nowhere.py"),
    "no such class": ("{path}:B", "has no class B"),
    "no module": ("{path}:A", "has no class A that is a VLMBaseModule"),
    "something missing": ("{path}:C", "C does not say compute_features"),
}


@pytest.mark.parametrize(("option", "message"), BROKEN.values(), ids=BROKEN)
def test_a_file_that_holds_no_module_is_refused_with_what_is_wrong(checkpoint, tmp_path, option, message):
    path = tmp_path / f"broken_{abs(hash(message))}.py"
    path.write_text("from open_r1.vlm_modules import VLMBaseModule\nclass A: ...\nclass C(VLMBaseModule): ...\n")
    with pytest.raises(ValueError, match=message):
        select_vlm_module(AutoConfig.from_pretrained(checkpoint), option.format(path=path))

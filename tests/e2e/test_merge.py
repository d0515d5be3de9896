"""Merging adapters: the merged checkpoint says what the adapters said."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from builders import ask, make_image
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import (
    AutoConfig,
    AutoProcessor,
    GenerationConfig,
    PreTrainedModel,
    Qwen2_5_VLForConditionalGeneration,
)

from open_r1.inference.generator import SamplingSettings
from open_r1.inference.hf_generator import HFGenerator
from open_r1.merge import main


TARGETS = ["q_proj", "v_proj", "down_proj", "qkv"]  # of both towers
KINDS = {
    "lora": {"target_modules": TARGETS},
    "rslora": {"target_modules": TARGETS, "use_rslora": True},
    "dora": {"target_modules": TARGETS, "use_dora": True},
    "lora and a whole projector": {"target_modules": TARGETS, "modules_to_save": ["merger"]},
}


def merge(*arguments: str | Path) -> None:
    """The command without the seconds that a process takes to start."""
    main([*map(str, arguments)])


def write_adapters(base: str, folder: Path, settings: dict) -> Path:
    """Random adapters, far from zero, without a processor, as peft alone saves them."""
    model = Qwen2_5_VLForConditionalGeneration.from_pretrained(base)
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, task_type="CAUSAL_LM", **settings))
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.05 * torch.randn_like(parameter))
    adapted.save_pretrained(folder)
    return folder


def compute_logits(model: PreTrainedModel, checkpoint: str) -> torch.Tensor:
    processor = AutoProcessor.from_pretrained(checkpoint)
    text = processor.apply_chat_template(ask("How good?", 1), tokenize=False, add_generation_prompt=True)
    inputs = processor(text=[text], images=[make_image(84, 56)], return_tensors="pt")
    with torch.no_grad():
        return model.eval()(**inputs).logits


@pytest.mark.parametrize("settings", KINDS.values(), ids=KINDS)
def test_the_merged_model_says_what_the_adapters_said(settings, tiny_checkpoint, tmp_path):
    adapters = write_adapters(tiny_checkpoint, tmp_path / "adapters", settings)
    merge("--adapters", adapters, "--output", tmp_path / "merged")
    base = Qwen2_5_VLForConditionalGeneration.from_pretrained(tiny_checkpoint)
    plain = compute_logits(base, tiny_checkpoint)
    expected = compute_logits(PeftModel.from_pretrained(base, adapters), tiny_checkpoint)
    assert (expected - plain).abs().max() > 0.1
    merged = Qwen2_5_VLForConditionalGeneration.from_pretrained(tmp_path / "merged")
    torch.testing.assert_close(compute_logits(merged, str(tmp_path / "merged")), expected, atol=1e-5, rtol=1e-5)


def test_the_merged_checkpoint_is_an_ordinary_one(tiny_checkpoint, tmp_path):
    adapters = write_adapters(tiny_checkpoint, tmp_path / "adapters", KINDS["lora"])
    output = tmp_path / "merged"
    command = [sys.executable, "-m", "open_r1.merge", "--adapters", adapters, "--output", output]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    result = subprocess.run(
        [*command, "--dtype", "bfloat16"], env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert (output / "model.safetensors").is_file() and not list(output.glob("adapter*"))
    config, base_config = AutoConfig.from_pretrained(output), AutoConfig.from_pretrained(tiny_checkpoint)
    assert config.dtype == torch.bfloat16
    assert config.text_config.use_cache == base_config.text_config.use_cache is True
    assert GenerationConfig.from_pretrained(output) == GenerationConfig.from_pretrained(tiny_checkpoint)
    generator = HFGenerator.from_pretrained(str(output), device="cpu")  # what `open_r1.score` loads
    prompt = generator.encode(ask("How good?", 1), [make_image(84, 56)])
    greedy = SamplingSettings(max_new_tokens=4, temperature=0.0)
    assert len(generator.generate([prompt], 1, greedy).token_ids) == 1
    assert generator.model.dtype == torch.bfloat16


def test_a_base_that_moved_is_named_by_hand(tiny_checkpoint, tmp_path):
    adapters = write_adapters(tiny_checkpoint, tmp_path / "adapters", KINDS["lora"])
    path = adapters / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": str(tmp_path / "gone")}))
    arguments = ["--adapters", adapters, "--output", tmp_path / "merged"]
    with pytest.raises(ValueError, match="gone, which cannot be loaded: .*--base"):
        merge(*arguments)
    merge(*arguments, "--base", tiny_checkpoint)
    assert (tmp_path / "merged" / "model.safetensors").is_file()


def test_wrong_folders_are_refused_and_nothing_is_written(tiny_checkpoint, tmp_path):
    adapters = write_adapters(tiny_checkpoint, tmp_path / "adapters", KINDS["lora"])
    full, new = tmp_path / "full", tmp_path / "new"
    full.mkdir()
    (full / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"no adapter_config\.json"):
        merge("--adapters", tiny_checkpoint, "--output", new)
    with pytest.raises(ValueError, match="is not empty"):
        merge("--adapters", adapters, "--output", full)
    for taken in (adapters, tiny_checkpoint):
        with pytest.raises(ValueError, match="is what is merged"):
            merge("--adapters", adapters, "--output", taken, "--overwrite")
    assert [path.name for path in full.iterdir()] == ["notes.txt"] and not new.exists()
    merge("--adapters", adapters, "--output", full, "--overwrite")
    assert (full / "model.safetensors").is_file() and (full / "notes.txt").is_file()

"""DeepSpeed's and accelerate's files: they load, every key is known to its reader, the settings are those meant."""

import json
from pathlib import Path

import pytest


ROOT = Path(__file__).parents[2]
DEEPSPEED_FILES = sorted((ROOT / "local_scripts").glob("*.json"))
ACCELERATE_FILES = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
AUTO = ("gradient_accumulation_steps", "gradient_clipping", "train_batch_size", "train_micro_batch_size_per_gpu")


def load(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def test_there_is_a_file_for_every_way_to_spread_a_model():
    found = {path.stem: load(path)["zero_optimization"] for path in DEEPSPEED_FILES}
    parts = ("offload_optimizer", "offload_param")
    devices = {name: [zero.get(part, {}).get("device") for part in parts] for name, zero in found.items()}
    assert {name: [found[name]["stage"], *devices[name]] for name in found} == {
        "zero2": [2, "none", None],
        "zero2_offload": [2, "cpu", None],
        "zero3": [3, "none", "none"],
        "zero3_offload": [3, "cpu", "cpu"],
    }


@pytest.mark.parametrize("path", DEEPSPEED_FILES, ids=lambda path: path.name)
def test_batches_and_precision_come_from_the_command(path):
    config = load(path)
    assert {config[name] for name in AUTO} | {config["bf16"]["enabled"], config["fp16"]["enabled"]} == {"auto"}
    assert set(config.get("optimizer", {}).get("params", {"lr": "auto"}).values()) == {"auto"}


@pytest.mark.parametrize("path", DEEPSPEED_FILES, ids=lambda path: path.name)
def test_weights_in_slices_are_gathered_for_saving(path):
    zero = load(path)["zero_optimization"]
    assert zero["stage"] < 3 or zero["stage3_gather_16bit_weights_on_model_save"] is True


@pytest.mark.parametrize("path", DEEPSPEED_FILES, ids=lambda path: path.name)
def test_deepspeed_knows_every_key(path):
    pytest.importorskip("deepspeed")
    from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

    zero = load(path)["zero_optimization"]
    settings = {name: value for name, value in zero.items() if value != "auto"}
    assert DeepSpeedZeroConfig(**settings).stage == zero["stage"]
    unknown = set(zero) - set(DeepSpeedZeroConfig.model_fields)
    aliases = {field.alias for field in DeepSpeedZeroConfig.model_fields.values()}
    assert unknown - aliases == set()


@pytest.mark.parametrize("path", ACCELERATE_FILES, ids=lambda path: path.name)
def test_accelerate_knows_every_key_and_finds_what_it_names(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))  # refuses keys that it does not know
    assert config.num_processes == 8 and config.num_machines == 1
    file = (config.deepspeed_config or {}).get("deepspeed_config_file")
    assert (file is None) == (path.stem in ("ddp", "fsdp2"))
    if file is not None:
        assert (ROOT / file).is_file() and Path(file).stem == path.stem
        assert config.mixed_precision is None  # beside such a file accelerate refuses it

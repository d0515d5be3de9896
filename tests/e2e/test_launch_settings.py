"""DeepSpeed's settings, what is refused, and the watch over stages, all without starting a process."""

import json
import logging
import time

import pytest
import torch

from open_r1.trainer import watchdog
from open_r1.trainer.distributed import adapt_to_cpu, find_deepspeed_config, load_deepspeed_config
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.trainer.metrics import MetricStore
from open_r1.trainer.precision import warn_of_lost_updates
from open_r1.trainer.watchdog import StageWatch


@pytest.mark.parametrize(
    "path", ["zero3.json", "local_scripts/zero3.json", "configs/zero3.json", "configs/deepspeed_zero3.json"]
)
def test_a_settings_file_is_found_by_its_name(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = find_deepspeed_config(path)
    assert found.name == "zero3.json" and found.parent.name == "local_scripts"


def test_the_file_itself_and_the_working_folder_come_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    own = tmp_path / "configs" / "zero3.json"
    own.write_text("{}")
    assert find_deepspeed_config("elsewhere/zero3.json") == own
    assert find_deepspeed_config(str(own)) == own


def test_a_missing_file_is_refused_with_those_that_there_are():
    with pytest.raises(ValueError, match="zero5.json: there is no such file. There are: .*zero2.json.*zero3.json"):
        find_deepspeed_config("local_scripts/zero5.json")


def test_settings_are_completed_by_the_options_of_the_run():
    config = load_deepspeed_config('{"zero_optimization": {"stage": 3}}')
    assert config["gradient_clipping"] == "auto" and config["bf16"] == {"enabled": "auto"}
    assert config["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] is True


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"zero_optimization": {"stage": 0}}, "ZeRO stage 0 spreads nothing"),
        ({}, "ZeRO stage 0 spreads nothing"),
        (
            {"zero_optimization": {"stage": 3, "stage3_gather_16bit_weights_on_model_save": False}},
            "would leave no model",
        ),
        ("{not json", "not valid JSON"),
    ],
)
def test_settings_that_cannot_work_are_refused(config, complaint):
    with pytest.raises(ValueError, match=complaint):
        load_deepspeed_config(config)


@pytest.mark.parametrize("name", ["zero2.json", "zero2_offload.json", "zero3.json", "zero3_offload.json"])
def test_every_shipped_file_loads_and_can_be_adapted_to_cpus(name):
    config = load_deepspeed_config(name)
    adapted = adapt_to_cpu(config)
    assert adapted["zero_optimization"]["overlap_comm"] is False
    assert adapted["zero_optimization"]["stage"] == int(name[4])
    assert ("optimizer" in adapted) == ("offload" in name)
    assert config == load_deepspeed_config(name)  # the settings themselves are left alone


@pytest.mark.parametrize(
    ("fsdp", "config", "complaint"),
    [
        ("full_shard", {"version": 1}, "FSDP version 1 is not supported: take version 2"),
        ("full_shard", '{"fsdp_version": 1}', "FSDP version 1"),
        (True, {"cpu_ram_efficient_loading": True}, "cpu_ram_efficient_loading is refused"),
        (True, {"fsdp_activation_checkpointing": "true"}, "take --gradient_checkpointing"),
        ("full_shard offload", None, "cpu_offload is refused: take --deepspeed zero3_offload.json"),
    ],
)
def test_fsdp_is_refused_where_it_cannot_work(fsdp, config, complaint, tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match=complaint):
        GRPOConfig(output_dir=str(tmp_path), use_cpu=True, fsdp=fsdp, fsdp_config=config)


@pytest.mark.parametrize(
    ("variables", "complaint"),
    [
        ({}, "FSDP version 1 is not supported: take version 2"),
        ({"FSDP_VERSION": "2", "FSDP_OFFLOAD_PARAMS": "true"}, "cpu_offload is refused"),
        ({"FSDP_VERSION": "2", "WORLD_SIZE": "1"}, "there is one: leave it out"),
    ],
)
def test_fsdp_of_accelerate_launch_is_refused_where_it_cannot_work(variables, complaint, tmp_path, monkeypatch):
    for name, value in ({"ACCELERATE_USE_FSDP": "true", "WORLD_SIZE": "2"} | variables).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match=complaint):
        GRPOConfig(output_dir=str(tmp_path), use_cpu=True)


def test_fsdp_and_deepspeed_exclude_each_other(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="leave one of them out"):
        GRPOConfig(output_dir=str(tmp_path), use_cpu=True, fsdp=True, deepspeed="zero3.json")


def test_layerwise_generation_allows_no_evaluation(tmp_path):
    with pytest.raises(ValueError, match="allows no evaluation"):
        GRPOConfig(output_dir=str(tmp_path), use_cpu=True, ds3_gather_for_generation=False, eval_strategy="epoch")


def build_parameters(dtype: torch.dtype) -> list[torch.nn.Parameter]:
    return [torch.nn.Parameter(torch.ones(2, dtype=dtype)), torch.nn.Parameter(torch.ones(2), requires_grad=False)]


@pytest.mark.parametrize(
    ("dtype", "learning_rate", "has_copy", "warns"),
    [
        (torch.bfloat16, 1e-6, False, True),
        (torch.bfloat16, 1e-6, True, False),
        (torch.bfloat16, 1e-4, False, False),
        (torch.float32, 1e-6, False, False),
    ],
)
def test_updates_that_would_be_lost_are_warned_of(caplog, dtype, learning_rate, has_copy, warns):
    with caplog.at_level(logging.WARNING):
        warn_of_lost_updates(build_parameters(dtype), learning_rate, has_copy)
    assert ("most updates are smaller" in caplog.text) == warns


# ---- watch ------------------------------------------------------------------------------------------------------


@pytest.fixture
def watches(monkeypatch) -> list[StageWatch]:
    """Two processes that meet at a store in memory; signs of life every fifth of a second."""
    store = torch.distributed.HashStore()
    monkeypatch.setattr(watchdog, "has_launcher", lambda: True)
    monkeypatch.setattr(watchdog, "meet", lambda: (store, 0, 2))
    return [StageWatch(rank, 2, timeout_s=1.0) for rank in (0, 1)]


def test_a_process_that_fails_names_its_stage_and_those_that_are_elsewhere(watches, caplog):
    first, second = watches
    with second, second.stage("reward"):
        time.sleep(0.5)
        with pytest.raises(RuntimeError), first, first.stage("round"), first.stage("gather"):
            raise RuntimeError("timed out")
    assert "rank 0 fails in stage gather after 0 s there (RuntimeError); rank 1 is in stage reward for" in caplog.text


def test_a_process_that_died_gives_no_sign_of_life(watches, caplog):
    first, second = watches
    with second:
        pass
    with pytest.raises(RuntimeError), first:
        time.sleep(0.5)
        raise RuntimeError("connection closed")
    assert "rank 1 gave no sign of life for" in caplog.text


def test_the_first_process_warns_once_when_half_of_the_time_has_passed(watches, caplog):
    with watches[0] as watch, watch.stage("generate"):
        time.sleep(1.2)
    warnings = [record.message for record in caplog.records]
    assert len(warnings) == 1
    assert warnings[0].startswith("rank 0 is in stage generate for 1 s; processes wait 1 s for each other")
    assert warnings[0].endswith("rank 1 has not begun")


def test_a_single_process_starts_no_watch():
    with StageWatch(0, 1, timeout_s=1.0) as watch, watch.stage("generate"):
        assert watch._thread is None


def test_timed_blocks_are_stages():
    watch = StageWatch(0, 1, timeout_s=1.0)
    with MetricStore(watch).timed("reward"):
        assert watch._locate().stage == "reward"
    assert json.loads(json.dumps(watch._locate().num_entered)) == 2

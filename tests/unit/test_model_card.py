"""The card beside a model says what the run was, and what a user wrote in its place stays."""

import json

import yaml

from open_r1.configs import GRPOModelConfig, GRPOScriptArguments
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.utils.model_card import write_model_card
from open_r1.utils.provenance import hash_file, write_run_info


def write_run(folder, **model):
    data = folder / "train.jsonl"
    data.parent.mkdir(parents=True, exist_ok=True)
    data.write_text("{}\n")
    configs = {
        "script": GRPOScriptArguments(data_file_paths=[str(data)], image_folders=["."], task_type="iqa"),
        "training": GRPOConfig(output_dir=str(folder), report_to="none", use_cpu=True, reward_weights=[2.0, 1.0]),
        "model": GRPOModelConfig(model_name_or_path="org/base", **model),
    }
    write_run_info(str(folder), configs, [str(data)])
    lines = [{"step": 1, "reward": 0.1, "kl": 0.0}, {"step": 2, "reward": 0.625}, {"step": 2, "train_runtime": 9.0}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return data


def read_card(folder) -> tuple[dict, str]:
    _, front, text = (folder / "README.md").read_text().split("---\n", 2)
    return yaml.safe_load(front), text


def test_the_card_names_base_data_rewards_settings_metrics_and_code(tmp_path):
    data = write_run(tmp_path / "run")
    write_model_card(tmp_path / "run")
    front, text = read_card(tmp_path / "run")
    assert front["base_model"] == "org/base" and front["library_name"] == "transformers"
    assert front["tags"] == ["grpo", "open_r1", "iqa"]
    assert f"| {data} | {hash_file(data)} |" in text
    assert "| fidelity | 2 |" in text and "reinforcement learning to rank" in text
    assert "| beta | 0.04 |" in text
    assert "| reward | 0.625 |" in text and "| kl | 0 |" in text  # the last value of each
    assert "Code: commit" in text and "transformers 5" in text


def test_adapters_are_called_adapters(tmp_path):
    write_run(tmp_path / "run", use_peft=True)
    write_model_card(tmp_path / "run")
    front, text = read_card(tmp_path / "run")
    assert front["library_name"] == "peft" and "adapters (LoRA) of `org/base`" in text


def test_supervised_fine_tuning_is_not_called_grpo(tmp_path):
    write_run(tmp_path / "run")
    info = json.loads((tmp_path / "run" / "run.json").read_text())
    del info["config"]["training"]["num_generations"], info["config"]["script"]["reward_funcs"]
    (tmp_path / "run" / "run.json").write_text(json.dumps(info))
    write_model_card(tmp_path / "run")
    front, text = read_card(tmp_path / "run")
    assert front["tags"][0] == "sft" and "supervised" in text and "## Rewards" not in text


def test_a_card_is_written_anew_and_a_users_own_text_stays(tmp_path):
    write_run(tmp_path / "run")
    for reward in (0.5, 0.75):
        (tmp_path / "run" / "metrics.jsonl").write_text(json.dumps({"step": 3, "reward": reward}) + "\n")
        write_model_card(tmp_path / "run")
    assert "| reward | 0.75 |" in read_card(tmp_path / "run")[1]
    (tmp_path / "run" / "README.md").write_text("mine")
    write_model_card(tmp_path / "run")
    assert (tmp_path / "run" / "README.md").read_text() == "mine"


def test_a_torn_line_of_metrics_does_not_keep_a_run_from_its_card(tmp_path):
    write_run(tmp_path / "run")
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"step": 3, "rew')
    write_model_card(tmp_path / "run")
    assert "| reward | 0.625 |" in read_card(tmp_path / "run")[1]
    (tmp_path / "run" / "metrics.jsonl").write_text("{")
    write_model_card(tmp_path / "run")
    assert "| reward |" not in read_card(tmp_path / "run")[1].partition("## Metrics")[2]


def test_without_a_record_of_the_run_there_is_no_card(tmp_path):
    write_model_card(tmp_path)
    assert not (tmp_path / "README.md").exists()

"""The command line of vLLM's server, as `vllm_serve` builds it."""

import json
from pathlib import Path

import pytest

from open_r1.inference.vllm_server_checks import SHAPE_KEY
from open_r1.vllm_serve import build_command, build_environment, build_parser, check_plugin


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A folder with a configuration; nothing is loaded."""
    config = {"model_type": "qwen2_5_vl", "text_config": {"hidden_size": 64}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    return str(tmp_path)


def build(model: str, *options: str, has_cuda: bool = True) -> list[str]:
    args, further = build_parser().parse_known_args(["--model", model, *options])
    return build_command(args, further, has_cuda)


def read(command: list[str], flag: str) -> str:
    return command[command.index(flag) + 1]


def test_the_server_is_started_with_what_training_needs(model):
    command = build(model, "--port", "8001")
    assert {"--enable-scale-out", "--no-mm-device-do-normalize"} <= set(command)
    assert read(command, "--model") == model
    assert read(command, "--port") == "8001"
    assert read(command, "--host") == "127.0.0.1"
    assert read(command, "--mm-processor-cache-gb") == "0"
    assert read(command, "--logprobs-mode") == "processed_logprobs"
    assert json.loads(read(command, "--additional-config"))[SHAPE_KEY]["text_config.hidden_size"] == 64


@pytest.mark.parametrize(
    "options, has_cuda, backend",
    [((), True, "nccl"), ((), False, "gloo"), (("--weight_transfer", "gloo"), True, "gloo")],
)
def test_weights_come_over_nccl_where_there_is_cuda(model, options, has_cuda, backend):
    command = build(model, *options, has_cuda=has_cuda)
    assert json.loads(read(command, "--weight-transfer-config")) == {"backend": backend}


def test_options_of_vllms_own_come_last(model):
    assert build(model, "--max-num-seqs", "64")[-2:] == ["--max-num-seqs", "64"]


def test_a_folder_of_adapters_stands_for_its_base(model, tmp_path_factory, caplog):
    adapters = {"peft_type": "LORA", "base_model_name_or_path": model, "revision": "abc"}
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "adapter_config.json").write_text(json.dumps(adapters))
    command = build(str(folder))
    assert read(command, "--model") == model
    assert read(command, "--revision") == "abc"
    assert "starts with their base" in caplog.text


def test_the_environment_opens_the_endpoints_for_training_and_lets_threads_where_they_are():
    environment = build_environment({"PYTHONPATH": "/own"}, has_cuda=False)
    assert environment["VLLM_SERVER_DEV_MODE"] == "1"
    assert environment["VLLM_CPU_OMP_THREADS_BIND"] == "nobind"
    assert environment["PYTHONPATH"].endswith(":/own")
    assert (
        build_environment({"VLLM_CPU_OMP_THREADS_BIND": "0-3"}, has_cuda=False)["VLLM_CPU_OMP_THREADS_BIND"] == "0-3"
    )
    assert "VLLM_CPU_OMP_THREADS_BIND" not in build_environment({}, has_cuda=True)


def test_an_installation_without_the_plugin_is_told_to_install_again(monkeypatch, tmp_path):
    metadata = tmp_path / "open_r1-0.1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Name: open_r1\nVersion: 0.1.0\n")
    monkeypatch.setattr("open_r1.vllm_serve.__file__", str(tmp_path / "open_r1" / Path("vllm_serve.py")))
    with pytest.raises(ImportError, match="pip install -e"):
        check_plugin()
    (metadata / "entry_points.txt").write_text(
        "[vllm.general_plugins]\nopen_r1 = open_r1.inference.vllm_plugin:register\n"
    )
    check_plugin()

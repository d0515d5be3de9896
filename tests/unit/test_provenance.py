"""A run says what it was, and keeps secrets to itself."""

import hashlib
import json
import subprocess
import sys

from open_r1.configs import GRPOModelConfig
from open_r1.trainer.grpo_config import GRPOConfig
from open_r1.utils.provenance import hash_file, write_run_info


def test_run_information_has_data_hashes_versions_and_settings_but_no_token(tmp_path):
    data = tmp_path / "train.jsonl"
    data.write_text("{}\n")
    args = GRPOConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True, hub_token="my-secret")
    configs = {"training": args, "model": GRPOModelConfig(model_name_or_path="m")}
    path = write_run_info(str(tmp_path / "run"), configs, [str(data)])
    info = json.loads(path.read_text())
    assert info["data"] == {str(data): hashlib.sha256(b"{}\n").hexdigest()}
    assert info["config"]["training"]["num_generations"] == 8
    assert info["config"]["model"]["model_name_or_path"] == "m"
    assert info["versions"]["torch"].startswith("2.")
    assert "my-secret" not in path.read_text()


def test_secrets_on_the_command_line_are_hidden_and_nothing_else_is(tmp_path, monkeypatch):
    words = ["grpo_jsonl", "--hub_token", "hf_1", "--hub-token=hf_2", "--average_tokens_across_devices", "true"]
    monkeypatch.setattr(sys, "argv", words)
    args = GRPOConfig(output_dir=str(tmp_path), report_to="none", use_cpu=True)
    info = json.loads(write_run_info(str(tmp_path / "run"), {"training": args}, []).read_text())
    hidden = ["--hub_token", "<hidden>", "--hub-token=<hidden>"]
    assert info["command"] == ["grpo_jsonl", *hidden, "--average_tokens_across_devices", "true"]
    assert info["config"]["training"]["average_tokens_across_devices"] is True


def test_the_hash_of_a_file_is_its_sha256(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 3_000_000)
    assert hash_file(path) == hashlib.sha256(b"x" * 3_000_000).hexdigest()


def test_importing_the_package_makes_torchvision_usable_beside_any_torch():
    code = (
        "import open_r1, sys; assert 'torch' not in sys.modules; "
        "import torchvision.transforms.functional as F, torch; print(F.resize(torch.zeros(3, 8, 8), [4, 4]).shape)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "torch.Size([3, 4, 4])" in result.stdout, result.stderr

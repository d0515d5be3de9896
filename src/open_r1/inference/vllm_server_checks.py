"""Whether a vLLM server is one that training can use; where not, the message says how to start it."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from open_r1.inference.vllm_client import GENERATE_PATH, ServerClient
from open_r1.inference.vllm_engine import REQUIRED_OPTIONS, SUPPORTED_VERSIONS, EngineError, EngineSettings
from open_r1.vlm_modules.remote_code import load_config


if TYPE_CHECKING:
    from transformers import PretrainedConfig

TRANSFERS = ("nccl", "gloo")
_SIZES = re.compile(r"model_type|(^|_)(size|layers|heads|dim|depth|channels|experts|length)$")
SHAPE_KEY = "open_r1_model_shape"  # in the server's additional configuration


@dataclass(frozen=True, kw_only=True)
class ServerInfo:
    """What the trainer must know of a server. Example: float32 on two CPUs is `ServerInfo(dtype=torch.float32,
    transfer="gloo", num_workers=2)`."""

    dtype: torch.dtype
    transfer: str  # one of TRANSFERS
    num_workers: int


def describe_shape(path: str, revision: str, trust_remote_code: bool) -> dict[str, int | str]:
    """What makes a model's weights fit another's: widths, depths and the like.

    Example: `{"model_type": "qwen2_5_vl", "text_config.hidden_size": 2048, …}`.
    """
    config: PretrainedConfig = load_config(path, revision, trust_remote_code)
    return dict(_list_numbers(config.to_dict(), ""))


def check_server(client: ServerClient, settings: EngineSettings) -> ServerInfo:
    """Waits for the server, and looks at how it was started.

    Raises:
        EngineError: nobody answers.
        ValueError: it cannot be used as it is.
    """
    command = f"python -m open_r1.vllm_serve --model {settings.model_path}"
    try:
        client.get("/health")
    except EngineError as error:
        raise EngineError(f"{error} Start one where its devices are: {command}") from error
    name, remedy = f"The vLLM server {client.address}", f"Start it by {command}"
    version = client.get("/version")["version"]
    if Version(version) not in SpecifierSet(SUPPORTED_VERSIONS, prereleases=True):
        raise ValueError(f"{name} is of version {version}; this project works with {SUPPORTED_VERSIONS}.")
    if not client.has("/server_info") or not client.has("/weight_info"):
        raise ValueError(f"{name} has no endpoints for training (VLLM_SERVER_DEV_MODE=1). {remedy}")
    if not client.has(GENERATE_PATH):
        raise ValueError(f"{name} takes no token ids (--enable-scale-out). {remedy}")
    config = client.get("/server_info?config_format=json")["vllm_config"]
    model = config["model_config"]
    problem = _find_problem(config, settings) or _find_difference(model["model"], config, settings)
    if problem is not None:
        raise ValueError(f"{name} {problem}. {remedy}")
    return ServerInfo(
        dtype=getattr(torch, model["dtype"].removeprefix("torch.")),
        transfer=config["weight_transfer_config"]["backend"],
        num_workers=client.get("/get_world_size")["world_size"],
    )


def _find_problem(config: dict[str, Any], settings: EngineSettings) -> str | None:
    """What the server was started without, or with."""
    model = config["model_config"]
    transfer = (config["weight_transfer_config"] or {}).get("backend")
    if transfer is None:
        return "takes no weights (--weight-transfer-config)"
    if transfer not in TRANSFERS:
        return f"takes weights by {transfer}, not by {' or '.join(TRANSFERS)}"
    fitting = ["processed_logprobs"] if settings.scales_logps else ["processed_logprobs", "raw_logprobs"]
    if model["logprobs_mode"] not in fitting:
        return f"tells {model['logprobs_mode']}, not {fitting[0]}, which --temperature other than 1 needs"
    own = model["multimodal_config"] or {}
    for option, value in REQUIRED_OPTIONS.items():
        if own.get(option, value) != value:
            return f"would change images once more ({option}={own[option]}, not {value})"
    if settings.max_model_length is not None and model["max_model_len"] < settings.max_model_length:
        return f"takes {model['max_model_len']} tokens (--max_model_len), not {settings.max_model_length}"
    return None


def _find_difference(served: str, config: dict[str, Any], settings: EngineSettings) -> str | None:
    """Where the server's model is another one; a server that does not tell its shape is known by its name."""
    theirs = (config["additional_config"] or {}).get(SHAPE_KEY)
    if theirs is None:
        is_same = served.rstrip("/").rpartition("/")[2] == settings.model_path.rstrip("/").rpartition("/")[2]
        return None if is_same else f"has the model {served}, not {settings.model_path}"
    own = describe_shape(settings.model_path, settings.revision, settings.trust_remote_code)
    different = sorted(key for key in own.keys() | theirs.keys() if own.get(key) != theirs.get(key))
    if not different:
        return None
    key = different[0]
    return f"has another model, {served}: {key} is {theirs.get(key)}, not {own.get(key)} as in {settings.model_path}"


def _list_numbers(config: dict[str, Any], prefix: str) -> list[tuple[str, int | str]]:
    found: list[tuple[str, int | str]] = []
    for key, value in config.items():
        if isinstance(value, dict):
            found += _list_numbers(value, f"{prefix}{key}.")
        elif _SIZES.search(str(key)) and isinstance(value, int | str):
            found.append((f"{prefix}{key}", value))
    return found

"""Starts vLLM's own server with what training needs, for runs with `--vllm_mode server`.

    python -m open_r1.vllm_serve --model Qwen/Qwen2.5-VL-7B-Instruct --port 8000

Options that are not listed here go to vLLM as they are. The server replaces this process. Whoever can reach its port
can read the weights and replace them, so it listens on this machine alone unless `--host` says otherwise. More:
docs/vllm.md.
"""

import argparse
import importlib.metadata
import json
import logging
import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path

from open_r1.inference.vllm_engine import REQUIRED_OPTIONS, check_vllm
from open_r1.inference.vllm_plugin import GLOO
from open_r1.utils.compat import guard_child_processes


logger = logging.getLogger(__name__)

_ENTRY = "vllm.entrypoints.launchers.api_server.entry"  # `vllm serve`, which does not know its CPU build by name
_CPU_CACHE_BYTES = 1 << 30


def build_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="vllm_serve", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--model", required=True, help="What training starts from: a checkpoint folder, or a model of the hub.")
    add("--revision", default="main", help="Of the model.")
    add("--trust_remote_code", action="store_true", help="Run the Python code that comes with the model.")
    add("--host", default="127.0.0.1", help="Address to listen on; 0.0.0.0: reachable from everywhere.")
    add("--port", type=int, default=8000, help="Port to listen on.")
    add("--tensor_parallel_size", type=int, default=1, help="Devices that share the model.")
    add("--gpu_memory_utilization", type=float, default=0.9, help="Share of each device's memory.")
    add("--max_model_len", type=int, help="Tokens of a prompt and its completion. Default: what the memory allows.")
    add("--dtype", default="auto", help="Precision of the weights. Default: vLLM's choice, at most 16 bits.")
    add("--enforce_eager", action="store_true", help="No CUDA graphs: starts sooner, decodes slower.")
    add(
        "--logprobs_mode",
        default="processed_logprobs",
        choices=["processed_logprobs", "raw_logprobs"],
        help="Log-probabilities after temperature and truncation, or the model's own (for --temperature 1).",
    )
    add("--weight_transfer", choices=["nccl", GLOO], help="Default: nccl where there is CUDA, gloo elsewhere.")
    return parser


def check_plugin() -> None:
    """ImportError where vLLM would not find the transfer over gloo."""
    path = [str(Path(__file__).parents[1]), *sys.path]  # as the server's processes have it
    package = next(iter(importlib.metadata.distributions(name="open_r1", path=path)), None)
    if package is None or not package.entry_points.select(group="vllm.general_plugins"):
        raise ImportError("vLLM does not know this package's weight transfer: pip install -e . (once more).")


def build_command(args: argparse.Namespace, further: list[str], has_cuda: bool) -> list[str]:
    """The command line of vLLM's server.

    Args:
        args: The options.
        further: Those of vLLM's own, behind all others.
        has_cuda: Whether this machine has CUDA devices.
    """
    from open_r1.inference.vllm_server_checks import SHAPE_KEY, describe_shape
    from open_r1.utils.adapters import find_model_source

    source = find_model_source(args.model, args.revision, trust_remote_code=args.trust_remote_code)
    if source.adapters_path is not None:
        logger.warning(
            "%s holds adapters: the server starts with their base, %s, and gets merged weights from training.",
            args.model,
            source.base_path,
        )
    shape = describe_shape(source.base_path, source.revision, args.trust_remote_code)
    transfer = args.weight_transfer or ("nccl" if has_cuda else GLOO)
    options = {
        "model": source.base_path,
        "revision": source.revision,
        "trust_remote_code": args.trust_remote_code,
        "host": args.host,
        "port": args.port,
        "tensor_parallel_size": args.tensor_parallel_size,
        "gpu_memory_utilization": args.gpu_memory_utilization,
        "max_model_len": args.max_model_len or -1,
        "dtype": args.dtype,
        "enforce_eager": args.enforce_eager,
        "logprobs_mode": args.logprobs_mode,
        "weight_transfer_config": json.dumps({"backend": transfer}),
        "additional_config": json.dumps({SHAPE_KEY: shape}),
        "enable_scale_out": True,
        "uvicorn_log_level": "warning",
        **REQUIRED_OPTIONS,
    }
    if not has_cuda:
        options["skip_mm_profiling"] = True
        options["enable_chunked_prefill"] = False  # vLLM 0.32 cannot divide a prompt that has a seed there
        if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            options["kv_cache_memory_bytes"] = _CPU_CACHE_BYTES
    return [sys.executable, "-m", _ENTRY, *_list_flags(options), *further]


def build_environment(environment: Mapping[str, str], has_cuda: bool) -> dict[str, str]:
    """What vLLM reads from the environment."""
    settings = {"VLLM_NO_USAGE_STATS": "1"}
    if not has_cuda:
        settings["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
    result = settings | dict(environment) | {"VLLM_SERVER_DEV_MODE": "1"}
    guard_child_processes(result)
    return result


def _list_flags(options: Mapping[str, object]) -> list[str]:
    flags: list[str] = []
    for name, value in options.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", str(value)]
    return flags


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    args, further = build_parser().parse_known_args()
    check_vllm()
    check_plugin()
    import torch

    has_cuda = torch.cuda.is_available()
    command = build_command(args, further, has_cuda)
    logger.info("VLLM_SERVER_DEV_MODE=1 %s", shlex.join(command))
    os.execve(sys.executable, command, build_environment(os.environ, has_cuda))


if __name__ == "__main__":
    main()

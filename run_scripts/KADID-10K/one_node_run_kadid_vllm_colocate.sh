#!/usr/bin/env bash
# KADID-10K with completions from vLLM on the GPUs that train, each with a copy of its own, which sleeps while the others
# learn. Data, variables and all else as in one_node_run_kadid.sh; memory, and when a server is better: docs/vllm.md.
set -euo pipefail

export RUN_NAME="${RUN_NAME:-${EXP_NAME:-test-kadid-vllm}}"
exec bash "$(dirname "${BASH_SOURCE[0]}")/one_node_run_kadid.sh" --use_vllm true --vllm_mode colocate \
    --vllm_gpu_memory_utilization 0.4 --vllm_enable_sleep_mode true "$@"

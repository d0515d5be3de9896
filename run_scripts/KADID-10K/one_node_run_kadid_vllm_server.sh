#!/usr/bin/env bash
# KADID-10K with completions from a vLLM server on the last of eight GPUs; the other seven train. A step has 56 images
# where eight GPUs have 64. Data, variables and all else as in one_node_run_kadid.sh. In two shells:
#   bash run_scripts/vllm_server.sh                                        on GPU 7 (SERVER_GPUS)
#   bash run_scripts/KADID-10K/one_node_run_kadid_vllm_server.sh           on GPUs 0 to 6 (TRAIN_GPUS)
# SERVER_HOST and SERVER_PORT, the same for both, where the server is not at 127.0.0.1:8000 (docs/vllm.md).
set -euo pipefail

export RUN_NAME="${RUN_NAME:-${EXP_NAME:-test-kadid-vllm-server}}"
export CUDA_VISIBLE_DEVICES="${TRAIN_GPUS-0,1,2,3,4,5,6}" GPUS_PER_NODE="${GPUS_PER_NODE:-7}"
exec bash "$(dirname "${BASH_SOURCE[0]}")/one_node_run_kadid.sh" --use_vllm true --vllm_mode server \
    --vllm_server_host "${SERVER_HOST:-127.0.0.1}" --vllm_server_port "${SERVER_PORT:-8000}" "$@"

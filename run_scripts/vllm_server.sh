#!/usr/bin/env bash
# A vLLM server for runs with --vllm_mode server, on GPUs of its own. Options of open_r1.vllm_serve may follow.
#   export MODEL_PATH=Qwen/Qwen2.5-VL-7B-Instruct
#   bash run_scripts/vllm_server.sh                                        on GPU 7
#   SERVER_GPUS=6,7 bash run_scripts/vllm_server.sh                        on two, which share the model
# It listens on SERVER_HOST (127.0.0.1) and SERVER_PORT (8000); whoever reaches it can replace its weights (docs/vllm.md).
set -euo pipefail
: "${MODEL_PATH:?set it to the checkpoint folder, or model of the hub, that training starts from}"

export CUDA_VISIBLE_DEVICES="${SERVER_GPUS-7}"
commas="${CUDA_VISIBLE_DEVICES//[^,]/}"
exec python -m open_r1.vllm_serve --model "$MODEL_PATH" --dtype bfloat16 --tensor_parallel_size $((${#commas} + 1)) \
    --host "${SERVER_HOST:-127.0.0.1}" --port "${SERVER_PORT:-8000}" "$@"

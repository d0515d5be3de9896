#!/usr/bin/env bash
# VisualQuality-R1 on KADID-10K, several nodes: one_node_run_kadid.sh, 64 images a step for every node. The same
# on all of them but NODE_RANK; rendezvous, NCCL, file systems and resuming: docs/multi-node.md. Two nodes:
#   export MODEL_PATH=Qwen/Qwen2.5-VL-7B-Instruct IMAGE_FOLDER=kadid10k/images NNODES=2 MASTER_ADDR=first-node
#   NODE_RANK=0 bash run_scripts/KADID-10K/multi_run_kadid.sh      on the first, whose address is MASTER_ADDR
#   NODE_RANK=1 bash run_scripts/KADID-10K/multi_run_kadid.sh      on the second
set -euo pipefail
: "${NNODES:?set it to the number of nodes}"
: "${NODE_RANK:?set it to the number of this node, counted from 0}"
: "${MASTER_ADDR:?set it to the address of node 0}"

export RUN_NAME="${RUN_NAME:-${EXP_NAME:-KADID-N6-48-e10-Qwen2.5-VL-7B-GRPO}}" NNODES NODE_RANK MASTER_ADDR
exec bash "$(dirname "${BASH_SOURCE[0]}")/one_node_run_kadid.sh" --save_steps 25 "$@"

# What the run scripts share: they set RUN_NAME, source this file and call `launch`. From the environment:
#   MODEL_PATH        checkpoint folder, or model of the hub
#   GPUS_PER_NODE     processes on this node (8); NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT: docs/multi-node.md
#   RUN_NAME          name of the run, EXP_NAME is the same; OUTPUT_DIR is its folder (output/RUN_NAME)
#   REPORT_TO         tensorboard, wandb, …, once installed (none); OUTPUT_DIR/metrics.jsonl is written in any case
#   DEBUG_MODE=true   text logs of every completion, gigabytes of them; off unless set
#   SHUTDOWN_TIMEOUT  seconds that a run which is told to stop has for its step and its checkpoint (60)
# Nothing here is called RANK or WORLD_SIZE: to torchrun and its workers these count processes, not nodes.
# shellcheck shell=bash

REPO="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
: "${MODEL_PATH:?set it to a checkpoint folder or a model of the hub}"
if [[ "$RUN_NAME" == */* || "$RUN_NAME" == . || "$RUN_NAME" == .. ]]; then
    echo "error: RUN_NAME (or EXP_NAME) is the name of a folder, without a slash, not $RUN_NAME" >&2
    exit 2
fi
OUTPUT_DIR="${OUTPUT_DIR:-output/$RUN_NAME}"

# launch MODULE OPTION...: one process per GPU of this node. torchrun takes the place of the shell, so that its exit
# code is the script's and signals reach it; what it says also goes to a file, through a tee that outlives them.
launch() {
    mkdir -p "$OUTPUT_DIR"
    exec torchrun --nnodes "${NNODES:-1}" --node_rank "${NODE_RANK:-0}" --nproc_per_node "${GPUS_PER_NODE:-8}" \
        --master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "${MASTER_PORT:-12345}" \
        --shutdown-timeout "${SHUTDOWN_TIMEOUT:-60}" --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1 \
        -m "$@" > >(trap '' HUP INT TERM USR1; exec tee -a "$OUTPUT_DIR/node${NODE_RANK:-0}.log") 2>&1
}

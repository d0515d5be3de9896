#!/usr/bin/env bash
# VLM-R1's referring expressions, one node: all weights of a 3B model under ZeRO-3, soft IoU and format as rewards. The
# data: JSONL rows whose answer is a box in pixels of the picture, and the folder of their pictures (docs/data.md).
# Several files and folders are joined with ':'. Further options win over those below, --dry_run shows the plan
# (variables: common.sh):
#   export MODEL_PATH=Qwen/Qwen2.5-VL-3B-Instruct DATA_FILE=rec.jsonl IMAGE_FOLDER=coco
#   bash run_scripts/REC/one_node_run_rec.sh [OPTION...]
set -euo pipefail
: "${DATA_FILE:?set it to a JSONL file}"
: "${IMAGE_FOLDER:?set it to the folder of its pictures}"
RUN_NAME="${RUN_NAME:-${EXP_NAME:-test-rec}}"
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

launch open_r1.grpo_jsonl \
    --deepspeed "$REPO/local_scripts/zero3.json" --output_dir "$OUTPUT_DIR" \
    --model_name_or_path "$MODEL_PATH" --dtype bfloat16 --bf16 true --gradient_checkpointing true \
    --data_file_paths "$DATA_FILE" --image_folders "$IMAGE_FOLDER" --task_type rec \
    --num_generations 8 --per_device_train_batch_size 8 --gradient_accumulation_steps 2 --max_completion_length 2048 \
    --beta 0.04 --num_train_epochs 2 --logging_steps 1 --report_to "${REPORT_TO:-none}" \
    --save_steps 100 --save_total_limit 3 --resume_from_checkpoint auto "$@"

#!/usr/bin/env bash
# Any task on JSONL rows, one node under ZeRO-3: TASK_TYPE is od, od_length, counting, math, ic, iqa_compare, default
# and so on (docs/tasks.md). Several files and folders are joined with ':'; a method per file: --reward_method a:b.
#   export MODEL_PATH=Qwen/Qwen2.5-VL-3B-Instruct TASK_TYPE=counting DATA_FILE=train.jsonl IMAGE_FOLDER=images
#   bash run_scripts/any/one_node_run_task.sh [OPTION...]
set -euo pipefail
: "${TASK_TYPE:?set it to a task}"
: "${DATA_FILE:?set it to a JSONL file}"
: "${IMAGE_FOLDER:?set it to the folder of its pictures}"
RUN_NAME="${RUN_NAME:-${EXP_NAME:-test-$TASK_TYPE}}"
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

launch open_r1.grpo_jsonl \
    --deepspeed "$REPO/local_scripts/zero3.json" --output_dir "$OUTPUT_DIR" \
    --model_name_or_path "$MODEL_PATH" --dtype bfloat16 --bf16 true --gradient_checkpointing true \
    --data_file_paths "$DATA_FILE" --image_folders "$IMAGE_FOLDER" --task_type "$TASK_TYPE" \
    --num_generations 8 --per_device_train_batch_size 8 --gradient_accumulation_steps 2 --max_completion_length 2048 \
    --beta 0.04 --num_train_epochs 2 --logging_steps 1 --report_to "${REPORT_TO:-none}" \
    --save_steps 100 --save_total_limit 3 --resume_from_checkpoint auto "$@"

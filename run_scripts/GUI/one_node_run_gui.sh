#!/usr/bin/env bash
# VLM-R1's GUI task, one node: questions about several screenshots, rewarded where the answer is the gold one to the
# letter. Data and variables as in ../REC/one_node_run_rec.sh; `image` is a list of file names.
#   export MODEL_PATH=Qwen/Qwen2.5-VL-3B-Instruct DATA_FILE=gui.jsonl IMAGE_FOLDER=screenshots
#   bash run_scripts/GUI/one_node_run_gui.sh [OPTION...]
set -euo pipefail
: "${DATA_FILE:?set it to a JSONL file}"
: "${IMAGE_FOLDER:?set it to the folder of its pictures}"
RUN_NAME="${RUN_NAME:-${EXP_NAME:-test-gui}}"
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

launch open_r1.grpo_jsonl \
    --deepspeed "$REPO/local_scripts/zero3.json" --output_dir "$OUTPUT_DIR" \
    --model_name_or_path "$MODEL_PATH" --dtype bfloat16 --bf16 true --gradient_checkpointing true \
    --data_file_paths "$DATA_FILE" --image_folders "$IMAGE_FOLDER" --task_type gui --reward_method all_match \
    --num_generations 8 --per_device_train_batch_size 8 --gradient_accumulation_steps 1 --max_completion_length 2048 \
    --beta 0.04 --max_steps 1200 --logging_steps 1 --report_to "${REPORT_TO:-none}" \
    --save_steps 400 --save_total_limit 3 --resume_from_checkpoint auto "$@"

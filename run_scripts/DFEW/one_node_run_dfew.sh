#!/usr/bin/env bash
# R1-Omni's emotion recognition from clips, one node under ZeRO-3. The data: JSON or JSONL rows with `video` and an
# emotion (docs/data.md), and the folder of the clips. From DFEW's own lists:
#   python -m open_r1.data.emotion --dataset DFEW --root DFEW --fold 1 --output dfew_1.jsonl
#   export MODEL_PATH=Qwen/Qwen2.5-VL-3B-Instruct DATA_FILE=dfew_1.jsonl VIDEO_FOLDER=DFEW
#   bash run_scripts/DFEW/one_node_run_dfew.sh [OPTION...]
# With their sound:
#   MODEL_PATH=Qwen/Qwen2.5-Omni-3B bash run_scripts/DFEW/one_node_run_dfew.sh --video_audio true
set -euo pipefail
: "${DATA_FILE:?set it to a JSON or JSONL file}"
: "${VIDEO_FOLDER:?set it to the folder of its clips}"
RUN_NAME="${RUN_NAME:-${EXP_NAME:-test-dfew}}"
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

launch open_r1.grpo_jsonl \
    --deepspeed "$REPO/local_scripts/zero3.json" --output_dir "$OUTPUT_DIR" \
    --model_name_or_path "$MODEL_PATH" --dtype bfloat16 --bf16 true \
    --data_file_paths "$DATA_FILE" --image_folders "$VIDEO_FOLDER" --task_type emotion --max_pixels 401408 \
    --num_generations 8 --per_device_train_batch_size 8 --gradient_accumulation_steps 2 --max_completion_length 512 \
    --num_train_epochs 2 --logging_steps 1 --report_to "${REPORT_TO:-none}" \
    --save_steps 1000 --save_only_model true "$@"

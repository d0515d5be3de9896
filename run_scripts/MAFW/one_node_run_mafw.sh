#!/usr/bin/env bash
# R1-Omni's emotion recognition on MAFW's clips with their sound, one node under ZeRO-3: eleven emotions. The data: JSON
# or JSONL rows with `video` and an emotion (docs/data.md), and the folder of the clips. From MAFW's own lists:
#   python -m open_r1.data.emotion --dataset MAFW --root MAFW --fold 1 --output mafw_1.jsonl
#   export MODEL_PATH=Qwen/Qwen2.5-Omni-3B DATA_FILE=mafw_1.jsonl VIDEO_FOLDER=MAFW
#   bash run_scripts/MAFW/one_node_run_mafw.sh [OPTION...]
# Without their sound, by any family that takes videos: --video_audio false
set -euo pipefail
: "${DATA_FILE:?set it to a JSON or JSONL file}"
: "${VIDEO_FOLDER:?set it to the folder of its clips}"
RUN_NAME="${RUN_NAME:-${EXP_NAME:-test-mafw}}"
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

launch open_r1.grpo_jsonl \
    --deepspeed "$REPO/local_scripts/zero3.json" --output_dir "$OUTPUT_DIR" \
    --model_name_or_path "$MODEL_PATH" --dtype bfloat16 --bf16 true \
    --data_file_paths "$DATA_FILE" --image_folders "$VIDEO_FOLDER" --task_type emotion --max_pixels 401408 \
    --video_audio true \
    --num_generations 8 --per_device_train_batch_size 8 --gradient_accumulation_steps 2 --max_completion_length 512 \
    --num_train_epochs 2 --logging_steps 1 --report_to "${REPORT_TO:-none}" \
    --save_steps 1000 --save_only_model true "$@"

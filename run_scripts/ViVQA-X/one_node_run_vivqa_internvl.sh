#!/usr/bin/env bash
# vqa-nle: Vietnamese questions with explanations on ViVQA-X, InternVL3 in the layout of transformers. The data, once:
#   python -m open_r1.data.vivqa --vivqa_root ViVQA-X --split train --output output/data/ViVQA-X_train_grpo.jsonl
# Then (IMAGE_FOLDER has COCO's train2014 and val2014; variables: common.sh; further options win over those below):
#   export MODEL_PATH=OpenGVLab/InternVL3-1B-hf IMAGE_FOLDER=COCO_Images
#   bash run_scripts/ViVQA-X/one_node_run_vivqa_internvl.sh [OPTION...]
# Add `explanation` to --reward_funcs for the third reward; it loads a multilingual CLIP (docs/rewards.md).
set -euo pipefail
: "${IMAGE_FOLDER:?set it to the folder above COCO\'s train2014}"
DATA_FILE="${DATA_FILE:-output/data/ViVQA-X_train_grpo.jsonl}"
RUN_NAME="${RUN_NAME:-${EXP_NAME:-test-vivqa}}"
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

# The original's batch of 3 on one GPU with 5 steps of accumulation; nothing is pushed anywhere.
launch open_r1.grpo_jsonl \
    --deepspeed "$REPO/local_scripts/zero2.json" --output_dir "$OUTPUT_DIR" \
    --model_name_or_path "$MODEL_PATH" --dtype bfloat16 --bf16 true --gradient_checkpointing true \
    --data_file_paths "$DATA_FILE" --image_folders "$IMAGE_FOLDER" --task_type vivqa \
    --reward_funcs accuracy format --freeze_vision_modules true --beta 0.1 --learning_rate 2e-5 \
    --num_generations 3 --per_device_train_batch_size 3 --gradient_accumulation_steps 5 --max_completion_length 1024 \
    --max_steps 500 --logging_steps 1 --report_to "${REPORT_TO:-none}" \
    --save_steps 100 --save_total_limit 3 --resume_from_checkpoint auto "$@"

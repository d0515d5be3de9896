#!/usr/bin/env bash
# VisualQuality-R1 on KADID-10K, one node: all weights of a 7B model under ZeRO-3. On eight GPUs a step has 64 images
# with six completions each, an epoch 96 steps. The data, once:
#   python datasets/make_data.py --dataset KADID-10K --labels kadid10k/dmos.csv --output_dir output/data
# Then, where further options win over those below and --dry_run shows what the run would do (variables: common.sh):
#   export MODEL_PATH=Qwen/Qwen2.5-VL-7B-Instruct IMAGE_FOLDER=kadid10k/images
#   bash run_scripts/KADID-10K/one_node_run_kadid.sh [OPTION...]
set -euo pipefail
: "${IMAGE_FOLDER:?set it to the folder of the images of KADID-10k}"
DATA_FILE="${DATA_FILE:-output/data/KADID-10K/RL-KADID-10K_train_scoring.jsonl}"
RUN_NAME="${RUN_NAME:-${EXP_NAME:-test-kadid}}"
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

# The original's --attn_implementation flash_attention_2 is left out: packed rows need the default, sdpa, and bring a
# kernel for ragged rows. --save_only_model keeps checkpoints small; no run can go on from them (docs/checkpoints.md).
launch open_r1.grpo_jsonl \
    --deepspeed "$REPO/local_scripts/zero3.json" --output_dir "$OUTPUT_DIR" \
    --model_name_or_path "$MODEL_PATH" --dtype bfloat16 --bf16 true --gradient_checkpointing true \
    --data_file_paths "$DATA_FILE" --image_folders "$IMAGE_FOLDER" --dataset_name KADID-10K \
    --question_template scoring --freeze_vision_modules false --max_prompt_length 1024 \
    --num_generations 6 --per_device_train_batch_size 48 --gradient_accumulation_steps 1 \
    --num_train_epochs 10 --data_seed 42 --logging_steps 1 --report_to "${REPORT_TO:-none}" \
    --save_steps 50 --save_only_model true "$@"

#!/usr/bin/env bash
# The recipe of VisualQuality-R1 on KonIQ-10k, one node: all weights of a 7B model under ZeRO-3. The data, once:
#   python datasets/make_data.py --dataset KONIQ-10K --labels koniq10k_scores_and_distributions.csv \
#       --output_dir output/data
# Then, where further options win over those below and --dry_run shows what the run would do (variables: common.sh):
#   export MODEL_PATH=Qwen/Qwen2.5-VL-7B-Instruct IMAGE_FOLDER=koniq10k/512x384
#   bash run_scripts/KONIQ-10K/one_node_run_koniq.sh [OPTION...]
set -euo pipefail
: "${IMAGE_FOLDER:?set it to the folder of the images of KonIQ-10k, 512x384 or 1024x768}"
DATA_FILE="${DATA_FILE:-output/data/KONIQ-10K/RL-KONIQ-10K_train_scoring.jsonl}"
RUN_NAME="${RUN_NAME:-${EXP_NAME:-test-koniq}}"
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

# The longer prompts are for 1024x768, which Qwen2.5-VL turns into 999 tokens. As to attention and checkpoints, see
# KADID-10K/one_node_run_kadid.sh.
launch open_r1.grpo_jsonl \
    --deepspeed "$REPO/local_scripts/zero3.json" --output_dir "$OUTPUT_DIR" \
    --model_name_or_path "$MODEL_PATH" --dtype bfloat16 --bf16 true --gradient_checkpointing true \
    --data_file_paths "$DATA_FILE" --image_folders "$IMAGE_FOLDER" --dataset_name KONIQ-10K \
    --question_template scoring --freeze_vision_modules false --max_prompt_length 2048 \
    --num_generations 6 --per_device_train_batch_size 48 --gradient_accumulation_steps 1 \
    --num_train_epochs 10 --data_seed 42 --logging_steps 1 --report_to "${REPORT_TO:-none}" \
    --save_steps 50 --save_only_model true "$@"

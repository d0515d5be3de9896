#!/usr/bin/env bash
# Questions answered as JSON with reasoning steps, on a Hugging Face data set on disk (image, question, answer,
# reference_steps; docs/data.md). Rewards: accuracy, format, and Match F1 of the steps, which loads a sentence encoder.
# Further options win over those below, --dry_run shows the plan (variables: common.sh):
#   export MODEL_PATH=Qwen/Qwen2.5-VL-3B-Instruct DATASET=vqa_dataset
#   bash run_scripts/VQA-JSON/one_node_run_vqa.sh [OPTION...]
set -euo pipefail
: "${DATASET:?set it to a folder that save_to_disk wrote}"
RUN_NAME="${RUN_NAME:-${EXP_NAME:-test-vqa}}"
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

launch open_r1.grpo_rec \
    --deepspeed "$REPO/local_scripts/zero3.json" --output_dir "$OUTPUT_DIR" \
    --model_name_or_path "$MODEL_PATH" --dtype bfloat16 --bf16 true --gradient_checkpointing true \
    --use_huggingface_dataset true --dataset_name "$DATASET" --task_type vqa \
    --reward_funcs accuracy format reasoning --learning_rate 1e-5 --warmup_steps 100 --max_grad_norm 1.0 \
    --num_generations 8 --per_device_train_batch_size 8 --gradient_accumulation_steps 4 --max_completion_length 1024 \
    --num_train_epochs 1 --logging_steps 1 --report_to "${REPORT_TO:-none}" \
    --save_steps 500 --save_total_limit 3 --resume_from_checkpoint auto "$@"

#!/usr/bin/env bash
# KADID-10K, TID2013, KonIQ-10k and LIVEC together, one node; images are ranked within their own data set. The data,
# once for each set, from its label file (docs/data.md):
#   python datasets/make_data.py --dataset NAME --labels FILE --output_dir output/data
# Then, where further options win over those below and --dry_run shows what the run would do (variables: common.sh):
#   export MODEL_PATH=Qwen/Qwen2.5-VL-7B-Instruct KADID_IMAGES=… TID2013_IMAGES=… KONIQ_IMAGES=… LIVEC_IMAGES=…
#   bash run_scripts/combined/one_node_run_combined.sh [OPTION...]
# Any other mix: its files and their image folders, as many of both, as DATA_FILES=a:b:… IMAGE_FOLDERS=a:b:…
set -euo pipefail
train_file() { printf '%s' "${DATA_ROOT:-output/data}/$1/RL-$1_train_scoring.jsonl"; }
if [[ -z "${DATA_FILES:-}" ]]; then
    DATA_FILES="$(train_file KADID-10K):$(train_file TID2013):$(train_file KONIQ-10K):$(train_file LIVEC)"
    IMAGE_FOLDERS="${KADID_IMAGES:?set it to a folder}:${TID2013_IMAGES:?set it to a folder}"
    IMAGE_FOLDERS+=":${KONIQ_IMAGES:?set it to a folder}:${LIVEC_IMAGES:?set it to a folder}"
fi
RUN_NAME="${RUN_NAME:-${EXP_NAME:-test-combined}}"
source "$(dirname "${BASH_SOURCE[0]}")/../common.sh"

# As in the original, a GPU's images of a step come from one data set. Longer prompts are for KonIQ-10k at 1024x768.
launch open_r1.grpo_jsonl \
    --deepspeed "$REPO/local_scripts/zero3.json" --output_dir "$OUTPUT_DIR" \
    --model_name_or_path "$MODEL_PATH" --dtype bfloat16 --bf16 true --gradient_checkpointing true \
    --data_file_paths "$DATA_FILES" --image_folders "${IMAGE_FOLDERS:?set it to one folder per file}" \
    --sampling dataset_homogeneous --question_template scoring --freeze_vision_modules false --max_prompt_length 2048 \
    --num_generations 6 --per_device_train_batch_size 48 --gradient_accumulation_steps 1 \
    --num_train_epochs 10 --data_seed 42 --logging_steps 1 --report_to "${REPORT_TO:-none}" \
    --save_steps 50 --save_only_model true "$@"

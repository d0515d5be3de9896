#!/usr/bin/env bash
# Referring expressions with LoRA on the language model, each GPU with the whole model (ZeRO-2). Data, variables and all
# else as in one_node_run_rec.sh. VLM-R1's LoRA dropout of 0.05 is left out: the loss must be that of the policy that
# generated. The result is a folder of adapters; python -m open_r1.merge makes a checkpoint of them (docs/peft.md).
set -euo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"

export RUN_NAME="${RUN_NAME:-${EXP_NAME:-test-rec-lora}}"
exec bash "$HERE/one_node_run_rec.sh" --deepspeed "$HERE/../../local_scripts/zero2.json" \
    --use_peft true --lora_r 64 --lora_alpha 128 --learning_rate 1e-5 --freeze_vision_modules true "$@"

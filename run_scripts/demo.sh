#!/usr/bin/env bash
# The whole way on one machine, CPU is enough: photographs -> tiny model -> cold start -> GRPO -> scores -> table.
#   make demo            or   make demo SEED=7            everything lands in output/demo/seed<SEED>
# Two threads that sleep while they wait: on a busy machine threads that spin are many times slower.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export OMP_NUM_THREADS=2 OMP_WAIT_POLICY=passive
SEED="${SEED:-21}"
OUT="output/demo/seed$SEED"
DATA="$OUT/data"
rm -rf "$OUT" && mkdir -p "$OUT"

say() { printf '\n== %s (%d s)\n' "$1" "$SECONDS"; }

# evaluate MODEL NAME: the three ways to read a score, on photographs that no training image was cut from
evaluate() {
    for way in greedy:1:0 one_sample:1:1 mean_of_8:8:1; do
        IFS=: read -r name samples temperature <<< "$way"
        python -m open_r1.score --model "$1" --images "$DATA/demo_test.jsonl" --image_folder "$DATA/images" \
            --num_samples "$samples" --temperature "$temperature" --seed "$SEED" --batch_size 64 --max_new_tokens 24 \
            --output "$OUT/$2/$name.csv"
        python -m open_r1.evaluate --predictions "$OUT/$2/$name.csv" --labels "$DATA/demo_test.jsonl" \
            --output "$OUT/$2/$name.json"
    done
}

say "1/6 photographs, distorted and labelled"
python datasets/make_demo.py --output_dir "$DATA" --seed "$SEED"

say "2/6 a tiny Qwen2.5-VL with random weights"
python -m open_r1.tiny --output_dir "$OUT/model" --preset demo --seed "$SEED"

say "3/6 cold start: a tower that sees distortions, and the form of an answer without usable scores"
python -m open_r1.warm_up --model_name_or_path "$OUT/model" --seed "$SEED" \
    --data_file_paths "$DATA/demo_train.jsonl" --image_folders "$DATA/images" --output_dir "$OUT/warm"
python -m open_r1.sft --config configs/sft/demo.yaml --model_name_or_path "$OUT/warm" --seed "$SEED" \
    --data_file_paths "$DATA/demo_train.jsonl" --image_folders "$DATA/images" --output_dir "$OUT/sft"

say "4/6 scores before GRPO"
evaluate "$OUT/sft" before

say "5/6 GRPO: rewarded for ranking images rightly"
python -m open_r1.grpo_jsonl --config configs/grpo/demo.yaml --model_name_or_path "$OUT/sft" --seed "$SEED" \
    --data_file_paths "$DATA/demo_train.jsonl" --image_folders "$DATA/images" --output_dir "$OUT/grpo"

say "6/6 scores after GRPO"
evaluate "$OUT/grpo" after

python -m open_r1.viz.curves --run "$OUT/grpo" --output "$OUT/curves.png"
ways=(greedy one_sample mean_of_8)
printf '\nSRCC on held-out photographs, before and after GRPO, with 95 %% intervals (the figure that counts is greedy):\n\n'
python -m open_r1.evaluate --metric srcc --names "${ways[@]}" --output "$OUT/comparison.md" \
    --before "$OUT"/before/{greedy,one_sample,mean_of_8}.json --after "$OUT"/after/{greedy,one_sample,mean_of_8}.json

python -m open_r1.report "$OUT/grpo" --evaluations "$OUT/after/greedy.json" --output "$OUT/report.html"

printf '\n'
printf 'report:   %s\n' "$OUT/report.html"
printf 'plots:    %s\n' "$OUT/curves.png" "$OUT/before/greedy.png" "$OUT/after/greedy.png"
printf 'rollouts: %s\nmodel:    %s\ntime:     %d s\n' "$OUT/grpo/rollouts/rank0.jsonl" "$OUT/grpo" "$SECONDS"

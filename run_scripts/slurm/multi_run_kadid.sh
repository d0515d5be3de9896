#!/usr/bin/env bash
#SBATCH --job-name=kadid --output=%x-%j.log --open-mode=append --requeue
#SBATCH --nodes=2 --ntasks-per-node=1 --gpus-per-node=8 --cpus-per-task=64 --mem=0 --time=24:00:00
#SBATCH --signal=B:USR1@900
# KADID-10K/multi_run_kadid.sh under Slurm, from the root of the repository; options of sbatch win over those above:
#   MODEL_PATH=… IMAGE_FOLDER=… sbatch --account=… run_scripts/slurm/multi_run_kadid.sh [OPTION...]
# Checkpoints hold the optimizer here. A quarter of an hour before its time is up the run saves one and ends; the job is
# queued again and goes on from there. Data, model and output lie on a file system that all nodes share.
set -euo pipefail
hosts="$(scontrol show hostnames "$SLURM_JOB_NODELIST")" # one to a line
export MASTER_ADDR="${hosts%%$'\n'*}" MASTER_PORT="${MASTER_PORT:-$((20000 + SLURM_JOB_ID % 10000))}"
export NNODES="$SLURM_JOB_NUM_NODES" GPUS_PER_NODE="${GPUS_PER_NODE:-8}" SHUTDOWN_TIMEOUT=800
export SRUN_CPUS_PER_TASK="${SLURM_CPUS_PER_TASK:-1}"

is_time_up=false
trap 'is_time_up=true; scancel --signal=USR1 "$SLURM_JOB_ID"' USR1 # to the tasks, not to this shell

# shellcheck disable=SC2016 # every task looks its own number up
srun --kill-on-bad-exit=1 bash -c 'NODE_RANK="$SLURM_NODEID" exec bash run_scripts/KADID-10K/multi_run_kadid.sh "$@"' \
    task --save_only_model false --save_total_limit 2 --resume_from_checkpoint auto "$@" &
code=0
wait $! || code=$?
if $is_time_up; then
    wait # the signal cut the other one short
    scontrol requeue "$SLURM_JOB_ID"
fi
exit "$code"

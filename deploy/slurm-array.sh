#!/bin/bash
# A run in eight shares, without Ray: a task of the array each, and a job that puts them together.
#
#   sbatch deploy/slurm-array.sh my.yaml runs/whole
#
# The configuration must say where the models' servers are (draft.urls, target.urls), unless each
# task has models of its own. Submitted again, it goes on where it was; to change the number of
# shares, begin in another folder.
#SBATCH --job-name=atts
#SBATCH --array=1-8
#SBATCH --cpus-per-task=2
#SBATCH --mem=8G
#SBATCH --time=12:00:00
#SBATCH --output=atts-%A-%a.log
# So long before its time is over a task is told; what is in flight is done again by the next.
#SBATCH --signal=TERM@60
set -eu

config=$1
whole=$2
number=$SLURM_ARRAY_TASK_ID
shares=$SLURM_ARRAY_TASK_COUNT

if [ "$number" = "$SLURM_ARRAY_TASK_MIN" ]; then
  # Not where a task has failed: its log says why, and then this script is submitted again.
  sbatch --dependency="afterok:$SLURM_ARRAY_JOB_ID" --kill-on-invalid-dep=yes --job-name=atts-merge \
    --output="atts-$SLURM_ARRAY_JOB_ID-merge.log" --time=00:30:00 --mem=16G \
    --wrap="atts merge '$whole-shards' --to '$whole'"
fi

exec srun atts run --config "$config" --shard "$number/$shares" --out "$whole-shards/$number"

#!/bin/bash
# One run on all nodes of a job, by Ray: the models' servers placed on its GPUs, workers on its cores.
#
#   export ATTS_SERVER_KEY=$(openssl rand -hex 32)
#   sbatch deploy/slurm-ray.sh my.yaml runs/whole
#
# The configuration needs api_key_env: ATTS_SERVER_KEY for both models, since servers listen at the
# addresses of their nodes; server.gpus names as many GPUs as a server needs, server.replicas says
# how many servers there are. Submitted again, it goes on where it was. A job at a time in a folder:
# runs/servers there says where its servers are.
#SBATCH --job-name=atts-ray
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --gpus-per-node=8
#SBATCH --time=12:00:00
#SBATCH --output=atts-ray-%j.log
set -eu

config=$1
whole=$2

head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
port=$((20000 + SLURM_JOB_ID % 10000))

# Whoever reaches Ray's ports runs programs there, unless they need a token.
RAY_AUTH_MODE=token
RAY_AUTH_TOKEN=$(od -An -N32 -tx1 /dev/urandom | tr -d ' \n')
export RAY_AUTH_MODE RAY_AUTH_TOKEN

# Ray starts on every node; the first one runs what follows --, and then all of them end.
# shellcheck disable=SC2016  # the inner shell is to see its own variables
srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
  ray symmetric-run --address "$address:$port" --min-nodes "$SLURM_JOB_NUM_NODES" -- \
  bash -euc '
    trap "atts servers down" EXIT
    atts servers up --config "$1" --ray auto
    atts run --config "$1" --out "$2" --ray auto
  ' atts "$config" "$whole"

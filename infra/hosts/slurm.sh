#!/usr/bin/env bash
# One stage by four processes, a GPU each, on a folder that all nodes share: sbatch infra/hosts/slurm.sh svd gan
# With more of --gpus-per-task a process's GPUs share its images and hold a part of the right factor each.
# The job is put back in the queue when a node fails, and goes on from the last saved blocks.
#SBATCH --job-name=nfk
#SBATCH --ntasks=4
#SBATCH --gpus-per-task=1
#SBATCH --cpus-per-task=8
#SBATCH --requeue
#SBATCH --output=nfk-%j.log
set -euo pipefail
stage=${1:?stage: statistics, svd or embed}
family=${2:?family: one of params.yaml}
# srun numbers the processes (SLURM_PROCID, SLURM_NTASKS); one that fails ends the others
srun --kill-on-bad-exit=1 nfk "$stage" "$family" --distributed

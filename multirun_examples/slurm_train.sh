#!/bin/bash
# Fine-tune on two machines with four GPUs each:  sbatch multirun_examples/slurm_train.sh
#
# Ninety seconds before the time is up Slurm sends SIGUSR1: the run finishes its step, saves its state and exits with code
# 75, and the job puts itself into the queue again. resume=auto then goes on where it stopped.
#SBATCH --job-name=cogvx
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=4
#SBATCH --cpus-per-task=32
#SBATCH --time=08:00:00
#SBATCH --signal=USR1@90
#SBATCH --requeue
#SBATCH --output=outputs/slurm-%j.log
#SBATCH --open-mode=append

RUN_DIR=outputs/slurm-$SLURM_JOB_ID
HOST=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)

# One task a machine; each starts the processes of its machine. SLURM_* say the rest, so they are taken out of the way.
srun --kill-on-bad-exit=1 bash -c '
  RANK_OF_NODE=$SLURM_NODEID
  unset SLURM_PROCID SLURM_NTASKS
  exec python -m cogvx_exp.train "$@" distributed.node_rank=$RANK_OF_NODE
' train \
  model=5b method=lora data=files data.root=clips \
  distributed=ddp distributed.processes=4 distributed.nodes=2 distributed.rendezvous="$HOST:29500" \
  run_dir="$RUN_DIR" resume=auto
CODE=$?

[ "$CODE" -eq 75 ] && scontrol requeue "$SLURM_JOB_ID"
exit "$CODE"

#!/bin/bash
# Fine-tune on two machines with four GPUs each:  sbatch multirun_examples/slurm_train.sh
#
# Ninety seconds before the time limit Slurm sends SIGUSR1 (manually: scancel --signal=USR1 JOB). The run finishes its
# step, saves its state and exits with code 75 on every machine, and the job is requeued. resume=auto then continues where
# it stopped. If one machine fails, the others and the job are stopped.
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
PORT=$((20000 + SLURM_JOB_ID % 10000)) # unique per job
export SAVED=outputs/slurm-$SLURM_JOB_ID.saved
rm -f "$SAVED"

# One task per machine, which starts that machine's processes. SLURM_* are unset for them, or they would be taken for ranks.
# The first task to exit with an error makes srun stop the others. Stopping after saving is not an error, so such a task
# exits with 0 and leaves a file. The shell ignores the signal and Python handles it (138: it arrived before Python's
# handler was installed, when there is nothing to lose).
srun --kill-on-bad-exit=1 bash -c '
  RANK_OF_NODE=$SLURM_NODEID
  unset SLURM_PROCID SLURM_NTASKS
  trap : USR1
  python -m cogvx_exp.train "$@" distributed.node_rank=$RANK_OF_NODE
  CODE=$?
  case $CODE in 75 | 138) touch "$SAVED"; exit 0 ;; esac
  exit $CODE
' train \
  model=5b method=lora data=files data.root=clips \
  distributed=ddp distributed.processes=4 distributed.nodes=2 distributed.rendezvous="$HOST:$PORT" \
  run_dir="$RUN_DIR" resume=auto
CODE=$?

if [ "$CODE" -eq 0 ] && [ -e "$SAVED" ]; then
  rm -f "$SAVED"
  scontrol requeue "$SLURM_JOB_ID"
  exit 75
fi
exit "$CODE"

#!/bin/bash
# Fine-tune on two machines with four GPUs each:  sbatch multirun_examples/slurm_train.sh
#
# Ninety seconds before the time is up Slurm sends SIGUSR1 (by hand: scancel --signal=USR1 JOB). The run finishes its step,
# saves its state and ends with code 75 on every machine, and the job is put into the queue again. resume=auto then goes
# on where it stopped. A machine that fails ends the others, and the job with it.
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
PORT=$((20000 + SLURM_JOB_ID % 10000)) # each job its own
export SAVED=outputs/slurm-$SLURM_JOB_ID.saved
rm -f "$SAVED"

# One task a machine; each starts the processes of its machine. SLURM_* say the rest, so they are taken out of the way.
# The first task to end with an error makes srun end the others. To have saved is no error, so such a task ends with 0 and
# leaves a file. The shell ignores the signal, which its Python takes (138: it came before Python could, nothing is lost).
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

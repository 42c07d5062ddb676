#!/bin/bash
# From class averages to volumes on several nodes with several GPUs each, under SLURM.
#
#   sbatch examples/slurm_train_reconstruct.sh averages.mrcs my_run
#
# The same command again goes on where the job was cut off: by the time limit, a node that failed, or scancel.
# Give averages and run folder on a file system that all nodes see, and change the lines that begin with #SBATCH.

#SBATCH --job-name=scoretomo
#SBATCH --nodes=2                # computers
#SBATCH --gpus-per-node=4        # GPUs in each of them
#SBATCH --ntasks-per-node=1      # always 1: one launcher on each node, which starts one process for each GPU
#SBATCH --cpus-per-task=32       # CPU cores of a node: some 8 for each GPU
#SBATCH --mem=64G
#SBATCH --time=04:00:00          # a job that takes longer is cut off, and goes on when it is submitted again
#SBATCH --signal=TERM@90         # 90 seconds before that, ask it to save where it stands
#SBATCH --output=scoretomo_%j.log

set -euo pipefail

images=$1
run=$2
shift 2 # anything more goes to `scoretomo train`: --preset box, --minutes 60, ...

# The environment that scoretomo is installed in; write the path of yours, or `conda activate ...`.
# source /path/to/venv/bin/activate

gpus=${SLURM_GPUS_ON_NODE:?give --gpus-per-node}
export PROCESSES=$((SLURM_NNODES * gpus))
export OMP_NUM_THREADS=$((SLURM_CPUS_PER_TASK / gpus))

# Processes find each other through the first node, at a port that another job there will hardly have.
MAIN_ADDRESS=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export MAIN_ADDRESS MAIN_PORT=$((20000 + SLURM_JOB_ID % 20000))

# Run `scoretomo ...` with all GPUs of all nodes together. If one node fails, the others do not wait for it.
together() {
  srun --kill-on-bad-exit=1 bash -c 'exec accelerate launch \
    --multi_gpu --mixed_precision no --dynamo_backend no \
    --num_machines "$SLURM_NNODES" --machine_rank "$SLURM_NODEID" --num_processes "$PROCESSES" \
    --main_process_ip "$MAIN_ADDRESS" --main_process_port "$MAIN_PORT" \
    -m scoretomo "$@"' scoretomo "$@"
}

together train "$images" -o "$run" "$@"
together reconstruct "$run"

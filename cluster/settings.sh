# What the jobs of this folder share: paths and configuration. Edit here, or set before submitting.

STORE="${STORE:-$PWD/store}"                    # case store, on a file system that all nodes see
RUNS="${RUNS:-$PWD/runs}"                       # folder of all runs, likewise
CONFIG="${CONFIG:-configs/samcancer.yaml}"
GPUS="${GPUS:-1}"                               # of a node, as in the --gpus-per-node of the job

# the same job goes on where it was stopped, killed or ran out of time
resume_of() { if [ -e "$RUNS/$1/resume.pt" ]; then echo "--resume"; fi; }

# 130: asked to stop (the time was nearly up), state saved
requeue_if_stopped() {
    if [ "$1" -eq 130 ]; then scontrol requeue "${SLURM_ARRAY_JOB_ID:-$SLURM_JOB_ID}${SLURM_ARRAY_TASK_ID:+_$SLURM_ARRAY_TASK_ID}"; fi
    return "$1"
}

#!/bin/bash
# The whole training: folds, then pseudo labels, then the final model; each waits for the one before.
#   cluster/submit.sh               on one node at a time
#   cluster/submit.sh nodes         the final training on several nodes
# Run it from the folder that holds cluster/ and configs/.
set -euo pipefail

final=cluster/final.sbatch
if [ "${1:-}" = nodes ]; then final=cluster/final_nodes.sbatch; fi

folds=$(sbatch --parsable cluster/folds.sbatch)
pseudo=$(sbatch --parsable --dependency="afterok:$folds" --kill-on-invalid-dep=yes cluster/pseudo_labels.sbatch)
last=$(sbatch --parsable --dependency="afterok:$pseudo" --kill-on-invalid-dep=yes "$final")
echo "folds $folds, pseudo labels $pseudo, final training $last"

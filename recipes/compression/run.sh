#!/usr/bin/env bash
# Compresses a checkpoint by every method at several strengths, before and after training on through each:
# recipes/compression/run.sh CHECKPOINT [RUNS [EPOCHS [SETTING=… …]]]
# Stopped and started again it goes on where it was; the table and the picture land in RUNS.
set -euo pipefail
checkpoint=${1:?give a checkpoint, or the folder of a run}
runs=${2:-runs/compression}
epochs=${3:-3}
settings=("${@:4}")
mkdir -p "$runs"
while read -r name method; do
  [ -f "$runs/$name.json" ] && continue
  # shellcheck disable=SC2086  # a method and its settings are several words
  python -m kws.compress "checkpoint=$checkpoint" method=$method "name=$name" "runs=$runs" "json=$runs/$name.json" \
    "finetune.epochs=$epochs" "${settings[@]}" < /dev/null
done <<'METHODS'
float none
linear-8 linear
linear-4 linear method.bits=4
linear-2 linear method.bits=2 method.range=mse
kmeans-4 kmeans
kmeans-2 kmeans method.bits=2
log-4 log
ternary ternary
binary binary
prune-50 prune method.sparsity=0.5
prune-80 prune method.sparsity=0.8
prune-90 prune method.sparsity=0.9
2-of-4 n_of_m
channels-50 channels
low-rank-50 low_rank
METHODS
python "$(dirname "$0")/table.py" "$runs"

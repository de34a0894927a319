#!/usr/bin/env bash
# Trains every model under conf/model by one short recipe: recipes/architectures/run.sh FOLDER [RUNS [MODEL …]]
# Stopped and started again it goes on where it was. Then:  python -m kws.benchmarks.models runs=RUNS
set -euo pipefail
folder=${1:?give the folder of Speech Commands}
runs=${2:-runs/architectures}
models=("${@:3}")
if [ ${#models[@]} = 0 ]; then
  for path in "$(dirname "$0")"/../../conf/model/*.yaml; do models+=("$(basename "$path" .yaml)"); done
fi
for model in "${models[@]}"; do
  python -m kws.train experiment=architectures "model=$model" "data.root=$folder" "runs=$runs" "name=$model" || echo "$model: exit code $?"
done

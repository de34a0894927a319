#!/usr/bin/env bash
# Trains and judges the sc15 task: recipes/speech_commands/run.sh FOLDER [model …]
# FOLDER is a copy of Speech Commands; the models default to ghost and dscnn.
set -euo pipefail
root=${1:?the folder that holds Speech Commands}
shift
[ $# -gt 0 ] || set -- ghost dscnn
for model in "$@"; do
  width=1.8
  [ "$model" = dscnn ] && width=1.85  # as large as ghost at 1.8
  python -m kws.train experiment=sc15 "data.root=$root" "model=$model" "model.width=$width"
  python -m kws.evaluate "checkpoint=runs/sc15-$model" split=validation "json=runs/sc15-$model/validation.json"
  python -m kws.benchmarks.listening "checkpoint=runs/sc15-$model" split=validation
done

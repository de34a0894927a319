#!/usr/bin/env bash
# A word from its text alone, then with your takes: recipes/custom_word/run.sh WORD [RECORDINGS]
# RECORDINGS is a folder as kws.record makes.
set -euo pipefail
word=${1:?the word}
name=${word// /_}
python -c "import onnx" 2> /dev/null || { echo "pip install -e '.[export]' first" >&2 && exit 1; }
given=(experiment=text_wake_word "data.words=[$word]")
python -m kws.train "${given[@]}" "name=$name"
if [ -n "${2:-}" ]; then
  python -m kws.train "${given[@]}" "data.recordings=$2" "init_from=runs/$name" "name=$name-mine"
  name=$name-mine
fi
python -m kws.export "checkpoint=runs/$name" "output=$name.onnx" \
  decision.smoothing_ms=80 decision.refractory_ms=1000
echo "listen: python -m kws.listen checkpoint=$name.onnx save=heard"

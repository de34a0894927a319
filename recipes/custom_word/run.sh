#!/usr/bin/env bash
# A word from its text alone, then with your takes: recipes/custom_word/run.sh WORD [RECORDINGS [KOKORO]]
# RECORDINGS is a folder as kws.record makes; KOKORO one of Kokoro's files (data/README.md). Either may be "".
set -euo pipefail
word=${1:?the word}
name=${word// /_}
given=("data.words=[$word]" data.unknown_share=2 data.silence_share=0.3)
[ -z "${3:-}" ] || given+=("data.synthesisers=[espeak, kokoro]" "data.kokoro.root=$3")
python -m kws.train "${given[@]}" train.epochs=10 "name=$name"
if [ -n "${2:-}" ]; then
  python -m kws.train "${given[@]}" "data.recordings=$2" "init_from=runs/$name" train.epochs=4 \
    optim.optimizer.lr=0.001 "name=$name-mine"
  name=$name-mine
fi
python -m kws.export "checkpoint=runs/$name" "output=$name.onnx"
echo "listen: python -m kws.listen checkpoint=$name.onnx save=heard"

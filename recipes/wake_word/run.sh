#!/usr/bin/env bash
# Trains one wake word, exports and judges it: recipes/wake_word/run.sh DATA DIALOGUE [WORD]
# DATA holds wake_words/WORD (recordings of it), speech_commands and other_speech (none of which says it),
# and room_impulse_responses. DIALOGUE is what recipes/dialogue/run.sh made, or "" for none.
set -euo pipefail
data=${1:?the folder of data}
dialogue=${2?the folder of running speech that recipes/dialogue/run.sh made, or \"\"}
word=${3:-computer}
python -c "import onnx" 2> /dev/null || { echo "pip install -e '.[export]' first" >&2 && exit 1; }
experiment=wake_word licence=null
[ "$word" != computer ] || experiment=computer licence=Apache-2.0 # which names words that sound like it
threshold=0.6
[ -n "$dialogue" ] || threshold=0.8 # what people say in passing scores higher where none of it was trained on
others=$data/speech_commands,$data/other_speech
[ -z "$dialogue" ] || others+=,$dialogue/train
run=runs/wake-$word
file=$run/$word.onnx
python -m kws.train "experiment=$experiment" "data.word=$word" "data.root=$data/wake_words/$word" \
  "data.others=[$others]" "data.background=[$data/speech_commands/_background_noise_]" \
  "augment.rooms=$data/room_impulse_responses" "name=wake-$word"
python -m kws.export "checkpoint=$run" "output=$file" "licence=$licence" \
  "decision.threshold=$threshold" decision.smoothing_ms=80 decision.refractory_ms=1000
python "$(dirname "$0")/judge.py" "$file" "$run"
[ -z "$dialogue" ] || for game in queen steel_sky; do
  python -m kws.evaluate "checkpoint=$file" "labels=$dialogue/$game.csv"
done

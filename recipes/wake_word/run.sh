#!/usr/bin/env bash
# Trains one wake word, mines what fools it, trains on that, exports and judges: recipes/wake_word/run.sh DATA [WORD]
# DATA holds wake_words/WORD (recordings of it), speech_commands and other_speech (none of which says it),
# and room_impulse_responses.
set -euo pipefail
data=${1:?the folder of data}
word=${2:-computer}
experiment=wake_word
[ "$word" != computer ] || experiment=computer # which names words that sound like it
set -- "experiment=$experiment" "data.word=$word" "data.root=$data/wake_words/$word" \
  "data.others=[$data/speech_commands,$data/other_speech]" \
  "data.background=[$data/speech_commands/_background_noise_]" "augment.rooms=$data/room_impulse_responses"
judge=$(dirname "$0")/judge.py
first=runs/$word-first
second=runs/$word
decision=(decision.smoothing_ms=80 decision.refractory_ms=1000)
python -m kws.train "$@" "name=$word-first"
python -m kws.export "checkpoint=$first" "output=$first/$word.onnx" "${decision[@]}"
python "$judge" "$first/$word.onnx" "$first" --mine "$first/mined.jsonl"
python -m kws.train "$@" "name=$word" "init_from=$first" "data.mined=$first/mined.jsonl" \
  train.epochs=4 optim.optimizer.lr=0.001 "augment.noise_snr=[-8,22]" augment.crowd_chance=0.35
python -m kws.export "checkpoint=$second" "output=$second/$word.onnx" licence=Apache-2.0 \
  decision.threshold=0.8 "${decision[@]}"
python "$judge" "$second/$word.onnx" "$second"

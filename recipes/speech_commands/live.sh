#!/usr/bin/env bash
# Trains the commands for a microphone: recipes/speech_commands/live.sh FOLDER [KOKORO]
# FOLDER and KOKORO are run.sh's. Stopped and started again it goes on where it was.
set -euo pipefail
root=${1:?the folder that holds Speech Commands}
kokoro=${2:-}
train=(python -m kws.train experiment=sc15 "data.root=$root" augment=light data.synthetic_clips=60
  data.synthetic.near=150 data.synthetic.sentences=200 data.synthetic.unknown_share=3)
[ -z "$kokoro" ] || train+=("data.synthetic.synthesisers=[espeak,kokoro]" "data.synthetic.kokoro.root=$kokoro"
  data.synthetic.kokoro.per_word=15)
"${train[@]}" name=sc15-live-teacher model=speech init_from=speech train.epochs=16
"${train[@]}" name=sc15-live model=dscnn_2d_100k model.window_ms=700 \
  "train.teachers=[runs/sc15-live-teacher]" train.epochs=40
python -m kws.export checkpoint=runs/sc15-live output=runs/sc15-live/commands_live.onnx licence=CC-BY-4.0 \
  decision.threshold=0.8
python -m kws.evaluate checkpoint=runs/sc15-live/commands_live.onnx data=speech_commands "data.root=$root" \
  data.task=sc15 split=validation
for said in words others; do
  python -m kws.join "output=runs/sc15-live/$said" data=speech_commands "data.root=$root" data.task=sc15 \
    split=validation "said=$said"
  python -m kws.evaluate checkpoint=commands,runs/sc15-live/commands_live.onnx "labels=runs/sc15-live/$said/labels.csv"
done

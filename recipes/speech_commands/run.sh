#!/usr/bin/env bash
# Trains and judges the spotters of commands that come with kws, and those beside this:
#   recipes/speech_commands/run.sh FOLDER [KOKORO [NAME …]]
# FOLDER is a copy of Speech Commands; KOKORO the folder of Kokoro's files (data/README.md), or "" for espeak-ng alone;
# NAME is one below. Stopped and started again it goes on where it was.
set -euo pipefail
root=${1:?the folder that holds Speech Commands}
kokoro=${2:-}
names=("${@:3}")
[ ${#names[@]} -gt 0 ] || names=(commands commands_small commands_large)
corpus=(data=speech_commands "data.root=$root" data.task=sc15 split=validation)
train=(python -m kws.train experiment=sc15 "data.root=$root" augment=light data.synthetic_clips=60
  data.synthetic.near=150 data.synthetic.sentences=200 data.synthetic.unknown_share=3)
[ -z "$kokoro" ] || train+=("data.synthetic.synthesisers=[espeak,kokoro]" "data.synthetic.kokoro.root=$kokoro"
  data.synthetic.kokoro.per_word=15)
"${train[@]}" name=sc15-live-teacher model=speech init_from=speech train.epochs=16 optim=muon optim.optimizer.lr=0.003
train+=("train.teachers=[runs/sc15-live-teacher]")
other=(model=bcresnet model.dropout=0 optim.optimizer.lr=0.01 train.precision=bf16)
for said in words others; do
  python -m kws.join "output=runs/sc15-stream/$said" "${corpus[@]}" "said=$said"
done
for name in "${names[@]}"; do
  again=()  # again: once more from its own weights, after what a stream holds before a clip
  case $name in
    commands) chosen=(optim=muon model=commands train.mixup=0.2) epochs=180 again=(30 0.004) ;;
    commands_small) chosen=(optim=muon model=commands_small) epochs=180 again=(30 0.004) ;;
    commands_large) chosen=(optim=muon model=commands_large train.mixup=0.2) epochs=60 again=(16 0.003) ;;
    bcresnet) chosen=("${other[@]}") epochs=90 ;;
    bcresnet_2 | bcresnet_3) chosen=("${other[@]}" "model.width=${name#bcresnet_}" train.mixup=0.2) epochs=60 ;;
    *) echo "no $name" >&2 && exit 2 ;;
  esac
  "${train[@]}" "${chosen[@]}" "name=$name" "train.epochs=$epochs"
  run=runs/$name
  if [ ${#again[@]} -gt 0 ]; then
    "${train[@]}" "${chosen[@]}" "name=$name-on" "init_from=$run" train.context=0.5 "train.epochs=${again[0]}" \
      "optim.optimizer.lr=${again[1]}"
    run+=-on
    python -m kws.export "checkpoint=$run" "output=$run/$name.pt"
  fi
  file=$run/$name.onnx
  python -m kws.export "checkpoint=$run" "output=$file" licence=CC-BY-4.0
  python -m kws.evaluate "checkpoint=$file" "${corpus[@]}"
  for said in words others; do
    python -m kws.evaluate "checkpoint=$file" "labels=runs/sc15-stream/$said/labels.csv"
  done
done

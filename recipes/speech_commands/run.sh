#!/usr/bin/env bash
# Trains and judges the spotters of commands that come with kws, and those beside this:
#   recipes/speech_commands/run.sh FOLDER [KOKORO [NAME …]]
# FOLDER is a copy of Speech Commands; KOKORO the folder of Kokoro's files (data/README.md), or "" for espeak-ng alone;
# NAME is one below. Stopped and started again it goes on where it was.
set -euo pipefail
root=${1:?the folder that holds Speech Commands}
kokoro=${2:-}
names=("${@:3}")
[ ${#names[@]} -gt 0 ] || names=(commands commands_small commands_live)
corpus=(data=speech_commands "data.root=$root" data.task=sc15 split=validation)
train=(python -m kws.train experiment=sc15 "data.root=$root" augment=light data.synthetic_clips=60
  data.synthetic.near=150 data.synthetic.sentences=200 data.synthetic.unknown_share=3)
[ -z "$kokoro" ] || train+=("data.synthetic.synthesisers=[espeak,kokoro]" "data.synthetic.kokoro.root=$kokoro"
  data.synthetic.kokoro.per_word=15)
"${train[@]}" name=sc15-live-teacher model=speech init_from=speech train.epochs=16 optim=muon optim.optimizer.lr=0.003
train+=("train.teachers=[runs/sc15-live-teacher]" train.context=0.5)
table() { # channels over time × frequency, two numbers; then over time; the last blocks, two unless said
  local both="conv_k3x5_s2x2_c$1,ds_k3x3_s1x2_c$1,ds_k3x3_c$1_res,ds_k3x3_s1x2_c$2,ds_k3x3_s1x2_c$2"
  echo "[$both,flat,conv_c$3,ds_k7x1_c$3_res_r2,ds_k7x1_d2_c$3_res_r${4:-2}]"
}
own=(model=dscnn_2d model.dropout=0 optim=muon)
other=(model=bcresnet model.dropout=0 optim.optimizer.lr=0.01 train.precision=bf16)
for said in words others; do
  python -m kws.join "output=runs/sc15-stream/$said" "${corpus[@]}" "said=$said"
done
for name in "${names[@]}"; do
  threshold=0.7
  case $name in
    commands) chosen=("${own[@]}" "model.table=$(table 24 32 60)" train.mixup=0.2 train.epochs=180) threshold=0.8 ;;
    commands_small) chosen=("${own[@]}" "model.table=$(table 16 16 32)" train.epochs=180) ;;
    commands_live) chosen=(model=dscnn_2d_100k model.window_ms=700 train.epochs=40) threshold=0.8 ;;
    dscnn_100k) chosen=("${own[@]}" "model.table=$(table 40 48 96 5)" train.mixup=0.2 train.epochs=60) threshold=0.9 ;;
    bcresnet) chosen=("${other[@]}" train.epochs=90) ;;
    bcresnet_2 | bcresnet_3) chosen=("${other[@]}" "model.width=${name#bcresnet_}" train.mixup=0.2 train.epochs=60) ;;
    *) echo "no $name" >&2 && exit 2 ;;
  esac
  "${train[@]}" "name=$name" "${chosen[@]}"
  file=runs/$name/$name.onnx
  python -m kws.export "checkpoint=runs/$name" "output=$file" licence=CC-BY-4.0 "decision.threshold=$threshold"
  python -m kws.evaluate "checkpoint=$file" "${corpus[@]}"
  for said in words others; do
    python -m kws.evaluate "checkpoint=$file" "labels=runs/sc15-stream/$said/labels.csv"
  done
done

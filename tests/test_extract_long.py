"""Long sounds: computed as they are read, the same as at once, in memory that does not grow with them."""

import json
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from conftest import speechlike
from processes import ROOT

from kws import audio, computer
from kws.extract import extract
from kws.features import make_options
from kws.features.extractor import FeatureExtractor
from kws.features.kaldi_io import read_matrix, read_scp

OPTIONS = make_options("fbank", num_mel_bins=40)


def outputs(folder) -> dict[str, np.ndarray]:
    return {key: read_matrix(where) for key, where in read_scp(folder / "feats.scp")}


@pytest.mark.parametrize("options", [OPTIONS, make_options("mfcc", snip_edges=False), make_options("fbank", dither=1)])
def test_long_sounds_are_computed_as_short_ones(tmp_path, options, monkeypatch):
    for i, (n, rate) in enumerate([(200_000, 16000), (81_920, 16000), (81_921, 16000), (300_000, 44100), (900, 8000)]):
        (tmp_path / "in").mkdir(exist_ok=True)
        audio.write(tmp_path / "in" / f"{i}.flac", speechlike(n, seed=i), rate)
    extract(tmp_path / "in", tmp_path / "blocks", options, resample=True)
    monkeypatch.setattr(computer, "CHUNK", 1 << 30)
    extract(tmp_path / "in", tmp_path / "whole", options, resample=True)
    whole = outputs(tmp_path / "whole")
    assert len(whole) == 5
    for key, frames in outputs(tmp_path / "blocks").items():
        np.testing.assert_array_equal(frames, whole[key])
    if not options.dither:
        samples = torch.from_numpy(audio.read(tmp_path / "in" / "3.flac", rate=16000)[0])
        np.testing.assert_array_equal(whole["3"], FeatureExtractor(options)(samples[None])[0][0].numpy())


def test_dither_is_of_the_utterance_whatever_stands_beside_it(tmp_path):
    for folder, names in (("in", "abcd"), ("more", "bxd")):
        (tmp_path / folder).mkdir()
        for name in names:
            audio.write(tmp_path / folder / f"{name}.wav", speechlike(100_000 if name == "d" else 8000), 16000)
    options = make_options("fbank", dither=1, dither_seed=3)
    extract(tmp_path / "in", tmp_path / "all", options)
    extract(tmp_path / "more", tmp_path / "few", options, workers=2)
    everything, few = outputs(tmp_path / "all"), outputs(tmp_path / "few")
    for key in "bd":
        np.testing.assert_array_equal(few[key], everything[key])
    assert np.abs(everything["a"] - everything["b"]).mean() > 0.01  # the same sound


def test_what_fails_in_its_last_block_gives_no_features_and_loses_nothing_else(tmp_path):
    (tmp_path / "in").mkdir()
    sound = speechlike(400_000)
    audio.write(tmp_path / "in" / "a.flac", sound, 16000)
    audio.write(tmp_path / "in" / "z.flac", sound, 16000)
    data = (tmp_path / "in" / "a.flac").read_bytes()
    (tmp_path / "in" / "b.flac").write_bytes(data[: len(data) - 4000])
    for name, value in (("c", np.nan), ("d", 1e30)):
        sound[-300] = value
        soundfile.write(tmp_path / "in" / f"{name}.wav", sound / 32768, 16000, subtype="FLOAT")
    (tmp_path / "in" / "e.wav").write_bytes((tmp_path / "in" / "c.wav").read_bytes()[:-400_000])
    assert extract(tmp_path / "in", tmp_path / "out", OPTIONS) == 4
    found = outputs(tmp_path / "out")
    assert list(found) == ["a", "z"]
    np.testing.assert_array_equal(found["a"], found["z"])
    rows = [json.loads(line) for line in (tmp_path / "out" / "failed.jsonl").read_text().splitlines()]
    b, c, d, e = [row["reason"] for row in rows]
    assert b.startswith("truncated or damaged, 39")
    assert "of 400000 samples are there" in b
    assert c == "sample 399700 is not a finite number"
    assert d == "the features are not finite: the loudest sample is 1e+30"
    assert e.startswith("truncated, 300000 of 400000 samples")
    kept = tmp_path / "kept"
    assert extract(tmp_path / "in" / "b.flac", kept, OPTIONS, allow_truncated=True) == 0
    np.testing.assert_array_equal(outputs(kept)["b"][:2400], found["a"][:2400])


@pytest.mark.parametrize(("option", "rate"), [("allow_downsample", 44100), ("allow_upsample", 8000)])
def test_the_options_object_allows_other_rates(tmp_path, option, rate):
    for name in (8000, 44100):
        audio.write(tmp_path / f"{name}.wav", speechlike(name), name)
    assert extract(tmp_path, tmp_path / "out", make_options("fbank", **{option: True})) == 1
    [row] = map(json.loads, (tmp_path / "out" / "failed.jsonl").read_text().splitlines())
    assert list(outputs(tmp_path / "out")) == [str(rate)]
    assert "not 16000; resample=true changes it" in row["reason"]


MEASURE = """
import sys
import numpy as np
from kws import extract
from kws.features import make_options
from kws.features.online import OnlineExtractor
OnlineExtractor(make_options()).push(np.zeros(400, np.float32), flush=True)  # compiled code is loaded when it is called
def memory(name):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(name)) / 1024
before = memory("VmRSS")
extract.extract(sys.argv[1], sys.argv[2], make_options("fbank", num_mel_bins=80), sys.argv[3], resample=True)
print(memory("VmHWM") - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("suffix", "rate", "format"), [("wav", 16000, "ark"), ("flac", 16000, "npy"), ("flac", 8000, "ark")]
)
def test_an_hour_needs_its_features_and_20_mib(tmp_path, suffix, rate, format):
    path, sound = tmp_path / f"hour.{suffix}", speechlike(100 * rate).astype(np.int16)
    with soundfile.SoundFile(path, "w", rate, 1) as file:
        for i in range(36):
            file.write(np.roll(sound, 977 * i))
    line = [sys.executable, "-c", MEASURE, str(path), str(tmp_path / "out"), format]
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    features = 359_998 * 80 * 4 / 2**20  # 109.9 MiB
    assert features < float(done.stdout.split()[-1]) < features + 20

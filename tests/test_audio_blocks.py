"""Sound in blocks: the same samples as at once, the same errors, in memory that does not grow with the sound."""

import io
import os
import struct
import threading
import tracemalloc

import numpy as np
import pytest
import soundfile

from kws import audio
from kws.audio import AudioError, Sound

RNG = np.random.default_rng(7)
LONG = (RNG.standard_normal((700_000, 2)) * 4000).astype(np.int16)  # more than is read at once, in any encoding
KINDS = [("WAV", s) for s in ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM")]
KINDS += [("RF64", "PCM_16"), ("W64", "PCM_16"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("MP3", "MPEG_LAYER_III")]


@pytest.mark.parametrize(("format", "subtype"), KINDS)
def test_blocks_are_the_whole(tmp_path, format, subtype, monkeypatch):
    monkeypatch.setattr(audio, "SMALL", 10_000)
    path = tmp_path / "a"
    soundfile.write(path, LONG[:100_000], 44100, format=format, subtype=subtype)
    for rate in (None, 16000):
        whole, found = audio.read(path, 1, rate)
        assert found == (rate or 44100)
        for size in (1 << 18, 9_001):
            with Sound(path) as sound:
                assert (sound.rate, sound.channels) == (44100, 2)
                blocks = list(sound.blocks(1, rate, size=size))
            assert max(map(len, blocks)) <= size + 4096
            np.testing.assert_array_equal(np.concatenate(blocks), whole)
    if format != "OGG":
        assert audio.duration(path) == pytest.approx(100_000 / 44100, rel=1e-3)


@pytest.mark.parametrize(("format", "subtype"), [("WAV", "PCM_24"), ("WAV", "DOUBLE"), ("FLAC", "PCM_16")])
def test_memory_does_not_grow_with_the_sound(tmp_path, format, subtype):
    path = tmp_path / "a"
    with soundfile.SoundFile(path, "w", 48000, 1, format=format, subtype=subtype) as file:
        for _ in range(5):
            file.write(LONG[:, 0])
    for rate in (None, 16000):
        tracemalloc.start()
        with Sound(path) as sound:
            n_samples = sum(len(block) for block in sound.blocks(rate=rate))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert n_samples == -(-5 * len(LONG) * (rate or 48000) // 48000)
        assert peak < 8 << 20  # the samples alone are 14 MB


def test_what_is_wrong_at_the_end_is_said_there(tmp_path):
    path = tmp_path / "a.wav"
    sound = LONG[:, 0] / 32768
    sound[-3] = np.inf
    soundfile.write(path, sound, 16000, subtype="FLOAT")
    blocks = Sound(path).blocks(size=100_000)
    assert sum(len(next(blocks)) for _ in range(6)) == 600_000
    with pytest.raises(AudioError, match=r"a\.wav: sample 699997 is not a finite number"):
        next(blocks)
    soundfile.write(tmp_path / "a.flac", LONG, 16000)
    data = (tmp_path / "a.flac").read_bytes()
    (tmp_path / "a.flac").write_bytes(data[: len(data) - 9000])
    blocks = Sound(tmp_path / "a.flac").blocks(0)
    assert sum(len(next(blocks)) for _ in range(2)) == 1 << 18
    with pytest.raises(AudioError, match=r"a\.flac: truncated or damaged, 69\d+ of 700000 samples are there"):
        list(blocks)


def test_a_wav_that_is_cut_while_it_is_read(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, LONG, 16000)
    with Sound(path) as sound:
        blocks = sound.blocks(0, size=100_000)
        next(blocks)
        os.truncate(path, 1_000_044)
        with pytest.raises(AudioError, match=r"truncated, 250000 of 700000 samples are there"):
            list(blocks)


@pytest.mark.parametrize("format", ["WAV", "FLAC", "MP3"])
@pytest.mark.parametrize("n", [3000, 700_000])
def test_a_pipe_of_any_length(tmp_path, format, n):
    data = io.BytesIO()
    soundfile.write(data, LONG[:n], 16000, format=format)
    (tmp_path / "a").write_bytes(data.getvalue())
    read, write = os.pipe()

    def feed():
        with open(write, "wb") as end:
            end.write(data.getvalue())

    thread = threading.Thread(target=feed)
    thread.start()
    with Sound("sox a.sph -t wav - |", open(read, "rb")) as sound:
        samples = np.concatenate(list(sound.blocks(1)))
    thread.join()
    np.testing.assert_array_equal(samples, audio.read(tmp_path / "a", 1)[0])
    read, write = os.pipe()
    os.close(write)
    with pytest.raises(AudioError, match=r"false \|: the file is empty"):
        audio.read("false |", file=open(read, "rb"))  # noqa: SIM115


CUT = [("AIFF", "PCM_16", "FILE"), ("AU", "PCM_16", "FILE"), ("W64", "PCM_16", "FILE"), ("RF64", "PCM_16", "FILE")]
CUT += [("WAV", "PCM_16", "BIG"), ("WAV", "IMA_ADPCM", "FILE"), ("MP3", "MPEG_LAYER_III", "FILE")]


@pytest.mark.parametrize(("format", "subtype", "endian"), CUT)
def test_every_truncation_that_a_header_tells_is_named(tmp_path, format, subtype, endian):
    path = tmp_path / "a"
    soundfile.write(path, LONG[:, 0], 16000, format=format, subtype=subtype, endian=endian)
    whole, _ = audio.read(path)
    os.truncate(path, os.path.getsize(path) * 2 // 3)
    with pytest.raises(AudioError, match=r"truncated.* samples are there$"):
        audio.read(path)
    kept, _ = audio.read(path, allow_truncated=True)
    assert 300_000 < len(kept) < len(whole)
    np.testing.assert_allclose(kept[:-2000], whole[: len(kept) - 2000], atol=0.01)


def test_an_au_of_unknown_length_is_read_to_the_end(tmp_path):
    path = tmp_path / "a.au"
    header = b".snd" + struct.pack(">IIIII", 24, 0xFFFFFFFF, 3, 16000, 1)
    path.write_bytes(header + LONG[:5000, 0].astype(">i2").tobytes())
    np.testing.assert_array_equal(audio.read(path)[0], LONG[:5000, 0])


def test_a_tag_behind_a_flac_is_no_damage(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, LONG[:16_000, 0], 16000)
    path.write_bytes(path.read_bytes() + b"TAG" + b"title".ljust(125, b"\0"))
    np.testing.assert_array_equal(audio.read(path)[0], LONG[:16_000, 0])


def test_paths_that_cannot_be(tmp_path):
    with pytest.raises(AudioError, match="null"):
        audio.read("a\0b.wav")
    with pytest.raises(AudioError, match="File name too long"):
        audio.read(tmp_path / ("a" * 300))

"""Sound files: what is read agrees with soundfile, what lies is named, and resampling does not depend on chunks."""

import io
import os
import struct

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from kws import audio
from kws.audio import AudioError, Resampler, resample

RNG = np.random.default_rng(5)
NOISE = (RNG.standard_normal((5000, 3)) * 5000).clip(-32768, 32767).astype(np.int16)
NOISE[:2, 0] = -32768, 32767


def chunk(name: bytes, body: bytes, size: int | None = None) -> bytes:
    return name + struct.pack("<I", len(body) if size is None else size) + body + b"\0" * (len(body) & 1)


def fmt(tag=1, channels=1, rate=16000, bits=16, block=None) -> bytes:
    block = channels * bits // 8 if block is None else block
    return chunk(b"fmt ", struct.pack("<HHIIHH", tag, channels, rate, rate * block, block, bits))


def riff(*chunks: bytes) -> bytes:
    body = b"WAVE" + b"".join(chunks)
    return b"RIFF" + struct.pack("<I", len(body)) + body


MONO = NOISE[:, 0].tobytes()


@pytest.fixture
def wav(tmp_path):
    """A file of the given bytes; its name does not matter to the reader."""

    def make(data: bytes, name: str = "sound.wav"):
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return make


@pytest.mark.parametrize("channels", [1, 2, 3])
@pytest.mark.parametrize("rate", [8000, 16000, 44100, 96000])
def test_16_bit_wav_is_read_bit_for_bit(tmp_path, rate, channels):
    soundfile.write(tmp_path / "a.wav", NOISE[:, :channels], rate)
    for channel in range(channels):
        samples, found = audio.read(tmp_path / "a.wav", channel)
        assert found == rate
        assert samples.dtype == np.float32
        np.testing.assert_array_equal(samples, NOISE[:, channel])


ENCODINGS = [("WAV", s) for s in ("PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM")]
ENCODINGS += [("WAVEX", "PCM_16"), ("WAVEX", "PCM_24"), ("WAVEX", "FLOAT"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24")]
ENCODINGS += [("OGG", "VORBIS"), ("OGG", "OPUS"), ("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"), ("AU", "PCM_16")]
ENCODINGS += [("W64", "PCM_16"), ("RF64", "PCM_16"), ("CAF", "PCM_16")]


@pytest.mark.parametrize(("format", "subtype"), ENCODINGS)
@pytest.mark.parametrize("channels", [1, 2])
def test_every_encoding_agrees_with_soundfile(tmp_path, format, subtype, channels):
    rates = (16000, 48000) if subtype == "OPUS" else (16000, 44100)
    for rate in rates:
        # longer than any block that is read at once: an MP3 read in pieces must not lose the frames before a piece
        sound = np.tile(NOISE[:, :channels], (20, 1))
        soundfile.write(tmp_path / "a", sound, rate, format=format, subtype=subtype)
        expected, _ = soundfile.read(tmp_path / "a", dtype="float32", always_2d=True)
        samples, found = audio.read(tmp_path / "a", channels - 1)
        assert found == rate
        tolerance = 0.01 if format in ("MP3", "OGG") else 0  # of 32768; whole and in blocks their decoders round alike
        np.testing.assert_allclose(samples, expected[:, -1] * 32768, rtol=0, atol=tolerance)


@pytest.mark.parametrize("before", [b"", chunk(b"LIST", b"odd"), chunk(b"junk", b"") + chunk(b"bext", b"x" * 601)])
def test_chunks_before_and_after_the_samples(wav, before):
    for data in (
        riff(before, fmt(), chunk(b"data", MONO), chunk(b"LIST", b"tail")),
        riff(fmt(), before + chunk(b"data", MONO)),
    ):
        np.testing.assert_array_equal(audio.read(wav(data))[0], NOISE[:, 0])


@pytest.mark.parametrize("size", sorted(audio.OPEN_LENGTHS))
@pytest.mark.parametrize("bits", [16, 24])
def test_a_length_that_a_pipe_left_open_is_read_to_the_end(wav, size, bits):
    sound = NOISE[:4998, 0].tobytes() + (b"\0" if bits == 16 else b"")  # half a sample at the end is dropped
    path = wav(riff(fmt(bits=bits), b"data" + struct.pack("<I", size) + sound))
    samples, _ = audio.read(path)
    assert len(samples) == len(sound) // (bits // 8)
    assert audio.duration(path) == pytest.approx(len(samples) / 16000, abs=2e-4)
    if bits == 16:
        np.testing.assert_array_equal(samples, NOISE[:4998, 0])


BROKEN = {
    "empty": (b"", "empty"),
    "text": (b"once upon a time\n" * 9, "not a sound file"),
    "cut in the header": (riff(fmt())[:30], "fmt chunk"),
    "no data chunk": (riff(fmt(), chunk(b"LIST", b"abcd")), "no data chunk"),
    "no fmt chunk": (riff(chunk(b"data", MONO)), "no fmt chunk"),
    "small fmt chunk": (riff(chunk(b"fmt ", b"\1\0\1\0"), chunk(b"data", MONO)), "4 bytes; at least 16"),
    "no channels": (riff(fmt(channels=0, block=2), chunk(b"data", MONO)), "0 channels"),
    "65535 channels": (riff(fmt(channels=65535, block=2), chunk(b"data", MONO)), "65535 channels"),
    "rate 0": (riff(fmt(rate=0), chunk(b"data", MONO)), "a rate of 0 Hz"),
    "rate 4 GHz": (riff(chunk(b"fmt ", struct.pack("<HHIIHH", 1, 1, 2**32 - 1, 0, 2, 16)), chunk(b"data", MONO)), "Hz"),
    "0 bits": (riff(fmt(bits=0, block=2), chunk(b"data", MONO)), "0-bit samples"),
    "20 bits": (riff(fmt(bits=20, block=3), chunk(b"data", MONO)), "20-bit samples"),
    "block of 0": (riff(fmt(block=0), chunk(b"data", MONO)), "0 bytes for 1 x 16 bits"),
    "unknown encoding": (riff(fmt(tag=0x1234), chunk(b"data", MONO)), "not a sound file"),
    "huge chunk": (riff(fmt(), chunk(b"LIST", b"", 2**32 - 1), chunk(b"data", MONO)), "no data chunk"),
    "truncated": (riff(fmt(), chunk(b"data", MONO))[:6044], "3000 of 5000 samples are there"),
    "huge length": (riff(fmt(), chunk(b"data", MONO, 2**32 - 3)), "5000 of 2147483646 samples"),
    "no samples": (riff(fmt(), chunk(b"data", b"")), "no samples"),
    "no 8-bit samples": (riff(fmt(bits=8), chunk(b"data", b"")), "no samples"),
    "NaN": (riff(fmt(3, bits=32), chunk(b"data", np.float32([0, 1, np.nan]).tobytes())), "sample 2 is not a finite"),
    "beyond float32": (riff(fmt(3, bits=64), chunk(b"data", np.float64([1e300]).tobytes())), "sample 0 is not a fin"),
    "two channels": (riff(fmt(channels=2), chunk(b"data", MONO)), "2 channels; say which with channel=0 to 1"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_used_is_named(wav, name):
    data, reason = BROKEN[name]
    path = wav(data, "a sound.wav")
    with pytest.raises(AudioError) as error:
        audio.read(path)
    assert str(error.value).startswith(f"{path}: ")
    assert reason in str(error.value)


def test_files_that_are_not_there(tmp_path):
    with pytest.raises(AudioError, match=r"none\.wav: No such file"):
        audio.read(tmp_path / "none.wav")
    with pytest.raises(AudioError, match=r"none\.wav: No such file"):
        audio.duration(tmp_path / "none.wav")
    with pytest.raises(AudioError, match="Is a directory"):
        audio.read(tmp_path)
    soundfile.write(tmp_path / "a.wav", NOISE, 16000)
    with pytest.raises(AudioError, match="no channel 3, only 0 to 2"):
        audio.read(tmp_path / "a.wav", 3)


def test_truncated_sound_is_kept_when_asked(wav):
    samples, _ = audio.read(wav(riff(fmt(), chunk(b"data", MONO))[:6045]), allow_truncated=True)
    np.testing.assert_array_equal(samples, NOISE[:3000, 0])
    flac = io.BytesIO()
    soundfile.write(flac, NOISE.reshape(-1), 16000, format="FLAC")
    path = wav(flac.getvalue()[:-3000], "a.flac")
    with pytest.raises(AudioError, match=r"truncated or damaged, \d+ of 15000 samples are there$"):
        audio.read(path)
    samples, _ = audio.read(path, allow_truncated=True)
    assert 8192 <= len(samples) < 15000
    np.testing.assert_array_equal(samples, NOISE.reshape(-1)[: len(samples)])


@pytest.mark.parametrize("mode", ["CONSTANT", "AVERAGE", "VARIABLE"])
def test_mp3_is_read_to_its_end_or_refused(tmp_path, mode):
    """libsndfile stops where the header, or a guess without one, has an MP3 end."""
    rng, file, path = np.random.default_rng(0), io.BytesIO(), tmp_path / "a.mp3"
    loud = (np.arange(160000) // 24000 % 2) * 0.3 + 0.001  # so that frames differ in length
    soundfile.write(
        file, rng.standard_normal(160000) * loud, 16000, format="MP3", bitrate_mode=mode, compression_level=0.5
    )
    whole = file.getvalue()
    tag = b"ID3\x04\0\0" + bytes([0, 2, 0, 0]) + rng.bytes(1 << 15)

    def told(content: bytes):
        path.write_bytes(content)
        try:
            return len(audio.read(path)[0])
        except AudioError as error:
            return "truncated" if "truncated" in str(error) else str(error)

    assert [told(content) for content in (whole, tag + whole, whole + b"TAG" + bytes(125))] == [160000] * 3
    assert [told(content) for content in (whole[: len(whole) // 2], tag + whole[: len(whole) // 2])] == [
        "truncated"
    ] * 2
    kbits = (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160)[whole[2] >> 4]
    bare = whole[72 * kbits // 16 + (whole[2] >> 1 & 1) :]  # without the frame that says how long it is
    assert told(bare) == "truncated" if mode != "CONSTANT" else told(bare) >= 160000


def test_flac_of_unknown_length(wav):
    """What `flac -` and ffmpeg write to a pipe: 0 samples in STREAMINFO."""
    flac = io.BytesIO()
    soundfile.write(flac, NOISE[:, 0], 16000, format="FLAC")
    data = bytearray(flac.getvalue())
    data[21] &= 0xF0  # the 36-bit count begins in the low half of this byte
    data[22:26] = bytes(4)
    path = wav(bytes(data), "a.flac")
    np.testing.assert_array_equal(audio.read(path)[0], NOISE[:, 0])
    assert audio.duration(path) == 5000 / 16000


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_written_sound_is_rounded_and_clipped(tmp_path, suffix):
    path = tmp_path / os.fsdecode(b"caf\xe9" + suffix.encode())  # a name that is not UTF-8
    audio.write(path, np.float32([0.4, 1.6, -1.6, 40000, -40000]), 22050)
    samples, rate = audio.read(path)
    np.testing.assert_array_equal(samples, [0, 2, -2, 32767, -32768])
    assert rate == 22050
    assert audio.duration(path) == 5 / 22050
    with pytest.raises(AudioError, match="sample 1 is not a finite number"):
        audio.write(tmp_path / "b.wav", np.float32([0, np.inf]), 16000)
    with pytest.raises(AudioError, match="cannot be written"):
        audio.write(tmp_path / "none" / "b.wav", np.zeros(3), 16000)


RATES = [(48000, 16000), (44100, 16000), (8000, 16000), (16000, 22050), (16000, 8000), (22050, 16000), (11025, 16000)]


@settings(max_examples=40, deadline=None)
@given(rates=st.sampled_from(RATES), n=st.integers(0, 3000), cuts=st.lists(st.integers(0, 700), max_size=12))
def test_resampled_chunks_are_the_whole_bit_for_bit(rates, n, cuts):
    sound = (np.random.default_rng(n).standard_normal(n) * 9000).astype(np.float32)
    whole = resample(sound, *rates)
    assert len(whole) == -(-n * rates[1] // rates[0])
    assert whole.dtype == np.float32
    resampler = Resampler(*rates)
    for _ in range(2):  # the second time finds no trace of the first
        parts, at = [], 0
        for cut in cuts:
            parts.append(resampler.push(sound[at : at + cut]))
            at += cut
        parts.append(resampler.push(sound[at:], flush=True))
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_a_long_sound_is_resampled_in_pieces_as_one():
    sound = RNG.standard_normal(600_000).astype(np.float32)
    np.testing.assert_array_equal(resample(sound, 44100, 16000), Resampler(44100, 16000).push(sound, flush=True))


@pytest.mark.parametrize("rates", RATES)
def test_a_sine_stays_the_sine_and_aliases_are_gone(rates):
    before, after = rates
    seconds = 0.5
    for share in (0.05, 0.5, 0.83):  # of the lower Nyquist frequency
        hz = share * min(rates) / 2
        sound = 10000 * np.sin(2 * np.pi * hz * np.arange(int(seconds * before)) / before)
        expected = 10000 * np.sin(2 * np.pi * hz * np.arange(int(seconds * after)) / after)
        edge = after // 50  # the zeros before and after the sound ring there
        error = (resample(sound, before, after)[: len(expected)] - expected)[edge:-edge]
        assert np.abs(error).max() < 1  # 80 dB down
    if after < before:
        for hz in (1.07 * after / 2, 0.98 * before / 2):
            sound = 10000 * np.sin(2 * np.pi * hz * np.arange(int(seconds * before)) / before)
            assert np.abs(resample(sound, before, after)[edge:-edge]).max() < 1


def test_read_resamples(wav):
    path = wav(riff(fmt(rate=48000), chunk(b"data", MONO)))
    samples, rate = audio.read(path, rate=16000)
    assert rate == 16000
    np.testing.assert_array_equal(samples, resample(NOISE[:, 0], 48000, 16000))


@pytest.mark.parametrize(("rate", "reason"), [(1, "factor beyond"), (383_999, "no simple ratio")])
def test_a_lying_rate_does_not_fill_the_memory(wav, rate, reason):
    with pytest.raises(AudioError, match=rf"sound\.wav: cannot resample .*{reason}"):
        audio.read(wav(riff(fmt(rate=rate), chunk(b"data", MONO))), rate=16000)

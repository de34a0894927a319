"""Files that lie: whatever the bytes, the reader gives samples or names the file, soon and in little memory."""

import io
import os
import random
import resource
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kws import audio
from kws.audio import AudioError

RNG = np.random.default_rng(6)
NOISE = (RNG.standard_normal((4000, 8)) * 5000).clip(-32768, 32767).astype(np.int16)
NOISE[:2, 0] = -32768, 32767
WAVS = ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM", "GSM610"]
KINDS = [("WAV", subtype) for subtype in WAVS]
KINDS += [("WAVEX", "PCM_16"), ("WAVEX", "PCM_24"), ("WAVEX", "FLOAT"), ("RF64", "PCM_16"), ("W64", "PCM_24")]
KINDS += [("FLAC", "PCM_S8"), ("FLAC", "PCM_16"), ("FLAC", "PCM_24"), ("OGG", "VORBIS"), ("OGG", "OPUS")]
KINDS += [("MP3", "MPEG_LAYER_III"), ("AIFF", "PCM_16"), ("AIFF", "FLOAT"), ("AU", "ULAW"), ("CAF", "ALAC_16")]


def _seeds() -> list[bytes]:
    """A sound in every kind, with 1, 2 and 8 channels and at 8 to 96 kHz where the kind can."""
    seeds = []
    for format, subtype in KINDS:
        for channels, rate in ((1, 8000), (1, 16000), (2, 48000), (8, 96000)):
            file = io.BytesIO()
            try:
                soundfile.write(file, NOISE[:700, :channels], rate, format=format, subtype=subtype)
            except soundfile.LibsndfileError:
                continue  # MP3 has no eight channels, Opus no 96 kHz
            seeds.append(file.getvalue())
    file = io.BytesIO()
    soundfile.write(file, NOISE[:700, :1], 16000, format="WAV", subtype="PCM_16", endian="BIG")
    return [*seeds, file.getvalue()]


SEEDS = _seeds()
FIELDS = [0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0xFFFE, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF]


def mutated(draw: random.Random) -> bytes:
    """A sound file with up to a dozen changes, or bytes that pretend to be one."""
    if draw.random() < 0.05:
        magic = draw.choice(
            [b"RIFF....WAVEfmt ", b"fLaC", b"OggS", b"ID3\3", b"\xff\xfb\x90", b"FORM....AIFF", b"caff"]
        )
        return draw.choice([magic, b""]) + draw.randbytes(draw.choice([0, 1, 7, 40, 500, 5000, 60_000]))
    data = bytearray(draw.choice(SEEDS))
    for _ in range(draw.choice([0, 1, 1, 1, 2, 3, 6, 12])):
        at = min(int(draw.expovariate(1 / draw.choice([30, 300, 3000]))), max(len(data) - 1, 0))
        kind = draw.randrange(7)
        if kind == 0:
            data[at : at + 1] = bytes([draw.choice([0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)])])
        elif kind == 1:
            data[at : at + 4] = struct.pack(draw.choice("<>") + "I", draw.choice(FIELDS))
        elif kind == 2:
            data[at : at + 2] = struct.pack(draw.choice("<>") + "H", draw.choice(FIELDS) & 0xFFFF)
        elif kind == 3:
            del data[at : at + draw.choice([1, 2, 4, 100])]
        elif kind == 4:
            data[at:at] = data[at : at + draw.choice([1, 4, 8, 400])]
        elif kind == 5:
            data[at:at] = draw.randbytes(draw.choice([1, 4, 50]))
        elif data:
            data[at] ^= 1 << draw.randrange(8)
    if draw.random() < 0.2:
        del data[draw.randrange(len(data) + 1) :]
    return bytes(data)


def check(path: Path, draw: random.Random) -> None:
    """Reads a file in every way: all give finite samples, the same ones, or an error that names it."""
    truncated, size = draw.random() < 0.5, draw.choice([100, 4096, audio.BLOCK])
    rate = draw.choice([None, None, 16000])
    found = []
    for use in (
        lambda: audio.read(path, 0, rate, truncated)[0],
        lambda: blocks(path, rate, truncated, size),
        lambda: np.float32([audio.duration(path)]),
    ):
        samples, reason = None, f"{path}: "
        try:
            samples = use()
        except AudioError as error:
            reason = str(error)
        assert reason.startswith(f"{path}: ")
        assert samples is None or np.isfinite(samples).all()
        found.append(samples)
    whole, parts, _ = found
    assert (whole is None) == (parts is None)
    if whole is not None:
        assert len(whole) > 0
        np.testing.assert_array_equal(parts, whole)


def blocks(path: Path, rate: int | None, truncated: bool, size: int) -> np.ndarray:
    with audio.Sound(path) as sound:
        return np.concatenate(list(sound.blocks(0, rate, truncated, size)))


@settings(max_examples=400, deadline=10_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 2**32))
def test_a_mutated_file_gives_samples_or_an_error_that_names_it(tmp_path, seed):
    draw = random.Random(seed)
    (tmp_path / "a").write_bytes(mutated(draw))
    check(tmp_path / "a", draw)


ENCODED = {  # format tag, bits, samples of which the file and int16 units are both known
    "PCM_U8": (1, 8, lambda x: ((x >> 8) + 128).astype(np.uint8), lambda x: x >> 8 << 8),
    "PCM_16": (1, 16, lambda x: x.astype("<i2"), lambda x: x),
    "PCM_24": (1, 24, lambda x: (x.astype("<i4") << 8).view(np.uint8).reshape(-1, 4)[:, :3], lambda x: x),
    "PCM_32": (1, 32, lambda x: x.astype("<i4") << 16, lambda x: x),
    "FLOAT": (3, 32, lambda x: (x / 32768).astype("<f4"), lambda x: x),
    "DOUBLE": (3, 64, lambda x: (x / 32768).astype("<f8"), lambda x: x),
}
NAMES = st.sampled_from([b"LIST", b"fact", b"bext", b"junk", b"id3 ", b"\0\0\0\0", b"\xff\xff\xff\xff", b"cue "])
SOUP = st.lists(st.tuples(NAMES, st.integers(0, 70)), max_size=6)
SOUND = (st.sampled_from(sorted(ENCODED)), st.integers(1, 8), st.sampled_from([8000, 16000, 44100, 96000]))
LENGTHS = st.sampled_from(["right", "open", "long"])


def riff(kind: bytes, chunks: list[tuple[bytes, bytes]], claimed: int | None) -> bytes:
    """A file of chunks (name, content); the samples' length is said to be `claimed`, None is left open."""
    if kind != b"RIFF":
        chunks = [(b"ds64", struct.pack("<QQQI", 0, claimed or 0, 0, 0)), *chunks]
        claimed = 0xFFFFFFFF
    data = kind + struct.pack("<I", 0xFFFFFFFF) + b"WAVE"
    for name, content in chunks:
        length = len(content) if name != b"data" else 0xFFFFFFFF if claimed is None else claimed
        data += bytes(len(data) % 2) + name + struct.pack("<I", length) + content
    return data


def w64(chunks: list[tuple[bytes, bytes]], claimed: int | None) -> bytes:
    data = (
        bytes.fromhex("726966662E91CF11A5D628DB04C10000") + bytes(8) + bytes.fromhex("77617665F3ACD3118CD100C04F8EDB8A")
    )
    for name, content in chunks:
        length = len(content) if name != b"data" else 2**63 - 25 if claimed is None else claimed
        data += bytes(-len(data) % 8) + name + bytes(12) + struct.pack("<Q", length + 24) + content
    return data


@settings(max_examples=300, deadline=10_000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(*SOUND, st.integers(0, 900), st.sampled_from([b"RIFF", b"RF64", b"BW64", b"W64"]), SOUP, SOUP, LENGTHS)
def test_chunks_of_every_kind_around_the_samples(tmp_path, encoding, channels, rate, n, kind, before, after, length):
    tag, bits, encode, decode = ENCODED[encoding]
    sound = NOISE[:n, :channels].astype(np.int64)
    body, frame_bytes = encode(sound.reshape(-1)).tobytes(), channels * bits // 8
    fmt = struct.pack("<HHIIHH", tag, channels, rate, rate * frame_bytes, frame_bytes, bits)
    if n % 2:
        fmt = struct.pack("<H", 0xFFFE) + fmt[2:] + struct.pack("<HHIH", 22, bits, 0, tag) + bytes(14)
    if length != "right" or (n == 0 and after and not after[0][0].strip(b"\0\xff")):
        after = []  # it would be taken for sound
    chunks = [(name, bytes(size)) for name, size in before] + [(b"fmt ", fmt), (b"data", body)]
    chunks += [(name, bytes(size)) for name, size in after]
    claimed = {"right": len(body), "long": len(body) + frame_bytes, "open": None}[length]
    data = w64(chunks, claimed) if kind == b"W64" else riff(kind, chunks, claimed)
    path = tmp_path / "a.wav"
    path.write_bytes(data)
    if length == "long":
        with pytest.raises(AudioError, match=f"truncated, {n} of {n + 1} samples"):
            audio.read(path, 0)
    elif n == 0:
        with pytest.raises(AudioError, match="holds no samples"):
            audio.read(path, 0)
    else:
        samples, found = audio.read(path, channels - 1)
        assert found == rate
        np.testing.assert_array_equal(samples, decode(sound[:, -1]))
        assert audio.duration(path) == n / rate


def test_megabytes_of_nothing_are_refused_at_once(tmp_path):
    noise = random.Random(1).randbytes(3 << 20)
    empty_chunks = b"RIFF\0\0\0\0WAVE" + b"junk\0\0\0\0" * (3 << 17)
    for data in (
        noise,
        b"\xff\xfb\x90\x44" + noise,
        b"OggS\0\2" + noise,
        b"fLaC" + noise,
        bytes(3 << 20),
        empty_chunks,
    ):
        (tmp_path / "a").write_bytes(data)
        began = time.monotonic()
        with pytest.raises(AudioError, match=r"not a sound file|no data chunk"):
            audio.read(tmp_path / "a")
        assert time.monotonic() - began < 5


def soak(first: int, count: int, folder: Path) -> None:
    """Checks many files, in memory that is bounded and with a time for each; a file that kills it stays."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    room = pages * resource.getpagesize() + (400 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (room, room))
    path = folder / f"{first}"
    for seed in range(first, first + count):
        signal.alarm(20)
        draw = random.Random(seed)
        path.write_bytes(mutated(draw))
        try:
            check(path, draw)
        except Exception as error:
            raise AssertionError(f"seed {seed}") from error
    signal.alarm(0)
    path.unlink()


@pytest.mark.slow
@pytest.mark.parametrize("first", [10**6, 2 * 10**6])
def test_many_mutated_files_in_bounded_memory(tmp_path, first):
    line = [sys.executable, __file__, str(first), "15000", str(tmp_path)]
    root = str(Path(audio.__file__).parents[2])
    done = subprocess.run(
        line, env={**os.environ, "PYTHONPATH": root}, capture_output=True, text=True, errors="replace"
    )
    assert done.returncode == 0, done.stderr[-2000:]


if __name__ == "__main__":
    soak(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))

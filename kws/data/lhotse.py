"""Manifests that lhotse loads: cuts with features in an archive of Kaldi's, with recordings and supervisions.

https://lhotse.readthedocs.io/en/latest/corpus.html; lhotse itself is not needed to write them.

    cuts = lhotse.CutSet.from_file("feats/cuts.jsonl.gz"); cuts[0].load_features()     # reading needs kaldi_native_io
"""

import contextlib
import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from kws import audio
from kws.data.kaldi_directory import Utterance
from kws.errors import AudioError
from kws.files import replacing

NAMES = ("recordings.jsonl.gz", "supervisions.jsonl.gz", "features.jsonl.gz", "cuts.jsonl.gz")


class Front(NamedTuple):
    """What is the same for all features: their type, columns, samples of a frame's shift, and rate in Hz."""

    type: str
    dim: int
    shift: int
    rate: int


class Entry(NamedTuple):
    """An utterance with features: frames, seconds of sound, transcript and speaker (None: unknown)."""

    utterance: Utterance
    frames: int
    seconds: float
    text: str | None = None
    speaker: str | None = None


def write_manifests(folder: str | Path, scp: str | Path, front: Front, entries: Iterable[Entry]) -> None:
    """Writes `NAMES` into `folder`, for features that `scp` points to.

    A recording is described where its rate is that of the features and its header says how long it is; that of a pipe
    is not, as a program would have to run. As in lhotse's own import, features without frames at the sound's very end
    (snip_edges=true) last as long as their frames.
    """
    paths = [Path(folder, name) for name in NAMES]
    described: dict[str, dict | None] = {}
    with contextlib.ExitStack() as opened:
        raw = [opened.enter_context(opened.enter_context(replacing(path)).open("wb")) for path in paths]
        # without a name and a time, which would not be the same in a second run
        files = [opened.enter_context(gzip.GzipFile("", "wb", 6, file, mtime=0)) for file in raw]
        for entry in entries:
            key = entry.utterance.recording
            if key not in described:
                described[key] = _recording(entry.utterance, front.rate)
                _write(files[0], described[key])
            for file, row in zip(files[1:], _rows(entry, front, str(scp), described[key]), strict=True):
                _write(file, row)


def _write(file: gzip.GzipFile, row: dict | None) -> None:
    if row is not None:
        file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _recording(utterance: Utterance, rate: int) -> dict | None:
    if isinstance(utterance.sound, audio.Pipe):
        return None
    try:
        with audio.Sound(utterance.sound) as sound:
            if sound.rate != rate or not sound.n_samples:
                return None
            channels = list(range(sound.channels))
            return {
                "id": utterance.recording,
                "sources": [{"type": "file", "channels": channels, "source": str(utterance.sound)}],
                "sampling_rate": rate,
                "num_samples": sound.n_samples,
                "duration": sound.n_samples / rate,
                "channel_ids": channels,
            }
    except AudioError:  # it could be read before, and its features are there
        return None


def _rows(entry: Entry, front: Front, scp: str, recording: dict | None) -> tuple[dict | None, dict, dict]:
    """An utterance's supervision, features and cut."""
    utterance, shift = entry.utterance, front.shift
    samples = round(entry.seconds * front.rate)
    if (samples + shift // 2) // shift != entry.frames:  # lhotse's compute_num_frames
        samples = entry.frames * shift
    span = {"start": utterance.start, "duration": samples / front.rate}
    channel = utterance.channel or 0
    features = {
        "type": f"kaldi-{front.type}", "num_frames": entry.frames, "num_features": front.dim,
        "frame_shift": shift / front.rate, "sampling_rate": front.rate, **span, "storage_type": "kaldiio",
        "storage_path": scp, "storage_key": utterance.key, "recording_id": utterance.recording, "channels": channel,
    }  # fmt: skip
    supervision = None
    if entry.text is not None or entry.speaker is not None:
        supervision = {
            "id": utterance.key, "recording_id": utterance.recording, **span, "channel": channel,
            **{name: value for name, value in (("text", entry.text), ("speaker", entry.speaker)) if value is not None},
        }  # fmt: skip
    cut = {
        "id": utterance.key, **span, "channel": channel,
        "supervisions": [supervision | {"start": 0.0}] if supervision else [], "features": features,
        **({"recording": recording} if recording else {}), "type": "MonoCut",
    }  # fmt: skip
    return supervision, features, cut

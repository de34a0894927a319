"""Our front-end and others' behind one shape of call, for benchmarks.

A contender's `make(options)` gives a function from waves (batch, samples), as `scaled` makes them, to their frames, an
array (batch, frames, dim) or a list of (frames, dim). Its `stream(options)` gives a function that begins a stream, and
returns one that takes the next samples (n,). Both raise ImportError where the peer is not installed, `make` raises
NotImplementedError where it has no such features. Peers are told what ours is told; NOTES says where they cannot be.
"""

import array
import importlib
import warnings
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import torch

from kws.benchmarks.rounds import RATE
from kws.features import FbankOptions, MfccOptions, make_options
from kws.features.extractor import FeatureExtractor
from kws.features.online import OnlineExtractor

KINDS = {
    "fbank-80": {"type": "fbank", "num_mel_bins": 80},
    "mfcc-13": {"type": "mfcc", "num_mel_bins": 23, "num_ceps": 13},
    "mfcc-40": {"type": "mfcc", "num_mel_bins": 40, "num_ceps": 40},
}
NOTES = {
    "librosa": "librosa is no Kaldi: its mel filters are linear in Hz, its window is Hann's, DC stays in",
    "asrfront": "asrfront has the Hamming window alone and no MFCC",
}
# of a peer whose interface changed, or that is damaged
FAILURES = (AttributeError, TypeError, ValueError, RuntimeError, OSError, MemoryError)


def options_of(kind: str, window_type: str = "povey") -> FbankOptions:
    return make_options(**KINDS[kind], window_type=window_type, use_energy=False, dither=0.0)


def _kws(o: FbankOptions) -> Callable:
    extractor = FeatureExtractor(o)
    return lambda waves: extractor(torch.from_numpy(waves))[0].numpy()


def _kws_stream(o: FbankOptions) -> Callable:
    def begin() -> Callable:
        def push(samples: np.ndarray) -> None:
            nonlocal state
            _, state = extractor.stream(torch.from_numpy(samples)[None], state)

        state = extractor.initial_state()
        return push

    extractor = FeatureExtractor(o)
    return begin


def _kws_numpy(o: FbankOptions) -> Callable:
    extractor = OnlineExtractor(o)
    return lambda waves: [extractor.push(wave, flush=True) for wave in waves]


def _kws_numpy_stream(o: FbankOptions) -> Callable:
    return lambda: OnlineExtractor(o).push


def _torchaudio(o: FbankOptions) -> Callable:
    kaldi = importlib.import_module("torchaudio.compliance.kaldi")
    told = {"num_mel_bins": o.num_mel_bins, "window_type": o.window_type, "dither": 0.0, "use_energy": False}
    compute = kaldi.fbank
    if isinstance(o, MfccOptions):
        compute, told = kaldi.mfcc, told | {"num_ceps": o.num_ceps}
    return lambda waves: [compute(torch.from_numpy(wave)[None], **told).numpy() for wave in waves]


def _kaldi_options(peer, o: FbankOptions):
    """For kaldi_native_fbank and kaldifeat, which spell them alike."""
    is_mfcc = isinstance(o, MfccOptions)
    told = peer.MfccOptions() if is_mfcc else peer.FbankOptions()
    told.frame_opts.dither, told.frame_opts.window_type = 0.0, o.window_type
    told.mel_opts.num_bins, told.use_energy = o.num_mel_bins, False
    if is_mfcc:
        told.num_ceps = o.num_ceps
    return told


def _accept(online, samples: np.ndarray) -> None:
    # this is the sequence that it reads fastest: a list costs it a tenth more, an array of NumPy's a third
    values = array.array("f")
    values.frombytes(memoryview(samples).cast("B"))
    online.accept_waveform(RATE, values)


def _knf_online(o: FbankOptions) -> Callable:
    knf = importlib.import_module("kaldi_native_fbank")
    online, told = (knf.OnlineMfcc if isinstance(o, MfccOptions) else knf.OnlineFbank), _kaldi_options(knf, o)
    return lambda: online(told)


def _knf(o: FbankOptions) -> Callable:
    def compute(wave: np.ndarray) -> np.ndarray:
        online = make()
        _accept(online, wave)
        online.input_finished()
        frames = np.empty((online.num_frames_ready, o.dim), np.float32)
        for i in range(len(frames)):
            frames[i] = online.get_frame(i)
        return frames

    make = _knf_online(o)
    return lambda waves: [compute(wave) for wave in waves]


def _knf_stream(o: FbankOptions) -> Callable:
    def begin() -> Callable:
        def push(samples: np.ndarray) -> None:
            nonlocal seen
            _accept(online, samples)
            while seen < online.num_frames_ready:
                online.get_frame(seen)
                seen += 1

        online, seen = make(), 0
        return push

    make = _knf_online(o)
    return begin


def _lhotse(o: FbankOptions) -> Callable:
    layers = importlib.import_module("lhotse.features.kaldi.layers")
    told = {"num_filters": o.num_mel_bins, "high_freq": 0.0, "snip_edges": True, "window_type": o.window_type}
    if isinstance(o, MfccOptions):
        layer = layers.Wav2MFCC(num_ceps=o.num_ceps, **told)
    else:
        layer = layers.Wav2LogFilterBank(**told)
    return lambda waves: layer(torch.from_numpy(waves)).numpy()


def _librosa(o: FbankOptions) -> Callable:
    librosa = importlib.import_module("librosa")
    told = {"sr": RATE, "n_fft": 512, "win_length": 400, "hop_length": 160, "center": False, "n_mels": o.num_mel_bins}
    told |= {"fmin": 20, "fmax": RATE / 2, "htk": True, "norm": None}

    def compute(waves: np.ndarray) -> np.ndarray:
        mel = librosa.feature.melspectrogram(y=librosa.effects.preemphasis(waves), **told)
        log = np.log(np.maximum(mel, np.finfo(np.float32).eps))
        if isinstance(o, MfccOptions):
            log = librosa.feature.mfcc(S=log, n_mfcc=o.num_ceps, lifter=22)
        return log.swapaxes(-1, -2)

    return compute


def _kaldifeat(o: FbankOptions) -> Callable:
    kaldifeat = importlib.import_module("kaldifeat")
    compute = (kaldifeat.Mfcc if isinstance(o, MfccOptions) else kaldifeat.Fbank)(_kaldi_options(kaldifeat, o))
    return lambda waves: [frames.numpy() for frames in compute(list(torch.from_numpy(waves)))]


def _asrfront(o: FbankOptions) -> Callable:
    sensevoice = importlib.import_module("asrfront.sensevoice")
    if isinstance(o, MfccOptions):
        raise NotImplementedError
    return lambda waves: [sensevoice.fbank_raw(wave, n_mels=o.num_mel_bins) for wave in waves]


class Contender(NamedTuple):
    package: str  # as pip knows it
    make: Callable[[FbankOptions], Callable]
    stream: Callable[[FbankOptions], Callable] | None = None
    full_scale: float = 32768  # of the waves that it takes
    window_type: str | None = "povey"  # of Kaldi's features that it computes here, if they are Kaldi's


CONTENDERS = {
    "kws": Contender("kws", _kws, _kws_stream),
    "kws-numpy": Contender("kws", _kws_numpy, _kws_numpy_stream),
    "torchaudio": Contender("torchaudio", _torchaudio),
    "knf": Contender("kaldi-native-fbank", _knf, _knf_stream),
    "lhotse": Contender("lhotse", _lhotse),
    "librosa": Contender("librosa", _librosa, window_type=None),
    "kaldifeat": Contender("kaldifeat", _kaldifeat),
    "asrfront": Contender("asrfront", _asrfront, full_scale=1, window_type="hamming"),
}


def scaled(name: str, waves: np.ndarray) -> np.ndarray:
    """Waves in int16 units as a contender takes them."""
    full_scale = CONTENDERS[name].full_scale
    return waves if full_scale == 32768 else waves * np.float32(full_scale / 32768)


def contenders(kind: str, names: Iterable[str]) -> tuple[dict[str, Callable], dict[str, str]]:
    """Functions from waves to frames by name, each called once on a second of silence; why others are missing."""
    found, missing = {}, {}
    for name in names:
        contender = CONTENDERS[name]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # lhotse thinks ill of snip_edges
                compute = contender.make(options_of(kind))
                compute(np.zeros((1, RATE), np.float32))
            found[name] = compute
        except NotImplementedError:
            continue
        except ImportError as reason:
            missing[name] = f"not installed ({reason})"
        except FAILURES as reason:
            missing[name] = f"failed ({type(reason).__name__}: {reason})"
    return found, missing

"""Streams through an exported file."""

import warnings

import numpy as np

from kws.decision import Decision, Detection
from kws.errors import KwsError
from kws.resampling import Resampler
from kws.runtime import file
from kws.runtime.file import ModelError
from kws.spotters import find

FULL_SCALE = 32768.0


class Spotter:
    """A model that any number of streams share, in any number of threads.

    Args:
        path: of what `python -m kws.export` wrote, or the name of a spotter that comes with kws, as "computer".

    Attributes:
        labels: what the scores are of; those that begin with "_" are never detected.
        rate: of the samples that it takes without resampling, in Hz.
        step_ms: from one score to the next.
        chunk_ms: of sound that is worked on at a time.
        decision: when a score becomes a word: the arguments of `kws.decision.Decision`.
        about: everything that the file says of itself.

    Raises:
        ModelError: the file is missing, damaged, foreign or hostile; nothing of it has run.
    """

    def __init__(self, path):
        path = find(str(path))
        content, self.about = file.read(path)
        self.labels, self.rate, self.step_ms = self.about["labels"], self.about["sample_rate"], self.about["step_ms"]
        self.chunk, self.overlap, self.steps = (self.about[key] for key in ("chunk", "overlap", "steps"))
        self.chunk_ms = 1000 * self.chunk / self.rate
        self.decision = self.about["decision"]
        try:
            import onnxruntime
        except ImportError:
            raise KwsError("onnxruntime is missing: pip install onnxruntime") from None
        self._ort = onnxruntime
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1  # a step is too small to share
        options.log_severity_level = 4
        # with tensors as small as these, saving their memory costs more time than memory
        options.enable_mem_reuse = options.enable_cpu_mem_arena = False
        try:
            self.session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"], enable_fallback=0
            )
        except _errors_of(onnxruntime) as error:
            raise ModelError(f"{path}: ONNX Runtime refuses it: {_first_line(error)}") from None
        self.session._model_bytes = None  # kept for a change of providers, which does not come
        self._check(path)
        try:
            trial = self.stream()  # a decision with these arguments, or a reason why not
        except (TypeError, ValueError) as error:
            raise ModelError(f"{path}: its decision cannot be: {error}") from None
        try:
            scores = trial._step()
        except _errors_of(onnxruntime) as error:
            raise ModelError(f"{path}: damaged, its graph does not run: {_first_line(error)}") from None
        if not np.isfinite(scores).all():
            raise ModelError(f"{path}: damaged, its scores of silence are no numbers")

    def _check(self, path) -> None:
        """The graph's inputs and outputs are those of the description."""
        state = self.about["state"]
        if self.overlap and state.get("past") != [1, self.overlap]:
            raise ModelError(f"{path}: an overlap of {self.overlap} samples, its past holds {state.get('past')}")
        shapes = {"samples": [1, self.chunk], **state}
        outs = {"probabilities": [1, self.steps, len(self.labels)], **{f"next_{name}": state[name] for name in state}}
        for found, expected in ((self.session.get_inputs(), shapes), (self.session.get_outputs(), outs)):
            there = {v.name: [1 if isinstance(n, str) else n for n in v.shape] for v in found}
            if there != expected or any(v.type != "tensor(float)" for v in found):
                raise ModelError(f"{path}: its graph has {there}, its description says {expected}")

    def stream(self, rate: int | None = None, full_scale: float = FULL_SCALE, **decision) -> "Stream":
        """A new stream.

        Args:
            rate: of the samples that will be fed, in Hz; None: the model's.
            full_scale: of floats that will be fed; int16 samples have their own.
            decision: arguments of `kws.decision.Decision` that replace the file's.
        """
        return Stream(self, rate, full_scale, **decision)


class Stream:
    """One stream through a `Spotter`: samples in, detections out. To be used by one thread at a time."""

    def __init__(self, spotter: Spotter, rate: int | None = None, full_scale: float = FULL_SCALE, **decision):
        self.spotter, self.gain = spotter, np.float32(FULL_SCALE / full_scale)
        self.rate = spotter.rate if rate is None else rate
        self.chunk_s, self._small = spotter.chunk_ms / 1000, 0
        self.resampler = Resampler(self.rate, spotter.rate) if self.rate != spotter.rate else None
        # the first step ends where its last frame ends
        offset_ms = spotter.about["offset_ms"]
        self.decision = Decision(spotter.labels, spotter.step_ms, offset_ms, **{**spotter.decision, **decision})
        samples = np.zeros((1, spotter.chunk), np.float32)
        scores = np.zeros((1, spotter.steps, len(spotter.labels)), np.float32)
        self._row, self._out = samples[0], scores[0]
        # The graph reads one copy of the state and writes the other; bound once, they cost nothing in a step.
        shapes = spotter.about["state"].items()
        self._states = [{name: np.zeros(shape, np.float32) for name, shape in shapes} for _ in range(2)]
        value = spotter._ort.OrtValue.ortvalue_from_numpy
        samples, scores = value(samples), value(scores)
        states, self._bindings = [{name: value(a) for name, a in state.items()} for state in self._states], []
        for old, new in (states, states[::-1]):
            binding = spotter.session.io_binding()
            binding.bind_ortvalue_input("samples", samples)
            binding.bind_ortvalue_output("probabilities", scores)
            for name in old:
                binding.bind_ortvalue_input(name, old[name])
                binding.bind_ortvalue_output(f"next_{name}", new[name])
            self._bindings.append(binding)
        self._run = spotter.session.run_with_iobinding
        self.reset()

    def reset(self) -> None:
        """Begins another stream."""
        self._turn, self._filled, self._ended = 0, -self.spotter.overlap, False
        for array in self._states[0].values():
            array.fill(0)
        self.decision.reset()
        if self.resampler:
            self.resampler.reset()

    def scores(self, samples: np.ndarray, flush: bool = False) -> np.ndarray:
        """The next samples (n,), int16 or float, to the probabilities (steps, labels) that they complete.

        `flush` says that no sample follows; the next call begins another stream.

        Raises:
            ValueError: the samples are of another type or shape, or not finite.
        """
        if self._ended:
            self.reset()
        samples = self._checked(samples)
        if self.resampler:
            samples = self.resampler.push(samples, flush)
        rows, at, n, room, filled = [], 0, len(samples), self._row, self._filled
        if filled < 0:  # a stream's first samples are the past of its first chunk
            at = min(n, -filled)
            begin = self.spotter.overlap + filled
            self._states[0]["past"][0, begin : begin + at] = samples[:at]
            filled += at
        while n - at >= len(room) - filled and filled >= 0:
            end = at + len(room) - filled
            room[filled:] = samples[at:end]
            rows.append(self._step())
            at, filled = end, 0
        if at < n:
            room[filled : filled + n - at] = samples[at:]
            filled += n - at
        self._filled = filled
        if flush:
            whole = max(filled, 0) * self.spotter.steps // len(room)
            if whole:  # what is missing of the chunk comes after these steps, and changes nothing of them
                room[filled:] = 0
                rows.append(self._step()[:whole])
            self._ended = True
        if len(rows) == 1:
            return rows[0]
        return np.concatenate(rows) if rows else np.zeros((0, len(self.spotter.labels)), np.float32)

    def push(self, samples: np.ndarray, flush: bool = False) -> list[Detection]:
        """The next samples (n,) to the words now detected, their times in seconds of the stream. See `scores`."""
        return self.decision.push(self.scores(samples, flush))

    def meter(self) -> dict[str, float]:
        """Each word's smoothed score now, what the threshold is held against."""
        smoothed = self.decision.smoothed
        return {self.decision.labels[i]: float(smoothed[i]) for i in self.decision.words}

    def _step(self) -> np.ndarray:
        self._run(self._bindings[self._turn])
        self._turn = 1 - self._turn
        return self._out.copy()

    def _checked(self, samples: np.ndarray) -> np.ndarray:
        samples = np.asarray(samples)
        if samples.ndim != 1 or samples.dtype not in (np.int16, np.float32, np.float64):
            raise ValueError(
                f"samples are {samples.dtype} of shape {samples.shape}; expected int16 or float32 (n,), one channel"
            )
        if samples.dtype == np.int16:
            return samples
        if not np.isfinite(np.add.reduce(samples)) and not np.isfinite(samples).all():
            raise ValueError(f"sample {int(np.argmin(np.isfinite(samples)))} is not a finite number")
        if self.gain == 1 and self._small < self.rate:  # samples that may be those of sound within ±1
            peak = float(np.abs(samples).max(initial=0))
            self._small = np.inf if peak >= 1 else self._small + len(samples) * (peak > 0)
            if self.rate <= self._small < np.inf:
                warnings.warn("a second of sound within ±1: int16 units are expected, or say stream(full_scale=1)",
                              stacklevel=4)  # fmt: skip
        return samples if self.gain == 1 else samples * self.gain


def _errors_of(onnxruntime) -> tuple:
    """What ONNX Runtime raises: exceptions of its own, which share no ancestor, and those of its binding to Python."""
    module = onnxruntime.capi.onnxruntime_pybind11_state
    own = (v for v in vars(module).values() if isinstance(v, type) and issubclass(v, Exception))
    return (RuntimeError, ValueError, MemoryError, *own)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]

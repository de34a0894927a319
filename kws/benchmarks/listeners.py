"""One wake-word engine in a process of its own: how long it takes to be there, what it holds, what a chunk costs.

    python kws/benchmarks/listeners.py NAME CHUNK_MS SOUND.npy MODEL

A file by itself, which imports nothing of kws but its runtime, and that only for ours: peers may live in another
environment. Each function begins an engine and returns what takes the next int16 samples (n,) at 16 kHz.
"""

import contextlib
import importlib
import json
import sys
import time
from pathlib import Path


def kws(model: str):
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    return importlib.import_module("kws.runtime").Spotter(model).stream().push


def pymicro_wakeword(_model: str):
    peer = importlib.import_module("pymicro_wakeword")
    features, engine = peer.MicroWakeWordFeatures(), peer.MicroWakeWord.from_builtin(peer.Model.OKAY_NABU)

    def push(samples):
        for frame in features.process_streaming(samples.tobytes()):
            engine.process_streaming(frame)

    return push


def pyopen_wakeword(_model: str):
    peer = importlib.import_module("pyopen_wakeword")
    features, engine = peer.OpenWakeWordFeatures.from_builtin(), peer.OpenWakeWord.from_builtin(peer.Model.OKAY_NABU)

    def push(samples):
        for frame in features.process_streaming(samples.tobytes()):
            for _ in engine.process_streaming(frame):
                pass

    return push


def openwakeword(_model: str):
    peer = importlib.import_module("openwakeword.model")
    return peer.Model(wakeword_models=["alexa"], inference_framework="onnx").predict


ENGINES = {"kws": kws, "pymicro-wakeword": pymicro_wakeword, "pyopen-wakeword": pyopen_wakeword,
           "openwakeword": openwakeword}  # fmt: skip
WITH_ONNX = ("kws", "openwakeword")


def held_mb() -> tuple[float, float]:
    """Memory of this process in MB, all of it and what it shares with no file; 0 where the system does not say."""
    with contextlib.suppress(OSError), open("/proc/self/status", encoding="ascii") as status:
        sizes = {
            line.split(":")[0]: int(line.split()[1]) / 1024 for line in status if line.startswith(("VmRSS", "RssA"))
        }
        return sizes["VmRSS"], sizes["RssAnon"]
    return 0.0, 0.0


def main() -> None:
    name, chunk_ms, sound, model = sys.argv[1:5]
    begun = time.perf_counter()
    numpy = importlib.import_module("numpy")
    if name in WITH_ONNX:
        importlib.import_module("onnxruntime")
    imported, before = time.perf_counter(), held_mb()
    push = ENGINES[name](model)
    loaded = time.perf_counter()
    samples = numpy.load(sound)
    size, spare = int(chunk_ms) * 16, samples.nbytes / 1e6
    spent, chunks = [], []
    for _ in range(3):  # the first pass warms up
        at_begin = time.process_time()
        for at in range(0, len(samples), size):
            then = time.perf_counter()
            push(samples[at : at + size])
            chunks.append(time.perf_counter() - then)
        spent.append(time.process_time() - at_begin)
    after = held_mb()
    figures = {
        "cpu_ms_per_second": 1000 * min(spent[1:]) / (len(samples) / 16000),
        "p99_ms": 1000 * float(numpy.percentile(chunks[len(chunks) // 3 :], 99)),
        "base_s": imported - begun, "load_s": loaded - imported, "mb": after[0] - before[0] - spare,
        "private_mb": after[1] - before[1] - spare,
    }  # fmt: skip
    print(json.dumps(figures))


if __name__ == "__main__":
    main()

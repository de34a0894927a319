"""Listening with one exported file: NumPy and ONNX Runtime, nothing else.

    from kws.runtime import Spotter

    spotter = Spotter("spotter.onnx")                  # from python -m kws.export checkpoint=…
    stream = spotter.stream(rate=44100)                # any number of streams, each in a thread of its own if need be
    for block in blocks:                               # int16 or float32 arrays (n,), of any length
        for found in stream.push(block):
            print(found.word, found.start, found.end, found.score)
        print(stream.meter())                          # {"left": 0.01, …}: each word's smoothed score
    stream.push(block[:0], flush=True)                 # the end: what was waiting is heard too

Whole numbers and floats alike are in int16 units: full scale is 32768. Floats from -1 to 1 need
`spotter.stream(full_scale=1.0)`. `spotter.labels`, `spotter.about` and `spotter.decision` say what the file knows.
"""

from kws.decision import Detection
from kws.runtime.file import ModelError
from kws.runtime.spotter import Spotter, Stream

__all__ = ["Detection", "ModelError", "Spotter", "Stream"]

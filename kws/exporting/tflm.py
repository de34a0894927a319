"""A tflite file in tflite-micro's interpreter: what a microcontroller computes, and the memory that it needs."""

import os
import re
import tempfile

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from tflite_micro import runtime

from kws.errors import KwsError
from kws.exporting.tflite import unit

ARENA = 1 << 21  # bytes, more than any model here; how much is used is measured


class MicroStream:
    """One stream through a file of `kws.exporting.tflite`, its state inside (micro_wake_word) or carried along.

    Raises:
        KwsError: the interpreter refuses the file; its log on standard error says which operator.
    """

    def __init__(self, content: bytes):
        graph = schema.ModelT.InitFromPackedBuf(content, 0).subgraphs[0]
        self.inputs, self.outputs = ([graph.tensors[i] for i in places] for places in (graph.inputs, graph.outputs))
        self.n, self.dim = (int(size) for size in self.inputs[0].shape[-2:])
        try:
            self.interpreter = runtime.Interpreter.from_bytes(content, arena_size=ARENA)
        except RuntimeError as error:
            raise KwsError(f"tflite-micro refuses the file: {error}") from None
        self.reset()

    def reset(self) -> None:
        """Begins another stream."""
        self.interpreter.reset()
        self.state = [np.full(tensor.shape, unit(tensor)[1], np.int8) for tensor in self.inputs[1:]]

    def probabilities(self, frames: np.ndarray) -> np.ndarray:
        """The next frames (m, dim), m a multiple of the step, to the probabilities (steps, labels) float32."""
        scale, zero = unit(self.inputs[0])
        codes = np.clip(np.rint(frames / scale) + zero, -128, 127).astype(np.int8)
        rows = []
        for step in codes.reshape(-1, *self.inputs[0].shape):
            for i, values in enumerate([step, *self.state]):
                self.interpreter.set_input(values, i)
            self.interpreter.invoke()
            rows.append(self.interpreter.get_output(0)[0])
            self.state = [self.interpreter.get_output(i) for i in range(1, len(self.outputs))]
        scale, zero = unit(self.outputs[0])
        shape = (-1, self.outputs[0].shape[-1])
        return ((np.array(rows, np.float32) - zero) * np.float32(scale)).reshape(shape)

    def arena_bytes(self) -> int:
        """What is used of the arena here, where a pointer has 8 bytes; a microcontroller needs less."""
        with tempfile.TemporaryFile() as said:
            kept = os.dup(2)
            os.dup2(said.fileno(), 2)
            try:
                self.interpreter.print_allocations()
            finally:
                os.dup2(kept, 2)
                os.close(kept)
            said.seek(0)
            return int(re.search(rb"Arena allocation total (\d+)", said.read())[1])

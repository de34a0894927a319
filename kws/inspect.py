"""Says in words what an exported file holds.

python -m kws.inspect spotter.onnx
python -m kws.inspect computer                      a spotter that comes with kws
python -m kws.inspect spotter.onnx json=true        everything that it says of itself

The bytes of its parts sum to the file's: weights by type; tables of the front-end and indices; nodes that compute at
each step and those that compute once, when the file is loaded (tables and weights from what is stored).
"""

import json
import math
import sys
from collections import Counter
from inspect import signature

from kws import __version__, spotters
from kws.decision import Decision
from kws.errors import KwsError
from kws.runtime import file

FORMS = {
    None: "float32", "fp16": "stored as float16, computed in float32", "int8": "stored as int8, computed in float32",
    "int8_static": "int8, and products of integers",
}  # fmt: skip
TYPES = {file.FLOAT: "float32", file.UINT8: "uint8", file.INT8: "int8", file.INT64: "int64", file.FLOAT16: "float16"}


def parts(content: bytes) -> dict[str, int]:
    """The bytes of a file's parts, which sum to its size."""
    sizes, known = Counter(), set()
    graph = next(value for number, _, value in file.fields(memoryview(content)) if number == 7)
    inside = list(file.fields(graph))
    for number, _, value in inside:
        if number == 11:
            known |= _texts(value, 1)
    for number, wire, value in inside:  # nodes are in the order in which they run
        size = file.size_of(number, wire, value)
        if number == 1:
            each = bool(known & _texts(value, 1))
            known |= _texts(value, 2) if each else set()
            sizes["nodes of a step" if each else "nodes at load"] += size
        elif number == 5:
            found = {n: v for n, _, v in file.fields(value)}
            kind = "weights" if bytes(found[8])[:1] == b"w" else "tables and indices"
            sizes[f"{kind}, {TYPES[found[2]]}"] += size
        elif number in (11, 12):
            sizes["inputs and outputs"] += size
    for number, wire, value in file.fields(memoryview(content)):
        if number == 14:
            sizes["description"] += file.size_of(number, wire, value)
    rest = len(content) - sizes.total()
    return dict(sizes.most_common()) | {"the format itself": rest}


def _texts(message: memoryview, field: int) -> set[str]:
    return {bytes(value).decode() for number, _, value in file.fields(message) if number == field}


def describe(path: str) -> str:
    """The description of a file, as lines.

    Raises:
        ModelError: it is no spotter.
    """
    content, about = file.read(path)
    words = [label for label in about["labels"] if not label.startswith("_")]
    rate, features = about["sample_rate"], about.get("features", {})
    decision = {name: value.default for name, value in signature(Decision).parameters.items()} | about["decision"]
    limits = decision["threshold"]
    numbers = sum(math.prod(shape) for shape in about["state"].values())
    rows = {
        "file": f"{path}, {len(content) / 1000:.0f} kB, format {about['format']}, by kws {about.get('kws', '?')}",
        "hears": ", ".join(words) or "no word",
        "other labels": ", ".join(label for label in about["labels"] if label not in words) or "none",
        "sound": f"{rate} Hz, float32 in int16 units, in chunks of {1000 * about['chunk'] / rate:g} ms"
        f" ({about['chunk']} samples)",
        "scores": f"every {about['step_ms']:g} ms, {about['steps']} a chunk",
        "a word is": f"a score of {limits if not isinstance(limits, dict) else 'its own'}, mean of "
        f"{decision['smoothing_ms']:g} ms; then {decision['refractory_ms']:g} ms of silence; none"
        f" in the first {decision['warm_up_ms']:g} ms",
        "features": f"{features.get('type', '?')}, windows of {features.get('frame_length', 0):g} ms every"
        f" {features.get('frame_shift', 0):g} ms",
        "state of a stream": f"{4 * numbers:,} bytes in {len(about['state'])} tensors",
        "licence of the weights": about.get("licence") or "not recorded",
        "from": ", ".join(f"{k} {v}" for k, v in (about.get("run") or {}).items() if v is not None) or "not recorded",
    }
    if isinstance(limits, dict):
        rows["thresholds"] = ", ".join(f"{word} {limit:g}" for word, limit in limits.items())
    rows["weights"] = FORMS.get(about.get("quantise"), str(about.get("quantise")))
    rows |= {f"  {part}": f"{size:>9,} bytes" for part, size in parts(content).items()}
    width = max(map(len, rows))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in rows.items())


def main() -> None:
    arguments = sys.argv[1:]
    if "--version" in arguments:
        print(f"kws {__version__}")
        return
    given = [a.removeprefix("checkpoint=") for a in arguments if a not in ("json=true", "json=false")]
    if len(given) != 1 or given[0] in ("-h", "--help"):
        print(__doc__.strip())
        if len(given) > 1:
            print(f"error: expected one file, and maybe json=true, not {' '.join(arguments)}", file=sys.stderr)
        raise SystemExit(0 if given and given[0] in ("-h", "--help") else 2)
    try:
        path = spotters.find(given[0])
        if "json=true" in arguments:
            print(json.dumps(file.read(path)[1], indent=2, ensure_ascii=False))
        else:
            print(describe(path))
    except KwsError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()

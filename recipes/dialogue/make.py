"""Makes real running speech of the dialogue of two adventure games that Debian packages, to train on and to judge by.

    python recipes/dialogue/make.py GAMES OUTPUT

GAMES is where the packages' data lie, /usr/share/scummvm once they are installed. OUTPUT takes train/*.mp3, the first
seven tenths of Flight of the Amazon Queen a line each; and queen.csv and steel_sky.csv, labels for kws.evaluate: the
rest of it, and Beneath a Steel Sky but for the lines that say "computer", one after another in recordings of half an
hour.
"""

import argparse
import io
from pathlib import Path

import numpy as np

from kws import audio
from kws.alarms.labels import Recording, write_labels
from kws.progress import progress

try:
    import propack
except ImportError:
    raise SystemExit("pip install propack first: it unpacks Beneath a Steel Sky") from None

RATE, PAUSE, LONGEST = 16000, 4800, 30 * 60 * 16000  # samples
GAME_RATE = 11025
SAYS_COMPUTER = (  # lines of Beneath a Steel Sky in which pocketsphinx 5 heard it, of 248 at which a spotter of it rose
    50765, 50878, 51018, 51132, 52636, 52799, 52943, 52949, 52950, 52993, 53120, 53135, 53144, 53146, 54694, 54703,
    54801, 54814, 54986, 55002, 55011,
)  # fmt: skip
TRAINED = 0.7  # of the lines of Flight of the Amazon Queen
SPEECH = 50000  # of Beneath a Steel Sky: the first number of a file that is speech
HEADER = 22  # bytes of a file before what it holds


def queen(folder: Path) -> dict[str, bytes]:
    """Lines of Flight of the Amazon Queen by name, as MP3. queen.1c begins with a table (ScummVM's queen/resource.cpp):
    after 13 bytes the number of entries, then of each 12 bytes of name, one of the volume, and its place and size."""
    data = (folder / "queen.1c").read_bytes()
    if data[:4] != b"QTBL":
        raise SystemExit(f"{folder}/queen.1c is not the spoken edition that Debian packages")
    lines = {}
    for at in range(15, 15 + 21 * int.from_bytes(data[13:15], "big"), 21):
        name = data[at : at + 12].split(b"\0")[0].decode()
        begin, size = (int.from_bytes(data[at + i : at + i + 4], "big") for i in (13, 17))
        if name.endswith(".SB"):
            lines[name.removesuffix(".SB")] = data[begin : begin + size]
    return dict(sorted(lines.items()))


def steel_sky(folder: Path) -> list[np.ndarray]:
    """Lines of Beneath a Steel Sky, waves (n,) in int16 units. sky.dnr says of each file in sky.dsk its number, place
    (sixteenfold where its highest bit is set) and size in eight bytes (ScummVM's sky/disk.cpp)."""
    table, data = ((folder / name).read_bytes() for name in ("sky.dnr", "sky.dsk"))
    lines = []
    for at in progress(range(4, 4 + 8 * int.from_bytes(table[:4], "little"), 8), desc="Beneath a Steel Sky"):
        number, begin, size = (int.from_bytes(table[at + a : at + b], "little") for a, b in ((0, 2), (2, 5), (5, 8)))
        begin = (begin & 0x7FFFFF) << (4 if begin >> 23 else 0)
        packed = data[begin : begin + (size & 0x3FFFFF)][HEADER:]
        if number >= SPEECH and number not in SAYS_COMPUTER and packed.startswith(b"RNC"):
            wave = np.frombuffer(propack.unpack(packed), np.uint8).astype(np.float32) - 128
            if abs(wave.mean()) < 4 and 0.4 < wave.std() < 50:  # what is not is no sound
                lines.append(audio.resample(wave * 256, GAME_RATE, RATE))
    return lines


def write(lines: list[np.ndarray], path: Path) -> None:
    """Recordings of lines with pauses between them, beside the labels at `path`, which say that no word is said."""
    found, wave, n = [], [], 0
    for i, line in enumerate(lines, 1):
        wave += [line, np.zeros(PAUSE, np.float32)]
        n += len(line) + PAUSE
        if n > LONGEST or i == len(lines):
            found.append(Recording(f"{path.stem}-{len(found)}.flac", "real", []))
            audio.write(path.parent / found[-1].path, np.concatenate(wave), RATE)
            wave, n = [], 0
    write_labels(path, found)
    print(f"{path}: {len(lines)} lines")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("games", type=Path)
    parser.add_argument("output", type=Path)
    given = parser.parse_args()
    (given.output / "train").mkdir(parents=True, exist_ok=True)
    lines = queen(given.games / "flight-of-the-amazon-queen")
    names, trained = list(lines), round(TRAINED * len(lines))
    for name in names[:trained]:
        (given.output / "train" / f"{name}.mp3").write_bytes(lines[name])
    rest = [audio.read(name, 0, RATE, file=io.BytesIO(lines[name]))[0] for name in names[trained:]]
    write(rest, given.output / "queen.csv")
    write(steel_sky(given.games / "beneath-a-steel-sky"), given.output / "steel_sky.csv")

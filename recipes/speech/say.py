"""Makes the pairs that natural.py learns from: words by espeak-ng and by Kokoro, and words of people by espeak-ng.

    python recipes/speech/say.py KOKORO OUTPUT --people WORD … --unheard WORD …

The words are of Python's reference, of at most seven letters, no two of which sound the same, and none in which one of
the unheard is heard. OUTPUT takes words/16000/WORD and people/16000/WORD.
"""

import argparse
import random
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.utils import instantiate

from kws.config import conf_dir
from kws.data.near import phonemes, vocabulary

LONGEST = 7  # letters


def vocabulary_without(unheard: list[str], count: int) -> list[str]:
    sounds = [phonemes(word) for word in unheard]
    short = [word for word in vocabulary() if len(word) <= LONGEST]
    short = [word for word in short if not any(sound in phonemes(word) for sound in sounds)]
    for accent in ("en-us", "en"):  # one of those that sound the same
        short = list({phonemes(word, accent): word for word in short}.values())
    random.Random(0).shuffle(short)
    return short[:count]


def say(words: list[str], cache: Path, *more: str) -> None:
    given = ["data=synthetic", f"data.words=[{','.join(map(repr, words))}]", f"data.cache={cache}",
             "data.unknown=false", "data.silence=false", "data.per_word_evaluation=1", *more]  # fmt: skip
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = compose("train", overrides=given)
    instantiate(cfg.data, _convert_="all").prepare(("train",))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kokoro", help="the folder of its files (data/README.md)")
    parser.add_argument("output", type=Path)
    parser.add_argument("--people", nargs="+", required=True, metavar="WORD")
    parser.add_argument("--unheard", nargs="+", required=True, metavar="WORD")
    parser.add_argument("--count", type=int, default=1000, help="words that Kokoro says, once each")
    given = parser.parse_args()
    both = ("data.synthesisers=[espeak,kokoro]", f"data.kokoro.root={given.kokoro}", "data.kokoro.per_word=1")
    say(vocabulary_without(given.unheard, given.count), given.output / "words", "data.per_word=4", *both)
    say(given.people, given.output / "people", "data.per_word=60")

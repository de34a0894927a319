"""What a wake word could be mistaken for: words and phrases that sound alike, and sentences without it.

The phonemes are espeak-ng's; the words are those of Python's own reference (`pydoc_data.topics`), which comes with
every Python, beside whatever list is given.
"""

import functools
import re
from collections.abc import Iterable
from pydoc_data.topics import topics

from kws.data.espeak import engine

ACCENT = "en-us"


@functools.cache
def phonemes(text: str, accent: str = ACCENT) -> str:
    """How espeak-ng says it."""
    return engine().phonemes(text, accent)


def near(word: str, candidates: Iterable[str], count: int) -> list[str]:
    """The `count` candidates with the stretch that sounds most like `word`, nearest first; those in which the word
    itself is heard ("computers" of "computer") are left out. Of a phrase: what is left of it without one of its words,
    and the phrase with words near to one of its words in that one's place."""
    if len(parts := word.split()) > 1:
        each = max(-(-count // len(parts)) - 1, 0)
        others = [["", *near(part, candidates, each)] for part in parts]
        swapped = (" ".join([*parts[:i], other, *parts[i + 1 :]]) for turn in zip(*others, strict=False)
                   for i, other in enumerate(turn))  # fmt: skip
        return [" ".join(text.split()) for text in swapped][:count]
    sound = phonemes(word)
    sounds = {text: phonemes(text) for text in dict.fromkeys(candidates)}
    others = [text for text, said in sounds.items() if sound not in said]
    return sorted(others, key=lambda text: (distance(sound, sounds[text]), len(sounds[text]), text))[:count]


def distance(sound: str, said: str) -> int:
    """Edits (Levenshtein 1966) that turn `sound` into some stretch of `said`: Sellers 1980's search, where any place of
    `said` begins and ends a match at no cost."""
    row = [0] * (len(said) + 1)
    for i, phoneme in enumerate(sound, 1):
        before, row = row, [i]
        for j, other in enumerate(said, 1):
            row.append(min(before[j - 1] + (phoneme != other), before[j] + 1, row[j - 1] + 1))
    return min(row)


def vocabulary() -> list[str]:
    """The words of four letters or more in Python's reference, sorted."""
    return sorted({word.lower() for text in topics.values() for word in re.findall(r"\b[A-Za-z][a-z]{3,}\b", text)})


def sentences(count: int, without: Iterable[str], n_words: int = 9) -> list[str]:
    """`count` stretches of prose of Python's reference, evenly spread over it, in which no word of `without` is
    heard."""
    prose = [word for _, text in sorted(topics.items()) for word in re.findall(r"\b[A-Za-z][a-z']*\b", text)]
    sounds, step = [phonemes(word) for word in without], max(n_words, len(prose) // max(count, 1))
    found = (" ".join(prose[at : at + n_words]).lower() for at in range(0, len(prose) - n_words, step))
    said = {text: phonemes(text) for text in found}
    return [text for text, heard in said.items() if not any(sound in heard for sound in sounds)][:count]

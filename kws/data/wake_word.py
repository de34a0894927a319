"""One wake word: a folder of recordings of it, any speech without it, and a synthesiser for more of both."""

import os
from collections.abc import Callable, Iterable, Sequence

from kws.config import check_labels
from kws.data.manifest import read_manifest
from kws.data.others import check_folders, other_speech
from kws.data.source import SPLITS, UNKNOWN, Clip, Source, background_in, hash_split, sound_files
from kws.data.synthetic import Synthetic
from kws.errors import KwsError, check_number


class WakeWord(Source):
    """Labels: `word`, `_unknown_`, `_silence_`. Validation and test hold real recordings alone.

    Nothing says who speaks in the recordings of the word: a hash of the file's name splits them. Other speech is split
    by a hash of the speaker (the name up to `_nohash_`) or of the path. A recording of other speech that is longer than
    `cut_seconds` stands for as many clips as it has such stretches: in training each is drawn anew every epoch.

    Args:
        root: the folder of recordings of the word, silence around it and all.
        word: the label, and what the synthesiser says.
        others: folders of speech without the word, searched at any depth but for folders whose names begin with "_".
        background: folders of recordings of noise, each cut by time into the splits.
        synthetic: makes a `Synthetic` of `words`; None: real recordings alone.
        mined: a manifest of what the word was mistaken for, all of it for training.
        word_times, long_times, mined_times: how often an epoch holds each clip of the word, cut and mined clip.
        silence_share: clips of background, as a share of the word's.
    """

    def __init__(
        self, root, word: str, others: Iterable = (), background: Iterable = (), mined=None,
        synthetic: Callable[..., Synthetic] | None = None, cut_seconds: float = 2.0, word_times: int = 1,
        long_times: int = 1, mined_times: int = 1, silence_share: float = 0.1,
    ):  # fmt: skip
        if root is None:
            raise KwsError("data.root=FOLDER is missing: the folder of recordings of the word")
        self.others, self.backgrounds = check_folders(others, "others"), check_folders(background, "background")
        self.times = {"word_times": word_times, "long_times": long_times, "mined_times": mined_times}
        for name, value in self.times.items():
            check_number(f"data.{name}", value, lambda n: n >= 1, "a whole number of at least 1", int)
        if not self.others and synthetic is None:
            raise KwsError("data.others is empty and data.synthetic null: nothing says what the word is not")
        check_number("data.cut_seconds", cut_seconds, lambda n: n > 0, "a number above 0")
        self.root = str(root)
        self.where = f"{self.root}, split by a hash of the file's name,"
        self.mined, self.cut_seconds, self.synthetic = mined, cut_seconds, None
        (self.word,) = check_labels([word], "data.word")
        if synthetic is not None:
            self.synthetic = synthetic(words=[word], unknown=True, silence=False)
        super().__init__([word], True, None, None, silence_share)

    def prepare(self, splits: Sequence[str] = SPLITS) -> None:
        if self.synthetic is not None and "train" in splits:
            self.synthetic.prepare(["train"])

    def recordings(self) -> list[Clip]:
        return [clip for folder in self.backgrounds for clip in background_in(folder)]

    def noise(self, split: str) -> list[Clip]:
        made = self.synthetic.noise("train") if self.synthetic is not None and split == "train" else []
        return super().noise(split) + made

    def clips(self, split: str) -> list[Clip]:
        if split != "train":
            return super().clips(split)
        real = super().clips(split)
        clips = [clip for clip in real for _ in range(self.times["word_times"] if clip.label == self.word else 1)]
        if self.synthetic is not None:
            clips += self.synthetic.clips("train")
        if self.mined is not None:
            mined = [Clip(clip.path, UNKNOWN, clip.start, clip.end) for clip in read_manifest(self.mined)]
            clips += mined * self.times["mined_times"]
        return clips

    def listed(self) -> dict[str, list[Clip]]:
        clips = {split: [] for split in SPLITS}
        if not os.path.isdir(self.root):
            raise KwsError(f"{self.root}: data.root is not a folder")
        for name in sound_files(self.root):
            clips[hash_split(os.path.splitext(name)[0])].append(Clip(os.path.join(self.root, name), self.word))
        spoken = other_speech(self.others, self.cut_seconds, self.times["long_times"])
        return {split: clips[split] + spoken[split] for split in SPLITS}

    def _has_others(self) -> bool:
        return self.synthetic is not None or super()._has_others()

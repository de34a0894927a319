"""Kaldi data directories: wav.scp, text, and segments and utt2spk where they are.

https://kaldi-asr.org/doc/data_prep.html
"""

from kws.data.kaldi_directory import DataDirectory
from kws.data.source import SPLITS, Clip, Source, hash_split, split_paths
from kws.errors import KwsError, check_switches


class Kaldi(Source):
    """One data directory for each split, or one for all that a hash of the speaker splits (by utt2spk, else the
    utterance's name up to `_nohash_`). An utterance's transcript, word or phrase, is its label.

    Args:
        root: the directory for all splits; or else
        train, validation, test: the directories of the splits, those that there are.
        noise: background, a folder of recordings; cut by time into splits.
        allow_pipes: run the programs that wav.scp names, each time that their sound is read.
        words, unknown, silence, unknown_share, silence_share: see `Source`.
    """

    def __init__(
        self, root=None, train=None, validation=None, test=None, noise=None, allow_pipes=False,
        words=None, unknown=None, silence=None, unknown_share=None, silence_share=0.1,
    ):  # fmt: skip
        check_switches(**{"data.allow_pipes": allow_pipes})
        self.paths, self.where = split_paths("root", root, train=train, validation=validation, test=test)
        self.background, self.allow_pipes = noise, allow_pipes
        super().__init__(words, unknown, silence, unknown_share, silence_share)

    def listed(self) -> dict[str, list[Clip]]:
        clips = {split: [] for split in SPLITS}
        for split, path in self.paths.items():
            for clip, speaker in read_directory(path, self.allow_pipes):
                clips[split or hash_split(speaker)].append(clip)
        return clips


def read_directory(path: str, allow_pipes: bool = False) -> list[tuple[Clip, str]]:
    """The utterances of a data directory with their speakers, in its order.

    Raises:
        KwsError: the directory is no valid one, has no text, or segments of other channels than the first.
    """
    directory = DataDirectory(path, allow_pipes)
    if directory.texts is None:
        raise KwsError(f"{directory.path / 'text'}: cannot be read (there is none); it holds the words that are spoken")
    found = []
    for key, utterance in directory.utterances.items():
        if utterance.channel:
            raise KwsError(f"{utterance.at}: {key} is of channel {utterance.channel}; clips are of the first, 0")
        speaker = key.partition("_nohash_")[0] if directory.speakers is None else directory.speakers[key]
        label = " ".join(directory.texts[key].split())
        found.append((Clip(utterance.sound, label, utterance.start, utterance.end), speaker))
    return found

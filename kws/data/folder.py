"""A folder of your own recordings: one folder a word."""

import os

from kws.data.source import NOISE, SPLITS, Clip, Source, hash_split, sound_files, speaker_of, split_by_time, subfolders
from kws.errors import KwsError


class Folder(Source):
    """`root/<word>/*.wav`, or the same in each of `root/train`, `root/validation`, `root/test`.

    Without folders of splits, a hash of the speaker splits: the file's name up to `_nohash_`, else its path from
    `root` without the suffix. A folder whose name starts with `_` is no word unless `words` names it:
    `_background_noise_` holds background (for one split if it lies in that split's folder, else cut by time),
    `_silence_` clips of silence, any other clips of `_unknown_`.

    Args:
        root: the folder.
        words, unknown, silence, unknown_share, silence_share: see `Source`; words None takes every folder.
    """

    def __init__(self, root, words=None, unknown=None, silence=None, unknown_share=None, silence_share=0.1):
        if root is None:
            raise KwsError("data.root=PATH is missing: the folder that holds one folder a word")
        self.root = str(root)
        found = {word for folder in self._folders().values() for word in subfolders(folder)}
        if not any(not word.startswith("_") for word in found):
            there = sorted(os.listdir(self.root))
            more = f" and {len(there) - 20} more" * (len(there) > 20)
            raise KwsError(f"{self.root}: no folders of words; it holds {', '.join(there[:20]) or 'nothing'}{more}")
        self.where = f"{self.root}, split by {'its folders' if '' not in self._folders() else 'a hash of the speaker'},"
        noise = os.path.join(self.root, NOISE)
        self.background = noise if os.path.isdir(noise) else None
        words = sorted(word for word in found if not word.startswith("_")) if words is None else words
        super().__init__(words, unknown, silence, unknown_share, silence_share)

    def _folders(self) -> dict[str, str]:
        """The folder of each split, or the one folder under "" that a hash is to split."""
        if not os.path.isdir(self.root):
            raise KwsError(f"{self.root}: data.root is not a folder")
        inside = subfolders(self.root)
        folders = {split: os.path.join(self.root, split) for split in SPLITS if split in inside}
        folders = {split: folder for split, folder in folders.items() if subfolders(folder)}
        if folders and (beside := [word for word in inside if word not in folders and not word.startswith("_")]):
            raise KwsError(f"{self.root}: folders of splits ({', '.join(folders)}) beside others ({', '.join(beside)})")
        return folders or {"": self.root}

    def listed(self) -> dict[str, list[Clip]]:
        clips = {split: [] for split in SPLITS}
        for split, folder in self._folders().items():
            for word in subfolders(folder):
                if word == NOISE:
                    continue
                for name in sound_files(os.path.join(folder, word)):
                    clip = Clip(os.path.join(folder, word, name), word)
                    clips[split or hash_split(speaker_of(f"{word}/{name}"))].append(clip)
        return clips

    def noise(self, split: str) -> list[Clip]:
        own = os.path.join(self.root, split, NOISE)
        if not os.path.isdir(own):
            return super().noise(split)
        return [split_by_time(os.path.join(own, name), "train", shares=(1.0, 0.0, 0.0)) for name in sound_files(own)]

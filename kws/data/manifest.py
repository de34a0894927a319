"""Clips listed in JSONL files, wherever the sound lies."""

from pathlib import Path

from kws.data.source import SPLITS, Clip, Source, hash_split, read_manifest, speaker_of, split_paths


class Manifest(Source):
    """One JSONL file for each split, or one for all that a hash of the speaker splits (the file's name up to
    `_nohash_`, else its path from the manifest's folder without the suffix).

    Args:
        path: the file for all splits; or else
        train, validation, test: the files of the splits, those that there are.
        noise: background, as a manifest or a folder of recordings; cut by time into splits.
        words, unknown, silence, unknown_share, silence_share: see `Source`.
    """

    def __init__(
        self, path=None, train=None, validation=None, test=None, noise=None,
        words=None, unknown=None, silence=None, unknown_share=None, silence_share=0.1,
    ):  # fmt: skip
        self.paths = split_paths("path", path, train=train, validation=validation, test=test)
        self.where = ", ".join(
            f"{path} ({split or 'split by a hash of the speaker'})" for split, path in self.paths.items()
        )
        self.background = noise
        super().__init__(words, unknown, silence, unknown_share, silence_share)

    def listed(self) -> dict[str, list[Clip]]:
        clips = {split: [] for split in SPLITS}
        for split, path in self.paths.items():
            folder = f"{Path(path).parent}/"
            for clip in read_manifest(path):
                clips[split or hash_split(speaker_of(clip.path.removeprefix(folder)))].append(clip)
        return clips

"""Google Speech Commands as published: https://arxiv.org/abs/1804.03209 (CC BY 4.0)."""

import hashlib
import http.client
import os
import shutil
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from kws.data.source import SPLITS, UNKNOWN, Clip, Source, hash_split, sound_files, speaker_of, subfolders
from kws.errors import KwsError, check_number
from kws.progress import progress

# SHA-256 as torchaudio's datasets/speechcommands.py has them
ARCHIVES = {
    "v1": (
        "http://download.tensorflow.org/data/speech_commands_v0.01.tar.gz",
        "743935421bb51cccdb6bdd152e04c5c70274e935c82119ad7faeec31780d811d",
    ),
    "v2": (
        "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz",
        "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
    ),
}
TEN = ["yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go"]
FIFTEEN = ["down", "go", "left", "right", "stop", "up", "forward", "backward"]
FIFTEEN += ["zero", "one", "two", "three", "four", "five", "eight"]
NEW_IN_V2 = ["backward", "follow", "forward", "learn", "visual"]
REST = ["bed", "bird", "cat", "dog", "happy", "house", "marvin", "nine", "seven", "sheila", "six", "tree", "wow"]
ALL = sorted({*TEN, *FIFTEEN, *NEW_IN_V2, *REST})
# task: its words, whether it has _unknown_ and _silence_, its share of _unknown_ (None: all there are)
TASKS = {"10": (TEN, False, 0.1), "12": (TEN, True, 0.1), "35": (ALL, False, 0.1), "sc15": (FIFTEEN, True, None)}
LISTS = {"validation": "validation_list.txt", "test": "testing_list.txt"}


class SpeechCommands(Source):
    """The corpus in its official layout: one folder a word, `_background_noise_`, and lists of two splits.

    A clip on no list trains; where both lists are missing, the hash of the speaker that made them decides.

    Args:
        root: the folder that holds the folders of words.
        version: "v1" (30 words) or "v2" (35): which archive is downloaded, and the words of task 35.
        task: 10 (ten words), 12 (and `_unknown_` and `_silence_`), 35 (every word) or sc15 (see data/README.md).
        words, unknown, silence: in place of the task's; None leaves them.
        unknown_share, silence_share: see `Source`; "task" is a tenth for 12, as published, and all of the other words
            for sc15 and where `words` are given.
        download: fetch the archive where `root` is missing or empty.
        url, sha256: another archive of the same layout.
        synthetic: makes a `Synthetic` of `words` and `other_words`, whose clips join those that train.
        synthetic_clips: how many it makes of each word; 0: none.
    """

    def __init__(
        self, root="data/speech_commands", version="v2", task=12, words=None, unknown=None, silence=None,
        unknown_share="task", silence_share=0.1, download=True, url=None, sha256=None,
        synthetic: Callable[..., Source] | None = None, synthetic_clips: int = 0,
    ):  # fmt: skip
        if version not in ARCHIVES:
            raise KwsError(f"data.version={version}: choose one of {', '.join(ARCHIVES)}")
        if str(task) not in TASKS:
            raise KwsError(f"data.task={task}: choose one of {', '.join(TASKS)}")
        if (url is None) != (sha256 is None):
            raise KwsError("data.url and data.sha256 go together: an archive is unpacked only if its checksum is right")
        self.root, self.download = Path(root), download
        self.url, self.sha256 = (url, sha256) if url else ARCHIVES[version]
        task_words, both, share = TASKS[str(task)]
        share = share if words is None else None
        if version == "v1" and task_words is ALL:
            task_words = [word for word in ALL if word not in NEW_IN_V2]
        super().__init__(
            task_words if words is None else words,
            both if unknown is None else unknown,
            both if silence is None else silence,
            share if unknown_share == "task" else unknown_share,
            silence_share,
        )
        check_number("data.synthetic_clips", synthetic_clips, lambda n: n >= 0, "a whole number of at least 0", int)
        self.synthetic = None
        if synthetic is not None and synthetic_clips:
            self.synthetic = synthetic(
                words=self.words,
                per_word=synthetic_clips,
                per_word_evaluation=0,
                unknown=UNKNOWN in self.labels,
                silence=False,
            )

    @property
    def background(self) -> str | None:
        folder = self.root / "_background_noise_"
        return str(folder) if folder.is_dir() else None

    @property
    def where(self) -> str:
        there = [name for name in LISTS.values() if (self.root / name).is_file()]
        missing = "".join(f" (there is no {name})" for name in LISTS.values() if there and name not in there)
        return f"{self.root}, split by {' and '.join(there) or 'a hash of the speaker'}{missing},"

    def prepare(self, splits: Sequence[str] = SPLITS) -> None:
        """Downloads and unpacks the corpus where there is none yet, and synthesises what is to join its training."""
        if not self._words():
            self._bring()
        if self.synthetic is not None and "train" in splits:
            self.synthetic.prepare(["train"])

    def clips(self, split: str) -> list[Clip]:
        made = self.synthetic.clips(split) if self.synthetic is not None and split == "train" else []
        return super().clips(split) + made

    def _bring(self) -> None:
        if self.root.exists() and (not self.root.is_dir() or os.listdir(self.root)):
            found = ", ".join(sorted(os.listdir(self.root))[:20]) if self.root.is_dir() else "a file"
            raise KwsError(f"{self.root}: expected folders of words, found {found}: point data.root at the corpus")
        if not self.download:
            raise KwsError(f"{self.root}: no corpus there, and data.download=false: point data.root at it")
        archive = self.root.absolute().parent / self.url.rsplit("/", 1)[-1]
        archive.parent.mkdir(parents=True, exist_ok=True)
        fetch(self.url, archive, self.sha256)
        unpack(archive, self.root.absolute())
        if not self._words():
            raise KwsError(f"{archive}: unpacked to {self.root}, but it holds no folders of words")

    def _words(self) -> list[str]:
        return [name for name in subfolders(self.root) if not name.startswith("_")]

    def listed(self) -> dict[str, list[Clip]]:
        if not self._words():
            raise KwsError(f"{self.root}: no folders of words there: point data.root at the corpus")
        lists = [(split, self.root / name) for split, name in LISTS.items() if (self.root / name).is_file()]
        split_of = {}
        for split, path in lists:
            names = path.read_text(encoding="utf-8", errors="replace").splitlines()
            split_of |= {os.path.splitext(name.strip())[0]: split for name in names}
        clips = {split: [] for split in SPLITS}
        for word in self._words():
            for name in sound_files(self.root / word):
                key = f"{word}/{os.path.splitext(name)[0]}"
                split = split_of.get(key, "train") if lists else hash_split(speaker_of(name))
                clips[split].append(Clip(f"{self.root}/{word}/{name}", word))
        return clips


def fetch(url: str, archive: Path, sha256: str) -> None:
    """Downloads `url` to `archive`, going on from what an earlier attempt left in `archive`.part.

    Raises:
        KwsError: no connection, or the file that came is not the published one (it is named and removed).
    """
    part = archive.with_name(f"{archive.name}.part")
    whole = there = archive.exists()
    while not whole:
        have = _size(part)
        try:
            whole, reason = _fetch_rest(url, part), "the connection ended early"
        except (OSError, http.client.HTTPException, ValueError) as error:
            reason = error
        if not whole and _size(part) <= have:
            raise KwsError(
                f"{url} could not be downloaded to {part} ({reason}). Run again to go on from there; or, without a "
                f"network, download it elsewhere, unpack it into a folder and say data.root=FOLDER"
            )
        if whole:
            os.replace(part, archive)
    with open(archive, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256.lower():
        if not there:
            archive.unlink()
        raise KwsError(
            f"{archive}: {'not the published file, remove it' if there else 'corrupted, and removed'} (SHA-256"
            f" {found}, expected {sha256}): run again for a new one"
        )


def _fetch_rest(url: str, part: Path) -> bool:
    """One connection's worth of `url` onto the end of `part`; whether the file is now whole."""
    have = _size(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=30)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:
            return True  # nothing comes after what is there; whether it is the file, the checksum says
        raise
    with response:
        if response.status != 206:  # a server that knows no ranges sends all of it again
            have = 0
        rest = response.headers.get("Content-Length")
        total = have + int(rest) if rest else None
        bar = progress(total=total, initial=have, unit="B", unit_scale=True, desc=f"downloading {part.stem}")
        with open(part, "ab" if have else "wb") as file, bar:
            while block := response.read(1 << 16):
                file.write(block)
                bar.update(len(block))
            return total is None or file.tell() >= total


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a tar archive into `folder`, which appears only when it is whole; nothing is written outside it."""
    if not hasattr(tarfile, "data_filter"):
        raise KwsError(
            f"{archive}: Python 3.11.4 or newer is needed to unpack it safely: unpack it into {folder} by hand"
        )
    partial = folder.with_name(f"{folder.name}.unpacking")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        with tarfile.open(archive) as tar:
            for member in progress(tar, unit=" files", desc=f"unpacking {archive.name}"):
                tar.extract(member, partial, filter="data")
        os.replace(partial, folder)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise KwsError(f"{archive}: cannot be unpacked into {folder} ({error})") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)

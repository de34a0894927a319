"""What is written when an extraction is over: Kaldi's data directory around the features, and lhotse's manifests."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from kws.data import lhotse
from kws.data.kaldi_directory import OTHERS, DataDirectory, Utterance, read_table
from kws.errors import KwsError
from kws.features import FbankOptions, describe
from kws.features.cmvn import stats_by_key
from kws.features.kaldi_io import read_matrix, read_scp, write_matrix
from kws.files import replacing
from kws.utterances import Item

DIRECTORY = ("wav.scp", "segments", "text", "utt2spk", "spk2utt", "cmvn.ark", "cmvn.scp", *sum(OTHERS.values(), ()))


def check_keys(directory: DataDirectory, keys: set[str], output: Path) -> None:
    """Refuses features of utterances that the directory does not have any more."""
    if gone := sorted(keys - directory.utterances.keys()):
        raise KwsError(
            f"{output}: has features of {gone[0]}, which is no longer in {directory.listing} ({len(gone)} such in"
            " all): choose another output"
        )


def write_directory(folder: Path, directory: DataDirectory) -> None:
    """Makes `folder`, with feats.scp in it, a data directory of the utterances that are in it; cmvn.scp comes last, and
    is left where it is that of these speakers."""
    seconds = {key: float(text) for key, (text, _) in read_table(folder / "utt2dur").items()}
    speakers = {key: directory.speaker_of(key) for key in seconds}
    utt2spk, scp = folder / "utt2spk", folder / "cmvn.scp"
    if not utt2spk.exists() or {key: speaker for key, (speaker, _) in read_table(utt2spk).items()} != speakers:
        scp.unlink(missing_ok=True)
    directory.write(folder, seconds)
    if not scp.exists():
        write_cmvn(folder, speakers)


def write_cmvn(folder: Path, speakers: dict[str, str]) -> None:
    """cmvn.ark and cmvn.scp of the features in feats.scp, by speaker. Kaldi: compute-cmvn-stats --spk2utt."""
    features = ((key, read_matrix(where)) for key, where in read_scp(folder / "feats.scp"))
    ark, scp = folder / "cmvn.ark", folder / "cmvn.scp"
    lines = []
    with open(ark, "wb") as file:
        for speaker, stats in sorted(stats_by_key(features, speakers).items()):
            lines.append(f"{speaker} {ark}:{write_matrix(file, speaker, stats, double=True)}\n")
    with replacing(scp) as part:
        part.write_text("".join(lines), encoding="utf-8")


def write_lhotse(
    folder: Path, options: FbankOptions, items: Iterable[Item], directory: DataDirectory | None, channel: int | None
) -> None:
    """lhotse's manifests of the features in feats.scp.

    Args:
        items: where the sound of each is; others among them do not matter.
        channel: of sounds that do not say which.
    """
    frames, seconds = read_table(folder / "utt2num_frames"), read_table(folder / "utt2dur")
    texts, speakers = (directory.texts or {}, directory.speakers or {}) if directory else ({}, {})
    front = lhotse.Front(describe(options)["type"], options.dim, options.shift_samples, int(options.sample_frequency))

    def entries() -> Iterator[lhotse.Entry]:
        for item in items:
            if item.key in frames:
                utterance = directory.utterances[item.key] if directory else Utterance(item.key, item.key, item.path)
                if utterance.channel is None:
                    utterance = utterance._replace(channel=channel)
                n, duration = int(frames[item.key][0]), float(seconds[item.key][0])
                yield lhotse.Entry(utterance, n, duration, texts.get(item.key), speakers.get(item.key))

    lhotse.write_manifests(folder, folder / "feats.scp", front, entries())

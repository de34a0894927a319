"""Augmentation and synthetic words."""

from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import RATE, config, speechlike
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from hypothesis import given, settings
from hypothesis import strategies as st

from kws import audio
from kws.augment import CODECS, Augment, change_speed, level, made_room, mask, mix
from kws.data.clips import read_clip
from kws.data.dataset import ClipDataset, load
from kws.data.source import Clip
from kws.data.synthetic import Synthetic, _outside
from kws.errors import KwsError
from kws.features import make_options
from kws.features.extractor import FeatureExtractor

pytest.importorskip("espeakng_loader", reason="espeakng-loader is not installed")


def rng(seed=0):
    return np.random.default_rng(seed)


def test_noise_is_added_at_its_ratio():
    wave, noise = speechlike(8000), rng().standard_normal(8000).astype(np.float32)
    for snr in (-5, 0, 20):
        added = mix(wave, noise, snr, level(wave)) - wave
        assert abs(20 * np.log10(level(wave) / level(added)) - snr) < 0.01


def test_speed_moves_the_pitch():
    t = np.arange(RATE) / RATE
    faster = change_speed(np.sin(2 * np.pi * 400 * t).astype(np.float32), 1.25)
    assert len(faster) == 12800
    np.testing.assert_allclose(faster[100:-100], np.sin(2 * np.pi * 500 * t[: len(faster)])[100:-100], atol=2e-3)


def test_rooms_ring_and_keep_level_and_length():
    room = made_room(RATE, 300, rng())
    assert len(room) == 4800
    assert room[0] == 1
    assert level(room[-480:]) < 0.02 * level(room[50:530])
    augment = Augment(room_chance=1.0, tilt_chance=1.0)
    wave = speechlike(8000)
    changed = augment.filter(wave, RATE, rng())
    assert changed.shape == wave.shape
    assert abs(level(changed) / level(wave) - 1) < 1e-3
    assert np.abs(changed - wave).max() > 0.01 * np.abs(wave).max()


def test_measured_rooms_are_read(tmp_path):
    delay = np.zeros(801)
    delay[[0, 800]] = 16000
    audio.write(tmp_path / "delay.wav", delay, RATE)
    click = np.zeros(4000, np.float32)
    click[100] = 1000
    changed = Augment(room_chance=1.0, rooms=str(tmp_path)).filter(click, RATE, rng())
    assert np.argsort(-np.abs(changed))[:2].tolist() in ([100, 900], [900, 100])
    with pytest.raises(KwsError, match="no sound files"):
        Augment(rooms=str(tmp_path / "empty"))


def test_what_is_added_to_clips_costs_none_of_them(tmp_path, capsys):
    """Of background and rooms what cannot be used is named once, and others take its place; hidden files are none."""
    for name in ("good", "short"):
        audio.write(tmp_path / f"{name}.wav", speechlike(4 * RATE), RATE)
    (tmp_path / "short.wav").write_bytes((tmp_path / "short.wav").read_bytes()[:-1000])
    (tmp_path / "rooms").mkdir()
    audio.write(tmp_path / "rooms" / "good.wav", speechlike(800), RATE)
    (tmp_path / "rooms" / "bad.wav").write_text("this is no sound")
    (tmp_path / "rooms" / "._good.wav").write_text("what macOS puts beside a file")
    clips = [Clip(str(tmp_path / "good.wav"), "a", i / 10, i / 10 + 0.5) for i in range(20)]
    noise = [Clip(str(tmp_path / f"{name}.wav"), "_silence_") for name in ("short", "good")]
    extractor, batches = FeatureExtractor(make_options("fbank")), [[(0, i) for i in range(20)]] * 2
    augment = Augment(noise_chance=1.0, room_chance=1.0, rooms=str(tmp_path / "rooms"))
    data = ClipDataset(clips, ["a"], extractor, 1000, augment, noise)
    assert [len(batch["label"]) for batch in load(data, batches, 0)] == [20, 20]
    said = capsys.readouterr().err.splitlines()
    assert sorted(line.split(": ")[1].rsplit("/", 1)[-1] for line in said) == ["bad.wav", "short.wav"]
    with pytest.raises(KwsError, match=r"20 of 20 clips cannot be used, .*short\.wav"):
        list(load(ClipDataset(clips, ["a"], extractor, 1000, augment, noise[:1]), batches, 0))
    parts = [Clip(str(tmp_path / "short.wav"), "a", i / 10, i / 10 + 0.5) for i in range(20)]  # of one recording
    with pytest.raises(KwsError, match=r"20 of 40 clips cannot be used, .*short\.wav"):
        list(load(ClipDataset([*clips, *parts], ["a"], extractor, 1000), [[(0, i) for i in range(40)]], 0))


def test_other_words_that_cannot_be_read_cost_no_word(tmp_path):
    clips = [Clip(str(tmp_path / f"{label}{i}.wav"), label) for label in ("w", "_unknown_") for i in range(8)]
    for clip in clips:
        audio.write(clip.path, speechlike(4000), RATE)
    Path(clips[-1].path).write_text("this is no sound")
    Path(clips[0].path).write_text("nor is this")
    around = Augment(neighbour_chance=1.0, crowd_chance=0.5, piece_chance=0.5, noise_chance=1.0, onset_ms=0)
    data = ClipDataset(clips, ["w", "_unknown_"], FeatureExtractor(make_options()), 1000, around)
    got = [data[epoch, i] for epoch in range(5) for i in range(len(clips))]
    assert all(isinstance(item, dict) for i, item in enumerate(got) if i % len(clips) not in (0, len(clips) - 1))
    assert isinstance(got[0], audio.AudioError)
    named = data.collate(got)["left_out"]
    assert len(named) == 2
    assert {clips[0].path, clips[-1].path} == {path for path in (clips[0].path, clips[-1].path) if path in str(named)}


def test_an_asked_ratio_is_the_same_sound_for_every_loss(tmp_path):
    quiet = np.zeros(RATE, np.float32)
    quiet[5000:9000] = speechlike(4000)
    audio.write(tmp_path / "w.wav", quiet, RATE)
    audio.write(tmp_path / "noise.wav", 100 * rng().standard_normal(2 * RATE).astype(np.float32), RATE)
    noise, extractor = [Clip(str(tmp_path / "noise.wav"), "_silence_")], FeatureExtractor(make_options())
    clips, asked = [Clip(str(tmp_path / "w.wav"), "w")], {"noise": noise, "snr": 10}
    one, two = (ClipDataset(clips, ["w"], extractor, 1000, spans=spans, **asked)[0, 0] for spans in (False, True))
    assert torch.equal(one["wave"][:3000], two["wave"][:3000])  # background alone: the word may lie elsewhere
    assert one["wave"][:3000].std() > 50


def test_a_clip_that_its_file_does_not_hold_is_named(tmp_path):
    audio.write(tmp_path / "w.wav", speechlike(RATE), RATE)
    assert len(read_clip(Clip(str(tmp_path / "w.wav"), "w", 0.5, 1.4), RATE)) == RATE // 2
    with pytest.raises(audio.AudioError, match=r"w\.wav: the clip is 0\.5 to 100 s, the file has 1\.00 s"):
        read_clip(Clip(str(tmp_path / "w.wav"), "w", 0.5, 100), RATE)


@settings(deadline=None, max_examples=50)
@given(*[st.tuples(st.integers(50, 300), st.integers(1, 80)).map(lambda pair: (pair[0], sum(pair)))] * 2)
def test_what_is_drawn_is_what_was_asked_and_not_kept(span, kept):
    try:
        drawn = [_outside(rng(seed), span, kept) for seed in range(50)]
    except KwsError:
        assert kept[0] <= span[0] <= span[1] <= kept[1]
        return
    assert all(span[0] <= n <= span[1] and not kept[0] <= n < kept[1] for n in drawn)


def test_a_recording_is_decoded_once_for_the_clips_cut_from_it(tmp_path, monkeypatch):
    audio.write(tmp_path / "long.wav", speechlike(5 * RATE), RATE)
    whole, read, seen = read_clip(Clip(str(tmp_path / "long.wav"), "a"), RATE), audio.read, []
    monkeypatch.setattr(audio, "read", lambda path, **given: seen.append(path) or read(path, **given))
    for i in range(9):
        part = read_clip(Clip(str(tmp_path / "long.wav"), "a", i / 2, i / 2 + 1), RATE)
        np.testing.assert_array_equal(part, whole[i * RATE // 2 :][:RATE])
    assert len(seen) == 1


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("rate", [16000, 44100])
def test_codecs_lose_something_and_keep_the_rest(codec, rate):
    t = np.arange(rate) / rate
    tone, high = (np.sin(2 * np.pi * hertz * t) for hertz in (700, 7300))
    wave = (8000 * tone * np.hanning(rate) + 300 * high).astype(np.float32)
    changed = Augment(codec_chance=1.0, codecs=(codec,)).transmit(wave, rate, rng())
    assert changed.shape == wave.shape
    assert changed.dtype == np.float32
    bins = np.abs(np.fft.rfft(changed)) / np.abs(np.fft.rfft(wave))[700]
    assert 0.7 < bins[700] < 1.3
    assert codec == "vorbis" or bins[7300] < 0.03  # 0.075 before
    assert np.abs(changed - wave).max() > 20


def test_codecs_are_known_and_off_by_default():
    wave, drawn = speechlike(4000), rng()
    assert Augment().transmit(wave, RATE, drawn) is wave
    assert drawn.random() == rng().random()  # nothing was drawn: runs of before are what they were
    with pytest.raises(KwsError, match=r"augment.codecs=\[gsn\]: choose of ulaw, gsm"):
        Augment(codecs=("gsn",))


def test_masks_cover_what_they_say():
    augment = Augment(time_masks=2, time_mask_ms=100, frequency_masks=1, frequency_mask_share=0.2)
    drawn = augment.masks(50, 40, 10.0, rng(1))
    assert drawn.shape == (3, 3)
    assert (drawn[:, 2] - drawn[:, 1] <= [10, 10, 8]).all()
    frames, mean = torch.randn(1, 50, 40) + 9, torch.arange(40.0)
    hidden = mask(frames, torch.from_numpy(drawn)[None], mean)[0]
    for t in range(50):
        for f in range(40):
            inside = any(a <= (t, f)[axis] < b for axis, a, b in drawn)
            assert hidden[t, f] == (mean[f] if inside else frames[0, t, f])


def test_clips_are_placed_whole_and_long_ones_at_their_loudest(tmp_path):
    wave = np.zeros(3 * RATE)
    wave[20000:24000] = 8000
    audio.write(tmp_path / "long.wav", wave, RATE)
    audio.write(tmp_path / "short.wav", np.full(1600, 5000), RATE)
    clips = [Clip(str(tmp_path / "long.wav"), "a"), Clip(str(tmp_path / "short.wav"), "a"),
             Clip(str(tmp_path / "long.wav"), "a", 1.25, 1.5)]  # fmt: skip
    extractor = FeatureExtractor(make_options("fbank", sample_frequency=RATE))
    data = ClipDataset(clips, ["a"], extractor, 1000)
    long, short, part = (data[(0, i)]["wave"].numpy() for i in range(3))
    assert np.count_nonzero(long) == 4000
    other = ClipDataset([Clip(clips[0].path, "_unknown_")], ["_unknown_"], extractor, 1000)
    assert len({np.count_nonzero(other[(e, 0)]["wave"].numpy()) for e in range(20)}) > 3  # any stretch
    assert np.flatnonzero(short).tolist() == list(range(7200, 8800))
    assert np.count_nonzero(part) == 4000
    moved = ClipDataset(clips, ["a"], extractor, 1000, Augment(onset_ms=0, lead_ms=300))
    starts = {int(np.flatnonzero(moved[(e, 1)]["wave"].numpy())[0]) for e in range(20)}
    assert len(starts) > 10
    assert min(starts) >= 4800
    with pytest.raises(KwsError, match="labelled a"):
        ClipDataset(clips, ["b"], extractor, 1000)


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    cache = tmp_path_factory.mktemp("synthetic")
    overrides = [
        "data.words=[left,right,hey aurora]", "data.per_word=24", "data.per_word_evaluation=8", f"data.cache={cache}",
        "data.noise_seconds=4", "data.workers=1",
    ]  # fmt: skip
    source = instantiate(config("train", *overrides, "name=x").data, _convert_="all")
    source.prepare()
    return source, cache, overrides


def test_splits_share_no_voice_and_no_kept_range(synthetic):
    source, _, _ = synthetic
    said = {split: [u for _, u in source._utterances(split)] for split in ("train", "validation", "test")}
    voices = {split: {u.voice.partition("+")[2] for u in said[split]} for split in said}
    assert not voices["train"] & (voices["validation"] | voices["test"])
    assert not voices["validation"] & voices["test"]
    accents = {split: {u.voice.partition("+")[0] for u in said[split]} for split in said}
    assert source.kept_accent not in accents["train"]
    assert source.kept_accent in accents["test"]
    assert not any(160 <= u.rate < 175 or 45 <= u.pitch < 55 for u in said["train"])
    assert all(160 <= u.rate < 175 and 45 <= u.pitch < 55 for u in said["test"])


def test_near_words_and_prose_join_the_other_words(synthetic):
    _, _, overrides = synthetic
    make = lambda *more: instantiate(config("train", *overrides, "name=x", *more).data, _convert_="all")  # noqa: E731
    plain, more = make().other_words, make("data.near=4", "data.sentences=5").other_words
    added = more[len(plain) :]
    assert more[: len(plain)] == plain
    assert {"aurora", "hey"} <= set(added)
    assert sum(text.count(" ") > 6 for text in added) == 5
    assert not {"left", "right", "hey aurora"} & set(more)
    for wrong in ("data.near=-1", "data.sentences=some"):
        with pytest.raises(InstantiationException, match=f"{wrong}: expected a whole number"):
            make(wrong)


def test_other_words_of_the_test_are_never_trained_on(synthetic):
    source, _, _ = synthetic
    others = {split: set(source._others(split)) for split in ("train", "validation", "test")}
    assert not others["test"] & (others["train"] | others["validation"])
    heard = {split: {source._sound(w) for w in others[split]} for split in others}
    spotted = {source._sound(w) for w in source.words}
    assert not heard["test"] & heard["train"]
    assert not spotted & (heard["train"] | heard["test"])
    assert "write" not in others["train"] | others["test"]  # sounds like right


def test_clips_are_made_once_and_can_be_read(synthetic):
    source, cache, overrides = synthetic
    clips = source.clips("train")
    assert [sum(c.label == label for c in clips) for label in source.labels] == [24] * 5
    assert len({c.path for c in clips if c.label != "_silence_"}) == 24 * 4
    for clip in [clip for clip in clips if clip.label != "_silence_"][::9]:
        samples, rate = audio.read(clip.path)
        assert rate == RATE
        assert 0.05 * RATE < len(samples) < 3 * RATE
    times = {p: p.stat().st_mtime_ns for p in cache.rglob("*.wav")}
    again = instantiate(config("train", *overrides, "name=x").data, _convert_="all")
    again.prepare()
    assert {p: p.stat().st_mtime_ns for p in cache.rglob("*.wav")} == times
    assert again.clips("test") == source.clips("test")


def test_a_split_is_made_by_itself(synthetic, tmp_path):
    _, _, overrides = synthetic
    source = instantiate(config("train", *overrides, f"data.cache={tmp_path}", "name=x").data, _convert_="all")
    source.prepare(["validation"])
    needed = {Path(clip.path) for clip in [*source.clips("validation"), *source.noise("validation")]}
    assert set(tmp_path.rglob("*.wav")) == needed


def test_words_must_be_words(tmp_path):
    settings = {
        "other_words": [str(i) for i in range(20)],
        "cache": tmp_path,
        "accents": ["en"],
        "kept_accent": "en-us",
    }
    with pytest.raises(KwsError, match=r"True is a bool.*quotes"):
        Synthetic([True, "no"], **settings)
    made = Synthetic(["stop"], per_word=2, workers=1, **{**settings, "accents": ["en"], "kept_accent": "xx"})
    with pytest.raises(KwsError, match="no voice xx"):
        made.prepare()
    with pytest.raises(KwsError, match="'right' and 'write' sound the same in en: leave one out"):
        Synthetic(["right", "stop", "write"], **settings).prepare()
    for wrong, expected in (
        ({"accents": ["xx"]}, "no voice xx"), ({"accents": "de"}, r"data\.accents=de: expected a list"),
        ({"accents": []}, r"data\.accents is empty"), ({"rate": 5}, r"data\.rate=5: expected two numbers"),
        ({"pitch": [90, 10]}, r"data\.pitch=.*the lower first"),
    ):  # fmt: skip
        with pytest.raises(KwsError, match=expected):
            Synthetic(["stop"], **{**settings, **wrong}).prepare()
    with pytest.raises(KwsError, match="is listed twice"):
        Synthetic(["stop", "stop"], **settings)


def test_recordings_join_what_is_synthesised(synthetic, tmp_path):
    _, _, overrides = synthetic
    for word, count in (("left", 10), ("_unknown_", 3), ("_background_noise_", 1), ("_near_misses_", 1)):
        (tmp_path / word).mkdir()
        for i in range(count):
            audio.write(tmp_path / word / f"me_nohash_{i}.wav", np.full(20 * RATE, 500.0), RATE)
    alone = instantiate(config("train", *overrides, "name=x").data, _convert_="all")
    joined = [*overrides, f"data.recordings={tmp_path}", "data.recordings_share=0.5", "name=x"]
    source = instantiate(config("train", *joined).data, _convert_="all")
    own = {split: [c for c in source.clips(split) if c.path.startswith(str(tmp_path)) and c.label != "_silence_"]
           for split in ("train", "validation", "test")}  # fmt: skip
    takes = {split: sorted({int(c.path[-5]) for c in own[split] if c.label == "left"}) for split in own}
    assert takes == {"train": [0, 1, 2, 3, 5, 6, 7, 8], "validation": [4, 9], "test": []}
    assert [sum(c.label == word for c in own["train"]) for word in ("left", "_unknown_")] == [12, 12]  # half of 24
    another = tmp_path / "left" / "al_nohash_0.wav"  # before those that are there
    audio.write(another, np.full(20 * RATE, 500.0), RATE)
    assert {c for c in source.clips("validation") if c.path.startswith(f"{tmp_path}/left")} == {
        c for c in own["validation"] if c.label == "left"}  # others' takes move none  # fmt: skip
    another.unlink()
    few = instantiate(config("train", *joined, "data.recordings_share=0.1").data, _convert_="all")
    assert {c for c in few.clips("train") if c.path.startswith(f"{tmp_path}/left")} == {
        c for c in own["train"] if c.label == "left"}  # none is left out  # fmt: skip
    assert len(own["validation"]) == 2
    spoken = [c for c in source.clips("train") if c not in own["train"] and c.label != "_silence_"]
    assert spoken == [c for c in alone.clips("train") if c.label != "_silence_"]
    rooms = {split: [c for c in source.noise(split) if "me_nohash" in c.path] for split in own}
    assert [(room.start, room.end) for room in dict.fromkeys(rooms["train"])] == [(0, 16)]
    assert len(rooms["train"]) == len(source.noise("train")) / 2
    assert len(rooms["validation"]) == 1
    with pytest.raises(KwsError, match=r"data\.recordings=.*a folder of 'right'"):
        Synthetic(["right"], [str(i) for i in range(20)], tmp_path, ["en"], "en-us", recordings=tmp_path)


def test_real_speech_joins_the_other_words(synthetic, tmp_path):
    _, _, overrides = synthetic
    (tmp_path / "deep" / "_not_this_").mkdir(parents=True)
    for name, seconds in (("a.wav", 1.0), ("b.wav", 7.0), ("deep/c.wav", 30.0), ("deep/_not_this_/d.wav", 3.0)):
        audio.write(tmp_path / name, np.full(round(seconds * RATE), 500.0), RATE)
    sources = [instantiate(config("train", *overrides, "name=x", *more).data, _convert_="all")
               for more in ([], [f"data.others=[{tmp_path}]"])]  # fmt: skip
    found = []
    for split in ("train", "validation", "test"):
        alone, joined = ([c for c in source.clips(split) if c.label != "_silence_"] for source in sources)
        assert joined[: len(alone)] == alone
        found += joined[len(alone) :]
    assert {clip.label for clip in found} == {"_unknown_"}
    lengths = [Path(clip.path).name for clip in found]
    assert {name: lengths.count(name) for name in set(lengths)} == {"a.wav": 1, "b.wav": 3, "c.wav": 15}
    with pytest.raises(KwsError, match=r"data\.others is not a folder"):
        Synthetic(["right"], [str(i) for i in range(20)], tmp_path, ["en"], "en-us", others=["/no"]).clips("train")
    with pytest.raises(KwsError, match=r"data\.others=/no: expected a list"):
        Synthetic(["right"], [str(i) for i in range(20)], tmp_path, ["en"], "en-us", others="/no")

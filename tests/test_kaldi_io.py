"""Kaldi's archives, as kaldiio reads and writes them, and tables that may stop growing at any byte."""

import json
import os
import tempfile
from pathlib import Path

import kaldiio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kws.errors import KwsError
from kws.features import compressed
from kws.features.kaldi_io import (
    HEADER_BYTES,
    ArchiveError,
    matrix_bytes,
    read_ark,
    read_matrix,
    read_scp,
    read_vector,
    write_matrix,
    write_vector,
)
from kws.features.store import TABLES, ArkTable, FeatureFolder, NpyTable, Row

RNG = np.random.default_rng(3)
MATRICES = {
    key: RNG.standard_normal((rows, 5)).astype(np.float32)
    for key, rows in {"a/b": 3, "a-c": 1, "é%20ü": 40, "empty": 0, os.fsdecode(b"caf\xe9"): 2}.items()
}


@pytest.fixture
def written(tmp_path):
    ark, scp = tmp_path / "a b:c.ark", tmp_path / "feats.scp"
    with open(ark, "wb") as file, open(scp, "wb") as index:
        for key, matrix in MATRICES.items():
            index.write(os.fsencode(f"{key} {ark}:{write_matrix(file, key, matrix)}\n"))
    return ark, scp


def test_what_is_written_is_read(written):
    ark, scp = written
    for found in (dict(read_ark(ark)), {key: read_matrix(where) for key, where in read_scp(scp)}):
        assert list(found) == list(MATRICES)
        for key, matrix in found.items():
            assert matrix.dtype == np.float32
            np.testing.assert_array_equal(matrix, MATRICES[key])


def test_kaldiio_reads_what_is_written(tmp_path):
    with open(tmp_path / "feats.ark", "wb") as file:
        offsets = {key: write_matrix(file, key, matrix) for key, matrix in list(MATRICES.items())[:4]}
    for key, matrix in kaldiio.load_ark(str(tmp_path / "feats.ark")):
        np.testing.assert_array_equal(matrix, MATRICES[key])
        np.testing.assert_array_equal(kaldiio.load_mat(f"{tmp_path}/feats.ark:{offsets.pop(key)}"), MATRICES[key])
    assert not offsets


def test_what_kaldiio_writes_is_read(tmp_path):
    kept = {key: MATRICES[key] for key in ("a/b", "a-c", "é%20ü")}
    kaldiio.save_ark(str(tmp_path / "f.ark"), kept, scp=str(tmp_path / "f.scp"))
    for key, where in read_scp(tmp_path / "f.scp"):
        np.testing.assert_array_equal(read_matrix(where), kept.pop(key))
    assert not kept


def test_a_transposed_or_double_matrix_is_written_as_float32_rows(tmp_path):
    with open(tmp_path / "f.ark", "wb") as file:
        write_matrix(file, "t", MATRICES["a/b"].T.astype(np.float64))
    np.testing.assert_array_equal(read_matrix(f"{tmp_path}/f.ark:2"), MATRICES["a/b"].T)


def test_an_scp_is_read_lazily(tmp_path):
    (tmp_path / "f.scp").write_text("a  x.ark:1 \nb\n")
    lines = read_scp(tmp_path / "f.scp")
    assert next(lines) == ("a", "x.ark:1")
    with pytest.raises(ValueError, match=r"f\.scp, line 2: expected KEY ARCHIVE:OFFSET, found 'b'"):
        next(lines)


@pytest.mark.parametrize("key", ["", "a b", "a\n", "a\u00a0b"])
def test_keys_that_kaldi_cannot_hold(tmp_path, key):
    with open(tmp_path / "f", "wb") as file, pytest.raises(ValueError, match="cannot be a key"):
        write_matrix(file, key, MATRICES["a/b"])


def native_io():
    """Kaldi's own reader and writer."""
    return pytest.importorskip("kaldi_native_io")


SHAPES = [(1, 1), (1, 5), (3, 4), (4, 2), (5, 2), (8, 13), (9, 13), (100, 40), (60, 1)]
REAL = {
    f"m{i:02d}{scale:g}": (RNG.standard_normal(shape) * scale + RNG.standard_normal(shape[1]) * 3 * scale)
    for i, shape in enumerate(SHAPES)
    for scale in (1.0, 1e6, 1e-6)
}
REAL |= {"n0": np.full((20, 3), 5.0), "n1": np.zeros((20, 3)), "n2": 1e6 + RNG.integers(0, 2, (20, 3)) * 0.0625}
REAL |= {"n3": np.concatenate([np.full((30, 1), 7.0), RNG.standard_normal((30, 3)) * [1, 100, 1e-3]], axis=1)}


@pytest.mark.parametrize("method", compressed.METHODS)
def test_compressed_matrices_have_kaldis_bytes_and_values(tmp_path, method):
    kaldi = native_io()
    number = {"auto": "Automatic", "speech_feature": "SpeechFeature", "two_byte_auto": "TwoByteAuto"}
    number = kaldi.CompressionMethod.__members__[
        {"auto": "kAutomaticMethod"}.get(method, f"k{number.get(method, 'OneByteAuto')}")
    ]
    with kaldi.CompressedMatrixWriter(f"ark,scp:{tmp_path}/theirs.ark,{tmp_path}/theirs.scp") as writer:
        for key, matrix in REAL.items():
            writer.write(key, matrix.astype(np.float32), number)
    with open(tmp_path / "ours.ark", "wb") as file:
        for key, matrix in REAL.items():
            offset = write_matrix(file, key, matrix, compress=method)
            assert file.tell() - offset == matrix_bytes(*matrix.shape, compress=method)
    assert (tmp_path / "ours.ark").read_bytes() == (tmp_path / "theirs.ark").read_bytes()
    found = dict(read_ark(tmp_path / "ours.ark"))
    with kaldi.SequentialFloatMatrixReader(f"ark:{tmp_path}/ours.ark") as reader:
        for key, matrix in reader:
            np.testing.assert_array_equal(found[key], matrix)
    for key, where in read_scp(tmp_path / "theirs.scp"):
        np.testing.assert_array_equal(read_matrix(where), found[key])
        np.testing.assert_allclose(kaldiio.load_mat(where), found[key], rtol=1e-5, atol=1e-6 * abs(found[key]).max())


def test_compression_keeps_what_it_can():
    matrix = RNG.standard_normal((300, 20)).astype(np.float32)
    for method, error in (("auto", 0.08), ("two_byte_auto", 1e-4), ("one_byte_auto", 0.02)):
        data = compressed.compress(matrix, method)
        token, _, data = data.partition(b" ")
        header, body = compressed.HEADER.unpack_from(data), data[compressed.HEADER.size :]
        assert abs(compressed.decompress(token, *header, body) - matrix).max() < error
    with pytest.raises(ValueError, match="infinite values or NaN"):
        compressed.compress(np.full((3, 3), np.nan))


def test_an_empty_compressed_matrix_is_read_with_kaldis_four_bytes_too_many(tmp_path):
    with open(tmp_path / "f.ark", "wb") as file:
        write_matrix(file, "a", np.zeros((0, 5)), compress="auto")
        file.write(b"b \0BCM " + bytes(20))
        write_matrix(file, "c", REAL["n3"])
    assert {key: matrix.shape for key, matrix in read_ark(tmp_path / "f.ark")} == {
        "a": (0, 0), "b": (0, 0), "c": (30, 4),
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", ",t"])
@pytest.mark.parametrize("type", ["FloatMatrix", "DoubleMatrix", "FloatVector", "DoubleVector"])
def test_what_kaldi_writes_is_read(tmp_path, type, text):
    kaldi = native_io()
    kept = {key: matrix if "Matrix" in type else matrix[0] for key, matrix in REAL.items()}
    kept = {key: values.astype(np.float64 if "Double" in type else np.float32) for key, values in kept.items()}
    with getattr(kaldi, f"{type}Writer")(f"ark,scp{text}:{tmp_path}/f.ark,{tmp_path}/f.scp") as writer:
        for key, values in kept.items():
            writer.write(key, values)
    read = read_matrix if "Matrix" in type else read_vector
    by_ark, by_scp = dict(read_ark(tmp_path / "f.ark")), {k: read(w) for k, w in read_scp(tmp_path / "f.scp")}
    for key, values in kept.items():
        for found in (by_ark[key], by_scp[key]):
            assert found.dtype == (np.float64 if text else values.dtype)
            np.testing.assert_allclose(found, values, rtol=2e-5 if text else 0)  # text has six digits


def test_kaldi_and_kaldiio_read_what_is_written(tmp_path):
    kaldi = native_io()
    path = tmp_path / "f.ark"
    for double in (False, True):
        name, type = ("Double", np.float64) if double else ("Float", np.float32)
        for kind, write in (("Matrix", write_matrix), ("Vector", write_vector)):
            kept = {key: (matrix if kind == "Matrix" else matrix[:, 0]).astype(type) for key, matrix in REAL.items()}
            with open(path, "wb") as file:
                for key, values in kept.items():
                    write(file, key, values, double=double)
            for found in (
                {k: np.array(v) for k, v in getattr(kaldi, f"Sequential{name}{kind}Reader")(f"ark:{path}")},
                dict(kaldiio.load_ark(str(path))),
            ):
                assert list(found) == list(kept)
                for key, values in found.items():
                    assert values.dtype == type
                    np.testing.assert_array_equal(values, kept[key])


RANGES = [
    "0:9",
    "0:0",
    "3:5",
    "9:9",
    "2:10",
    "9:11",
    ":",
    ":,0:3",
    "1:2,2:2",
    "0:9,:",
    "10:10",
    "0:12",
    "5:4",
    "0:4,0:4",
    "1",
    "a:b",
    "",
    "-1:2",
    "0:1,0:1,0:1",
    "0:1,",
]


@pytest.mark.parametrize("span", RANGES)
def test_ranges_are_kaldis(tmp_path, span):
    """Kaldi's end is inclusive, and may be up to 3 rows, but no column, too high."""
    kaldi = native_io()
    matrix = RNG.standard_normal((10, 4)).astype(np.float32)
    with open(tmp_path / "f.ark", "wb") as file:
        write_matrix(file, "before", matrix + 1)
        where = f"{tmp_path}/f.ark:{write_matrix(file, 'a', matrix)}[{span}]"
    (tmp_path / "f.scp").write_text(f"a {where}\n")
    try:
        with kaldi.RandomAccessFloatMatrixReader(f"scp:{tmp_path}/f.scp") as reader:
            theirs = np.array(reader["a"])
    except (RuntimeError, KeyError, ValueError):
        with pytest.raises(ArchiveError, match=r"f\.ark:\d+\[.*expected a range FIRST:LAST within|a range for"):
            read_matrix(where)
    else:
        np.testing.assert_array_equal(read_matrix(where), theirs)


def test_ranges_of_vectors_and_of_files_without_keys(tmp_path):
    with open(tmp_path / "f.ark", "wb") as file:
        offset = write_vector(file, "a", np.arange(10))
    np.testing.assert_array_equal(read_vector(f"{tmp_path}/f.ark:{offset}[2:4]"), [2, 3, 4])
    (tmp_path / "one").write_bytes((tmp_path / "f.ark").read_bytes()[offset:])
    np.testing.assert_array_equal(read_vector(f"{tmp_path}/one"), np.arange(10))
    (tmp_path / "global.txt").write_text(" [\n  1 2\n  3 4 ]\n")
    np.testing.assert_array_equal(read_matrix(f"{tmp_path}/global.txt"), [[1, 2], [3, 4]])
    np.testing.assert_array_equal(read_matrix(f"{tmp_path}/global.txt[1:1,0:0]"), [[3]])
    with pytest.raises(ArchiveError, match="expected a vector, found a matrix of 2 rows"):
        read_vector(f"{tmp_path}/global.txt")


def test_text_that_people_write(tmp_path):
    path = tmp_path / "f.ark"
    path.write_text("a [ 1 2e0\n  inf -4 ]\nb  [ ]\nc\t[\r\n 1 nan\r\n 3 4\r\n]\r\n\nd []\ne [1 2 3]\n")
    found = dict(read_ark(path))
    np.testing.assert_array_equal(found["c"], [[1, np.nan], [3, 4]])
    np.testing.assert_array_equal(found["e"], [1, 2, 3])
    assert [values.shape for values in found.values()] == [(2, 2), (0,), (2, 2), (0,), (3,)]
    for text, reason in (
        ("a [ 1 2\n 3 ]\n", "key a: not a matrix"),
        ("a [ 1 b ]\n", "could not convert"),
        ("a [ 1 2\n", "there is no ]"),
        ("a 1 2\n", r"expected b'\\x00B' or '\[', found b'1 2"),
        ("a [ 1 ] 2\n", "beside the brackets"),
    ):
        path.write_text(text)
        with pytest.raises(ArchiveError, match=reason):
            list(read_ark(path))


def test_damage_is_named(tmp_path, written):
    ark, _ = written
    for where in (f"{tmp_path}/none.ark:0", "a.ark:", ":", "a.ark:99999999999999999999"):
        with pytest.raises(FileNotFoundError):
            read_matrix(where)
    with pytest.raises(ArchiveError, match="a pipe runs a program"):
        read_matrix("copy-feats ark:a ark:- |")
    with pytest.raises(ArchiveError, match=r"c\.ark:0: expected b'.*' or '\[', found b'a/b "):
        read_matrix(f"{ark}:0")
    with pytest.raises(ArchiveError, match=r"c\.ark:4: expected a vector of floats, found one of the type b'FM '"):
        read_vector(f"{ark}:4")
    with pytest.raises(ArchiveError, match="the archive ends within the record"):
        read_matrix(f"{ark}:4000000000000")
    data = ark.read_bytes()
    for size, reason in (
        (4 + HEADER_BYTES + 59, "ends within the record, 59 of 60 bytes"),
        (4 + 9, "ends within the record"),
        (2, "key"),
    ):
        ark.write_bytes(data[:size])
        with pytest.raises(ArchiveError, match=rf"c\.ark.*{reason}"):
            list(read_ark(ark))
    ark.write_bytes(data[:10] + b"\xff\xff\xff\x7f" + data[14:])
    with pytest.raises(ArchiveError, match="ends within the record"):
        read_matrix(f"{ark}:4")
    ark.write_bytes(data[:10] + b"\xff\xff\xff\xff" + data[14:])
    with pytest.raises(ArchiveError, match=r"header is damaged: expected .* a size from 0, found"):
        read_matrix(f"{ark}:4")
    ark.write_bytes(bytes(1 << 17))
    with pytest.raises(ArchiveError, match="no archive"):
        list(read_ark(ark))
    ark.write_bytes(b"key \0B\4" + bytes(4))  # an int
    with pytest.raises(ArchiveError, match=r"key key: expected an object of floats, found one of the type b'\\x04"):
        list(read_ark(ark))


@pytest.fixture(scope="module")
def every_kind(tmp_path_factory):
    """An archive with a record of every kind."""
    path = tmp_path_factory.mktemp("kinds") / "f.ark"
    matrix = RNG.standard_normal((12, 3))
    with open(path, "wb") as file:
        for double in (False, True):
            write_matrix(file, "matrix", matrix, double)
            write_vector(file, "vector", matrix[0], double)
        for method in compressed.METHODS:
            write_matrix(file, method, matrix, compress=method)
        file.write(b"text  [\n  1 2\n  3 4 ]\nline  [ 1 2 ]\n")
    return path


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2000), st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=3))
def test_damage_anywhere_is_an_error_of_ours_or_other_numbers(every_kind, end, changes):
    data = bytearray(every_kind.read_bytes())
    for at, byte in changes:
        data[at % len(data)] = byte
    data = data[: end % (len(data) + 1)] if end % 3 == 0 else data
    with tempfile.NamedTemporaryFile(suffix=".ark") as file:
        file.write(data)
        file.flush()
        try:
            for key, values in read_ark(file.name):
                assert key
                assert values.size <= len(data)
        except ArchiveError as error:
            assert file.name in str(error)  # noqa: PT017


ROWS = [Row(f"key{i:02d}", RNG.standard_normal((i % 5 + 1, 4)).astype(np.float32), i / 10 + 0.1) for i in range(12)]


class Killed(BaseException): ...


def kill_after(table, n_bytes: int) -> None:
    """Lets the table write `n_bytes` more, and then no more."""

    class Dying:
        def __init__(self, file):
            self.file = file

        def write(self, part) -> int:
            nonlocal n_bytes
            if not n_bytes:
                raise Killed
            view = memoryview(part)
            done = self.file.write(view.cast("B")[:n_bytes] if view.nbytes else b"")
            n_bytes -= done
            return done

        def __getattr__(self, name):
            return getattr(self.file, name)

    table.files = [Dying(file) for file in table.files]


def read_all(folder: str, names) -> list[bytes]:
    return [Path(folder, name).read_bytes() for name in names]


KINDS = [("ark", None), ("ark", "auto"), ("npy", None)]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(KINDS), st.lists(st.integers(0, 900), max_size=4), st.integers(1, 5))
def test_a_table_killed_at_any_byte_ends_with_the_same_bytes(kind, kills, batch):
    format, compress = kind
    with tempfile.TemporaryDirectory() as folder:
        for kill in [*kills, 1 << 30]:
            table = TABLES[format](folder, 4, compress)
            left = [row for row in ROWS if row.key not in table.keys]
            kill_after(table, kill)
            try:
                for at in range(0, len(left), batch):
                    table.append(left[at : at + batch])
            except Killed:
                pass
            table.close()
            table = TABLES[format](folder, 4, compress)
            table.close()
            rows = [row for row in ROWS if row.key in table.keys]
            found = read_all(folder, table.NAMES)
            for path in table.paths:
                os.truncate(path, 0)
            whole = TABLES[format](folder, 4, compress)
            whole.append(rows)
            whole.close()
            assert found == read_all(folder, table.NAMES)  # nothing but what the index names
        assert rows == ROWS


@pytest.mark.parametrize("format", TABLES)
def test_an_index_is_sorted_and_a_stop_in_between_harms_nothing(tmp_path, format, monkeypatch):
    rows = [ROWS[i] for i in (3, 0, 11, 1, 7, 2)]
    replace, calls = Path.replace, []

    def stop_after(count):
        def replacing(path, target):
            calls.append(path)
            if len(calls) > count:
                raise Killed
            return replace(path, target)

        return replacing

    outcomes = set()
    for count in range(8):
        folder = tmp_path / str(count)
        folder.mkdir()
        table = TABLES[format](folder, 4)
        table.append(rows[:4])
        table.append(rows[4:])
        before = read_all(folder, table.NAMES)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", stop_after(count))
            calls.clear()
            try:
                assert table.sort()
            except Killed:
                table.close()
        table = TABLES[format](folder, 4)
        assert table.keys == {row.key for row in rows}
        after = read_all(folder, table.NAMES)
        outcomes.add(after == before)
        if after != before:
            index = after[-1].decode().splitlines()
            keys = [line.split()[0] if format == "ark" else json.loads(line)["key"] for line in index]
            assert keys == sorted(keys)
        assert after[0] == before[0]
        table.append([ROWS[5]])  # and goes on
        assert table.sort()
        assert not TABLES[format](folder, 4).sort()
        assert sorted(os.listdir(folder)) == sorted(table.NAMES)
        if format == "ark":
            found = {key: read_matrix(where) for key, where in read_scp(folder / "feats.scp")}
            assert list(found) == sorted(found)
            for row in (*rows, ROWS[5]):
                np.testing.assert_array_equal(found[row.key], row.frames)
    assert outcomes == {True, False}


def test_durations_and_compressed_matrices_in_a_table(tmp_path):
    table = ArkTable(tmp_path, 4, "auto")
    long = Row("long", RNG.standard_normal((50, 4)), 100 / 3)
    table.append([*ROWS[:3], long])
    table.close()
    assert (tmp_path / "utt2dur").read_text() == "key00 0.1\nkey01 0.2\nkey02 0.3\nlong 33.333333\n"
    for key, where in read_scp(tmp_path / "feats.scp"):
        kept = {row.key: row.frames for row in (*ROWS, long)}
        assert abs(read_matrix(where) - kept[key]).max() < (0.1 if key == "long" else 1e-3)
    assert ArkTable(tmp_path, 4, "auto").keys == {"key00", "key01", "key02", "long"}


def test_an_index_that_promises_more_than_there_is_is_cut(tmp_path):
    """After a power cut the index may be there and the data not."""
    for table_type, start in ((ArkTable, 0), (NpyTable, 128)):
        table = table_type(str(tmp_path), 4)
        table.append(ROWS[:3])
        table.close()
        os.truncate(table.paths[0], start + 40)
        table = table_type(str(tmp_path), 4)
        assert table.keys == {"key00"}
        table.close()


def test_packed_numpy(tmp_path):
    table = NpyTable(str(tmp_path), 4)
    table.append(ROWS[:7])
    matrix = np.load(tmp_path / "feats.npy", mmap_mode="r")  # while it is still open
    np.testing.assert_array_equal(matrix, np.concatenate([row.frames for row in ROWS[:7]]))
    table.close()


def test_an_index_of_something_else_is_refused(tmp_path):
    for name in ("feats.ark", "feats.npy", "utt2num_frames", "utt2dur"):
        (tmp_path / name).write_text("key 3\n")
    for name, text in (("feats.scp", "key here:x\n"), ("utts.jsonl", "{}\n")):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=rf"{name}: not written by this command"):
            TABLES["ark" if name == "feats.scp" else "npy"](str(tmp_path), 4)


def test_a_file_that_is_gone_is_not_begun_anew(tmp_path):
    table = ArkTable(tmp_path, 4)
    table.append(ROWS)
    table.close()
    (tmp_path / "utt2dur").unlink()
    with pytest.raises(ValueError, match=r"utt2dur is gone, which belongs to feats\.scp"):
        ArkTable(tmp_path, 4)


def test_a_folder_that_was_moved_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    table = ArkTable(str(tmp_path / "a"), 4)
    table.append(ROWS)
    table.close()
    (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(ValueError, match=r"points to .*/a/feats\.ark; put the folder back"):
        ArkTable(str(tmp_path / "b"), 4)


FAILED = {"path": "/in/a.wav", "reason": "text"}
SETTINGS = {"format": "ark", "input": "/in", "features": {"num_mel_bins": 4, "low_freq": 20.0}}


def test_a_folder_belongs_to_its_settings(tmp_path):
    folder = FeatureFolder(str(tmp_path / "out"), 4, SETTINGS)
    folder.write([], [FAILED])
    folder.close()
    # nothing was made with them: others may be chosen
    changed = SETTINGS | {"features": {"num_mel_bins": 4, "low_freq": 30.0}}
    folder = FeatureFolder(str(tmp_path / "out"), 4, changed)
    assert folder.done == set()
    folder.write(ROWS, [FAILED])
    folder.close()
    with pytest.raises(
        KwsError, match=r"made with other settings \(features\.low_freq: 30\.0 -> 20\.0\): choose another"
    ):
        FeatureFolder(str(tmp_path / "out"), 4, SETTINGS)
    folder = FeatureFolder(str(tmp_path / "out"), 4, changed)
    assert folder.done == {"/in/a.wav"} | {row.key for row in ROWS}
    assert folder.n_failed == 1
    folder.close()
    folder = FeatureFolder(str(tmp_path / "out"), 4, changed, retry_failed=True)
    assert folder.done == {row.key for row in ROWS}
    folder.close()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "feats.ark").write_bytes(b"precious")
    with pytest.raises(KwsError, match=r"feats\.ark is there, but no options\.json"):
        FeatureFolder(str(tmp_path), 4, SETTINGS)
    assert (tmp_path / "feats.ark").read_bytes() == b"precious"


def test_a_folder_is_locked_while_it_is_open(tmp_path):
    folder = FeatureFolder(tmp_path, 4, SETTINGS)
    with pytest.raises(KwsError, match=f"{tmp_path}: in use by process {os.getpid()}"):
        FeatureFolder(tmp_path, 4, SETTINGS)
    folder.close()
    FeatureFolder(tmp_path, 4, SETTINGS).close()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "failed.jsonl", "feats.ark", "feats.scp", "options.json", "utt2dur", "utt2num_frames",
    ]  # fmt: skip

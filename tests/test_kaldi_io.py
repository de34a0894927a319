"""Kaldi's archives, as kaldiio reads and writes them, and tables that may stop growing at any byte."""

import os
import tempfile
from pathlib import Path

import kaldiio
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kws.errors import KwsError
from kws.features.kaldi_io import HEADER_BYTES, read_ark, read_matrix, read_scp, write_matrix
from kws.features.store import TABLES, ArkTable, FeatureFolder, NpyTable

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


def test_damage_is_named(tmp_path, written):
    ark, _ = written
    for where in ("a.ark", "a.ark:", "a.ark:x", ":"):
        with pytest.raises(ValueError, match="expected ARCHIVE:OFFSET"):
            read_matrix(where)
    with pytest.raises(FileNotFoundError, match=r"none\.ark"):
        read_matrix(f"{tmp_path}/none.ark:0")
    with pytest.raises(ValueError, match=r"c\.ark:0: expected a binary float matrix .* found b'a/b "):
        read_matrix(f"{ark}:0")
    data = ark.read_bytes()
    for size, reason in (
        (4 + HEADER_BYTES + 59, "ends within the matrix"),
        (4 + 9, "ends within the matrix"),
        (2, "key"),
    ):
        ark.write_bytes(data[:size])
        with pytest.raises(ValueError, match=rf"c\.ark.*{reason}"):
            list(read_ark(ark))
    ark.write_bytes(data[:10] + b"\xff\xff\xff\x7f" + data[14:])
    with pytest.raises(ValueError, match="ends within the matrix"):
        read_matrix(f"{ark}:4")
    ark.write_bytes(data[:10] + b"\xff\xff\xff\xff" + data[14:])
    with pytest.raises(ValueError, match="header of the matrix is damaged"):
        read_matrix(f"{ark}:4")
    ark.write_bytes(bytes(1 << 17))
    with pytest.raises(ValueError, match="no archive"):
        list(read_ark(ark))
    kaldiio.save_ark(str(ark), {"a": np.zeros((2, 2))})
    with pytest.raises(ValueError, match=r"found b'.*BDM '"):
        list(read_ark(ark))


ROWS = [(f"key{i:02d}", RNG.standard_normal((i % 5 + 1, 4)).astype(np.float32)) for i in range(12)]


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
            done = self.file.write(part[:n_bytes])
            n_bytes -= done
            return done

        def __getattr__(self, name):
            return getattr(self.file, name)

    table.files = [Dying(file) for file in table.files]


def read_all(folder: str, names) -> list[bytes]:
    return [Path(folder, name).read_bytes() for name in names]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(sorted(TABLES)), st.lists(st.integers(0, 900), max_size=4), st.integers(1, 5))
def test_a_table_killed_at_any_byte_ends_with_the_same_bytes(format, kills, batch):
    with tempfile.TemporaryDirectory() as folder:
        for kill in [*kills, 1 << 30]:
            table = TABLES[format](folder, 4)
            left = [row for row in ROWS if row[0] not in table.keys]
            kill_after(table, kill)
            try:
                for at in range(0, len(left), batch):
                    table.append(left[at : at + batch])
            except Killed:
                pass
            table.close()
            table = TABLES[format](folder, 4)
            table.close()
            rows = [row for row in ROWS if row[0] in table.keys]
            found = read_all(folder, table.NAMES)
            for path in table.paths:
                os.truncate(path, 0)
            whole = TABLES[format](folder, 4)
            whole.append(rows)
            whole.close()
            assert found == read_all(folder, table.NAMES)  # nothing but what the index names
        assert rows == ROWS


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
    np.testing.assert_array_equal(matrix, np.concatenate([frames for _, frames in ROWS[:7]]))
    table.close()


def test_an_index_of_something_else_is_refused(tmp_path):
    for name, text in (("feats.scp", "key here:x\n"), ("utts.jsonl", "{}\n")):
        (tmp_path / "utt2num_frames").write_text("key 3\n")
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=rf"{name}: not written by this command"):
            TABLES["ark" if name == "feats.scp" else "npy"](str(tmp_path), 4)


def test_a_folder_that_was_moved_is_refused(tmp_path):
    (tmp_path / "a").mkdir()
    table = ArkTable(str(tmp_path / "a"), 4)
    table.append(ROWS)
    table.close()
    (tmp_path / "a").rename(tmp_path / "b")
    with pytest.raises(ValueError, match=r"points to .*/a/feats\.ark; put the folder back"):
        ArkTable(str(tmp_path / "b"), 4)


SETTINGS = {"format": "ark", "input": "/in", "features": {"num_mel_bins": 4, "low_freq": 20.0}}


def test_a_folder_belongs_to_its_settings(tmp_path):
    folder = FeatureFolder(str(tmp_path / "out"), 4, SETTINGS)
    folder.write([], [("/in/a.wav", "text")])
    folder.close()
    # nothing was made with them: others may be chosen
    changed = SETTINGS | {"features": {"num_mel_bins": 4, "low_freq": 30.0}}
    folder = FeatureFolder(str(tmp_path / "out"), 4, changed)
    assert folder.done == set()
    folder.write(ROWS, [("/in/a.wav", "text")])
    folder.close()
    with pytest.raises(
        KwsError, match=r"made with other settings \(features\.low_freq: 30\.0 -> 20\.0\): choose another"
    ):
        FeatureFolder(str(tmp_path / "out"), 4, SETTINGS)
    folder = FeatureFolder(str(tmp_path / "out"), 4, changed)
    assert folder.done == {"/in/a.wav"} | {key for key, _ in ROWS}
    assert folder.n_failed == 1
    folder.close()
    folder = FeatureFolder(str(tmp_path / "out"), 4, changed, retry_failed=True)
    assert folder.done == {key for key, _ in ROWS}
    folder.close()


def test_a_folder_of_something_else_is_left_alone(tmp_path):
    (tmp_path / "feats.ark").write_bytes(b"precious")
    with pytest.raises(KwsError, match=r"feats\.ark is there, but no options\.json"):
        FeatureFolder(str(tmp_path), 4, SETTINGS)
    assert (tmp_path / "feats.ark").read_bytes() == b"precious"


def test_a_folder_is_locked_while_it_is_open(tmp_path):
    folder = FeatureFolder(tmp_path, 4, SETTINGS)
    with pytest.raises(KwsError, match=f"{tmp_path}: in use by another process"):
        FeatureFolder(tmp_path, 4, SETTINGS)
    folder.close()
    FeatureFolder(tmp_path, 4, SETTINGS).close()
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "failed.jsonl", "feats.ark", "feats.scp", "options.json", "utt2num_frames",
    ]  # fmt: skip

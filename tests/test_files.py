"""Files that are written whole or not at all."""

import pytest

from kws.files import replacing


@pytest.mark.parametrize("durable", [False, True])
def test_a_file_is_there_whole_or_as_it_was(tmp_path, durable):
    path = tmp_path / "a.json"
    with replacing(path, durable=durable) as part:
        part.write_text("first")
        assert not path.exists()
        assert (part.suffix, part.name[0]) == (".json", ".")  # hidden: no data set takes it
    assert path.read_text() == "first"
    with pytest.raises(KeyboardInterrupt):
        _stopped(path, durable)
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def _stopped(path, durable):
    with replacing(path, durable=durable) as part:
        part.write_text("sec")
        raise KeyboardInterrupt


def test_what_cannot_be_written_is_said_by_the_system(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "missing" / "a") as part:
        part.write_text("a")


def test_two_processes_do_not_share_a_part(tmp_path, monkeypatch):
    with replacing(tmp_path / "a", shared=True) as first:
        monkeypatch.setattr("os.getpid", lambda: 1)
        with replacing(tmp_path / "a", shared=True) as second:
            assert first != second
            first.write_text("1"), second.write_text("2")
    assert (tmp_path / "a").read_text() == "1"

"""Small helpers: the nearest name, and files that are whole or not there."""

import os

import pytest

from modeling_trace import utils


def test_nearest_name():
    names = ["learning_rate", "num_train_epochs", "seed"]
    assert utils.nearest("learing_rate", names) == " Did you mean `learning_rate`?"
    assert utils.nearest("epochs", names, quote="'") == " Did you mean 'num_train_epochs'?"  # a part of it
    assert utils.nearest("xyz", names) == ""


def test_one_line():
    assert utils.one_line(ValueError("a\n  b\tc ")) == "a b c"


def test_files_are_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "a.txt"
    utils.atomic_write(path, "é\n")
    assert path.read_bytes() == "é\n".encode()
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()

    def full(source, target):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        utils.atomic_write(path, "other")
    assert path.read_bytes() == "é\n".encode() and os.listdir(path.parent) == ["a.txt"]


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask

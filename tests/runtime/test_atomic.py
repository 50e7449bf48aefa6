from __future__ import annotations

import os

import pytest

from pyg_nodequant.runtime import write_atomic


def test_writes_and_replaces(tmp_path):
    path = tmp_path / "a"
    write_atomic(path, [b"first"])
    write_atomic(path, [b"sec", b"ond"])
    assert path.read_bytes() == b"second"
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.skipif(os.name != "posix", reason="needs POSIX permissions")
def test_file_has_ordinary_permissions(tmp_path):
    write_atomic(tmp_path / "a", [b"x"])
    (tmp_path / "b").write_bytes(b"x")
    assert (tmp_path / "a").stat().st_mode == (tmp_path / "b").stat().st_mode


def test_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"old")

    def chunks():
        yield b"new"
        raise RuntimeError("lost the rest")

    with pytest.raises(RuntimeError, match="lost the rest"):
        write_atomic(path, chunks())
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_missing_folder(tmp_path):
    with pytest.raises(OSError):
        write_atomic(tmp_path / "no" / "a", [b"x"])

from __future__ import annotations

from pathlib import Path

import pytest

from pyg_nodequant.data import DataError
from pyg_nodequant.data.readers import files


def test_existing(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfhi")
    assert files.existing_file(str(file)) == file
    assert files.existing_folder(tmp_path) == tmp_path
    assert files.check_utf8(file, files.read_bytes(file)) == "hi"
    with pytest.raises(DataError, match="is a folder, but a file"):
        files.existing_file(tmp_path)
    with pytest.raises(DataError, match="is a file, but a folder"):
        files.existing_folder(file)
    for check in (files.existing_file, files.existing_folder):
        with pytest.raises(DataError, match="'.*nothing' does not exist"):
            check(tmp_path / "nothing")


def test_not_utf8_names_the_line(tmp_path: Path) -> None:
    for mark in (b"", b"\xef\xbb\xbf"):
        with pytest.raises(DataError, match="line 3: not UTF-8"):
            files.check_utf8("x", mark + b"a\nb\n\xff\n")


def test_unreadable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    file = tmp_path / "a.txt"
    file.write_text("")
    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(DataError, match="cannot be read .Permission denied"):
        files.read_bytes(file)

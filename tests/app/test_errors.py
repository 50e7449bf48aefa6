from __future__ import annotations

import sys

import pytest

from pyg_nodequant.app.errors import describe, guarded


@pytest.mark.parametrize("error, line", [
    (ValueError("a\n  b"), "a b"),
    (ValueError("such as '\x1b[2J'"), "such as ' [2J'"),
    (ValueError(), "ValueError"),
    (PermissionError(13, "Permission denied", "x"), "permission denied: 'x'"),
    (OSError("no network"), "no network"),
    (MemoryError(), "out of memory"),
    (ModuleNotFoundError("...", name="faiss.x"),
     "this needs the package 'faiss', which is not installed "
     "(pip install pyg-nodequant[faiss])"),
    (ImportError("too old"), "too old"),
])
def test_describe(error, line):
    assert describe(error) == line


def raises(error):
    def command():
        raise error

    return command


def test_user_errors_are_one_line(capsys):
    assert guarded(raises(OSError(28, "No space left on device"))) == 2
    assert capsys.readouterr().err == (
        "nodequant: error: no space left on device\n")


def test_bugs_keep_their_traceback(capsys):
    with pytest.raises(KeyError):
        guarded(raises(KeyError("ours")))
    missing = ModuleNotFoundError("...", name="pyg_nodequant.gone")
    assert guarded(raises(missing)) == 1
    assert "Traceback" in capsys.readouterr().err


def test_exit_code_is_passed_on():
    assert guarded(lambda: 7) == 7


def test_closed_stdout(monkeypatch):
    monkeypatch.setattr(sys, "stdout", None)  # as Python does for `>&-`
    assert guarded(lambda: 0) == 0

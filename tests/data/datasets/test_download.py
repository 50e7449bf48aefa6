from __future__ import annotations

import io
import urllib.error
import urllib.request
import zipfile
from pathlib import Path
from typing import Any

import pytest

from pyg_nodequant.data import DataError
from pyg_nodequant.data.datasets.download import fetch, unzip


class Answer(io.BytesIO):
    def __init__(self, content: bytes, headers: dict[str, str],
                 url: str) -> None:
        super().__init__(content)
        self.headers, self.url = headers, url

    def geturl(self) -> str:
        return self.url


def serve(monkeypatch: pytest.MonkeyPatch, content: bytes,
          url: str = "https://x.org/a", **headers: str) -> None:
    def urlopen(address: str, timeout: float) -> Any:
        return Answer(content, {k.replace("_", "-"): v
                                for k, v in headers.items()}, url)

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)


def test_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, b"hello", Content_Length="5")
    target = tmp_path / "deep" / "a.txt"
    fetch("https://x.org/a", target, 5)
    assert target.read_bytes() == b"hello"
    assert [file.name for file in target.parent.iterdir()] == ["a.txt"]
    (tmp_path / "other").touch()
    assert target.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("content, options, message", [
    (b"hello!", {}, "more than the 5 bytes"),
    (b"hi", {"Content_Length": "5"}, "sent 2 of 5 bytes"),
    (b"", {}, "empty file"),
    (b"hi", {"url": "http://x.org/a"}, "not https"),
    (b"hi", {"Content_Length": "many"}, "could not be fetched"),
])
def test_nothing_is_left_behind(tmp_path: Path, content: bytes, options: Any,
                                message: str,
                                monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, content, **options)
    with pytest.raises(DataError, match=message):
        fetch("https://x.org/a", tmp_path / "a", 5)
    assert list(tmp_path.iterdir()) == []


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def urlopen(address: str, timeout: float) -> Any:
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    with pytest.raises(DataError, match="fetched .*Name or service not kno"):
        fetch("https://x.org/a", tmp_path / "a", 5)
    with pytest.raises(DataError, match="only https"):
        fetch("http://x.org/a", tmp_path / "a", 5)


def test_target_that_cannot_be_written(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    serve(monkeypatch, b"hello")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="could not be fetched"):
        fetch("https://x.org/a", tmp_path / "file" / "a", 5)


def test_unzip(tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("../../evil/u.data", "1 2")
        file.writestr("big/u.item", "x" * 100)
    unzip(archive, ["u.data"], tmp_path / "out", 10)
    assert (tmp_path / "out" / "u.data").read_text() == "1 2"
    with pytest.raises(DataError, match="more than the 10 bytes"):
        unzip(archive, ["u.item"], tmp_path / "out", 10)
    with pytest.raises(DataError, match="holds no u.x"):
        unzip(archive, ["u.x"], tmp_path / "out", 10)
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["u.data"]
    archive.write_bytes(b"not a zip")
    with pytest.raises(DataError, match="could not be unpacked"):
        unzip(archive, ["u.data"], tmp_path, 10)


@pytest.mark.parametrize("place, value", [(60, 0x55), (-60, 0x41)])
def test_broken_zip(tmp_path: Path, place: int, value: int) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("u.data", "".join(f"{k}\n" for k in range(9000)))
    content = bytearray(archive.read_bytes())
    if place < 0:  # the compression method in the central directory
        place = content.rindex(b"PK\x01\x02") + 10
    content[place] ^= value
    archive.write_bytes(content)
    with pytest.raises(DataError, match="could not be unpacked"):
        unzip(archive, ["u.data"], tmp_path / "out", 10**6)
    assert not list((tmp_path / "out").glob("*"))

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pyg_nodequant.data import DataError
from pyg_nodequant.data.readers.integers import (
    read_integer_columns,
    read_integers,
)


def oracle(text: str) -> tuple[list[int], list[int]]:
    values, lines = [], []
    for number, line in enumerate(text.split("\n")):
        for word in line.split():
            values.append(int(word))
            lines.append(number)
    return values, lines


@pytest.mark.parametrize("text", [
    "", "\n\n", "1", "1 2\n3", "0 10 200\n\n5\n7 \t 8\r\n9\n", "  4\n 5  \n",
    "007 999999999999999999\n"])
def test_like_a_plain_loop(tmp_path: Path, text: str) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(text.encode())
    values, lines = read_integers(file)
    assert (values.tolist(), lines.tolist()) == oracle(text)
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert read_integers(file)[0].tolist() == oracle(text)[0]


def test_random_text(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    text = "\n".join(
        " ".join(map(str, 10**rng.integers(0, 12, rng.integers(0, 9))))
        for _ in range(200))
    file = tmp_path / "a.txt"
    file.write_text(text)
    values, lines = read_integers(file)
    assert (values.tolist(), lines.tolist()) == oracle(text)


@pytest.mark.parametrize("content, message", [
    (b"0 1\n2 x3\n", r"a.txt', line 2: only integers .* .got 'x3'"),
    (b"0 1\n2 1.5\n", r"line 2: .*got '1.5'"),
    (b"0 1\n\n-1 4\n", r"line 3: .* 0 or above .got -1"),
    (b"0 1\n2 -\n", r"line 2: .*got '-'"),
    (b"0 1234567890123456789\n", r"line 1: .*more than 18 digits"),
    (b"0 1\n\xff\xfe\n", r"line 2: not UTF-8"),
    ("0 \u0663\n".encode(), r"line 1: only integers"),
    (b"0 1\x0b2\n", r"not text|only integers"),
])
def test_errors(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_integers(file)


def test_columns(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_text("1::2\n\n3::4\n")
    assert read_integer_columns(file, 2, b":").tolist() == [[1, 2], [3, 4]]
    with pytest.raises(DataError, match="line 1: needs 3 integers .got 2"):
        read_integer_columns(file, 3, b":")
    file.write_text("1 2\n3\n")
    with pytest.raises(DataError, match="line 2: .*user item. .got 1"):
        read_integer_columns(file, 2, what="user item")
    file.write_text("\n")
    with pytest.raises(DataError, match="is empty"):
        read_integer_columns(file, 2)


def test_lines_end_in_any_way(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    for end in ("\n", "\r\n", "\r"):
        file.write_bytes(end.join(["0 1 2", "", "3 4"]).encode())
        values, lines = read_integers(file)
        assert values.tolist() == [0, 1, 2, 3, 4]
        assert lines.tolist() == [0, 0, 0, 2, 2]

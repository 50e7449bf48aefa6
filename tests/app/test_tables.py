from __future__ import annotations

import pytest

from pyg_nodequant.app.tables import bar, format_bytes, format_table


def test_table_aligns():
    table = format_table(["name", "n"], [["a", "10"], ["longer", "1"]])
    assert table.splitlines() == ["name     n", "a       10", "longer   1"]


def test_table_without_headers():
    assert format_table(["", ""], [["a", "1"]]) == "a  1"


@pytest.mark.parametrize("size, text", [
    (0, "0 bytes"),
    (1023, "1,023 bytes"),
    (1536, "1.5 KiB (1,536 bytes)"),
    (3 * 2**20, "3.0 MiB (3,145,728 bytes)"),
    (5 * 2**40, "5120.0 GiB (5,497,558,138,880 bytes)"),
])
def test_bytes(size, text):
    assert format_bytes(size) == text


def test_bar():
    assert bar(10, 10, 5) == "#####"
    assert bar(1, 1000, 5) == "#"  # few are not none
    assert bar(0, 10) == bar(0, 0) == ""


def test_cells_stay_in_their_line():
    table = format_table(["", ""], [["a\nb", "1"], ["\x1b[2Jx\u202e", "2"]])
    assert table.splitlines() == ["a b     1", " [2Jx   2"]

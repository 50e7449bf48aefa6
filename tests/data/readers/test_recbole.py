from __future__ import annotations

from pathlib import Path

import pytest

from pyg_nodequant.data import Columns, DataError, read_recbole

TEXT = ("user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        '1\ta"b\t4.0\t10\n2\tc\t2.0\t30\n3\tc\t5.0\t20\n')


def test_typed_header(tmp_path: Path) -> None:
    (tmp_path / "x.inter").write_text(TEXT)
    for path in (tmp_path, tmp_path / "x.inter"):
        data = read_recbole(path, Columns(rating="rating"), min_rating=3,
                            test_fraction=0, val_fraction=0)
        assert data.name == "x" and data.num_users == 2
        assert data.item_ids.tolist() == ['a"b', "c"]
    data = read_recbole(tmp_path, Columns(time="timestamp"), split="time",
                        test_fraction=0.3, val_fraction=0, name="y")
    assert data.user_ids[data.test[0].numpy()].tolist() == [2]
    assert data.name == "y"


def test_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one .inter file.*found: none"):
        read_recbole(tmp_path)
    file = tmp_path / "x.inter"
    file.write_text(TEXT)
    with pytest.raises(DataError, match="has: user_id, item_id, rating, tim"):
        read_recbole(file, Columns(user="uid"))
    (tmp_path / "z.inter").write_text(TEXT + "1\tb\t3\t4\t5\n")
    with pytest.raises(DataError, match="found: x.inter, z.inter"):
        read_recbole(tmp_path)
    with pytest.raises(DataError, match="line 5: has 5 fields"):
        read_recbole(tmp_path / "z.inter")
    file.write_text("user_id\titem_id\n1\t2\n")
    with pytest.raises(DataError, match="user_id:token .got 'user_id"):
        read_recbole(file)
    file.write_text(TEXT)
    with pytest.raises(DataError, match="'data.separator' .*got '::'"):
        read_recbole(file, separator="::")
    assert read_recbole(file, separator="\\t").num_users == 3
    file.write_text("user_id:token\titem_id:token\tuser_id:float\n1\t2\t3\n")
    with pytest.raises(DataError, match="several of this name .got 'user_id"):
        read_recbole(file)
    with pytest.raises(DataError, match="does not exist"):
        read_recbole(tmp_path / "nothing")

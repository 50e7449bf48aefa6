from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pyg_nodequant.config import DataConfig
from pyg_nodequant.data import DataError, load_interactions


def load(**settings: Any):
    return load_interactions(DataConfig(**settings))


def test_synthetic() -> None:
    data = load(num_users=20, num_items=30, num_interactions=200)
    assert data.name == "synthetic" and data.num_nodes == 50
    other = load(num_users=20, num_items=30, num_interactions=200,
                 data_seed=1)
    assert data.train.tolist() != other.train.tolist()


def test_csv(tmp_path: Path) -> None:
    rows = "".join(f"u{k};i{k % 7};{k % 5};{k};T\n" for k in range(100))
    file = tmp_path / "t.csv"
    file.write_text("u;i;r;t;name\n" + rows)
    data = load(name="csv", path=str(file), user_column="u", item_column="i",
                rating_column="r", min_rating=1, time_column="t",
                title_column="name", separator=";", split="time")
    assert data.counts["ratings_below_min"] == 20
    assert data.item_titles == ["T"] * 7
    users = data.user_ids[data.test[0].numpy()]
    assert min(int(user[1:]) for user in users) >= 80


def test_recbole_and_lightgcn_txt(tmp_path: Path) -> None:
    (tmp_path / "a.inter").write_text(
        "user_id:token\titem_id:token\n1\t2\n3\t4\n")
    data = load(name="recbole", path=str(tmp_path), test_fraction=0)
    assert data.name == "a"
    (tmp_path / "train.txt").write_text("0 1 2\n")
    (tmp_path / "test.txt").write_text("0 3\n")
    data = load(name="lightgcn_txt", path=str(tmp_path), val_fraction=0)
    assert data.test.size(1) == 1
    for settings, message in (({"split": "time"}, "no times"),
                              ({"min_rating": 3}, "no ratings")):
        with pytest.raises(DataError, match=message):
            load(name="lightgcn_txt", path=str(tmp_path), **settings)


def test_named(tmp_path: Path) -> None:
    (tmp_path / "gowalla").mkdir()
    (tmp_path / "gowalla" / "train.txt").write_text("0 1 2\n")
    (tmp_path / "gowalla" / "test.txt").write_text("0 3\n")
    data = load(name="gowalla", root=str(tmp_path), val_fraction=0.5)
    assert data.name == "gowalla" and data.val.size(1) == 1


@pytest.mark.parametrize("name", ["csv", "lightgcn_txt", "recbole"])
def test_path_is_missing(name: str) -> None:
    with pytest.raises(DataError, match=f"'data.path' needs .*= {name}"):
        load(name=name)


def test_settings_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one of synthetic, csv, .*'x'"):
        load(name="x")
    with pytest.raises(DataError, match="'data.min_rating' cannot be used"):
        load(min_rating=3)
    with pytest.raises(DataError, match="'data.path' cannot be used"):
        load(name="gowalla", path=str(tmp_path))


def test_movielens_100k(real_data: Path, tmp_path: Path) -> None:
    data = load(name="movielens_100k", root=str(real_data),
                cache_dir=str(tmp_path))
    sizes = [data.edges(s).size(1) for s in ("train", "val", "test")]
    assert sizes == [72_000, 8_000, 20_000]

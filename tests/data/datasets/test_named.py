from __future__ import annotations

import os
import zipfile
from pathlib import Path

import pytest

from pyg_nodequant.data import NAMED_SETS, DataError, load_named
from pyg_nodequant.data.datasets import named

RATINGS = "".join(f"{u}::{i}::{1 + (u + i) % 5}::{u * i}\n"
                  for u in range(1, 9) for i in range(1, 6))


def txt(folder: Path) -> None:
    folder.mkdir(parents=True)
    (folder / "train.txt").write_text("0 1 2\n1 2 3\n")
    (folder / "test.txt").write_text("0 3\n1 1\n")


def refuse(url: str, target: Path, max_bytes: int) -> None:
    raise DataError(f"{url} could not be fetched to '{target}' (no network)")


@pytest.mark.parametrize("name, folder", [
    ("lastfm", "lastfm"), ("gowalla", "gowalla"), ("yelp2018", "yelp2018"),
    ("amazon_book", "amazon-book"), ("amazon_book", "amazon_book")])
def test_found_under_root_or_cache(tmp_path: Path, name: str,
                                   folder: str) -> None:
    txt(tmp_path / "root" / folder)
    data = load_named(name, tmp_path / "root", tmp_path / "cache",
                      val_fraction=0)
    assert data.name == name and data.train.size(1) == 4
    assert not (tmp_path / "cache").exists()
    os.rename(tmp_path / "root", tmp_path / "cache")
    data = load_named(name, tmp_path / "root", tmp_path / "cache")
    assert data.test.size(1) == 2


def test_movielens_1m_in_both_forms(tmp_path: Path) -> None:
    txt(tmp_path / "ml-1m")
    data = load_named("movielens_1m", tmp_path, val_fraction=0)
    assert data.name == "movielens_1m (train.txt, test.txt)"
    with pytest.raises(DataError, match="min_rating.*no ratings"):
        load_named("movielens_1m", tmp_path, min_rating=3)
    with pytest.raises(DataError, match="data.split.*no times .got 'time'"):
        load_named("movielens_1m", tmp_path, split="time")
    (tmp_path / "ml-1m" / "ratings.dat").write_text(RATINGS)
    data = load_named("movielens_1m", tmp_path, min_rating=2, split="time")
    assert data.name == "movielens_1m (ratings.dat)"
    assert data.counts["ratings_below_min"] == 8


def test_published_lastfm_has_the_same_ids(tmp_path: Path) -> None:
    (tmp_path / "lastfm").mkdir()
    (tmp_path / "lastfm" / "data1.txt").write_text("1\t3\t50\n2\t3\t1\n")
    (tmp_path / "lastfm" / "test1.txt").write_text("2\t9\t5\n")
    data = load_named("lastfm", tmp_path, val_fraction=0)
    assert data.user_ids.tolist() == [0, 1]
    assert data.item_ids.tolist() == [2, 8]
    assert data.test.tolist() == [[1], [1]]
    (tmp_path / "lastfm" / "test1.txt").write_text("0\t9\t5\n")
    with pytest.raises(DataError, match="1 or above"):
        load_named("lastfm", tmp_path)


@pytest.mark.parametrize("name", sorted(NAMED_SETS))
def test_no_network_is_one_sentence(tmp_path: Path, name: str,
                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(named, "fetch", refuse)
    with pytest.raises(DataError) as caught:
        load_named(name, tmp_path / "root", tmp_path / "cache")
    message = str(caught.value)
    for part in (name, "https://", "no network", str(tmp_path / "root"),
                 str(tmp_path / "cache"), "by hand"):
        assert part in message
    assert "\n" not in message


def test_download_of_files(tmp_path: Path,
                           monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def fetch(url: str, target: Path, max_bytes: int) -> None:
        asked.append(url)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text("0 1 2\n" if "train" in url else "0 3\n")

    monkeypatch.setattr(named, "fetch", fetch)
    for _ in range(2):  # the second time it is in the cache
        data = load_named("gowalla", tmp_path / "root", tmp_path / "cache",
                          val_fraction=0)
        assert data.num_items == 3 and len(asked) == 2
    assert not (tmp_path / "root").exists()


def test_download_of_an_archive(tmp_path: Path,
                                monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(url: str, target: Path, max_bytes: int) -> None:
        target.parent.mkdir(parents=True)
        with zipfile.ZipFile(target, "w") as file:
            file.writestr("ml-100k/u.data", RATINGS.replace("::", "\t"))
            file.writestr("ml-100k/u.item", "1|One|\n")

    monkeypatch.setattr(named, "fetch", fetch)
    data = load_named("movielens_100k", tmp_path / "root", tmp_path / "cache")
    assert data.item_titles == ["One", "", "", "", ""]
    files = sorted(file.name for file in (tmp_path / "cache" / "ml-100k"
                                          ).iterdir())
    assert files == ["u.data", "u.item"]


def test_unknown_name(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="one of lastfm, .*got 'netflix'"):
        load_named("netflix", tmp_path)


@pytest.mark.parametrize("name, users, items", [
    ("lastfm", 1892, 4489), ("gowalla", 29_858, 40_981),
    ("movielens_100k", 943, 1682), ("movielens_1m", 6038, 3533)])
def test_real_sets(real_data: Path, tmp_path: Path, name: str, users: int,
                   items: int) -> None:
    data = load_named(name, real_data, tmp_path)
    assert (data.num_users, data.num_items) == (users, items)
    assert list(tmp_path.iterdir()) == []


def test_broken_download_is_not_kept(tmp_path: Path,
                                     monkeypatch: pytest.MonkeyPatch) -> None:
    def fetch(url: str, target: Path, max_bytes: int) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(b"no archive")

    monkeypatch.setattr(named, "fetch", fetch)
    with pytest.raises(DataError, match="could not be unpacked"):
        load_named("movielens_100k", tmp_path / "root", tmp_path)
    assert not list((tmp_path / "ml-100k").iterdir())

from __future__ import annotations

import json

import numpy as np
import pytest

from pyg_nodequant.app.inspect import histogram
from pyg_nodequant.runtime import Catalogue, PackedRecommender


def test_text(nodequant, packed_file, recommender):
    outcome = nodequant("inspect", packed_file)
    assert outcome.code == 0
    storage = recommender.storage()
    assert f"({storage['embedding_bytes']:,} bytes)" in outcome.out
    assert f"({packed_file.stat().st_size:,} bytes)" in outcome.out
    assert "checksum ok" in outcome.out
    assert "user ids: -10, 0, 10, 20, 30, ..." in outcome.out
    assert "####" in outcome.out


def test_json(nodequant, packed_file, recommender):
    report = json.loads(nodequant("inspect", packed_file, "--json").out)
    assert report["storage"] == recommender.storage()
    assert report["storage"]["file_bytes"] == packed_file.stat().st_size
    assert sum(report["widths"]["users"].values()) == recommender.num_users
    assert sum(report["widths"]["items"].values()) == recommender.num_items
    assert report["item_titles"][0] == "Title 0"
    assert report["metadata"] == {"recipe": "node_aware"}


def test_what_it_shows_stays_in_its_line(nodequant, recommender, tmp_path):
    catalogue = Catalogue([f"u\n\x1b{row}" for row in range(20)],
                          np.arange(30), ["t\nt"] * 30)
    PackedRecommender(recommender.users, recommender.items,
                      catalogue=catalogue, metadata={"a": "b\n\x1b[2J"}
                      ).save(tmp_path / "a.nq")
    lines = nodequant("inspect", "a.nq").out.splitlines()
    assert "user ids: u  0, u  1, u  2, u  3, u  4, ..." in lines
    assert "item titles: t t, t t, t t, t t, t t, ..." in lines
    assert "a=b  [2J" in lines
    outcome = nodequant("recommend", "a.nq", "--user", "u\n\x1b3",
                        "--include-seen", "-k", 1)
    lines = outcome.out.splitlines()
    assert lines[0] == "user u  3" and lines[2].endswith("  t t")


def test_bare(nodequant, recommender, tmp_path):
    recommender.save(tmp_path / "bare.nq", bare=True)
    outcome = nodequant("inspect", "bare.nq")
    assert "bare (no ids)" in outcome.out
    assert "user ids" not in outcome.out


def test_histogram_of_fractional_widths():
    assert histogram(np.array([0.5, 2, 2])) == {"0.5": 1, "2": 2}


def test_damaged_files(refused, packed_file, tmp_path):
    whole = packed_file.read_bytes()
    path = tmp_path / "bad.nq"
    for size in (0, 5, 40, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert "bad.nq" in refused("inspect", path)
    rng = np.random.default_rng(0)
    for place in rng.integers(0, len(whole), 40):
        flipped = bytearray(whole)
        flipped[place] ^= 1 << rng.integers(8)
        path.write_bytes(flipped)
        assert "bad.nq" in refused("inspect", path)


@pytest.mark.parametrize("content", [b"hello, world" * 10, b"\0" * 100])
def test_foreign_files(refused, tmp_path, content):
    (tmp_path / "foreign.nq").write_bytes(content)
    assert "'foreign.nq' is not a valid packed file" in refused(
        "inspect", "foreign.nq")


def test_missing_files(refused, tmp_path):
    assert refused("inspect", "none.nq") == (
        "no such packed file or run directory: 'none.nq'")
    (tmp_path / "empty").mkdir()
    assert "needs to hold model.nq" in refused("inspect", "empty")

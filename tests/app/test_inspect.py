from __future__ import annotations

import json

import numpy as np
import pytest

from pyg_nodequant.app.inspect import histogram


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

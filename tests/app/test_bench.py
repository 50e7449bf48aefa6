from __future__ import annotations

import json

import numpy as np
import pytest

from pyg_nodequant.app import bench, serve_bench
from pyg_nodequant.app.serve_bench import FORMS, compare, synthetic_table
from pyg_nodequant.runtime import FloatTable, PackedRecommender, PackedTable


@pytest.fixture(autouse=True)
def _leave_processors(monkeypatch):
    monkeypatch.setattr(bench, "bind_processors", lambda threads: None)


@pytest.mark.parametrize("form,dim,bits,nbytes", [
    ("mixed", 64, 64 * 2.22, 20.3), ("transform", 96, 68, 10.5),
    ("axes", 32, 128, 17), ("narrow", 64, 64, 9),
])
def test_forms(form, dim, bits, nbytes):
    table = synthetic_table(form, 6000)
    assert len(table) == 6000 and table.dim == dim
    assert table.bits.mean() == pytest.approx(bits, rel=0.02)
    # The class table of a few thousand bytes is shared by all rows.
    classes = len(table.classes.to_bytes())
    assert (table.nbytes - classes) / 6000 == pytest.approx(nbytes, rel=0.02)
    assert set(FORMS) == {"mixed", "transform", "axes", "narrow"}


def test_compare_measures_all_methods_on_the_same_queries():
    pytest.importorskip("torch")
    table = synthetic_table("mixed", 500)
    report = compare(table, k=7, repeat=2, batch=3,
                     engines=["numpy", "lookup"], rivals=["torch"])
    names = [one["method"] for one in report["methods"]]
    assert names == ["ours, numpy", "ours, lookup", "torch float32 + topk"]
    assert all(one["ms_per_query"] > 0 for one in report["methods"])
    assert all(one["exact"] for one in report["methods"])
    first = report["methods"][0]
    assert first["times_ours"] == 1.0
    assert first["bytes_per_item"] == table.nbytes / 500


def test_rivals_on_rows_of_another_size():
    pytest.importorskip("torch")
    report = compare(synthetic_table("axes", 300), k=5, repeat=2,
                     rivals=["torch"], rival_dim=64)
    ours, other = report["methods"]
    assert (ours["dim"], other["dim"]) == (32, 64)
    assert other["recall"] is None and other["bytes_per_item"] == 256
    assert ours["exact"] and ours["recall"] == 1.0


def test_rivals_that_are_not_installed_are_left_out(monkeypatch):
    def absent(rows, k, threads):
        raise ImportError("no module named 'faiss'")

    monkeypatch.setitem(serve_bench.RIVALS, "faiss", absent)
    report = compare(synthetic_table("narrow", 99), k=2, repeat=1,
                     rivals=["faiss"])
    assert [one["method"][:4] for one in report["methods"]] == ["ours"]


def test_an_approximate_rival_is_not_called_exact(monkeypatch):
    def last(rows, k, threads):
        def search(queries):
            return np.tile(np.arange(k), (len(queries), 1))

        yield "first rows", search, 1.0

    monkeypatch.setitem(serve_bench.RIVALS, "torch", last)
    report = compare(synthetic_table("axes", 999), k=2, repeat=1,
                     rivals=["torch"])
    assert report["methods"][1]["recall"] < 1
    assert not report["methods"][1]["exact"]


def test_a_packed_file(nodequant, tmp_path):
    rng = np.random.default_rng(0)
    model = PackedRecommender(
        PackedTable.from_float(rng.normal(size=(30, 8)), 2),
        PackedTable.from_float(rng.normal(size=(70, 8)), 3))
    model.save(tmp_path / "model.nq")
    for path in (tmp_path, tmp_path / "model.nq"):
        outcome = nodequant("bench", "serve", path, "--rivals", "", "-k", "5",
                            "--repeat", "2")
        assert outcome.code == 0
        assert "70 items, 8 dimensions, 3.00 bits a number" in outcome.out
    report = json.loads(nodequant("bench", "serve", tmp_path, "--rivals", "",
                                  "-k", "5", "--json").out)
    assert report["items"] == 70 and len(report["methods"]) == 1


@pytest.mark.parametrize("arguments,message", [
    (["--items", "0"], "'--items' needs to be an integer"),
    (["--form", "cake"], "'--form' needs to be one of mixed"),
    (["--engine", "gpu"], "'--engine' needs to be one of"),
    (["--rivals", "annoy"], "'--rivals' needs to be one of"),
    (["--threads", "0"], "'--threads' needs to be an integer"),
    (["--items", "9", "-k", "10"], "'-k' needs to be an integer in [1, 9]"),
    (["--rival-dim", "0"], "'--rival-dim' needs to be an integer"),
    (["missing.nq"], "no such packed file"),
])
def test_bad_options(refused, arguments, message):
    assert message in refused("bench", "serve", *arguments)


def test_float_rows_have_no_codes(refused, tmp_path):
    model = PackedRecommender(FloatTable(np.eye(2)), FloatTable(np.eye(2)))
    model.save(tmp_path / "model.nq")
    assert "no codes to scan" in refused("bench", "serve", tmp_path)

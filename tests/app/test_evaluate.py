from __future__ import annotations

import json

import numpy as np
import pytest

from pyg_nodequant.config import DataConfig
from pyg_nodequant.data import load_interactions
from pyg_nodequant.runtime import Catalogue, PackedRecommender, PackedTable
from pyg_nodequant.training.evaluation import evaluate_ranking, packed_topk

SIZES = {"num_users": 40, "num_items": 60, "num_interactions": 600}
DATA = ["data=synthetic", *(f"data.{k}={v}" for k, v in SIZES.items())]


@pytest.fixture
def interactions():
    return load_interactions(DataConfig(**SIZES))


@pytest.fixture
def model(interactions, tmp_path):
    rng = np.random.default_rng(0)
    tables = [
        PackedTable.from_float(
            rng.normal(size=(rows, 8)).astype(np.float32),
            np.full(rows, 4, dtype=np.uint8))
        for rows in (interactions.num_users, interactions.num_items)
    ]
    catalogue = Catalogue(interactions.user_ids, interactions.item_ids,
                          seen=interactions.csr("train", "val"))
    model = PackedRecommender(*tables, catalogue=catalogue)
    model.save(tmp_path / "model.nq")
    model.save(tmp_path / "bare.nq", bare=True)
    return model


@pytest.mark.parametrize("split", ["test", "val"])
def test_json(nodequant, model, interactions, split):
    outcome = nodequant("evaluate", "model.nq", *DATA, "--json", "--split",
                        split)
    assert outcome.code == 0
    answer = json.loads(outcome.out)
    assert answer[split] == pytest.approx(
        evaluate_ranking(packed_topk(model), interactions, split))
    assert answer["storage"] == model.storage()


def test_table(nodequant, model):
    outcome = nodequant("evaluate", "bare.nq", *DATA)
    assert outcome.code == 0
    for word in ("recall", "ndcg", "coverage", "@50", "bytes per node"):
        assert word in outcome.out
    lines = [line.split() for line in outcome.out.splitlines()]
    assert ["q1", "q2", "q3", "q4"] in lines
    names = [" ".join(line[:3]) for line in lines
             if line[1:2] == ["of"] and "@" in line[0]]
    assert names == ["recall@20 of items", "recall@20 of users",
                     "ndcg@20 of users"]


def test_data_of_the_run(nodequant, model, tmp_path, refused):
    assert "add data=NAME" in refused("evaluate", "model.nq")
    assert "are required: FILE (see" in refused("evaluate")
    lines = ["data:", "  name: synthetic",
             *(f"  {k}: {v}" for k, v in SIZES.items())]
    (tmp_path / "config.yaml").write_text("\n".join(lines))
    assert (nodequant("evaluate", ".", "--json").out
            == nodequant("evaluate", "model.nq", *DATA, "--json").out)
    (tmp_path / "config.yaml").write_text("data: 3\n")
    assert "needs to hold a group 'data'" in refused("evaluate", ".")
    (tmp_path / "config.yaml").write_text("data: [\n")
    assert "a YAML file cannot be read" in refused("evaluate", ".")


def test_other_data(refused, model):
    assert "40 users, data 'synthetic' has 41" in refused(
        "evaluate", "model.nq", *DATA, "data.num_users=41")
    assert "unknown option 'data.nope'" in refused(
        "evaluate", "model.nq", "data.nope=1")
    assert "no test interactions" in refused(
        "evaluate", "model.nq", *DATA, "data.test_fraction=0")
    assert "'--batch-size'" in refused("evaluate", "model.nq", *DATA,
                                       "--batch-size", "0")


def test_types_of_the_saved_data(refused, model, tmp_path):
    for line, message in (
        ("num_users: 40.0", "'data.num_users' needs to be an integer (got"),
        ("root: null", "'data.root' needs a value (got null)"),
        ("name: [csv]", "'data.name' needs to be text (got "),
        ("nope: 1", "unknown option 'data.nope'"),
    ):
        (tmp_path / "config.yaml").write_text("data: {" + line + "}")
        assert message in refused("evaluate", ".")
    (tmp_path / "config.yaml").write_bytes(b"\xff\xfe\x00")
    assert "a YAML file cannot be read" in refused("evaluate", ".")


def test_split_of_another_seed(refused, nodequant, model, interactions):
    seen = model.catalogue.seen
    assert seen is not None
    error = refused("evaluate", "model.nq", *DATA, "data.split_seed=1")
    other = load_interactions(DataConfig(**SIZES, split_seed=1))
    known = {(u, i) for u in range(40) for i in seen[1][
        seen[0][u]:seen[0][u + 1]].tolist()}
    count = sum(tuple(edge) in known for edge in other.test.t().tolist())
    assert f"trained on {count} of the 120 test interactions" in error
    # A bare file does not tell.
    assert nodequant("evaluate", "bare.nq", *DATA,
                     "data.split_seed=1").code == 0


def test_validation_of_a_refitted_model(nodequant, model, tmp_path):
    for refit in ("true", "false"):
        data = ", ".join(f"{k}: {v}" for k, v in SIZES.items())
        (tmp_path / "config.yaml").write_text(
            f"data: {{{data}}}\ntrainer: {{refit: {refit}}}\n")
        for split in ("val", "test"):
            outcome = nodequant("evaluate", ".", "--json", "--split", split)
            assert outcome.code == 0
            told = "it has seen what is measured" in outcome.err
            assert told == (refit == "true" and split == "val")


def test_other_ids(refused, model, interactions, tmp_path):
    ids = np.asarray(interactions.item_ids).copy()
    ids[3] += 1000
    catalogue = Catalogue(interactions.user_ids, ids)
    PackedRecommender(model.users, model.items,
                      catalogue=catalogue).save(tmp_path / "other.nq")
    assert "item 3 is '1003' in the file and '3' in" in refused(
        "evaluate", "other.nq", *DATA)

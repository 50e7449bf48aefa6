from __future__ import annotations

import shlex
from pathlib import Path
from types import SimpleNamespace

import pytest

from pyg_nodequant.app.results import (
    change,
    distortion_line,
    metrics_table,
    next_command,
    quarters_table,
    results_table,
    sweep_table,
)
from pyg_nodequant.config import (
    ExperimentConfig,
    ModelConfig,
    NodeQuantConfig,
)

METRICS = {
    "test": {"recall@20": 0.19, "ndcg@20": 0.1, "coverage@20": 0.5,
             "recall@20_item_q1": 0.01},
    "float": {"test": {"recall@20": 0.20, "ndcg@20": 0.1,
                       "coverage@20": 0.4, "recall@20_item_q1": 0.0}},
    "storage": {"file_bytes": 12345, "embedding_bytes": 6400,
                "float_bytes": 25600, "bytes_per_node": 64.0,
                "bits_per_parameter": 8.0, "mean_bit_width": 7.5,
                "compression_ratio": 4.0},
}


def cells(table: str) -> dict[str, list[str]]:
    rows = {}
    for line in table.splitlines():
        label, *values = [c for c in line.split("  ") if c.strip()]
        rows[label.strip()] = [value.strip() for value in values]
    return rows


def test_results_table():
    rows = cells(results_table(METRICS, ExperimentConfig()))
    assert rows["test set"] == ["float", "node_aware", "change"]
    assert rows["Recall@20"] == ["0.2000", "0.1900", "-5.0 %"]
    assert rows["NDCG@20"] == ["0.1000", "0.1000", "+0.0 %"]
    assert rows["Recall@20, coldest quarter of items"] == ["0.0000", "0.0100"]
    assert rows["Recall@20, hottest quarter of items"] == ["-", "-"]
    assert rows["bytes per node"] == ["256", "64.00"]
    assert rows["true bits per parameter (of 64)"] == ["32", "8.000"]
    assert rows["embeddings, bytes"] == ["25,600", "6,400"]
    assert rows["whole file, bytes"] == ["-", "12,345"]
    assert rows["compression"] == ["1.00x", "4.00x"]


def test_the_float_column_is_the_model_that_was_trained():
    wide = ExperimentConfig(model=ModelConfig(embedding_dim=256))
    rows = cells(results_table(METRICS, wide))
    assert rows["bytes per node"][0] == "1024"
    assert rows["true bits per parameter (of 64)"][0] == "128"
    assert rows["embeddings, bytes"][0] == "102,400"
    assert rows["compression"][0] == "0.25x"


@pytest.mark.parametrize("recipe, drop", [("float", None), ("paper", "float")])
def test_one_column_without_a_float_model(recipe, drop):
    metrics = {k: v for k, v in METRICS.items() if k != drop}
    config = ExperimentConfig(quant=NodeQuantConfig(recipe=recipe))
    rows = cells(results_table(metrics, config))
    assert rows["test set"] == [recipe]
    assert rows["Recall@20"] == ["0.1900"]


def test_a_teacher_has_a_column():
    teacher = {"teacher": {"test": {"recall@20": 0.25, "ndcg@20": 0.2}}}
    rows = cells(results_table({**METRICS, **teacher}, ExperimentConfig()))
    assert rows["test set"] == ["teacher", "float", "node_aware", "change"]
    assert rows["Recall@20"] == ["0.2500", "0.2000", "0.1900", "-5.0 %"]
    assert rows["bytes per node"] == ["256", "64.00"]
    # What starts from a teacher has no float model.
    config = ExperimentConfig(quant=NodeQuantConfig("transform"))
    rows = cells(results_table({**METRICS, "float": {}, **teacher}, config))
    assert rows["test set"] == ["teacher", "transform", "change"]
    assert rows["Recall@20"] == ["0.2500", "0.1900", "-24.0 %"]
    assert rows["bytes per node"] == ["64.00"]


def test_sweep_table():
    rows = cells(sweep_table([("quant.bits=2", METRICS), ("", METRICS)]))
    assert rows["quant.bits=2"] == ["0.1900", "0.1000", "7.500", "8.000",
                                    "64.00"]
    assert "(defaults)" in rows


def test_metrics_table():
    table = metrics_table({"recall@10": 0.1, "recall@20": 0.2,
                           "coverage@20": 0.3, "recall@20_item_q1": 0.4})
    rows = [line.split() for line in table.splitlines()]
    assert rows == [["@10", "@20"], ["recall", "0.1000", "0.2000"],
                    ["coverage", "0.3000"],
                    ["recall", "(item", "q1)", "0.4000"]]


def test_distortion_line():
    found = {"kl": .04123, "quadratic": .0395, "bound": .02211, "bits": 88.04,
             "users": 1000}
    metrics = {"data": {"num_users": 29858}, "distortion": found}
    assert distortion_line(metrics) == (
        "score distortion  KL 0.0412 nat a user; quadratic 0.0395, bound at "
        "the same 88.0 bits a node 0.0221 (from 1,000 of 29,858 users)")
    found["users"] = 29858
    assert distortion_line(metrics).endswith("0.0221")
    assert distortion_line({"data": {"num_users": 3}}) is None


def test_quarters_table():
    table = quarters_table({
        "recall@20": 0.9, "coverage@20": 0.3, "recall@20_item_q1": 0.1,
        "recall@20_item_q4": 0.4, "recall@20_user_q1": 0.5,
        "ndcg@20_user_q4": 0.7})
    assert [line.split() for line in table.splitlines()] == [
        ["q1", "q4"], ["recall@20", "of", "items", "0.1000", "0.4000"],
        ["recall@20", "of", "users", "0.5000"],
        ["ndcg@20", "of", "users", "0.7000"]]


def test_change_from_nothing():
    assert change(0.0, 0.5) == change(None, 0.5) == change(0.5, None) == ""


@pytest.mark.parametrize("user", [7, -7, "ann", "o'neil & co", "-x y", ""])
def test_next_command_survives_a_shell(user):
    import torch

    interactions = SimpleNamespace(train=torch.tensor([[1], [0]]),
                                   user_ids=["other", user])
    packed = Path("/some where/model.nq")
    words = shlex.split(next_command(packed, interactions))
    assert words[:3] == ["nodequant", "recommend", str(packed)]
    from pyg_nodequant.app.recommend import parse
    assert parse(words[2:]).user == [str(user)]


def test_next_command_without_training_data():
    import torch

    interactions = SimpleNamespace(train=torch.empty(2, 0), user_ids=[5, 6])
    assert next_command(Path("m.nq"), interactions).endswith("--user 5")

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

import pyg_nodequant.training.experiment as experiment
from pyg_nodequant.config import as_dict
from pyg_nodequant.data import Interactions
from pyg_nodequant.nn import QuantLightGCN
from pyg_nodequant.runtime import PackedRecommender, PackedTable
from pyg_nodequant.training import pack_model
from pyg_nodequant.training.experiment import (
    check_parity,
    run_experiment,
    versions,
)

RANKING = {
    *(f"{metric}@{k}" for k in (10, 20, 50)
      for metric in ("recall", "ndcg", "precision", "hit_ratio", "mrr")),
    "coverage@20", *(f"recall@20_item_q{i}" for i in range(1, 5)),
    *(f"{metric}@20_user_q{i}" for metric in ("recall", "ndcg")
      for i in range(1, 5)),
}
FILES = {"metrics.json", "history.csv", "model.safetensors", "model.nq",
         "checkpoint.safetensors"}


@pytest.fixture(scope="module")
def run(data, settings, tmp_path_factory):
    """One whole run: settings, what it returned, its folder."""
    config = settings(target_bits=2.2)
    folder = tmp_path_factory.mktemp("run")
    return config, run_experiment(config, data, folder), folder


def test_files(run):
    _, metrics, folder = run
    assert {path.name for path in folder.iterdir()} == FILES
    assert json.loads((folder / "metrics.json").read_text()) == metrics


def test_keys_of_the_metrics(run):
    _, metrics, _ = run
    assert {"test", "test_training_path", "val", "float", "storage", "data",
            "timing", "versions"} <= metrics.keys()
    for part in (metrics["test"], metrics["test_training_path"],
                 metrics["val"], metrics["float"]["test"],
                 metrics["float"]["val"]):
        assert RANKING == part.keys()
        assert all(0.0 <= value <= 1.0 for value in part.values())
    assert {"file_bytes", "embedding_bytes", "bytes_per_node",
            "bits_per_parameter", "mean_bit_width", "compression_ratio",
            "float_bytes"} <= metrics["storage"].keys()
    assert {"pyg-nodequant", "torch", "torch_geometric", "numpy",
            "python"} <= metrics["versions"].keys()
    assert metrics["timing"]["total_seconds"] > 0
    assert metrics["timing"]["train_seconds"].keys() == {
        "float", "finetune", "refit_float", "refit_finetune"}


@pytest.mark.parametrize("budget", [
    {"bytes_per_node": 8.0}, {"bytes_per_user": 4.0, "bytes_per_item": 6.0}])
def test_a_run_of_transform(budget, data, settings, tmp_path):
    config = settings("transform", **budget, trainer={"refit": False})
    metrics = run_experiment(config, data, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == FILES
    sizes = metrics["storage"]
    if "bytes_per_node" in budget:
        assert 0.99 * 1680 <= sizes["embedding_bytes"] <= 1680
    for key, value in metrics["test"].items():
        assert value == pytest.approx(metrics["test_training_path"][key],
                                      abs=2e-3), key
    assert RANKING == metrics["val"].keys() == metrics["float"]["val"].keys()
    assert metrics["timing"]["steps"].keys() == {"float", "transform"}
    state = load_file(tmp_path / "model.safetensors")
    assert len(state["weight"]) == 210 and state["weight"].size(1) <= 8


def test_both_paths_measure_the_same(run):
    _, metrics, _ = run
    for key, value in metrics["test"].items():
        assert value == pytest.approx(metrics["test_training_path"][key],
                                      abs=2e-3), key


def test_distortion_of_the_run(run, data):
    _, metrics, _ = run
    found = metrics["distortion"]
    assert list(found) == ["kl", "quadratic", "bound", "bits", "users"]
    assert found["bits"] == 8 * metrics["storage"]["bytes_per_node"]
    assert found["users"] == data.num_users
    assert 0 < found["bound"] < found["quadratic"] and found["kl"] > 0


def test_no_distortion_of_a_float_model(data, settings, tmp_path):
    config = settings("float", trainer={"refit": False})
    assert "distortion" not in run_experiment(config, data, tmp_path)


def test_facts_of_the_data(run, data):
    facts = run[1]["data"]
    assert facts["name"] == "synthetic"
    assert (facts["num_users"], facts["num_items"]) == (120, 90)
    assert (facts["num_train"], facts["num_val"],
            facts["num_test"]) == (1728, 192, 480)
    for name, count in data.counts.items():
        assert facts[name] == count


def test_sizes_are_those_of_the_files(run, tmp_path):
    _, metrics, folder = run
    storage = metrics["storage"]
    packed = PackedRecommender.open(folder / "model.nq")
    packed.save(tmp_path / "whole.nq")
    packed.save(tmp_path / "bare.nq", bare=True)
    size = (tmp_path / "bare.nq").stat().st_size
    assert storage["file_bytes"] == (tmp_path / "whole.nq").stat().st_size
    assert storage["file_bytes"] == (folder / "model.nq").stat().st_size
    assert storage["embedding_bytes"] == size < storage["file_bytes"]
    assert storage["bytes_per_node"] == pytest.approx(size / 210)
    assert storage["bits_per_parameter"] == pytest.approx(size / 210 / 8)
    assert storage["float_bytes"] == 256 * 210
    assert storage["compression_ratio"] == pytest.approx(256 * 210 / size)
    assert storage["mean_bit_width"] == pytest.approx(int(210 * 2.2) / 210)


@pytest.mark.parametrize("recipe, options", [
    ("node_aware", {}),
    ("node_aware", {"where": "input", "range": "minmax"}),
    ("uniform", {"where": "both", "range": "learned"}),
    ("node_aware", {"row_scale": "log8", "range": "mse"}),
    ("node_aware", {"row_scale": "group", "estimator": "noise"}),
    ("paper", {}),
    ("paper", {"row_scale": "log8", "width_gradient": "interpolated"}),
    ("float", {}),
])
def test_the_saved_model_gives_the_served_rows(recipe, options, data,
                                               settings, tmp_path):
    config = settings(recipe, trainer={"refit": False}, **options)
    run_experiment(config, data, tmp_path)
    path = tmp_path / "model.safetensors"
    with safe_open(path, "pt") as file:
        described = file.metadata()
    # A second entry could come first: safetensors keeps no order.
    assert described.keys() == {"config"}
    described = json.loads(described["config"])
    assert described["model"] == as_dict(config.model)
    assert described["quant"] == as_dict(config.quant)

    torch.manual_seed(99)
    model = QuantLightGCN(data.num_nodes, config.model.embedding_dim,
                          config.model.num_layers, quant=config.quant)
    model.load_state_dict(load_file(path), strict=True)
    with torch.no_grad():
        rows = model.eval().get_embedding(data.edge_index()).numpy()
    packed = PackedRecommender.open(tmp_path / "model.nq")
    served = np.concatenate([packed.served_users.dequantize(),
                             packed.served_items.dequantize()])
    np.testing.assert_allclose(served, rows, rtol=1e-5, atol=1e-7)


def test_what_the_packed_file_says_of_itself(run, data):
    config, _, folder = run
    packed = PackedRecommender.open(folder / "model.nq")
    # Nothing that differs between machines, such as paths.
    assert packed.metadata == {
        "data": data.name, "seed": config.seed,
        "model": as_dict(config.model), "quant": as_dict(config.quant),
        "loss": as_dict(config.loss)}


def test_same_seed_same_files(data, settings, tmp_path):
    contents = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        run_experiment(settings("uniform"), data, folder)
        contents.append([(folder / file).read_bytes()
                         for file in ("model.nq", "model.safetensors")])
    assert contents[0] == contents[1]


def test_float_metrics_of_the_recipes(data, settings, tmp_path):
    metrics = run_experiment(settings("float"), data, tmp_path)
    assert metrics["float"]["test"] == metrics["test_training_path"]
    assert metrics["float"]["val"] == metrics["val"]
    assert metrics["storage"]["mean_bit_width"] == 32.0
    metrics = run_experiment(settings("paper", float_baseline=False), data,
                             tmp_path)
    assert metrics["float"] == {}


def test_without_validation_and_test(data, settings, tmp_path):
    bare = Interactions.from_edges(data.train, num_users=120, num_items=90,
                                   val_fraction=0.0)
    metrics = run_experiment(settings(), bare, tmp_path)
    assert metrics["test"] == metrics["test_training_path"] == {}
    assert metrics["val"] == metrics["float"]["test"] == {}
    assert metrics["data"]["num_val"] == metrics["data"]["num_test"] == 0
    assert PackedRecommender.open(tmp_path / "model.nq").num_users == 120


# A file that does not score as the model does ------------------------------


@pytest.fixture
def packed(data, trained):
    result = trained()
    return (pack_model(result.model, result.edge_index, data),
            result.embedding())


def mutate(table, change):
    """A table of the same widths, its scales and codes changed."""
    codes = np.zeros((len(table), 8), dtype=np.uint8)
    x, widths = table.dequantize(), table.widths
    scale = np.asarray(table.scale, dtype=np.float64)
    levels = 2.0**widths - 1
    codes[:] = np.round(x / scale[:, None] + levels[:, None] / 2)
    codes, scale = change(codes, scale.astype(np.float32), widths)
    return PackedTable.from_codes(codes, widths, scale=scale, centered=True)


def flip_bits(codes, scale, widths):
    return codes ^ 1, scale


def flip_one_item(codes, scale, widths):
    codes[11, 5] ^= 1
    return codes, scale


def stretch(codes, scale, widths):
    return codes, scale * 1.001


CHANGES = [flip_bits, flip_one_item, stretch]


def test_parity_of_the_right_file(packed):
    recommender, rows = packed
    check_parity(recommender, rows, 120, seed=0)
    same = PackedRecommender(
        recommender.users,
        mutate(recommender.items, lambda codes, scale, widths: (codes, scale)))
    check_parity(same, rows, 120, seed=0)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_parity_of_a_wrong_file(packed, change, seed):
    recommender, rows = packed
    wrong = PackedRecommender(recommender.users,
                              mutate(recommender.items, change))
    with pytest.raises(RuntimeError, match=r"packed scores differ from "
                       r"trained ones by up to .* of sum \|q x\|"):
        check_parity(wrong, rows, 120, seed)


def test_no_parity_of_swapped_rows(packed):
    recommender, rows = packed
    order = torch.arange(210)
    order[:2] = torch.tensor([1, 0])
    with pytest.raises(RuntimeError, match="differ"):
        check_parity(recommender, rows[order], 120, seed=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_no_parity_with_numbers_that_are_none(packed, value):
    recommender, rows = packed
    rows = rows.clone()
    rows[150] = value
    with pytest.raises(RuntimeError, match="differ"):
        check_parity(recommender, rows, 120, seed=0)


@pytest.mark.parametrize("node", [0, 77, 119, 120, 209])
def test_every_row_is_compared(packed, node):
    recommender, rows = packed
    rows = rows.clone()
    rows[node] *= 1.001
    with pytest.raises(RuntimeError, match="differ"):
        check_parity(recommender, rows, 120, seed=3, num_pairs=7)


@pytest.mark.parametrize("change", CHANGES)
def test_a_wrong_file_is_not_written(change, data, settings, tmp_path,
                                     monkeypatch):
    def pack(*args):
        right = pack_model(*args)
        return PackedRecommender(right.users, mutate(right.items, change),
                                 catalogue=right.catalogue)

    monkeypatch.setattr(experiment, "pack_model", pack)
    with pytest.raises(RuntimeError, match="nothing was packed"):
        run_experiment(settings("uniform", bits=4), data, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {
        "history.csv", "checkpoint.safetensors"}


def test_the_file_on_disk_has_the_last_word(run, tmp_path):
    _, _, folder = run
    served = PackedRecommender.open(folder / "model.nq")
    (tmp_path / "model.nq").write_bytes(b"shorter")
    with pytest.raises(RuntimeError, match="'model.nq' has 7 bytes, not"):
        experiment.storage(served, tmp_path)


def test_settings_that_do_not_allow_training(data, settings, tmp_path):
    with pytest.raises(ValueError, match="'trainer.device'"):
        run_experiment(settings(trainer={"device": "nonsense"}), data,
                       tmp_path)
    with pytest.raises(ValueError, match="at least one interaction"):
        run_experiment(settings(), replace(data, train=data.train[:, :0]),
                       tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_versions(monkeypatch):
    assert versions()["torch"] == torch.__version__.split("+")[0] or (
        versions()["torch"] == torch.__version__)
    monkeypatch.setattr(experiment, "PACKAGES", ("no-such-package", ))
    assert versions()["no-such-package"] == "not installed"


def test_peak_memory():
    peak = experiment.peak_memory()
    assert peak is None or 2**20 < peak < 2**45

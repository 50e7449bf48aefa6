import pytest
import torch

import pyg_nodequant.training.distortion as distortion
from pyg_nodequant import functional as F
from pyg_nodequant.training import Trainer
from pyg_nodequant.training.distortion import measure_distortion
from pyg_nodequant.training.experiment import run_experiment
from pyg_nodequant.training.seen import SeenItems


def rows(num_users=40, num_items=30, dim=4):
    generator = torch.Generator().manual_seed(0)
    exact = torch.randn(num_users + num_items, dim, generator=generator)
    noise = torch.randn(num_users + num_items, dim, generator=generator)
    return exact, exact + .1 * noise


def test_all_users():
    exact, served = rows()
    out = measure_distortion(exact, served, 40, 100)
    assert list(out) == ["kl", "quadratic", "bound", "bits", "users"]
    assert (out["bits"], out["users"]) == (800 / 70, 40)
    expected = F.score_distortion(exact[:40], exact[40:], served[:40],
                                  served[40:], 800.0)
    assert out["kl"] == pytest.approx(expected.kl, rel=1e-4)
    axes = F.principal_axes(exact[:40], exact[40:], 4)
    assert out["bound"] == pytest.approx(
        F.distortion_bound(*axes, 800.0), rel=1e-4)
    # Small errors: the second order is nearly all.
    small = exact + .1 * (served - exact)
    out = measure_distortion(exact, small, 40, 100)
    assert out["quadratic"] == pytest.approx(out["kl"], rel=.25)


def test_as_it_was_distilled(data, settings, tmp_path):
    kept = settings("transform", bytes_per_node=7.0, temperature=0.4,
                    distill_seen=False)
    metrics = run_experiment(kept, data, tmp_path)
    result = Trainer(kept).fit(data)
    size = metrics["storage"]["embedding_bytes"]
    rows = result.exact_embedding, result.embedding()
    together = torch.cat([data.train, data.val], 1)
    seen = SeenItems(together, data.num_users)
    out = measure_distortion(*rows, data.num_users, size, 0, 0.4, seen)
    assert metrics["distortion"] == pytest.approx(out)
    assert out["kl"] != measure_distortion(*rows, data.num_users, size)["kl"]


def test_axes_do_not_matter():
    exact, served = rows()
    generator = torch.Generator().manual_seed(1)
    turn = torch.linalg.qr(torch.randn(4, 4, generator=generator)).Q
    assert measure_distortion(exact @ turn, served @ turn, 40, 100) == (
        pytest.approx(measure_distortion(exact, served, 40, 100), rel=1e-3))


def test_axes_that_are_left_out_read_zeros():
    exact, served = rows()
    padded = served.clone()
    padded[:, 3:] = 0
    assert measure_distortion(exact, served[:, :3], 40, 100) == (
        measure_distortion(exact, padded, 40, 100))


def test_large_tables_are_sampled(monkeypatch):
    exact, served = rows()
    whole = measure_distortion(exact, served, 40, 100)
    monkeypatch.setattr(distortion, "MOST_PRODUCTS", 25 * 30 * 4)
    part = measure_distortion(exact, served, 40, 100, seed=1)
    assert part["users"] == 25 and part["bits"] == whole["bits"]
    assert part == measure_distortion(exact, served, 40, 100, seed=1)
    assert part["kl"] != measure_distortion(exact, served, 40, 100,
                                            seed=2)["kl"]
    for name in ("kl", "quadratic", "bound"):
        assert part[name] == pytest.approx(whole[name], rel=.3)
    monkeypatch.setattr(distortion, "MOST_PRODUCTS", 1)
    assert measure_distortion(exact, served, 40, 100)["users"] == 1


@pytest.mark.parametrize("recipe, options", [
    ("node_aware", {}),
    ("node_aware", {"where": "input"}),
    ("uniform", {"bits": 2}),
    ("transform", {"bytes_per_user": 6.0, "bytes_per_item": 6.0}),
    ("transform", {"allocation": "uniform", "axes": 5}),
    ("paper", {}),
])
def test_served_rows_stand_for_exact_ones(recipe, options, trained, data):
    result = trained(recipe, **options, finetune_steps=0,
                     optimizer={"lr": .05, "l2": 0.0},
                     trainer={"refit": False, "max_epochs": 40})
    exact, served = result.exact_embedding, result.embedding()
    count = data.num_users
    assert exact is not None and exact.size(1) == 8
    if recipe != "paper":  # rotated at most: the scores are the float model's
        float_rows = result.float_embedding
        assert torch.allclose(exact[:count] @ exact[count:].t(),
                              float_rows[:count] @ float_rows[count:].t(),
                              atol=1e-3)
    # In the same axes: served rows point where exact ones do.
    part = exact[:, :served.size(1)]
    cosine = torch.nn.functional.cosine_similarity(part, served)
    assert float(cosine.mean()) > .75
    out = measure_distortion(exact, served, count, 2000)
    zeros = measure_distortion(exact, 0 * served, count, 2000)
    assert 0 < out["kl"] < zeros["kl"]
    assert 0 < out["quadratic"] < zeros["quadratic"]


def test_nothing_to_compare_for_float(trained):
    assert trained("float", trainer={"refit": False}).exact_embedding is None

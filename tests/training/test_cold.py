import numpy as np
import pytest
import torch

from pyg_nodequant import functional as F
from pyg_nodequant.data import Interactions
from pyg_nodequant.runtime import PackedRecommender
from pyg_nodequant.training import Trainer, pack_model
from pyg_nodequant.training.cold import hold_rows
from pyg_nodequant.training.experiment import check_parity

NUM_USERS, NUM_ITEMS = 30, 24
COLD_USERS, COLD_ITEMS = [0, 17], [5, 23]
COLD = [*COLD_USERS, *(NUM_USERS + i for i in COLD_ITEMS)]


@pytest.fixture(scope="module")
def sparse():
    """Two users and two items are in no training interaction; one of each
    comes with validation.
    """
    rng = np.random.default_rng(0)
    drawn = rng.random((NUM_USERS, NUM_ITEMS)) < np.linspace(
        .1, .7, NUM_ITEMS)
    drawn[COLD_USERS] = False
    drawn[:, COLD_ITEMS] = False
    edges = torch.from_numpy(np.stack(np.nonzero(drawn)))
    held = torch.from_numpy(rng.random(edges.size(1)) < .1)
    val = torch.cat([edges[:, held], torch.tensor([[17, 3], [2, 23]])], 1)
    val = val[:, (val[0] * NUM_ITEMS + val[1]).argsort()]
    test = torch.tensor([[0, 1], [2, 5]])
    return Interactions(NUM_USERS, NUM_ITEMS, edges[:, ~held], val, test,
                        np.arange(NUM_USERS), np.arange(NUM_ITEMS))


def fit(settings, data, recipe, **options):
    options.setdefault("trainer", {"refit": False})
    return Trainer(settings(recipe, **options)).fit(data)


RUNS = [
    ("float", {}),
    ("node_aware", {}),
    ("node_aware", {"where": "input"}),
    ("node_aware", {"where": "both", "range": "minmax"}),
    ("node_aware", {"range": "learned"}),
    ("uniform", {"range": "minmax"}),
    ("transform", {"bytes_per_user": 6.0, "bytes_per_item": 6.0}),
    ("transform", {"allocation": "uniform", "axes": 8}),
    ("paper", {}),
    ("paper", {"where": "input", "range": "learned"}),
]


@pytest.mark.parametrize("recipe, options", RUNS)
def test_cold_items_are_served_as_zeros(recipe, options, sparse, settings):
    result = fit(settings, sparse, recipe, **options)
    rows = result.embedding()
    cold = sparse.degree("train") == 0
    assert cold.nonzero().flatten().tolist() == COLD
    assert bool((rows[NUM_USERS:][COLD_ITEMS] == 0).all())
    assert bool((rows[NUM_USERS:].abs().sum(1) > 0).sum()
                == NUM_ITEMS - len(COLD_ITEMS))
    packed = pack_model(result.model, result.edge_index, sparse)
    check_parity(packed, rows, NUM_USERS, seed=0)
    assert not packed.served_items.dequantize(np.array(COLD_ITEMS)).any()
    assert result.float_embedding is not None
    settled = F.settle_cold_rows(result.float_embedding,
                                 sparse.degree("train"), NUM_USERS)
    assert torch.allclose(result.float_embedding, settled, atol=1e-5)


@pytest.mark.parametrize("recipe, options", [
    ("uniform", {"bits": 8}),
    ("uniform", {"bits": 8, "where": "input"}),
    ("uniform", {"bits": 8, "range": "learned"}),
    ("paper", {"min_bits": 8}),
    ("paper", {"min_bits": 8, "range": "learned"}),
])
def test_cold_users_get_the_popularity_row(recipe, options, sparse, settings):
    # Without fine-tuning, and up to the error of eight bits:
    result = fit(settings, sparse, recipe, **options, finetune_steps=0)
    rows = result.embedding()
    expected = F.popularity_row(
        rows[NUM_USERS:], sparse.degree("train")[NUM_USERS:])
    for user in COLD_USERS:
        assert float((rows[user] - expected).norm() / expected.norm()) < .05


@pytest.mark.parametrize("recipe", ["node_aware", "transform"])
def test_cold_users_are_distilled_to_it(recipe, sparse, settings):
    options = {"target_bits": 4.0} if recipe == "node_aware" else {
        "bytes_per_user": 5.0, "bytes_per_item": 5.0}
    result = fit(settings, sparse, recipe, **options, finetune_steps=60)
    rows, exact = result.embedding(), result.float_embedding
    assert exact is not None
    for user in COLD_USERS:
        scores = exact[NUM_USERS:] @ exact[user]
        served = rows[NUM_USERS:] @ rows[user]
        assert float(torch.corrcoef(torch.stack([scores, served]))[0, 1]) > .9


def test_a_packed_file_answers_a_cold_user_by_popularity(sparse, settings,
                                                         tmp_path):
    result = fit(settings, sparse, "uniform", bits=8, finetune_steps=0)
    pack_model(result.model, result.edge_index,
               sparse).save(tmp_path / "model.nq")
    served = PackedRecommender.open(tmp_path / "model.nq")
    exact = result.float_embedding
    assert exact is not None
    degree = sparse.degree("train")[NUM_USERS:]
    scores = exact[NUM_USERS:] @ F.popularity_row(exact[NUM_USERS:], degree)
    _, items = served.topk_rows(np.array([0]), 5)
    assert items[0].tolist() == scores.topk(5).indices.tolist()


def test_who_is_cold_is_asked_anew_in_a_refit(sparse, settings):
    # The refit trains on validation too, where user 17 and item 23 are.
    result = fit(settings, sparse, "node_aware", trainer={})
    rows = result.embedding()[NUM_USERS:]
    assert bool((rows[5] == 0).all()) and bool((rows[23] != 0).any())


def test_a_cached_float_model_is_settled_too(sparse, settings, tmp_path):
    trainer = {"refit": False, "float_cache": str(tmp_path)}
    first, second = (
        fit(settings, sparse, "node_aware", trainer=trainer).float_embedding
        for _ in range(2))
    alone = fit(settings, sparse, "node_aware").float_embedding
    assert first is not None and second is not None and alone is not None
    assert torch.equal(first, second) and torch.equal(first, alone)


def test_nothing_changes_where_no_node_is_cold(data, settings, monkeypatch):
    assert bool((data.degree("train") > 0).all())
    plain = fit(settings, data, "node_aware").embedding()
    import pyg_nodequant.training.recipe as recipe
    monkeypatch.setattr(recipe, "settle_cold_nodes", lambda *_: None)
    monkeypatch.setattr(recipe, "hold_rows", lambda *_: [])
    assert torch.equal(plain, fit(settings, data, "node_aware").embedding())


def test_held_rows():
    parameters = [torch.nn.Parameter(torch.ones(3, 2)),
                  torch.nn.Parameter(torch.ones(3))]
    held = torch.tensor([False, True, False])
    optimizer = torch.optim.Adam(parameters, lr=.1)

    def step():
        optimizer.zero_grad()
        sum(p.square().sum() for p in parameters).backward()
        optimizer.step()

    handles = hold_rows(parameters, held)
    step()
    for parameter in parameters:
        assert bool((parameter[1] == 1).all())
        assert bool((parameter[[0, 2]] < 1).all())
    for handle in handles:
        handle.remove()
    step()
    assert all(bool((parameter[1] < 1).all()) for parameter in parameters)
    assert hold_rows(parameters, torch.zeros(3, dtype=torch.bool)) == []

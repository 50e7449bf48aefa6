import numpy as np
import pytest
import torch

from pyg_nodequant import functional as F
from pyg_nodequant.nn import PackedEmbedding
from pyg_nodequant.runtime import PackedRecommender
from pyg_nodequant.training import Trainer, pack_model
from pyg_nodequant.training.experiment import check_parity
from pyg_nodequant.training.packing import embedding_bytes

REFIT = {"refit": False}


def parts(result, data):
    bits = result.model.embedding.controller.bit_width
    rows = result.embedding()
    return (bits[:data.num_users], bits[data.num_users:],
            rows[:data.num_users], rows[data.num_users:])


@pytest.mark.parametrize("options, total", [
    ({"target_bits": 0.8}, 168),
    ({"target_bits": 0.0}, 0),
    ({"target_bits": 0.7, "allocation": "degree"}, 147),
    ({"target_bits": 0.8, "allocation": "shuffled"}, 168),
])
def test_nodes_without_bits(options, total, trained, data):
    result = trained(min_bits=0, trainer=REFIT, **options)
    user_bits, item_bits, users, items = parts(result, data)
    assert int(user_bits.sum() + item_bits.sum()) == total
    assert bool((user_bits == 0).any()) and bool((item_bits == 0).any())
    exact = result.float_embedding[data.num_users:]
    row = F.popularity_row(exact, data.degree("train")[data.num_users:])
    row = row.half().float()
    assert bool(row.any())
    assert torch.equal(users[user_bits == 0],
                       row.expand(int((user_bits == 0).sum()), -1))
    assert not items[item_bits == 0].any()
    assert bool(users[user_bits > 0].any(1).all())
    assert bool((users[user_bits > 0] != row).any(1).all())


@pytest.mark.parametrize("target_bits", [0.0, 0.5, 0.8])
def test_what_is_trained_is_what_is_served(target_bits, trained, data,
                                           tmp_path):
    result = trained(min_bits=0, target_bits=target_bits, trainer=REFIT)
    packed = pack_model(result.model, result.edge_index, data)
    check_parity(packed, result.embedding(), data.num_users, seed=0)
    packed.save(tmp_path / "model.nq")
    served = PackedRecommender.open(tmp_path / "model.nq")
    user_bits, item_bits, users, items = parts(result, data)
    assert np.allclose(served.served_users.dequantize(), users, atol=1e-6)
    assert np.allclose(served.served_items.dequantize(), items, atol=1e-6)
    assert np.array_equal(served.users.widths, user_bits)
    # Users without codes share one list, but for what they have seen.
    idle = (user_bits == 0).nonzero().flatten().numpy()[:5]
    scores = items.double() @ users[idle[0]].double()
    order = np.lexsort((np.arange(len(scores)), -scores.numpy()))
    _, lists = served.topk_rows(idle, 7)
    assert lists.tolist() == [order[:7].tolist()] * len(idle)


def test_a_shared_row_costs_its_table_once(trained, data):
    result = trained(min_bits=0, target_bits=0.8, trainer=REFIT)
    packed = pack_model(result.model, result.edge_index, data)
    count = len(packed.users.classes)
    assert packed.users.classes.widths[0].tolist() == [0] * 8
    # Two bytes a class and axis instead of two a class:
    data_bytes = len(packed.users.classes.to_bytes())
    assert data_bytes == 4 + (count + 1) // 2 + 2 * 8 * count
    assert len(packed.items.classes.to_bytes()) == 4 + (
        len(packed.items.classes) + 1) // 2 + 2 * len(packed.items.classes)


def test_a_budget_of_bytes(trained, data):
    result = trained(min_bits=0, bytes_per_node=7.0, trainer=REFIT)
    packed = pack_model(result.model, result.edge_index, data)
    size = embedding_bytes(packed.users, packed.items)
    assert 1470 - 8 < size <= 1470
    assert bool((parts(result, data)[0] == 0).any())


def test_cold_users_have_no_bits_first(data, settings):
    from pyg_nodequant.data import Interactions
    train = data.train[:, data.train[0] != 7]
    cold = Interactions(data.num_users, data.num_items, train, data.val,
                        data.test, data.user_ids, data.item_ids)
    result = Trainer(settings(min_bits=0, target_bits=3.0,
                              trainer=REFIT)).fit(cold)
    user_bits, _, users, _ = parts(result, cold)
    assert int(user_bits[7]) == 0
    assert torch.equal(users[7], result.float_embedding[7].half().float())
    # With a width of at least 1 it has codes of the same row.
    result = Trainer(settings(target_bits=3.0, trainer=REFIT)).fit(cold)
    assert int(parts(result, cold)[0][7]) >= 1


def test_a_refit_shares_the_row_of_its_own_model(settings, data):
    result = Trainer(settings(min_bits=0, target_bits=0.8)).fit(data)
    user_bits, _, users, _ = parts(result, data)
    merged = data.without_test().merge_validation()
    row = F.popularity_row(result.float_embedding[data.num_users:],
                           merged.degree("train")[data.num_users:])
    assert torch.equal(users[user_bits == 0][0], row.half().float())


@pytest.mark.parametrize("step", [8, None])
def test_resumed(step, settings, data, stop_at, state_bytes, tmp_path):
    from dataclasses import replace
    config = settings(min_bits=0, target_bits=0.8, trainer=REFIT)
    whole = Trainer(config).fit(data)
    stop_at(config, data, tmp_path, "select", "finetune", step)
    config = replace(config, trainer=replace(config.trainer,
                                             resume=str(tmp_path)))
    resumed = Trainer(config).fit(data)
    assert state_bytes(resumed.model) == state_bytes(whole.model)
    assert torch.equal(resumed.embedding(), whole.embedding())


def test_a_packed_embedding_of_such_rows(trained, data):
    result = trained(min_bits=0, target_bits=0.8, trainer=REFIT)
    model = result.model
    packed = PackedEmbedding.from_quantizer(
        model.output_quantizer,
        model.propagate_embedding(model.embedding.weight, result.edge_index)
        .detach())
    assert torch.allclose(packed.dequantize(), result.embedding(), atol=1e-6)

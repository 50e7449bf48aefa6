import math

import numpy as np
import pytest
import torch
from torch_geometric.metrics import LinkPredNDCG, LinkPredRecall

import pyg_nodequant.training.evaluation as evaluation
from pyg_nodequant.data.interactions import Interactions
from pyg_nodequant.runtime.csr import take_rows
from pyg_nodequant.runtime.recommender import PackedRecommender
from pyg_nodequant.runtime.table import PackedTable
from pyg_nodequant.training.evaluation import (
    degree_groups,
    evaluate_ranking,
    lowest_id_topk,
    packed_topk,
    torch_topk,
)


def make_interactions(num_users=37, num_items=60, density=0.2, seed=0):
    """Random disjoint splits; some users and items are in none of them."""
    rng = np.random.default_rng(seed)
    drawn = rng.random((num_users, num_items)) < density * 2 * rng.random(
        (1, num_items))
    drawn[rng.random(num_users) < 0.15] = False
    split = rng.choice(3, drawn.shape, p=[0.5, 0.2, 0.3])
    parts = [
        torch.from_numpy(np.stack(np.nonzero(drawn & (split == i))))
        for i in range(3)
    ]
    return Interactions(num_users, num_items, *parts, np.arange(num_users),
                        np.arange(num_items))


def items_of(data, user, *splits):
    return {
        int(i)
        for name in splits
        for u, i in getattr(data, name).t().tolist() if u == user
    }


def naive_list(scores, k, seen):
    left = [i for i in range(len(scores)) if i not in seen]
    return sorted(left, key=lambda i: (-scores[i], i))[:k]


def naive_metrics(lists, data, split, ks, users=None):
    """User by user, rank by rank; lists are unpadded."""
    sums, covered, total = {}, set(), 0
    degree = data.degree("train")[data.num_users:].tolist()
    order = sorted(range(data.num_items), key=lambda i: (degree[i], i))
    group = {i: pos * 4 // data.num_items for pos, i in enumerate(order)}
    quarters = [[] for _ in range(4)]
    measured = [user for user in
                (range(data.num_users) if users is None else users)
                if items_of(data, user, split)]
    activity = data.degree("train").tolist()
    by_activity = sorted(measured, key=lambda u: (activity[u], u))
    user_group = {u: pos * 4 // len(measured)
                  for pos, u in enumerate(by_activity)}
    user_quarters = {name: [[] for _ in range(4)]
                     for name in ("recall", "ndcg")}
    for user in measured:
        labels = items_of(data, user, split)
        total += 1
        for k in ks:
            hits = [j for j, i in enumerate(lists[user][:k]) if i in labels]
            dcg = sum(1 / math.log2(j + 2) for j in hits)
            best = sum(1 / math.log2(j + 2)
                       for j in range(min(k, len(labels))))
            for name, value in (
                ("recall", len(hits) / len(labels)),
                ("ndcg", dcg / best),
                ("precision", len(hits) / k),
                ("hit_ratio", float(len(hits) > 0)),
                ("mrr", 1 / (hits[0] + 1) if hits else 0.0),
            ):
                key = f"{name}@{k}"
                sums[key] = sums.get(key, 0.0) + value
        hits = [j for j, i in enumerate(lists[user][:20]) if i in labels]
        dcg = sum(1 / math.log2(j + 2) for j in hits)
        best = sum(1 / math.log2(j + 2) for j in range(min(20, len(labels))))
        user_quarters["recall"][user_group[user]].append(
            len(hits) / len(labels))
        user_quarters["ndcg"][user_group[user]].append(dcg / best)
        covered |= set(lists[user][:20])
        for q in range(4):
            mine = {i for i in labels if group[i] == q}
            if mine:
                hits = mine & set(lists[user][:20])
                quarters[q].append(len(hits) / len(mine))
    out = {name: value / total for name, value in sums.items()}
    out["coverage@20"] = len(covered) / data.num_items
    for q, values in enumerate(quarters):
        out[f"recall@20_item_q{q + 1}"] = (sum(values) / len(values)
                                           if values else 0.0)
    for name, parts in user_quarters.items():
        for q, values in enumerate(parts):
            out[f"{name}@20_user_q{q + 1}"] = (sum(values) / len(values)
                                               if values else 0.0)
    return out


def embeddings(data, dim=8, seed=0, integer=False):
    g = torch.Generator().manual_seed(seed)
    shape = (data.num_users + data.num_items, dim)
    if integer:  # so that many scores are equal
        emb = torch.randint(-1, 2, shape, generator=g).float()
    else:
        emb = torch.randn(shape, generator=g)
    return emb[:data.num_users], emb[data.num_users:]


def naive_lists(data, user_emb, item_emb, split, k):
    masked = {"val": ["train"], "test": ["train", "val"]}[split]
    scores = (user_emb.double() @ item_emb.double().t()).tolist()
    return [
        naive_list(scores[u], k, items_of(data, u, *masked))
        for u in range(data.num_users)
    ]


@pytest.mark.parametrize("split", ["val", "test"])
@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("num_items", [60, 13, 5])
def test_all_metrics(split, integer, num_items):
    data = make_interactions(num_items=num_items)
    user_emb, item_emb = embeddings(data, integer=integer)
    out = evaluate_ranking(torch_topk(user_emb, item_emb), data, split,
                           batch_size=5)
    ks = (10, 20, 50)
    expected = naive_metrics(
        naive_lists(data, user_emb, item_emb, split, 50), data, split, ks)
    assert list(out) == [
        *(f"{name}@{k}" for k in ks
          for name in ("recall", "ndcg", "precision", "hit_ratio", "mrr")),
        "coverage@20",
        *(f"recall@20_item_q{q}" for q in (1, 2, 3, 4)),
        *(f"{name}@20_user_q{q}" for name in ("recall", "ndcg")
          for q in (1, 2, 3, 4)),
    ]
    assert out == pytest.approx(expected, abs=1e-6)
    assert all(type(value) is float for value in out.values())


@pytest.mark.parametrize("ks", [(1, ), (3, 70), (7, 7, 2)])
def test_list_lengths(ks):
    data = make_interactions()
    user_emb, item_emb = embeddings(data)
    out = evaluate_ranking(torch_topk(user_emb, item_emb), data, ks=ks)
    lists = naive_lists(data, user_emb, item_emb, "test", 70)
    assert out == pytest.approx(naive_metrics(lists, data, "test", set(ks)),
                                abs=1e-6)


def test_batches_do_not_matter(monkeypatch):
    data = make_interactions()
    topk = torch_topk(*embeddings(data, integer=True))
    whole = evaluate_ranking(topk, data)
    monkeypatch.setattr(evaluation, "METRIC_USERS", 6)
    assert evaluate_ranking(topk, data, batch_size=4) == pytest.approx(
        whole, abs=1e-6)


def test_masked_items_are_handed_over():
    data = make_interactions()
    topk = torch_topk(*embeddings(data))
    for split, masked in (("val", ["train"]), ("test", ["train", "val"])):
        called = []

        def spy(users, k, exclude, masked=masked, called=called):
            indptr, indices = exclude
            assert users.dtype == np.int64
            assert len(indptr) == len(users) + 1
            for b, user in enumerate(users.tolist()):
                seen = indices[indptr[b]:indptr[b + 1]]
                assert set(seen.tolist()) == items_of(data, user, *masked)
            called.extend(users.tolist())
            return topk(users, k, exclude)

        evaluate_ranking(spy, data, split, batch_size=10)
        assert called == [
            u for u in range(data.num_users) if items_of(data, u, split)
        ]


def test_padding_is_no_item():
    # PyG would read -1 as item 3 of the user above, who has it as a label:
    data = Interactions(2, 4, torch.tensor([[0, 1, 1, 1], [0, 0, 1, 2]]),
                        torch.empty(2, 0, dtype=torch.long),
                        torch.tensor([[0, 1], [3, 3]]), np.arange(2),
                        np.arange(4))

    def topk(users, k, exclude):
        assert k == 4
        return np.array([[1, 2, -1, -1], [-1, -1, -1, -1]])

    out = evaluate_ranking(topk, data)
    assert out["coverage@20"] == 0.5
    assert all(value == 0 for name, value in out.items()
               if name != "coverage@20")


@pytest.mark.parametrize("integer", [False, True])
def test_quick_evaluation(integer):
    data = make_interactions()
    topk = torch_topk(*embeddings(data, integer=integer))
    whole = evaluate_ranking(topk, data, "val")
    quick = evaluate_ranking(topk, data, "val", full=False)
    assert list(quick) == ["recall@20", "ndcg@20"]
    assert quick == {name: whole[name] for name in quick}


def test_quick_evaluation_is_that_of_pyg():
    data = make_interactions()
    topk = torch_topk(*embeddings(data))
    recall, ndcg = LinkPredRecall(20), LinkPredNDCG(20)
    for user in range(data.num_users):
        seen = np.array(sorted(items_of(data, user, "train")), dtype=np.int64)
        pred = topk(np.array([user]), 20, (np.array([0, len(seen)]), seen))
        label = torch.tensor([[0, i] for i in items_of(data, user, "val")],
                             dtype=torch.long).view(-1, 2).t()
        recall.update(torch.from_numpy(pred), label)
        ndcg.update(torch.from_numpy(pred), label)
    out = evaluate_ranking(topk, data, "val", full=False)
    assert out["recall@20"] == pytest.approx(float(recall.compute()))
    assert out["ndcg@20"] == pytest.approx(float(ndcg.compute()))


def test_max_users():
    data = make_interactions()
    user_emb, item_emb = embeddings(data)
    inner, asked = torch_topk(user_emb, item_emb), []

    def topk(users, k, exclude):
        asked.append(users.tolist())
        return inner(users, k, exclude)

    out = evaluate_ranking(topk, data, max_users=9)
    again = evaluate_ranking(topk, data, max_users=9)
    evaluate_ranking(topk, data, max_users=9, seed=1)
    assert asked[0] == asked[1] == sorted(set(asked[0])) != asked[2]
    assert len(asked[0]) == 9 and out == again
    lists = naive_lists(data, user_emb, item_emb, "test", 50)
    assert out == pytest.approx(
        naive_metrics(lists, data, "test", (10, 20, 50), asked[0]), abs=1e-6)
    assert evaluate_ranking(topk, data, max_users=10**6) == evaluate_ranking(
        topk, data)


def test_no_labels_is_zero():
    data = make_interactions()
    topk = torch_topk(*embeddings(data))
    out = evaluate_ranking(topk, data.without_test(), "test")
    assert len(out) == 28 and set(out.values()) == {0.0}
    assert evaluate_ranking(topk, data.without_test(), "val", full=False)


def test_group_without_labels_is_zero():
    # The one label is of the warmest item:
    data = Interactions(2, 4, torch.tensor([[0], [2]]),
                        torch.empty(2, 0, dtype=torch.long),
                        torch.tensor([[1], [2]]), np.arange(2), np.arange(4))
    out = evaluate_ranking(torch_topk(*embeddings(data)), data)
    assert [out[f"recall@20_item_q{q}"] for q in (1, 2, 3, 4)] == [0, 0, 0, 1]


def test_quarters_of_users():
    # One train item for user 0, none for 1, three for 2 and one for 3: ties
    # go by id, so the quarters are users 1, 0, 3, 2. User 4 has no label.
    train = torch.tensor([[0, 2, 2, 2, 3, 4], [0, 0, 1, 2, 0, 1]])
    test = torch.tensor([[0, 1, 2, 3, 3], [3, 3, 3, 3, 4]])
    data = Interactions(5, 5, train, torch.empty(2, 0, dtype=torch.long),
                        test, np.arange(5), np.arange(5))
    hits = {0: [3], 1: [], 2: [1, 3], 3: [4]}

    def topk(users, k, exclude):
        return np.array([(hits[u] + [-1] * k)[:k] for u in users.tolist()])

    out = evaluate_ranking(topk, data)
    assert [out[f"recall@20_user_q{q}"] for q in (1, 2, 3, 4)] == [
        0, 1, .5, 1]
    assert [out[f"ndcg@20_user_q{q}"] for q in (1, 2, 3, 4)] == pytest.approx(
        [0, 1, 1 / (1 + 1 / math.log2(3)), 1 / math.log2(3)])
    for name in ("recall", "ndcg"):  # equal groups: their mean is the whole
        quarters = [out[f"{name}@20_user_q{q}"] for q in (1, 2, 3, 4)]
        assert sum(quarters) / 4 == pytest.approx(out[f"{name}@20"])


def test_degree_groups():
    rng = np.random.default_rng(0)
    for num_items in (0, 1, 3, 4, 5, 41):
        degree = rng.integers(0, 6, num_items)
        group = degree_groups(degree)
        order = sorted(range(num_items), key=lambda i: (degree[i], i))
        assert group[order].tolist() == sorted(group.tolist())
        sizes = np.bincount(group, minlength=4)
        assert sizes.max() - sizes.min() <= 1


@pytest.mark.parametrize("change, match", [
    (dict(split="train"), r"'split' needs to be one of val, test \(got 'tra"),
    (dict(ks=()), r"'ks' needs to hold integers of at least 1 \(got \(\)\)"),
    (dict(ks=(20, 0)), r"'ks' .*\(got \(20, 0\)\)"),
    (dict(batch_size=0), r"'batch_size' needs to be at least 1 \(got 0\)"),
    (dict(max_users=0), r"'max_users' needs to be at least 1 \(got 0\)"),
])
def test_bad_arguments(change, match):
    data = make_interactions()
    with pytest.raises(ValueError, match=match):
        evaluate_ranking(torch_topk(*embeddings(data)), data, **change)


@pytest.mark.parametrize("items, match", [
    (lambda b, k: np.zeros((b, k + 1), dtype=int), "integers of shape"),
    (lambda b, k: np.zeros((b, k)), "integers of shape"),
    (lambda b, k: np.full((b, k), 60), r"\[-1, 59\] \(got 60 to 60\)"),
    (lambda b, k: np.full((b, k), -2), r"\[-1, 59\] \(got -2 to -2\)"),
])
def test_bad_lists(items, match):
    data = make_interactions()
    with pytest.raises(ValueError, match=match):
        evaluate_ranking(lambda u, k, _: items(len(u), k), data)


@pytest.mark.parametrize("device", [
    "cpu",
    pytest.param(
        "cuda",
        marks=pytest.mark.skipif(not torch.cuda.is_available(),
                                 reason="needs a GPU"),
    ),
])
@pytest.mark.parametrize("integer", [False, True])
@pytest.mark.parametrize("k", [1, 7, 60, 75])
def test_torch_topk(device, integer, k, monkeypatch):
    monkeypatch.setattr(evaluation, "CHUNK_SCORES", 60 * 4)
    monkeypatch.setattr(evaluation, "CUDA_CHUNK_SCORES", 60 * 4)
    data = make_interactions()
    user_emb, item_emb = embeddings(data, integer=integer)
    user_emb.requires_grad_()
    topk = torch_topk(user_emb.to(device), item_emb.to(device))
    users = np.random.default_rng(0).permutation(data.num_users)[:30]
    exclude = take_rows(data.csr("train", "val"), users)
    out = topk(users, k, exclude)
    assert out.dtype == np.int64 and out.shape == (30, k)
    lists = naive_lists(data, user_emb, item_emb, "test", k)
    for row, user in zip(out.tolist(), users.tolist()):
        assert row == lists[user] + [-1] * (k - len(lists[user]))
    nobody = users[:0]
    assert topk(nobody, k, take_rows(data.csr("val"), nobody)).shape == (0, k)


def test_torch_topk_everything_seen():
    topk = torch_topk(torch.ones(1, 2), torch.ones(3, 2))
    out = topk(np.array([0]), 2, (np.array([0, 3]), np.arange(3)))
    assert out.tolist() == [[-1, -1]]


def test_torch_topk_number_types():
    data = make_interactions()
    user_emb, item_emb = embeddings(data, integer=True)
    users = np.arange(data.num_users)
    exclude = data.csr("train")
    expected = torch_topk(user_emb, item_emb)(users, 9, exclude)
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        topk = torch_topk(user_emb.to(dtype), item_emb.to(dtype))
        assert np.array_equal(topk(users, 9, exclude), expected)
    # Scores of 1 and 1 + 2^-10 are one in bfloat16:
    topk = torch_topk(torch.ones(1, 2), torch.tensor([[1, 0], [1, 2**-10]]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = topk(np.array([0]), 1, (np.zeros(2, int), np.empty(0, int)))
    assert out.tolist() == [[1]]


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_torch_topk_diverged(value):
    good, bad = torch.ones(2, 3), torch.full((2, 3), value)
    with pytest.raises(ValueError, match="'user_emb' needs to be finite"):
        torch_topk(bad, good)
    with pytest.raises(ValueError, match="'item_emb' needs to be finite"):
        torch_topk(good, bad)


def test_torch_topk_bad_arguments():
    with pytest.raises(ValueError, match=r"\(got shapes \(2, 3\) and \(2, 4"):
        torch_topk(torch.ones(2, 3), torch.ones(2, 4))
    topk = torch_topk(torch.ones(2, 3), torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"'k' needs to be at least 1 \(got"):
        topk(np.array([0]), 0, (np.zeros(2, int), np.empty(0, int)))


@pytest.mark.parametrize("levels", [1, 2, 5, 1000])
@pytest.mark.parametrize("k", [1, 5, 19, 20])
def test_lowest_id_topk(levels, k):
    g = torch.Generator().manual_seed(0)
    scores = torch.randint(levels, (150, 20), generator=g).float()
    scores[torch.rand(scores.shape, generator=g) < 0.3] = -math.inf
    for row, out in zip(scores.tolist(), lowest_id_topk(scores, k).tolist()):
        seen = {i for i, score in enumerate(row) if score == -math.inf}
        expected = naive_list(row, k, seen)
        assert out == expected + [-1] * (k - len(expected))


@pytest.mark.parametrize("num_items", [60, 13])
def test_packed_topk(num_items):
    data = make_interactions(num_items=num_items)
    g = torch.Generator().manual_seed(0)
    tables = [
        PackedTable.from_float(
            emb.numpy(),
            torch.randint(1, 9, (len(emb), ), generator=g).byte().numpy())
        for emb in embeddings(data)
    ]
    packed = packed_topk(PackedRecommender(*tables))
    floats = torch_topk(*(torch.from_numpy(table.dequantize()).double()
                          for table in tables))
    users = np.arange(data.num_users)
    exclude = data.csr("train", "val")
    for k in (5, num_items, num_items + 7):
        assert np.array_equal(packed(users, k, exclude),
                              floats(users, k, exclude))
    assert evaluate_ranking(packed, data) == evaluate_ranking(floats, data)

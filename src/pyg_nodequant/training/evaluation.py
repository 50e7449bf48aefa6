r"""Full-ranking evaluation: every item is a candidate, seen items are masked.

How the lists come about is left to a :obj:`TopK` callable, so that the float
model, the quantized model and the packed file are measured by the same code.
The metrics are those of :mod:`torch_geometric.metrics`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch_geometric.metrics import (
    LinkPredCoverage,
    LinkPredHitRatio,
    LinkPredMetric,
    LinkPredMetricCollection,
    LinkPredMRR,
    LinkPredNDCG,
    LinkPredPrecision,
    LinkPredRecall,
)

from pyg_nodequant.runtime.csr import CSR, take_rows

if TYPE_CHECKING:
    from pyg_nodequant.data.interactions import Interactions
    from pyg_nodequant.runtime.recommender import PackedRecommender

IntArray = npt.NDArray[np.integer[Any]]

TopK = Callable[[npt.NDArray[np.int64], int, CSR], IntArray]
r"""Maps user rows :math:`(B,)`, :obj:`k`, and the items to leave out for each
of these :math:`B` users, a CSR :obj:`(indptr, indices)`, to the item rows
:math:`(B, k)` of the largest scores, best first, padded with -1 where fewer
items remain."""

MASKED_SPLITS = {"val": ("train", ), "test": ("train", "val")}
METRICS: dict[str, type[LinkPredMetric]] = {
    "recall": LinkPredRecall,
    "ndcg": LinkPredNDCG,
    "precision": LinkPredPrecision,
    "hit_ratio": LinkPredHitRatio,
    "mrr": LinkPredMRR,
}
MAIN_K = 20  # of coverage, of the quarters and of the quick evaluation
NUM_GROUPS = 4
METRIC_USERS = 2**14  # a metric costs the start of its ops, so many at once
CHUNK_SCORES = 2**24  # 64 MiB of float32, whatever the catalogue's size
CUDA_CHUNK_SCORES = 2**27


def degree_groups(degree: IntArray, num_groups: int = NUM_GROUPS) -> IntArray:
    r"""Returns the group of every node: nodes sorted by their degree, ties by
    id, and cut into :obj:`num_groups` groups of equal counts (they differ by
    at most one), group 0 being the coldest.

    Example:
        >>> degree_groups(np.array([9, 0, 0, 5])).tolist()
        [3, 0, 1, 2]
    """
    order = np.argsort(degree, kind="stable")
    group = np.empty(order.size, dtype=np.int64)
    group[order] = np.arange(order.size) * num_groups // max(order.size, 1)
    return group


def evaluate_ranking(
    topk: TopK,
    interactions: Interactions,
    split: str = "test",
    ks: Sequence[int] = (10, 20, 50),
    *,
    batch_size: int = 1024,
    max_users: Optional[int] = None,
    full: bool = True,
    seed: int = 0,
) -> dict[str, float]:
    r"""Ranks all items for every user with labels in a split, and measures
    the lists.

    With :math:`L_u` the items of user :math:`u` in the split, :math:`r_{uj}
    \in \{0, 1\}` whether the :math:`j`-th item of the list is in
    :math:`L_u`, and :math:`U` the users with :math:`L_u \neq \emptyset`, the
    means over :math:`U` of

    .. math::
        \mathrm{recall@}k &= \tfrac{1}{|L_u|} \sum_{j \leq k} r_{uj} \qquad
        \mathrm{precision@}k = \tfrac{1}{k} \sum_{j \leq k} r_{uj} \\
        \mathrm{ndcg@}k &= \Big( \sum_{j \leq k} \tfrac{r_{uj}}{\log_2 (j+1)}
        \Big) \Big/ \Big( \sum_{j \leq \min(k, |L_u|)}
        \tfrac{1}{\log_2 (j+1)} \Big) \\
        \mathrm{hit\_ratio@}k &= \max_{j \leq k} r_{uj} \qquad
        \mathrm{mrr@}k = \max_{j \leq k} r_{uj} / j,

    the share :obj:`coverage@20` of the items that are in some user's first
    20, and :obj:`recall@20_item_q1` to :obj:`recall@20_item_q4`: recall with
    :math:`L_u` restricted to a quarter of the items, q1 the quarter with the
    smallest train degrees, q4 the one with the largest, over the users that
    have a label in it. :obj:`recall@20_user_q1` to :obj:`recall@20_user_q4`
    and :obj:`ndcg@20_user_q1` to :obj:`ndcg@20_user_q4` are the means over a
    quarter of :math:`U` instead, q1 those with the fewest train items, q4
    those with the most. In both, equal degrees go by the lowest id. A metric
    without any such user is 0, never NaN.

    Left out of the lists are a user's train items, and for the test split
    those of validation too. Lists that run out of items are padded with -1,
    which is no item: it is neither a hit nor covered.

    Args:
        topk (TopK): Gives the lists: see :meth:`torch_topk` and
            :meth:`packed_topk`.
        interactions (Interactions): The data.
        split (str, optional): :obj:`"test"` or :obj:`"val"`.
            (default: :obj:`"test"`)
        ks (sequence of int, optional): The list lengths; may exceed the
            number of items. (default: :obj:`(10, 20, 50)`)
        batch_size (int, optional): Users ranked at once.
            (default: :obj:`1024`)
        max_users (int, optional): Evaluate at most so many users, a random
            subset that depends on :obj:`seed` alone.
            (default: :obj:`None`, all)
        full (bool, optional): If set to :obj:`False`, will only compute
            :obj:`recall@20` and :obj:`ndcg@20`, from lists of 20.
            (default: :obj:`True`)
        seed (int, optional): Seed of the subset. (default: :obj:`0`)

    Returns:
        dict[str, float]: :obj:`recall@k`, :obj:`ndcg@k`,
        :obj:`precision@k`, :obj:`hit_ratio@k` and :obj:`mrr@k` for every
        :obj:`k`, :obj:`coverage@20`, and the quarters of items and of
        users, all in :math:`[0, 1]`.

    Raises:
        ValueError: If an argument is outside its allowed range, or if
            :obj:`topk` returns anything but item rows of shape
            :math:`(B, k)`.
    """
    check_arguments(split, ks, batch_size, max_users)
    ks = sorted(set(ks)) if full else [MAIN_K]
    num_items = interactions.num_items
    width = max([*ks, MAIN_K])
    labels = interactions.csr(split)
    seen = interactions.csr(*MASKED_SPLITS[split])
    users = np.flatnonzero(np.diff(labels[0])).astype(np.int64)
    if max_users is not None and max_users < users.size:
        rng = np.random.default_rng(seed)
        users = np.sort(rng.choice(users, max_users, replace=False))

    names = METRICS if full else ("recall", "ndcg")
    metrics = LinkPredMetricCollection(
        {f"{name}@{k}": METRICS[name](k)
         for k in ks
         for name in names})
    extra: list[ItemMetrics | UserMetrics] = []
    if full:
        extra = [ItemMetrics(interactions), UserMetrics(interactions, users)]
    for block in blocks(users, METRIC_USERS):
        pred = torch.cat([
            rank(topk, batch, width, num_items, take_rows(seen, batch))
            for batch in blocks(block, batch_size)
        ])
        ptr, item = take_rows(labels, block)
        row = np.repeat(np.arange(block.size), np.diff(ptr))
        label_index = torch.from_numpy(
            np.stack([row, item]).astype(np.int64, copy=False))
        metrics.update(pred, label_index)
        for part in extra:
            part.update(block, pred, label_index)

    out = {name: float(value) for name, value in metrics.compute().items()}
    for part in extra:
        out.update(part.compute())
    return out


class ItemMetrics:
    r"""Coverage and the recall by quarters of the items."""
    def __init__(self, interactions: Interactions) -> None:
        self.num_items = interactions.num_items
        degree = interactions.degree("train")[interactions.num_users:]
        self.group = torch.from_numpy(degree_groups(degree.cpu().numpy()))
        self.recalls = [LinkPredRecall(MAIN_K) for _ in range(NUM_GROUPS)]
        self.coverage = LinkPredCoverage(MAIN_K, max(self.num_items, 1))

    def update(self, users: IntArray, pred: Tensor,
               label_index: Tensor) -> None:
        r"""Counts lists :math:`(B, k)` of users :math:`(B)`, padded with
        :obj:`num_items`, and labels :math:`(2, E)` of row and item.
        """
        group = self.group[label_index[1]]
        for i, recall in enumerate(self.recalls):
            # Restricting the labels is all it takes: PyG leaves out the users
            # that have no label, and counts a hit only on a label.
            recall.update(pred, label_index[:, group == i])
        listed = pred[:, :MAIN_K]
        listed = listed[listed < self.num_items]  # padding covers nothing
        self.coverage.update(listed.view(-1, 1), label_index)

    def compute(self) -> dict[str, float]:
        r"""Returns the metrics of everything counted so far."""
        out = {f"coverage@{MAIN_K}": float(self.coverage.compute())}
        for i, recall in enumerate(self.recalls):
            out[f"recall@{MAIN_K}_item_q{i + 1}"] = float(recall.compute())
        return out


class UserMetrics:
    r"""Recall and NDCG by quarters of the users that are measured.

    Args:
        interactions (Interactions): The data.
        users (array): These users, ascending.
    """
    def __init__(self, interactions: Interactions, users: IntArray) -> None:
        degree = interactions.degree("train")[:interactions.num_users]
        group = np.zeros(interactions.num_users, dtype=np.int64)
        group[users] = degree_groups(degree.cpu().numpy()[users])
        self.group = torch.from_numpy(group)
        self.metrics: dict[str, list[LinkPredMetric]] = {
            name: [METRICS[name](MAIN_K) for _ in range(NUM_GROUPS)]
            for name in ("recall", "ndcg")}

    def update(self, users: IntArray, pred: Tensor,
               label_index: Tensor) -> None:
        r"""As in :class:`ItemMetrics`."""
        group = self.group[torch.from_numpy(users)][label_index[0]]
        for metrics in self.metrics.values():
            for i, metric in enumerate(metrics):
                # PyG leaves out the users that have no label.
                metric.update(pred, label_index[:, group == i])

    def compute(self) -> dict[str, float]:
        r"""Returns the metrics of everything counted so far."""
        return {f"{name}@{MAIN_K}_user_q{i + 1}": float(metric.compute())
                for name, metrics in self.metrics.items()
                for i, metric in enumerate(metrics)}


def blocks(
    users: npt.NDArray[np.int64],
    size: int,
) -> Iterator[npt.NDArray[np.int64]]:
    r"""Yields the users in ranges of at most :obj:`size`."""
    for start in range(0, users.size, size):
        yield users[start:start + size]


def rank(
    topk: TopK,
    users: npt.NDArray[np.int64],
    width: int,
    num_items: int,
    exclude: CSR,
) -> Tensor:
    r"""Returns checked lists :math:`(B, \mathrm{width})` that are padded with
    :obj:`num_items` instead of -1.

    PyG tells the rows of a batch apart by adding a multiple of the largest
    id, so -1 would read as the last item of the row above.
    """
    k = min(width, num_items)
    items = np.asarray(topk(users, k, exclude))
    if items.shape != (users.size, k) or items.dtype.kind not in "iu":
        raise ValueError(f"'topk' needs to return integers of shape "
                         f"{(users.size, k)} (got {items.dtype} of shape "
                         f"{items.shape})")
    if items.size and not -1 <= items.min() <= items.max() < num_items:
        raise ValueError(f"'topk' needs to return item rows in "
                         f"[-1, {num_items - 1}] "
                         f"(got {items.min()} to {items.max()})")
    pred = torch.full((users.size, width), num_items, dtype=torch.long)
    pred[:, :k] = torch.from_numpy(items.astype(np.int64))
    pred[pred < 0] = num_items
    return pred


def check_arguments(
    split: str,
    ks: Sequence[int],
    batch_size: int,
    max_users: Optional[int],
) -> None:
    r"""Raises :class:`ValueError` for what :meth:`evaluate_ranking` cannot
    do.
    """
    if split not in MASKED_SPLITS:
        raise ValueError(f"'split' needs to be one of "
                         f"{', '.join(MASKED_SPLITS)} (got '{split}')")
    if len(ks) == 0 or min(ks) < 1:
        raise ValueError(f"'ks' needs to hold integers of at least 1 "
                         f"(got {tuple(ks)})")
    if batch_size < 1:
        raise ValueError(f"'batch_size' needs to be at least 1 "
                         f"(got {batch_size})")
    if max_users is not None and max_users < 1:
        raise ValueError(f"'max_users' needs to be at least 1 "
                         f"(got {max_users})")


def torch_topk(user_emb: Tensor, item_emb: Tensor) -> TopK:
    r"""Returns the :obj:`TopK` of the inner products :math:`\langle u, i
    \rangle` of float embeddings, ties to the lowest item row.

    Scores are computed in chunks of users, so the memory does not grow with
    their number, in float32 (float64 for float64 embeddings), whatever
    autocast says, and on the device of the embeddings. The chunks share one
    buffer, so a callable is for one thread.

    Args:
        user_emb (Tensor): The user embeddings of shape :math:`(U, d)`.
        item_emb (Tensor): The item embeddings of shape :math:`(I, d)`.

    Raises:
        ValueError: If the shapes do not fit or a value is not finite.

    Example:
        >>> topk = torch_topk(torch.eye(2), torch.eye(2))
        >>> seen = np.array([0, 0, 1]), np.array([1])  # item 1, by user 1
        >>> topk(np.array([0, 1]), 2, seen)
        array([[ 0,  1],
               [ 0, -1]])
    """
    for name, emb in (("user_emb", user_emb), ("item_emb", item_emb)):
        if emb.dim() != 2 or emb.size(1) != user_emb.size(-1):
            raise ValueError(f"'user_emb' and 'item_emb' need to be matrices "
                             f"of as many columns (got shapes "
                             f"{tuple(user_emb.shape)} and "
                             f"{tuple(item_emb.shape)})")
        if not bool(emb.detach().isfinite().all()):
            raise ValueError(f"'{name}' needs to be finite (got NaN or "
                             f"infinite values: has the training diverged?)")
    dtype = torch.promote_types(user_emb.dtype, torch.float)
    dtype = torch.promote_types(item_emb.dtype, dtype)
    user_emb = user_emb.detach().to(dtype)
    item_emb = item_emb.detach().to(dtype)
    device, num_items = user_emb.device, item_emb.size(0)
    limit = CUDA_CHUNK_SCORES if device.type == "cuda" else CHUNK_SCORES
    chunk = min(limit // max(num_items, 1), user_emb.size(0))
    chunk = max(chunk, 1)
    # One buffer for all chunks: fresh pages cost as much as the product.
    buffer = item_emb.new_empty(chunk, num_items)

    def topk(users: npt.NDArray[np.int64], k: int,
             exclude: CSR) -> npt.NDArray[np.int64]:
        if k < 1:
            raise ValueError(f"'k' needs to be at least 1 (got {k})")
        out = np.full((users.size, k), -1, dtype=np.int64)
        for rows, seen_row, seen in chunks(users, exclude, chunk):
            index = torch.from_numpy(users[rows]).to(device)
            with torch.no_grad(), torch.autocast(device.type, enabled=False):
                scores = torch.mm(user_emb[index], item_emb.t(),
                                  out=buffer[:index.numel()])
            scores[torch.from_numpy(seen_row).to(device),
                   torch.from_numpy(seen).to(device)] = -torch.inf
            items = lowest_id_topk(scores, min(k, num_items))
            out[rows, :items.size(1)] = items.cpu().numpy()
        return out

    return topk


def chunks(
    users: npt.NDArray[np.int64],
    exclude: CSR,
    size: int,
) -> Iterator[tuple[slice, npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    r"""Yields ranges of at most :obj:`size` users, with the row in the range
    and the item of everything that they leave out.
    """
    indptr, indices = exclude
    for start in range(0, users.size, size):
        rows = slice(start, min(start + size, users.size))
        ptr = np.asarray(indptr[rows.start:rows.stop + 1], dtype=np.int64)
        row = np.repeat(np.arange(ptr.size - 1, dtype=np.int64), np.diff(ptr))
        yield rows, row, indices[ptr[0]:ptr[-1]].astype(np.int64)


def lowest_id_topk(scores: Tensor, k: int) -> Tensor:
    r"""Returns the columns of the :obj:`k` largest scores of every row by
    descending score, equal scores by ascending column, and -1 for scores of
    :math:`-\infty`.

    :meth:`torch.topk` takes any of several equal scores. Where they are all
    within the list, sorting it by column and then, stably, by score is
    enough. Where the :obj:`k`-th score equals the next one, the list may have
    the wrong ones of them: looking for one column more tells, and only these
    rows are scanned again. Their columns of that score are counted from the
    left, and the first are taken.

    Args:
        scores (Tensor): The scores of shape :math:`(B, I)`.
        k (int): The list length, at most :math:`I`.

    Example:
        >>> lowest_id_topk(torch.tensor([[1., 2., 2., 2.]]), 2)
        tensor([[1, 2]])
    """
    num_columns = scores.size(1)
    values, columns = scores.topk(min(k + 1, num_columns), dim=1)
    if num_columns > k > 0:
        last, beyond = values[:, k - 1], values[:, k]
        values, columns = values[:, :k], columns[:, :k]
        tied = (last == beyond) & (last > -torch.inf)
        for i in torch.split(tied.nonzero().view(-1), 64):
            columns[i] = lowest_tied(scores[i], values[i], columns[i])
    columns, order = columns.sort(dim=1)
    values = values.gather(1, order)
    values, order = values.sort(dim=1, descending=True, stable=True)
    columns = columns.gather(1, order)
    return columns.masked_fill_(values == -torch.inf, -1)


def lowest_tied(scores: Tensor, values: Tensor, columns: Tensor) -> Tensor:
    r"""Replaces, in lists sorted by score, the columns that have the last
    score by the lowest columns of that score.
    """
    last = values[:, -1:]
    needed = (values == last).sum(dim=1, keepdim=True)
    equal = scores == last
    equal &= equal.cumsum(dim=1) <= needed
    # Both masks go row by row, and both have `needed` entries in each:
    return columns.masked_scatter(values == last, equal.nonzero()[:, 1])


def packed_topk(recommender: PackedRecommender) -> TopK:
    r"""Returns the :obj:`TopK` of a packed file, from its integer codes.

    Args:
        recommender (PackedRecommender): The opened file, whose rows are those
            of the interactions it is evaluated on.
    """
    def topk(users: npt.NDArray[np.int64], k: int, exclude: CSR) -> IntArray:
        known = min(k, recommender.num_items)
        _, items = recommender.topk_rows(users, known, exclude=exclude)
        return np.pad(items, [(0, 0), (0, k - known)], constant_values=-1)

    return topk


__all__ = [
    "TopK",
    "degree_groups",
    "evaluate_ranking",
    "lowest_id_topk",
    "packed_topk",
    "torch_topk",
]

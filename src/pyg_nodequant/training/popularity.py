r"""How much more popular than what users chose is what they are shown."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pyg_nodequant import functional as F
from pyg_nodequant.data import Interactions
from pyg_nodequant.runtime.csr import take_rows
from pyg_nodequant.training.evaluation import torch_topk

# Users whose lists are looked at: fewer where that were too many scores.
_USERS, _FEWEST, _SCORES = 4096, 256, 2**30
_LENGTH = 20
_LARGEST = 1.0
_HALVINGS = 8


class PopularityLift:
    r"""The popularity of recommended items against that of chosen ones: the
    ratio of their degrees' geometric means,

    .. math::
        \ln L = \frac{1}{|\mathcal{R}|} \sum_{(u, i) \in \mathcal{R}} \ln d_i -
        \frac{1}{|\mathcal{E}|} \sum_{(u, i) \in \mathcal{E}} \ln d_i ,

    with :math:`\mathcal{R}` the first 20 unseen items of each user and
    :math:`\mathcal{E}` the training interactions. Of many users a sample is
    taken.

    Args:
        data (Interactions): What is trained on.
        seed (int, optional): Of the sample.
    """

    def __init__(self, data: Interactions, seed: int = 0) -> None:
        self.degree = data.degree("train")[data.num_users:].cpu()
        self.log_degree = self.degree.clamp(min=1).double().log()
        self.chosen = float(self.log_degree[data.train[1].cpu()].mean())
        indptr, indices = data.csr("train")
        users = np.flatnonzero(np.diff(indptr)).astype(np.int64)
        count = min(_USERS, max(_FEWEST, _SCORES // data.num_items))
        if users.size > count:
            generator = np.random.default_rng(seed)
            users = np.sort(generator.choice(users, count, replace=False))
        self.users = users
        self.seen = take_rows((indptr, indices), users)

    def __call__(self, users: Tensor, items: Tensor) -> float:
        r"""Returns :math:`L` of the rankings of rows :math:`(U, d)` and
        :math:`(I, d)`; 1 if nobody has an item left.
        """
        lists = torch_topk(users, items)(self.users, _LENGTH, self.seen)
        shown = torch.from_numpy(np.asarray(lists)).long().flatten()
        shown = shown[shown >= 0]
        if shown.numel() == 0:
            return 1.0
        mean = float(self.log_degree[shown].mean())
        return float(np.exp(mean - self.chosen))

    def discount(self, users: Tensor, items: Tensor, target: float) -> float:
        r"""Returns the least discount
        (:func:`~pyg_nodequant.functional.discount_popularity`), to 1/256,
        with which the lift is at most :obj:`target`; 0 if it is without one,
        and 1 if not even that is enough. The lift falls as the discount
        rises, so it is found by halving.
        """
        degree = self.degree.to(items.device)
        if self(users, items) <= target:
            return 0.0
        low, high = 0.0, _LARGEST
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if self(*F.discount_popularity(users, items, degree,
                                           middle)) <= target:
                high = middle
            else:
                low = middle
        return high

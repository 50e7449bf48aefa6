r"""Whether a packed file belongs to a data set, and to a split of it."""

from __future__ import annotations

import numpy as np

from pyg_nodequant.data import Interactions
from pyg_nodequant.runtime import PackedRecommender


def check_same_nodes(
    recommender: PackedRecommender,
    interactions: Interactions,
) -> None:
    r"""Raises a :class:`ValueError` unless the rows of the file are the users
    and items of the data, in their order.
    """
    catalogue = recommender.catalogue
    for what, rows, ids, packed_ids in (
        ("user", recommender.num_users, interactions.user_ids,
         None if catalogue is None else catalogue.user_ids),
        ("item", recommender.num_items, interactions.item_ids,
         None if catalogue is None else catalogue.item_ids),
    ):
        if rows != len(ids):
            raise ValueError(f"the file does not belong to these data: it "
                             f"has {rows:,} {what}s, data "
                             f"'{interactions.name}' has {len(ids):,}")
        if packed_ids is None:
            continue  # a bare file: the counts are all there is to compare
        for row, (mine, theirs) in enumerate(
                zip(packed_ids.tolist(), ids.tolist(), strict=True)):
            if mine != theirs:
                raise ValueError(f"the file does not belong to these data: "
                                 f"{what} {row} is '{mine}' in the file and "
                                 f"'{theirs}' in data "
                                 f"'{interactions.name}'")


def check_unseen(
    recommender: PackedRecommender,
    interactions: Interactions,
) -> None:
    r"""Raises a :class:`ValueError` if a test interaction is among those that
    the file knows its users by: they were trained on or chosen with, so the
    data are split differently than then.
    """
    catalogue = recommender.catalogue
    if catalogue is None or catalogue.seen is None:
        return  # a bare file does not tell
    indptr, indices = (np.asarray(part, dtype=np.int64)
                       for part in catalogue.seen)
    users = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    keys = users * recommender.num_items + indices
    test_users, test_items = interactions.test.cpu().numpy()
    test_keys = test_users * recommender.num_items + test_items
    known = int(np.isin(test_keys, keys).sum())
    if known:
        raise ValueError(f"the file does not belong to these data: it was "
                         f"trained on {known:,} of the {len(test_keys):,} "
                         f"test interactions (use the 'data.split', "
                         f"'data.split_seed' and fractions of its training)")

"""What the package knows about a data set: who took which item."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Optional

import numpy as np
import torch
from torch import Tensor

from pyg_nodequant.data.errors import DataError
from pyg_nodequant.data.grouping import group_order, index_pointer

if TYPE_CHECKING:
    from torch_geometric.data import HeteroData

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, eq=False, repr=False)
class Interactions:
    r"""Users, items, and the edges between them, in three disjoint splits.

    Users are numbered :math:`0..U-1` and items (rows) :math:`0..I-1`; in the
    homogeneous graph the item of row :math:`j` is node :math:`U + j`. Most
    often made by :func:`~pyg_nodequant.data.load_interactions` or
    :meth:`from_edges`, which remove duplicates and carve splits; the
    constructor itself only checks.

    Args:
        num_users (int): Number of users :math:`U`.
        num_items (int): Number of items :math:`I`.
        train (Tensor): Training edges, int64 :obj:`[2, E]`: row 0 the user,
            row 1 the item row; sorted by (user, item), each edge once.
        val (Tensor): Validation edges, in the same form.
        test (Tensor): Test edges, in the same form.
        user_ids (np.ndarray): Original ids, int64 or :obj:`str` objects,
            all different, of length :math:`U`.
        item_ids (np.ndarray): Original ids of length :math:`I`.
        item_titles (list[str], optional): One title an item.
        counts (dict[str, int]): What reading did, for example
            :obj:`duplicates_removed`.
        name (str): Name of the data set.

    Raises:
        DataError: If the parts do not fit together.

    Example:
        >>> data = Interactions.from_edges(
        ...     torch.tensor([[0, 0, 1, 2], [0, 1, 1, 2]]), val_fraction=0.0)
        >>> data
        Interactions('edges', 3 users, 3 items, train=4, val=0, test=0)
        >>> data.degree().tolist()
        [2, 1, 1, 1, 2, 1]
    """

    num_users: int
    num_items: int
    train: Tensor
    val: Tensor
    test: Tensor
    user_ids: np.ndarray
    item_ids: np.ndarray
    item_titles: Optional[list[str]] = None
    counts: dict[str, int] = field(default_factory=dict)
    name: str = "interactions"

    def __post_init__(self) -> None:
        for label, count, ids in (
            ("user", self.num_users, self.user_ids),
            ("item", self.num_items, self.item_ids),
        ):
            if len(ids) != count:
                raise DataError(f"'{label}_ids' needs to hold one id for each "
                                f"of the {count} {label}s (got {len(ids)})")
            _check_ids(ids, f"{label}_ids")
        if (self.item_titles is not None
                and len(self.item_titles) != self.num_items):
            raise DataError(f"'item_titles' needs to hold one title for each "
                            f"of the {self.num_items} items "
                            f"(got {len(self.item_titles)})")
        keys = [self._checked_keys(split) for split in SPLITS]
        merged = np.sort(np.concatenate(keys), kind="stable")
        if np.any(merged[1:] == merged[:-1]):
            raise DataError("the train, val and test edges need to be "
                            "disjoint (use Interactions.from_edges to remove "
                            "overlaps)")

    def _checked_keys(self, split: str) -> np.ndarray:
        edges = self.edges(split)
        if edges.dtype != torch.long or edges.dim() != 2 or len(edges) != 2:
            raise DataError(f"'{split}' needs to be an int64 tensor of shape "
                            f"[2, E] (got {edges.dtype} of shape "
                            f"{list(edges.shape)})")
        users, items = edges.cpu().numpy()
        for label, rows, count in (("user", users, self.num_users),
                                   ("item", items, self.num_items)):
            if rows.size and not 0 <= rows.min() <= rows.max() < count:
                raise DataError(f"the {label} rows of '{split}' need to be in "
                                f"[0, {count - 1}] (got {rows.min()} to "
                                f"{rows.max()})")
        keys: np.ndarray = users * self.num_items + items
        if np.any(keys[1:] <= keys[:-1]):
            raise DataError(f"'{split}' needs to be sorted by (user, item) "
                            f"without duplicates (use Interactions.from_edges "
                            f"to sort)")
        return keys

    @classmethod
    def from_edges(
        cls,
        train: Tensor,
        val: Optional[Tensor] = None,
        test: Optional[Tensor] = None,
        *,
        num_users: Optional[int] = None,
        num_items: Optional[int] = None,
        user_ids: Optional[np.ndarray] = None,
        item_ids: Optional[np.ndarray] = None,
        item_titles: Optional[list[str]] = None,
        test_fraction: float = 0.0,
        val_fraction: float = 0.1,
        split_seed: int = 0,
        name: str = "edges",
    ) -> Interactions:
        r"""Makes interactions from edges in any order, with duplicates or not.

        Duplicates are removed, and an edge of two splits stays in the first
        of train, val and test. A split that is :obj:`None` is carved from the
        training edges by :obj:`split_seed` if its fraction is above zero.

        Args:
            train (Tensor): Edges :obj:`[2, E]` of user and item rows.
            val (Tensor, optional): Validation edges.
            test (Tensor, optional): Test edges.
            num_users (int, optional): Default: the largest user row plus one.
            num_items (int, optional): Default: the largest item row plus one.
            user_ids (np.ndarray, optional): Default: the row numbers.
            item_ids (np.ndarray, optional): Default: the row numbers.
            item_titles (list[str], optional): One title an item.
            test_fraction (float): Share of the edges carved for testing.
            val_fraction (float): Share of the rest carved for validation.
            split_seed (int): Seed of what is carved.
            name (str): Name of the data set.

        Raises:
            DataError: If an edge is out of range or no training edge is left.

        Example:
            >>> edges = torch.tensor([[1, 0, 1, 1], [0, 1, 0, 2]])
            >>> data = Interactions.from_edges(edges, val_fraction=0.0)
            >>> data.train.tolist(), data.counts["duplicates_removed"]
            ([[0, 1, 1], [1, 0, 2]], 1)
        """
        from pyg_nodequant.data.assemble import assemble, edge_arrays

        parts = {
            split: edge_arrays(edges, split)
            for split, edges in (("train", train), ("val", val),
                                 ("test", test)) if edges is not None
        }

        def size(row: int) -> int:
            return 1 + max((int(part[row].max()) for part in parts.values()
                            if part[row].size), default=-1)

        num_users = size(0) if num_users is None else num_users
        num_items = size(1) if num_items is None else num_items
        return assemble(
            parts,
            np.arange(num_users) if user_ids is None else user_ids,
            np.arange(num_items) if item_ids is None else item_ids,
            item_titles=item_titles,
            test_fraction=test_fraction,
            val_fraction=val_fraction,
            split_seed=split_seed,
            name=name,
        )

    @property
    def num_nodes(self) -> int:
        r"""Number of users and items together."""
        return self.num_users + self.num_items

    def edges(self, split: str = "train") -> Tensor:
        r"""Returns the :obj:`[2, E]` edges of a split, by its name."""
        if split not in SPLITS:
            raise ValueError(f"'split' needs to be one of {', '.join(SPLITS)} "
                             f"(got '{split}')")
        edges: Tensor = getattr(self, split)
        return edges

    def degree(self, split: str = "train") -> Tensor:
        r"""Returns the int64 :obj:`[num_nodes]` degrees, users then items."""
        users, items = self.edges(split)
        return torch.cat([
            torch.bincount(users, minlength=self.num_users),
            torch.bincount(items, minlength=self.num_items),
        ])

    def edge_index(self, split: str = "train") -> Tensor:
        r"""Returns the undirected homogeneous graph, :obj:`[2, 2E]`.

        Each edge stands in both directions; sorted by (source, target),
        without duplicates, made in O(E).

        Example:
            >>> data = Interactions.from_edges(
            ...     torch.tensor([[0, 1], [1, 0]]), val_fraction=0.0)
            >>> data.edge_index().tolist()
            [[0, 1, 2, 3], [3, 2, 1, 0]]
        """
        users, items = self.edges(split)
        order = torch.from_numpy(
            group_order(items.cpu().numpy(), self.num_items)).to(users.device)
        nodes = items + self.num_users
        return torch.stack([
            torch.cat([users, nodes[order]]),
            torch.cat([nodes, users[order]]),
        ])

    def csr(self, *splits: str) -> tuple[np.ndarray, np.ndarray]:
        r"""Returns the items of each user in these splits, ascending, in O(E).

        Args:
            *splits (str): Names of splits; :obj:`"train"` when none is given.

        Returns:
            The row offsets, int64 :obj:`[U + 1]`, and the item rows, int32.

        Example:
            >>> data = Interactions.from_edges(
            ...     torch.tensor([[0, 1, 1], [1, 0, 2]]), val_fraction=0.0)
            >>> [part.tolist() for part in data.csr("train", "val")]
            [[0, 1, 3], [1, 0, 2]]
        """
        names = tuple(dict.fromkeys(splits)) or ("train",)
        chosen = [self.edges(name).cpu().numpy() for name in names]
        keys = np.concatenate(
            [part[0] * self.num_items + part[1] for part in chosen])
        if len(chosen) > 1:  # sorted runs: the stable sort merges them in O(E)
            keys = np.sort(keys, kind="stable")
        users = keys // max(self.num_items, 1)
        indices = (keys - users * self.num_items).astype(np.int32)
        return index_pointer(users, self.num_users), indices

    def without_test(self) -> Interactions:
        r"""Returns the same interactions with an empty test split: what a
        trainer is given, so that nothing can be chosen on the test edges.
        """
        return replace(self, test=self.test.new_empty((2, 0)))

    def merge_validation(self) -> Interactions:
        r"""Returns the same interactions with the validation edges moved into
        train: what a model is refitted on once nothing is left to choose.
        """
        edges = torch.cat([self.train, self.val], dim=1)
        order = (edges[0] * self.num_items + edges[1]).argsort()
        return replace(self, train=edges[:, order],
                       val=self.val.new_empty((2, 0)))

    def to_hetero(self) -> HeteroData:
        r"""Returns a :class:`torch_geometric.data.HeteroData`; see
        :func:`~pyg_nodequant.data.hetero.to_hetero`.
        """
        from pyg_nodequant.data.hetero import to_hetero
        return to_hetero(self)

    @classmethod
    def from_hetero(cls, data: HeteroData, edge_type: Any = None,
                    **kwargs: Any) -> Interactions:
        r"""Makes interactions from PyG data; see
        :func:`~pyg_nodequant.data.hetero.from_hetero`.
        """
        from pyg_nodequant.data.hetero import from_hetero
        return from_hetero(data, edge_type, **kwargs)

    def __repr__(self) -> str:
        sizes = ", ".join(f"{split}={self.edges(split).size(1)}"
                          for split in SPLITS)
        return (f"{type(self).__name__}('{self.name}', {self.num_users} "
                f"users, {self.num_items} items, {sizes})")


def _check_ids(ids: np.ndarray, name: str) -> None:
    # A packed file needs this; it must not show only once a model is trained.
    if not isinstance(ids, np.ndarray) or ids.ndim != 1:
        raise DataError(f"'{name}' needs to be an array of one dimension "
                        f"(got {type(ids).__name__})")
    if ids.dtype.kind == "i":
        distinct = np.unique(ids).size
    else:
        values = ids.tolist()
        if not (all(isinstance(one, str) for one in values)
                or all(isinstance(one, (int, np.integer))
                       and not isinstance(one, bool) for one in values)):
            kinds = sorted({type(one).__name__ for one in values})
            raise DataError(f"'{name}' needs to hold integers only or text "
                            f"only (got {', '.join(kinds)})")
        distinct = len(set(values))
    if distinct != len(ids):
        raise DataError(f"'{name}' needs to hold different ids (got "
                        f"{distinct} different ones of {len(ids)})")

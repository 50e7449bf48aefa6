r"""Which interactions are read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Optional

from pyg_nodequant.config.checks import check_choice, check_number


@dataclass(frozen=True)
class DataConfig:
    r"""Which interactions are read and how they are split.

    Args:
        name (str): :obj:`"synthetic"`, :obj:`"csv"`, :obj:`"lightgcn_txt"`,
            :obj:`"recbole"` or a named set (:obj:`"lastfm"`, ...).
        root (str): Read-only folder of the named sets.
        cache_dir (str): Where downloads and processed files go.
        split_seed (int): Seed of the carved test and validation splits.
    """

    name: str = "synthetic"
    root: str = "data"
    cache_dir: str = "data_cache"
    path: Optional[str] = None
    user_column: str = "user_id"
    item_column: str = "item_id"
    rating_column: Optional[str] = None
    min_rating: Optional[float] = None
    time_column: Optional[str] = None
    title_column: Optional[str] = None
    separator: Optional[str] = None
    split: str = "random"  # or "time"
    test_fraction: float = 0.2
    val_fraction: float = 0.1
    split_seed: int = 0
    num_users: int = 1000
    num_items: int = 1500
    num_interactions: int = 40000
    data_seed: int = 0

    def __post_init__(self) -> None:
        check_choice("data.split", self.split, ("random", "time"))
        check_number("data.test_fraction", self.test_fraction, 0, 0.9)
        check_number("data.val_fraction", self.val_fraction, 0, 0.9)
        check_number("data.split_seed", self.split_seed, 0, integer=True)
        check_number("data.data_seed", self.data_seed, 0, integer=True)
        for name in ("num_users", "num_items", "num_interactions"):
            check_number(f"data.{name}", getattr(self, name), 1, integer=True)
        if self.min_rating is not None:
            check_number("data.min_rating", self.min_rating)

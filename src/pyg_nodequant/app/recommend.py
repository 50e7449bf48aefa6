r"""`nodequant recommend`: asks a packed file, without torch."""

from __future__ import annotations

import json
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, Optional

import numpy as np

from pyg_nodequant.app.arguments import ArgumentParser, UsageError, integer
from pyg_nodequant.app.id_files import read_ids
from pyg_nodequant.app.output_files import check_output, write_table
from pyg_nodequant.app.runs import packed_path
from pyg_nodequant.app.tables import format_table, printable
from pyg_nodequant.runtime import PackedRecommender
from pyg_nodequant.runtime.catalogue import IdIndex

USERS_AT_ONCE = 1024
COLUMNS = ("user_id", "rank", "item_id", "score", "title")

EPILOG = """\
examples:
  nodequant recommend model.nq --user 42
  nodequant recommend model.nq --user 42 7 -k 5 --json
  nodequant recommend model.nq --users-file users.txt --output lists.csv

An id that begins with a dash is written --user=-7. A file of ids is plain
text with one id a line, or a table (.csv, .tsv, .parquet) with a header,
whose column 'user_id' or 'item_id' is read, else its first column.
"""


class Row(NamedTuple):
    r"""One recommended item."""

    user_id: Any
    rank: int
    item_id: Any
    score: float
    title: str


def parse(argv: Sequence[str]) -> Namespace:
    r"""Returns the parsed arguments."""
    parser = ArgumentParser(
        "nodequant recommend",
        "Prints what users should see, from a packed file.",
        EPILOG,
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="a packed file or a run directory")
    add("--user", nargs="+", action="extend", default=[], metavar="ID",
        help="a user, or several")
    add("--users-file", metavar="IN", help="a file of users")
    add("-k", type=integer, default=20, metavar="K",
        help="how many items a user gets (default: 20)")
    add("--include-seen", action="store_true",
        help="also items that the user has seen")
    add("--items-file", metavar="FILE",
        help="a file of the items that may be recommended (default: all)")
    add("--json", action="store_true", help="print JSON instead of tables")
    add("--output", metavar="OUT",
        help="write a table to this file, .csv or .parquet")
    options = parser.parse_args(argv)
    if not options.user and options.users_file is None:
        raise UsageError("no user given: add --user ID or --users-file FILE")
    if options.json and options.output is not None:
        raise UsageError("'--json' is for the terminal, '--output' needs to "
                         "be a .csv or .parquet file: leave one out")
    return options


def run(argv: Sequence[str]) -> int:
    r"""Runs `nodequant recommend`."""
    options = parse(argv)
    if options.output is not None:
        check_output(options.output)
    recommender = PackedRecommender.open(packed_path(options.file))
    catalogue = recommender.catalogue
    if not options.include_seen and (catalogue is None
                                     or catalogue.seen is None):
        raise ValueError(f"'{options.file}' holds no lists of what users have "
                         f"seen, as a bare file: add --include-seen")
    users: list[Any] = list(options.user)
    if options.users_file is not None:
        users += read_ids(options.users_file, "user_id")
    known = (IdIndex(np.arange(recommender.num_users), "user")
             if catalogue is None else catalogue.users)
    # The ids as they are, not as they were typed.
    users = known.take(known.rows(users)).tolist()
    allow = None
    if options.items_file is not None:
        allow = read_ids(options.items_file, "item_id")

    batches = recommend_in_batches(recommender, users, options.k, allow,
                                   include_seen=options.include_seen)
    if options.output is not None:
        write_table(options.output, COLUMNS,
                    ([row for rows in batch for row in rows]
                     for batch in batches))
        print(f"{options.output}: recommendations for {len(users):,} users")
        return 0
    lists = [rows for batch in batches for rows in batch]
    if options.json:
        print(as_json(options, users, lists))
    else:
        for user, rows in zip(users, lists, strict=True):
            print(as_text(user, rows))
    return 0


def recommend_in_batches(
    recommender: PackedRecommender,
    users: Sequence[Any],
    k: int,
    allow: Optional[Sequence[Any]] = None,
    *,
    include_seen: bool = False,
) -> Iterator[list[list[Row]]]:
    r"""Yields the lists of some users at a time."""
    catalogue = recommender.catalogue
    for start in range(0, len(users), USERS_AT_ONCE):
        some = users[start:start + USERS_AT_ONCE]
        scores, ids = recommender.recommend(
            some, k, exclude_seen=not include_seen, allow=allow)
        batch = []
        for user, user_scores, user_ids in zip(some, scores, ids,
                                               strict=True):
            # A list is shorter than k where few items are left.
            found = np.isfinite(user_scores)
            items = user_ids[found].tolist()
            titles = ([""] * len(items) if catalogue is None else
                      catalogue.titles(items))
            batch.append([
                Row(user, rank, item, float(score), title)
                for rank, (item, score, title) in enumerate(
                    zip(items, user_scores[found], titles, strict=True), 1)
            ])
        yield batch


def as_json(
    options: Namespace,
    users: Sequence[Any],
    lists: Sequence[Sequence[Row]],
) -> str:
    r"""Returns the lists as one JSON document."""
    return json.dumps({
        "file": options.file,
        "k": options.k,
        "users": [{
            "user_id": user,
            "items": [{
                "item_id": row.item_id,
                "score": row.score,
                **({"title": row.title} if row.title else {}),
            } for row in rows],
        } for user, rows in zip(users, lists, strict=True)],
    }, indent=2, ensure_ascii=False)


def as_text(user: Any, rows: Sequence[Row]) -> str:
    r"""Returns the list of one user as a table.

    Example:
        >>> print(as_text(7, [Row(7, 1, 50, 2.5, "Star Wars")]))
        user 7
        rank  item   score  title
           1    50  2.5000  Star Wars
        <BLANKLINE>
    """
    head = printable(f"user {user}")
    if not rows:
        return f"{head}: no item is left to recommend\n"
    titled = any(row.title for row in rows)
    headers = ["rank", "item", "score", *(["title"] if titled else [])]
    cells = [[str(row.rank), str(row.item_id), f"{row.score:.4f}",
              *([row.title] if titled else [])] for row in rows]
    return f"{head}\n{format_table(headers, cells, left=(3, ))}\n"

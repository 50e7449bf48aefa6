r"""Measures folded-in rows against trained ones: Recall@20 on the test set.

A run of ``nodequant train`` is opened, and

- every user's row is replaced by the one folded in from the items it was
  trained on, as floats and as it would be appended, in the codes of the
  table;
- a tenth of the items (seeded) is removed and folded in from the users it was
  trained on.

The rows that are there were trained together with those interactions. For a
stricter measure, ``--write-cold FILE`` writes the train and validation
interactions of nine tenths of the users and of the items; train on them, and
``--cold RUN`` folds the others in, which that model has never seen.

.. code-block:: console

    nodequant train data=lastfm trainer.max_epochs=300 \
        quant.finetune_steps=200 hydra.run.dir=runs/lastfm
    python benchmarks/bench_fold_in.py runs/lastfm --write-cold cold.csv
    nodequant train data=csv data.path=cold.csv data.user_column=user \
        data.item_column=item data.test_fraction=0.02 trainer.max_epochs=300 \
        quant.finetune_steps=200 hydra.run.dir=runs/cold
    python benchmarks/bench_fold_in.py runs/lastfm --cold runs/cold
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from pyg_nodequant.app.evaluate import data_config, was_refitted
from pyg_nodequant.data import Interactions, load_interactions
from pyg_nodequant.runtime import FloatTable, PackedRecommender

K = 20


def lists_of(csr, rows):
    return [csr[1][csr[0][row]:csr[0][row + 1]] for row in rows]


def transpose(csr, num_cols):
    rows = np.repeat(np.arange(len(csr[0]) - 1), np.diff(csr[0]))
    order = np.argsort(csr[1], kind="stable")
    counts = np.bincount(csr[1], minlength=num_cols)
    return np.concatenate([[0], np.cumsum(counts)]), rows[order]


def known_lists(run: Path, data: Interactions):
    """The items of each user that a run was trained on."""
    refitted = was_refitted(run / "model.nq")
    return data.csr("train", "val") if refitted else data.csr("train")


def recall(users, items, data: Interactions, of=None, allow=None,
           wanted=None) -> float:
    """Recall@20 of users with test items, from rows.

    Only users `of` count, only items `allow` are ranked, and only test items
    `wanted` are looked for.
    """
    rows = np.arange(data.num_users) if of is None else of
    parts = lists_of(data.csr("train", "val"), rows)
    exclude = np.cumsum([0, *map(len, parts)]), np.concatenate(parts)
    found = items.topk((users, rows), K, exclude, allow)[1]
    values = []
    for top, labels in zip(found, lists_of(data.csr("test"), rows)):
        if wanted is not None:
            labels = labels[np.isin(labels, wanted)]
        if len(labels):
            values.append(np.isin(labels, top).sum() / len(labels))
    return float(np.mean(values))


def show(what: str, *values: float) -> None:
    print(f"  {what:38s}" + "".join(f" {value:.4f}" for value in values))


def with_rows(table, places, rows) -> FloatTable:
    out = table.dequantize()
    out[places] = rows
    return FloatTable(out)


def spread(num: int, part: int, seed: int):
    return np.sort(np.random.default_rng(seed).permutation(num)[:num // part])


def measure(run: Path, data: Interactions, seed: int) -> None:
    one = PackedRecommender.open(run / "model.nq")
    known = known_lists(run, data)
    back = transpose(known, data.num_items)
    users = FloatTable(one.users.dequantize())
    items = FloatTable(one.items.dequantize())
    user_ids, item_ids = one.catalogue.user_ids, one.catalogue.item_ids
    print(f"{run}: Recall@{K} on the test set")
    print(" every user")
    show("trained rows", recall(users, items, data))
    some = np.flatnonzero(np.diff(known[0]))
    part = 1 / np.sqrt(np.maximum(np.diff(back[0]), 1))[:, None]
    rows = np.stack([(part[one] * items.rows[one]).sum(axis=0)
                     for one in lists_of(known, some)])
    show("sums of x_i / sqrt(d_i), as floats",
         recall(with_rows(users, some, rows), items, data))
    lists = [item_ids[part] for part in lists_of(known, some)]
    rows = np.stack([one.fold_in(part) for part in lists])
    show("folded in, as floats",
         recall(with_rows(one.users, some, rows), items, data))
    strings = one.catalogue.users.are_strings
    one.append_users([f"new {row}" if strings else int(row) - 2**40
                      for row in some], lists)
    rows = one.users.dequantize(np.arange(len(some)) + data.num_users)
    show("folded in, in the codes of the table",
         recall(with_rows(users, some, rows), items, data))

    one = PackedRecommender.open(run / "model.nq")
    gone = spread(data.num_items, 10, seed)
    new = gone[np.diff(back[0])[gone] > 0]
    rest = np.setdiff1d(np.arange(data.num_items), gone)
    every = np.union1d(rest, new)
    print(" a tenth of the items; for test items of all, and of those alone")
    show("trained rows", recall(users, items, data),
         recall(users, items, data, wanted=gone))
    show("left out", recall(users, items, data, allow=rest))
    one.remove(item_ids=item_ids[gone])
    lists = [user_ids[part] for part in lists_of(back, new)]
    rows = np.stack([one.fold_in_item(part) for part in lists])
    one.append_items(item_ids[new], lists)
    coded = one.items.dequantize(np.arange(len(new)) + data.num_items)
    for what, new_rows in (("folded in, as floats", rows),
                           ("folded in, in the codes of the table", coded)):
        folded = with_rows(items, new, new_rows)
        show(what, recall(users, folded, data, allow=every),
             recall(users, folded, data, allow=every, wanted=gone))


def cold_rows(data: Interactions, seed: int):
    return (spread(data.num_users, 10, seed),
            spread(data.num_items, 10, seed + 1))


def write_cold(path: Path, data: Interactions, seed: int) -> None:
    users, items = cold_rows(data, seed)
    indptr, indices = data.csr("train", "val")
    rows = np.repeat(np.arange(data.num_users), np.diff(indptr))
    kept = ~np.isin(rows, users) & ~np.isin(indices, items)
    with path.open("w") as file:
        file.write("user,item\n")
        file.writelines(f"{u},{i}\n" for u, i in zip(rows[kept],
                                                     indices[kept]))


def measure_cold(run: Path, cold: Path, data: Interactions,
                 seed: int) -> None:
    full = PackedRecommender.open(run / "model.nq")
    one = PackedRecommender.open(cold / "model.nq")
    # The ids of the cold model are the row numbers of the data.
    warm_users, warm_items = one.catalogue.user_ids, one.catalogue.item_ids
    users, items = cold_rows(data, seed)
    known = known_lists(run, data)
    back = transpose(known, data.num_items)
    x = np.zeros((data.num_users, one.dim), dtype=np.float32)
    y = np.zeros((data.num_items, one.dim), dtype=np.float32)
    x[warm_users] = one.users.dequantize()
    y[warm_items] = one.items.dequantize()
    for user, part in zip(users, lists_of(known, users)):
        part = part[np.isin(part, warm_items)]
        if len(part):
            x[user] = one.fold_in(part)
    new = []
    for item, part in zip(items, lists_of(back, items)):
        part = part[np.isin(part, warm_users)]
        if len(part):
            y[item] = one.fold_in_item(part)
            new.append(item)
    every = np.union1d(warm_items, new)
    x, y = FloatTable(x), FloatTable(y)
    trained = FloatTable(full.users.dequantize()), FloatTable(
        full.items.dequantize())
    print(f"{cold}: Recall@{K} on the test set of {run}")
    print(" a tenth of the users, never seen in training; known items alone")
    show("rows trained with them",
         recall(*trained, data, users, warm_items, warm_items))
    show("folded in", recall(x, y, data, users, warm_items, warm_items))
    print(" a tenth of the items, likewise; known users alone, for test "
          "items of all, and of those alone")
    show("rows trained with them", recall(*trained, data, warm_users),
         recall(*trained, data, warm_users, None, items))
    show("left out", recall(x, y, data, warm_users, warm_items))
    show("folded in", recall(x, y, data, warm_users, every),
         recall(x, y, data, warm_users, every, items))


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Measures folded-in rows against trained ones.")
    parser.add_argument("run", type=Path, nargs="+",
                        help="directories of runs of nodequant train")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--write-cold", type=Path, metavar="FILE")
    parser.add_argument("--cold", type=Path, metavar="RUN")
    args = parser.parse_args()
    for run in args.run:
        data = load_interactions(data_config(run / "model.nq", [], None))
        if args.write_cold is not None:
            write_cold(args.write_cold, data, args.seed)
        elif args.cold is not None:
            measure_cold(run, args.cold, data, args.seed)
        else:
            measure(run, data, args.seed)


if __name__ == "__main__":
    main()

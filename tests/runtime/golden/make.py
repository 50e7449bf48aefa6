"""Made the files of this folder, once: they stay as they are.

version1.nq holds packed rows of all kinds and a catalogue of strings,
version1-graph.nq float rows, rows of one scale, a graph and integer ids. The
tests read the files and never run this script. It is kept to tell what is in
them; run it with the folder to write to.
"""

import json
import sys
from pathlib import Path

import numpy as np

from pyg_nodequant.runtime import (
    Catalogue,
    FloatTable,
    PackedGraph,
    PackedRecommender,
    PackedTable,
    RowClasses,
)

NUM_USERS, NUM_ITEMS, DIM = 70, 20, 7
ANSWERED = [0, 1, 2, 5, 6, 33, 64, 69]


def mixed(shape, below):
    # Numbers without a pattern, the same on every machine.
    n = np.arange(np.prod(shape)).reshape(shape)
    return (n * 7919 + n * n * 104729) // 31 % 1009 % below


def users():
    # One class has more than one block of 64 rows.
    widths = np.full(NUM_USERS, 3)
    widths[[2, 5, 33, 69]] = [0, 1, 5, 8]
    codes = mixed((NUM_USERS, DIM), 2 ** widths[:, None])
    scale = 1 / (1 + mixed(NUM_USERS, 61))
    scale[6] = 0
    return PackedTable.from_codes(
        codes, widths, scale=scale, centered=True, scale_dtype="log8"
    )


def items():
    classes = RowClasses(
        widths=[[2, 0, 4, 1, 8, 3, 2], [1] * DIM, [0, 5, 0, 7, 0, 6, 0]],
        steps=[[0.1], [-2.0], [0.5]],
        offsets=mixed((3, DIM), 9) / 4 - 1,
        uses_offset=mixed((3, DIM), 2),
    )
    class_ids = mixed(NUM_ITEMS, 3)
    levels = 2 ** classes.widths[class_ids].astype(int)
    return PackedTable.from_classes(
        mixed((NUM_ITEMS, DIM), levels),
        class_ids,
        classes,
        scale=(1 + mixed(NUM_ITEMS, 50)) / 64,
        offset=(mixed(NUM_ITEMS, 41) - 20) / 16,
    )


def model():
    sizes = mixed(NUM_USERS, 4)
    lists = [
        sorted({(u * 3 + j * j) % NUM_ITEMS for j in range(size)})
        for u, size in enumerate(sizes)
    ]
    indptr = np.cumsum([0] + [len(x) for x in lists])
    titles = [f"Title {i}" * (i % 4 > 0) for i in range(NUM_ITEMS)]
    titles[1:4] = ["Amélie", "七人の侍 (1954)", "🎬\0\ud800"]
    catalogue = Catalogue(
        [f"{'aé日🙂'[u % 4]}{u}" for u in range(NUM_USERS)],
        [f"{'iß映'[i % 3]}-{i}" for i in range(NUM_ITEMS)],
        titles,
        (indptr, np.array(sum(lists, []))),
    )
    metadata = {"made by": "tests/runtime/golden/make.py", "ü": [1, None]}
    return PackedRecommender(
        users(), items(), catalogue=catalogue, metadata=metadata
    )


def graph_model():
    users = FloatTable((mixed((9, DIM), 801) - 400) / 128)
    items = PackedTable.from_codes(
        mixed((NUM_ITEMS, DIM), 4), [2] * NUM_ITEMS,
        scale=[0.375] * NUM_ITEMS, centered=True, scale_dtype="float32")
    lists = [sorted({(u * 5 + j * 3) % NUM_ITEMS for j in range(1 + u % 4)})
             for u in range(9)]
    lists[4] = []
    indptr = np.cumsum([0] + [len(x) for x in lists])
    graph = PackedGraph(indptr, np.array(sum(lists, [])), NUM_ITEMS,
                        num_layers=2)
    catalogue = Catalogue(np.arange(9) * 1000 - 4, np.arange(NUM_ITEMS)[::-1])
    return PackedRecommender(users, items, graph=graph, catalogue=catalogue)


def graph_content(model):
    return {
        "users": hexadecimal(model.users.dequantize()),
        "items": hexadecimal(model.items.dequantize()),
        "served_users": hexadecimal(model.served_users.dequantize()),
        "served_items": hexadecimal(model.served_items.dequantize()),
        "user_ids": model.catalogue.user_ids.tolist(),
        "item_ids": model.catalogue.item_ids.tolist(),
        "graph": [part.tolist() for part in (model.graph.indptr,
                                             model.graph.indices)],
    }


def write(folder, name, model, content):
    model.save(folder / f"{name}.nq")
    lines = [
        f"{json.dumps(name)}: {json.dumps(value)}"
        for name, value in content(model).items()
    ]
    text = "{\n" + ",\n".join(lines) + "\n}\n"
    (folder / f"{name}.json").write_text(text, encoding="ascii")


def hexadecimal(rows):
    return [[float(x).hex() for x in row] for row in rows]


def content(model):
    ids = model.catalogue.user_ids[ANSWERED].tolist()
    scores, best = model.recommend(ids, k=5)
    indptr, indices = model.catalogue.seen
    return {
        "users": hexadecimal(model.users.dequantize()),
        "items": hexadecimal(model.items.dequantize()),
        "user_ids": model.catalogue.user_ids.tolist(),
        "item_ids": model.catalogue.item_ids.tolist(),
        "titles": model.catalogue.titles(model.catalogue.item_ids),
        "seen": [
            indices[a:b].tolist() for a, b in zip(indptr, indptr[1:].tolist())
        ],
        "metadata": model.metadata,
        "topk": {
            "user_ids": ids,
            "scores": hexadecimal(scores),
            "item_ids": best.tolist(),
        },
    }


if __name__ == "__main__":
    write(Path(sys.argv[1]), "version1", model(), content)
    write(Path(sys.argv[1]), "version1-graph", graph_model(), graph_content)

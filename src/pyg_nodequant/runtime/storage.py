r"""What a recommender costs on disk, part by part."""

from __future__ import annotations

from typing import Any

import numpy as np

from pyg_nodequant.runtime.file_format import encode_container

Array = np.ndarray[Any, Any]
Content = tuple[dict[str, str], dict[str, Array]]

_EMBEDDING_PARTS = {
    "codes": "codes", "scale": "scales", "log": "scales", "log4": "scales",
    "offset": "offsets", "class": "class_ids", "classes": "class_tables",
    "rows": "float_rows", "degree": "graph", "item": "graph",
}  # yapf: disable
_CATALOGUE_PARTS = {
    "c.user": "ids", "c.user.size": "ids", "c.item": "ids",
    "c.item.size": "ids", "c.title": "titles", "c.title.size": "titles",
    "c.seen.degree": "seen", "c.seen.item": "seen", "c.metadata": "metadata",
}  # yapf: disable


def measure_storage(kind: str, bare: Content, full: Content, num_nodes: int,
                    total_width: float) -> dict[str, Any]:
    r"""Returns what
    :meth:`~pyg_nodequant.runtime.PackedRecommender.storage` does.

    Args:
        kind (str): What the file holds.
        bare (tuple): The fields and arrays of the bare file.
        full (tuple): Those of the whole file.
        num_nodes (int): The number of users and items.
        total_width (float): The sum of their mean widths.
    """
    parts = dict.fromkeys([
        "header", *_EMBEDDING_PARTS.values(), "catalogue_header",
        *_CATALOGUE_PARTS.values()
    ], 0)
    parts["header"] = len(encode_container(kind, *bare)[0])
    parts["catalogue_header"] = (len(encode_container(kind, *full)[0]) -
                                 parts["header"])
    for name, array in bare[1].items():
        parts[_EMBEDDING_PARTS[name.split(".")[1]]] += array.nbytes
    embedding_bytes = sum(parts.values()) - parts["catalogue_header"]
    for name, array in full[1].items():
        if name not in bare[1]:
            parts[_CATALOGUE_PARTS[name]] += array.nbytes
    bytes_per_node = embedding_bytes / max(num_nodes, 1)
    return {
        "file_bytes": sum(parts.values()),
        "embedding_bytes": embedding_bytes,
        "float_bytes": 256 * num_nodes,
        "bytes_per_node": bytes_per_node,
        "bits_per_parameter": 8 * bytes_per_node / 64,
        "compression_ratio": 256 * num_nodes / embedding_bytes,
        "mean_bit_width": total_width / max(num_nodes, 1),
        "num_nodes": num_nodes,
        "parts": parts,
    }

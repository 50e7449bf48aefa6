r"""A run directory, or a packed file, as a command takes it."""

from __future__ import annotations

from pathlib import Path

PACKED_NAME = "model.nq"


def packed_path(path: str) -> Path:
    r"""Returns the packed file at :obj:`path`, or in that run directory.

    Raises:
        ValueError: If a folder holds none.
        FileNotFoundError: If there is neither.
    """
    found = Path(path)
    if found.is_dir():
        if not (found / PACKED_NAME).is_file():
            raise ValueError(f"'{path}' is no run directory: it needs to "
                             f"hold {PACKED_NAME}")
        return found / PACKED_NAME
    if not found.exists():
        raise FileNotFoundError(f"no such packed file or run directory: "
                                f"'{path}'")
    return found

r"""Writing a file so that no reader ever sees half of it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Union

PathLike = Union[str, "os.PathLike[str]"]


def write_atomic(path: PathLike, chunks: Iterable[Any]) -> None:
    r"""Writes bytes beside :obj:`path`, then renames them into its place.

    What was at :obj:`path` stays whole until the new file is on the disk, and
    nothing is left behind if writing fails.

    Args:
        path (str or PathLike): The file to write.
        chunks (iterable): Its content, as bytes-like objects.

    Raises:
        OSError: If the folder cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write_atomic(folder / "a.txt", [b"one ", b"two"])
        >>> (folder / "a.txt").read_bytes()
        b'one two'
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(6)}.part")
    # Unlike tempfile's, this file gets the permissions of any new file.
    handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL
                     | getattr(os, "O_BINARY", 0), 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            for chunk in chunks:
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    # Makes the rename durable, where folders can be opened (not on Windows).
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

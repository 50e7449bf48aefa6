"""Opening input files with one clear sentence when that fails."""

from __future__ import annotations

from pathlib import Path
from typing import Union

from pyg_nodequant.data.errors import DataError

PathLike = Union[str, Path]


def existing_file(path: PathLike) -> Path:
    r"""Returns :obj:`path` if it is a file.

    Raises:
        DataError: If it does not exist or is a folder.
    """
    path = Path(path)
    if path.is_dir():
        raise DataError(f"'{path}' is a folder, but a file is needed")
    if not path.is_file():
        raise DataError(f"the file '{path}' does not exist")
    return path


def existing_folder(path: PathLike) -> Path:
    r"""Returns :obj:`path` if it is a folder.

    Raises:
        DataError: If it does not exist or is a file.
    """
    path = Path(path)
    if path.is_file():
        raise DataError(f"'{path}' is a file, but a folder is needed")
    if not path.is_dir():
        raise DataError(f"the folder '{path}' does not exist")
    return path


def read_bytes(path: PathLike) -> bytes:
    r"""Returns the content of a file.

    Raises:
        DataError: If it cannot be read.
    """
    path = existing_file(path)
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"the file '{path}' cannot be read "
                        f"({error.strerror})") from error


def check_utf8(path: PathLike, content: bytes) -> str:
    r"""Returns the text of a file, without a byte order mark.

    Raises:
        DataError: If it is not UTF-8; the line is named.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # error.start counts from after the mark, if there was one.
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(f"'{path}', line {line}: not UTF-8 text (convert the "
                        f"file to UTF-8)") from error

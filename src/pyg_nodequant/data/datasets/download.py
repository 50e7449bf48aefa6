"""Fetching files over HTTPS: bounded in size, whole or not at all."""

from __future__ import annotations

import http.client
import os
import secrets
import urllib.request
import zipfile
import zlib
from pathlib import Path
from typing import IO, Iterable

from pyg_nodequant.data.errors import DataError

_CHUNK = 1 << 20
_TIMEOUT = 30.0  # seconds without an answer


def fetch(url: str, target: Path, max_bytes: int) -> None:
    r"""Downloads a file; :obj:`target` appears when it is complete.

    Args:
        url (str): Where the file is; HTTPS only.
        target (Path): Where it goes; its folder is made.
        max_bytes (int): The largest size that is accepted.

    Raises:
        DataError: If the address cannot be reached, sends too much or too
            little, or :obj:`target` cannot be written.
    """
    if not url.startswith("https://"):
        raise DataError(f"only https:// addresses are fetched (got {url})")
    try:
        with urllib.request.urlopen(url, timeout=_TIMEOUT) as answer:
            if not answer.geturl().startswith("https://"):
                raise DataError(f"{url} leads to an address that is not "
                                f"https:// ({answer.geturl()})")
            expected = answer.headers.get("Content-Length")
            size = _write(answer, target, max_bytes, url,
                          None if expected is None else int(expected))
    except (OSError, http.client.HTTPException, ValueError) as error:
        if isinstance(error, DataError):
            raise
        reason = getattr(error, "reason", None) or error
        raise DataError(f"{url} could not be fetched to '{target}' "
                        f"({reason})") from error
    if size == 0:
        target.unlink()
        raise DataError(f"{url} sent an empty file")


def _write(source: IO[bytes], target: Path, max_bytes: int, url: str,
           expected: int | None) -> int:
    target.parent.mkdir(parents=True, exist_ok=True)
    # Unlike tempfile's, this file gets the permissions of any new file.
    partial = target.with_name(f"{target.name}.{secrets.token_hex(6)}.part")
    size = 0
    try:
        with partial.open("xb") as file:
            while chunk := source.read(_CHUNK):
                size += len(chunk)
                if size > max_bytes:
                    raise DataError(f"{url} sent more than the {max_bytes} "
                                    f"bytes that are allowed")
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        if expected is not None and size != expected:
            raise DataError(f"{url} sent {size} of {expected} bytes")
        os.replace(partial, target)
    finally:
        partial.unlink(missing_ok=True)
    return size


def unzip(archive: Path, names: Iterable[str], target: Path,
          max_bytes: int) -> None:
    r"""Takes named files out of a ZIP archive, into one folder.

    Args:
        archive (Path): The archive.
        names (Iterable[str]): The files wanted, by their last name; which
            folder of the archive they are in does not matter.
        target (Path): The folder that they go to.
        max_bytes (int): The largest size of a file that is accepted.

    Raises:
        DataError: If the archive is broken, a file is absent or too large.
    """
    try:
        with zipfile.ZipFile(archive) as source:
            members = {info.filename.rpartition("/")[2]: info
                       for info in source.infolist()}
            for name in names:
                if name not in members:
                    raise DataError(f"'{archive}' holds no {name}")
                with source.open(members[name]) as file:
                    _write(file, target / name, max_bytes, name, None)
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError,
            RuntimeError) as error:  # the last for encrypted or unknown forms
        raise DataError(f"'{archive}' could not be unpacked "
                        f"({error})") from error

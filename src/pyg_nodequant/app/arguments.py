r"""Argument parsing that answers a mistake in one line."""

from __future__ import annotations

import argparse
from typing import NoReturn


class UsageError(ValueError):
    r"""A command line that cannot be understood."""


class ArgumentParser(argparse.ArgumentParser):
    r"""An :class:`argparse.ArgumentParser` that raises :class:`UsageError`
    where the original prints its usage and exits.
    """

    def __init__(self, prog: str, description: str, epilog: str = "") -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )

    def error(self, message: str) -> NoReturn:
        """Raises :class:`UsageError`."""
        raise UsageError(f"{message} (see '{self.prog} --help')")


def integer(text: str) -> int:
    r"""Reads an integer argument."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"needs to be an integer (got '{text}')") from None

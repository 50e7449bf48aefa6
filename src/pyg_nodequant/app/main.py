r"""The command `nodequant`: finds the subcommand and runs it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import Optional

from pyg_nodequant import __version__
from pyg_nodequant.app.arguments import UsageError
from pyg_nodequant.app.errors import guarded

# A subcommand is the function run(argv) of the module of its name here. It is
# imported when it is asked for: serving must not wait for torch, or need it.
COMMANDS = {
    "train": "train a model, measure it and pack it",
    "evaluate": "measure a packed file on a data set",
    "export": "write the packed file of a run, whole or bare",
    "recommend": "print recommendations from a packed file",
    "inspect": "show the sizes and widths of a packed file",
    "bench": "measure how fast a packed file answers",
}


def usage() -> str:
    r"""Returns the text of `nodequant --help`."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join([
        "usage: nodequant COMMAND [ARGUMENTS]",
        "",
        "Node-aware quantized recommenders: train, pack, recommend.",
        "",
        "commands:",
        *lines,
        "",
        "  nodequant COMMAND --help   what a command takes",
        "  nodequant --version        the version",
        "  --debug                    with any command: tracebacks of errors",
    ])


def dispatch(argv: Sequence[str]) -> int:
    r"""Runs the subcommand that :obj:`argv` begins with."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(usage())
        return 0
    if argv[0] in ("-V", "--version"):
        print(f"nodequant {__version__}")
        return 0
    name = argv[0]
    if name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise UsageError(f"unknown command '{name}', it needs to be one of "
                         f"{', '.join(COMMANDS)}{hint}")
    code: int = import_module(f".{name}", __package__).run(list(argv[1:]))
    return code


def main(argv: Optional[Sequence[str]] = None) -> int:
    r"""Runs `nodequant` and returns its exit code.

    Args:
        argv (list, optional): The arguments after `nodequant`.
            (default: those of the process)

    Example:
        >>> main(["--version"])
        nodequant 0.1.0
        0
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    debug = "--debug" in arguments
    arguments = [a for a in arguments if a != "--debug"]

    def command() -> int:
        try:
            return dispatch(arguments)
        except SystemExit as stop:  # argparse ends --help this way
            return stop.code if isinstance(stop.code, int) else 1

    return guarded(command, debug=debug)


if __name__ == "__main__":
    sys.exit(main())

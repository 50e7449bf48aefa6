r"""What a person sees when a command cannot do what was asked."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable

from pyg_nodequant.app.tables import printable

USER_ERRORS = (ValueError, OSError, ImportError, MemoryError)
r"""Errors that a different input, file or installation would avoid."""

EXIT_USER_ERROR = 2
EXIT_BUG = 1
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

# What `pip install` calls the packages that a command may miss.
PACKAGES = {
    "hydra": "hydra-core",
    "tensorboard": "pyg-nodequant[loggers]",
    "matplotlib": "pyg-nodequant[plots]",
    "faiss": "pyg-nodequant[faiss]",
}


def describe(error: BaseException) -> str:
    r"""Returns one line that tells what is wrong.

    Example:
        >>> describe(ValueError("'k' needs to be\n  at least 1 (got 0)"))
        "'k' needs to be at least 1 (got 0)"
        >>> describe(FileNotFoundError(2, "No such file or directory", "a"))
        "no such file or directory: 'a'"
    """
    if isinstance(error, MemoryError):
        text = f"out of memory {error}"
    elif isinstance(error, ModuleNotFoundError) and error.name:
        package = error.name.partition(".")[0]
        text = (f"this needs the package '{package}', which is not installed "
                f"(pip install {PACKAGES.get(package, package)})")
    elif isinstance(error, OSError) and error.strerror:
        text = error.strerror[:1].lower() + error.strerror[1:]
        if error.filename is not None:
            text += f": '{os.fsdecode(error.filename)}'"
    else:
        text = str(error) or type(error).__name__
    return printable(" ".join(text.split()))


def print_error(error: BaseException) -> None:
    r"""Prints the one line of an error on stderr."""
    print(f"nodequant: error: {describe(error)}", file=sys.stderr)


def is_own_bug(error: BaseException) -> bool:
    r"""Whether the error is a broken import of our own."""
    return (isinstance(error, ImportError)
            and (error.name or "").partition(".")[0] == "pyg_nodequant")


def guarded(command: Callable[[], int], *, debug: bool = False) -> int:
    r"""Runs a command and returns its exit code.

    A :obj:`USER_ERRORS` becomes one line on stderr and code 2. Anything else
    is our mistake and keeps its traceback, as everything does with
    :obj:`debug`.
    """
    try:
        code = command()
        if sys.stdout is not None:  # it is None where it was closed
            sys.stdout.flush()
        return code
    except KeyboardInterrupt:
        print("\nnodequant: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # The reader (`head`) has gone; what is still buffered must not
        # raise again when the interpreter flushes it at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    except USER_ERRORS as error:
        own_bug = is_own_bug(error)
        if debug or own_bug:
            traceback.print_exc()
        if own_bug:
            return EXIT_BUG
        print_error(error)
        return EXIT_USER_ERROR

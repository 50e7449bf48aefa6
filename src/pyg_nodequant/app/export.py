r"""`nodequant export`: writes a packed file, whole or bare."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pyg_nodequant.app.arguments import ArgumentParser
from pyg_nodequant.app.results import storage_lines
from pyg_nodequant.app.runs import packed_path
from pyg_nodequant.app.tables import format_bytes, format_table
from pyg_nodequant.runtime import PackedRecommender

EPILOG = """\
The whole file answers by original ids; the bare file holds only what scoring
by row number needs: no ids, titles and lists of seen items.
"""


def run(argv: Sequence[str]) -> int:
    r"""Runs `nodequant export`."""
    parser = ArgumentParser(
        "nodequant export",
        "Writes the packed file of a run, whole or bare.",
        EPILOG,
    )
    parser.add_argument("source", metavar="RUN_OR_FILE",
                        help="a run directory or a packed file")
    parser.add_argument("--bare", action="store_true",
                        help="only the embedding part")
    parser.add_argument("--output", metavar="PATH",
                        help="the file to write (default: the name of the "
                        "run or file, in the current folder)")
    options = parser.parse_args(argv)
    source = packed_path(options.source)
    target = Path(options.output or default_name(options.source, options.bare))
    if target.is_dir():
        raise ValueError(f"'--output' needs to be a file (got the folder "
                         f"'{target}')")
    if target.exists() and target.samefile(source):
        raise ValueError(f"'--output' needs to differ from the file that is "
                         f"exported (got '{target}')")
    if not target.absolute().parent.is_dir():
        raise ValueError(f"'--output' needs to be in an existing folder "
                         f"(got '{target}')")

    recommender = PackedRecommender.open(source)
    if recommender.catalogue is None and not options.bare:
        raise ValueError(f"'{source}' is a bare file, without the ids of a "
                         f"whole one: add --bare")
    recommender.save(target, bare=options.bare)
    size = format_bytes(target.stat().st_size)
    print(format_table(["", ""], storage_lines(recommender.storage())))
    print(f"{'bare' if options.bare else 'whole'} file: {target}, {size}")
    return 0


def default_name(source: str, bare: bool) -> str:
    r"""Returns the name that an exported file gets.

    Example:
        >>> default_name("runs/first/", True)
        'first.bare.nq'
    """
    path = Path(source).absolute()
    stem = path.name if path.is_dir() else path.name.removesuffix(".nq")
    return f"{stem}{'.bare' if bare else ''}.nq"

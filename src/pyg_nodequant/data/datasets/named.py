"""The public data sets that are known by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

from pyg_nodequant.data.assemble import assemble, compact
from pyg_nodequant.data.datasets.download import fetch, unzip
from pyg_nodequant.data.errors import DataError
from pyg_nodequant.data.interactions import Interactions
from pyg_nodequant.data.readers.files import PathLike
from pyg_nodequant.data.readers.integers import read_integer_columns
from pyg_nodequant.data.readers.lightgcn_txt import read_lightgcn_txt
from pyg_nodequant.data.readers.movielens import read_movielens

_MIB = 1 << 20
_LIGHTGCN = ("https://raw.githubusercontent.com/gusye1234/LightGCN-PyTorch/"
             "master/data/")
_MOVIELENS = "https://files.grouplens.org/datasets/movielens/"


@dataclass(frozen=True)
class Form:
    r"""One way in which a data set lies in a folder."""

    files: tuple[str, ...]  # that make the form
    reader: Callable[..., Interactions]
    label: str = ""  # added to the name where a set has several forms
    extra: tuple[str, ...] = ()  # read too, where they are


@dataclass(frozen=True)
class NamedSet:
    r"""A public data set: its folders, its forms, its home."""

    folders: tuple[str, ...]
    forms: tuple[Form, ...]
    home: str  # ends in "/" for a folder of files, in ".zip" for an archive
    public_form: Form  # the form that it has at home
    max_bytes: int = 64 * _MIB  # of a file
    has_ratings: bool = False


def read_pairs(path: PathLike, *, name: str = "pairs",
               **split: Any) -> Interactions:
    r"""Reads ``data1.txt`` (train) and ``test1.txt``, as Last.fm is published:
    a user, an item and a weight a line, ids from 1.

    The ids are kept from 0, as in the ``train.txt`` form of the same split.
    """
    parts = [read_integer_columns(Path(path) / file, 3, b"",
                                  "user item weight")[:, :2] - 1
             for file in ("data1.txt", "test1.txt")]
    if min(part.min() for part in parts) < 0:
        raise DataError(f"the ids in '{path}' need to be 1 or above (got 0)")
    user_ids, users = compact(*(part[:, 0] for part in parts))
    item_ids, items = compact(*(part[:, 1] for part in parts))
    edges = {"train": (users[0], items[0]), "test": (users[1], items[1])}
    return assemble(edges, user_ids, item_ids, name=name, **split)


_TXT = Form(("train.txt", "test.txt"), read_lightgcn_txt)
_PAIRS = Form(("data1.txt", "test1.txt"), read_pairs)
_ML_100K = Form(("u.data", ), read_movielens, extra=("u.item", ))
_ML_1M = Form(("ratings.dat", ), read_movielens, " (ratings.dat)",
              extra=("movies.dat", ))
_ML_1M_TXT = Form(("train.txt", "test.txt"), read_lightgcn_txt,
                  " (train.txt, test.txt)")

NAMED_SETS = {
    "lastfm": NamedSet(("lastfm", ), (_TXT, _PAIRS), _LIGHTGCN + "lastfm/",
                       _PAIRS),
    "gowalla": NamedSet(("gowalla", ), (_TXT, ), _LIGHTGCN + "gowalla/",
                        _TXT),
    "yelp2018": NamedSet(("yelp2018", ), (_TXT, ), _LIGHTGCN + "yelp2018/",
                         _TXT),
    "amazon_book": NamedSet(("amazon-book", "amazon_book"), (_TXT, ),
                            _LIGHTGCN + "amazon-book/", _TXT),
    "movielens_100k": NamedSet(("ml-100k", "movielens_100k"), (_ML_100K, ),
                               _MOVIELENS + "ml-100k.zip", _ML_100K,
                               has_ratings=True),
    "movielens_1m": NamedSet(("ml-1m", "movielens_1m"), (_ML_1M, _ML_1M_TXT),
                             _MOVIELENS + "ml-1m.zip", _ML_1M,
                             has_ratings=True),
}


def load_named(
    name: str,
    root: PathLike = "data",
    cache_dir: PathLike = "data_cache",
    *,
    min_rating: Optional[float] = None,
    split: str = "random",
    **fractions: Any,
) -> Interactions:
    r"""Reads a public data set, downloading it if need be.

    It is looked for under :obj:`root`, which is never written to, then under
    :obj:`cache_dir`, and else fetched from its public home into
    :obj:`cache_dir`. MovieLens 1M is read from its ``ratings.dat`` or from a
    LightGCN split, whichever there is; the name of the result says which.

    Args:
        name (str): One of :obj:`NAMED_SETS`.
        root (str or Path): The folder that holds data sets.
        cache_dir (str or Path): The folder for downloads.
        min_rating (float, optional): Lower ratings are dropped (MovieLens).
        split (str): :obj:`"random"`, or :obj:`"time"` (MovieLens).
        **fractions (optional): :obj:`test_fraction`, :obj:`val_fraction` and
            :obj:`split_seed`.

    Raises:
        DataError: If the set is not known, not there and not to be fetched.
    """
    if name not in NAMED_SETS:
        raise DataError(f"'data.name' needs to be one of "
                        f"{', '.join(NAMED_SETS)} (got '{name}')")
    known = NAMED_SETS[name]
    folder, form = _find(known, (Path(root), Path(cache_dir))) or _download(
        name, known, Path(root), Path(cache_dir))
    options: dict[str, Any] = {"name": name + form.label, **fractions}
    if form.reader is read_movielens:
        options.update(min_rating=min_rating, split=split)
    elif min_rating is not None:
        raise DataError(f"'data.min_rating' cannot be used with "
                        f"{name}{form.label}, which has no ratings")
    elif split != "random":
        raise DataError(f"'data.split' needs to be random for "
                        f"{name}{form.label}, which has no times "
                        f"(got '{split}')")
    return form.reader(folder, **options)


def _find(known: NamedSet,
          places: tuple[Path, ...]) -> Optional[tuple[Path, Form]]:
    for place in places:
        for folder in known.folders:
            for form in known.forms:
                if all((place / folder / file).is_file()
                       for file in form.files):
                    return place / folder, form
    return None


def _download(name: str, known: NamedSet, root: Path,
              cache_dir: Path) -> tuple[Path, Form]:
    folder, form = cache_dir / known.folders[0], known.public_form
    files = form.files + form.extra
    try:
        if known.home.endswith(".zip"):
            archive = folder / "download.zip"
            fetch(known.home, archive, known.max_bytes)
            try:
                # Extra files first: the set counts as there once `files` are.
                unzip(archive, reversed(files), folder, known.max_bytes)
            finally:
                archive.unlink(missing_ok=True)
        else:
            for file in files:
                fetch(known.home + file, folder / file, known.max_bytes)
    except DataError as error:
        needed = " or ".join(" and ".join(one.files) for one in known.forms)
        raise DataError(
            f"data set {name} needs {needed}, which is neither in "
            f"'{root / known.folders[0]}' nor in '{folder}', and {error}; "
            f"put the files into '{root / known.folders[0]}' by hand or set "
            f"'data.root' to the folder that holds "
            f"{known.folders[0]}/") from error
    return folder, form

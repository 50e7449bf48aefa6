r"""The history of a run: a row of numbers an evaluation, as CSV and, if
wanted, as TensorBoard scalars.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Optional, Union

from pyg_nodequant.runtime.atomic import write_atomic

FILE_NAME = "history.csv"
COLUMNS = ("stage", "epoch", "step", "loss", "mean_bits", "val_recall@20",
           "val_ndcg@20", "lr", "seconds")
LOGGERS = ("csv", "tensorboard")


class History:
    r"""Writes :obj:`history.csv` row by row, so that a run that is killed
    loses nothing.

    The header is written with the first row: :obj:`stage`, :obj:`epoch`,
    :obj:`step`, :obj:`loss`, :obj:`mean_bits`, :obj:`val_recall@20`,
    :obj:`val_ndcg@20`, :obj:`lr`, :obj:`seconds`, then the other keys of that
    row in their order. Later rows may lack columns (empty cells) and may
    bring new ones: these are appended on the right, and the file is replaced
    at once by one with the wider header.

    Args:
        run_dir (str or Path): The run directory.
        logger (str, optional): :obj:`"csv"`, or :obj:`"tensorboard"` to write
            scalars to :obj:`run_dir/tensorboard` as well, a TensorBoard run
            for every stage. (default: :obj:`"csv"`)
        resume_step (int, optional): If given, goes on with the existing
            file, without the rows that come after this step; if not, starts a
            new file with the first row. (default: :obj:`None`)
        resume_stage (str, optional): The stage of :obj:`resume_step`, for
            runs that count the steps of every stage from 0: the rows of
            earlier stages are kept, those of later ones are not.
            (default: :obj:`None`, steps are counted through the run)

    Raises:
        ValueError: If :obj:`logger` is unknown, or if the file to go on with
            is no history.
        ImportError: If TensorBoard is wanted and not installed.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder, History(folder) as history:
        ...     history.append({"stage": "float", "step": 50, "loss": 0.25})
        ...     print(history.path.read_text().splitlines()[1])
        float,,50,0.25,,,,,
    """
    def __init__(
        self,
        run_dir: Union[str, Path],
        *,
        logger: str = "csv",
        resume_step: Optional[int] = None,
        resume_stage: Optional[str] = None,
    ) -> None:
        if logger not in LOGGERS:
            raise ValueError(f"'logger' needs to be one of "
                             f"{', '.join(LOGGERS)} (got '{logger}')")
        self.path = Path(run_dir) / FILE_NAME
        self.columns: list[str] = []
        self.rows: list[dict[str, str]] = []
        self._scalars: Optional[TensorBoardScalars] = None
        if logger == "tensorboard":
            self._scalars = TensorBoardScalars(
                Path(run_dir) / "tensorboard", resume_step, resume_stage)
        if resume_step is not None and self.path.exists():
            self._read()
            self.rows = rows_until(self.rows, resume_step, resume_stage)
            self._rewrite()

    def append(self, row: Mapping[str, Any]) -> None:
        r"""Adds a row of strings, numbers (also tensors and arrays of one
        element) and :obj:`None`.
        """
        cells = {name: format_cell(value) for name, value in row.items()}
        first = not self.columns
        if first:
            self.columns = list(COLUMNS)
        new = [name for name in cells if name not in self.columns]
        self.columns += new
        self.rows.append(cells)
        if first or new:
            self._rewrite()
        else:
            with open(self.path, "a", encoding="utf-8", newline="") as file:
                file.write(self._line(cells))
        if self._scalars is not None:
            self._scalars.append(cells)

    def close(self) -> None:
        r"""Writes what TensorBoard still buffers."""
        if self._scalars is not None:
            self._scalars.close()

    def __enter__(self) -> History:
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}('{self.path}', rows={len(self)})"

    def _line(self, cells: Optional[Mapping[str, str]] = None) -> str:
        r"""A line of the file: the cells of a row, or else the header."""
        out = io.StringIO()
        csv.writer(out, lineterminator="\n").writerow(
            self.columns if cells is None else
            [cells.get(name, "") for name in self.columns])
        return out.getvalue()

    def _rewrite(self) -> None:
        text = self._line() + "".join(self._line(row) for row in self.rows)
        write_atomic(self.path, [text.encode("utf-8")])

    def _read(self) -> None:
        text = self.path.read_text(encoding="utf-8")
        # A run that was killed may have left half a line:
        text = text[:text.rfind("\n") + 1]
        table = list(csv.reader(io.StringIO(text)))
        if not table:
            return
        if not {"stage", "step"} <= set(table[0]):
            raise ValueError(f"'{self.path}' needs to have the columns "
                             f"'stage' and 'step' (got {table[0]})")
        self.columns = table[0]
        self.rows = [
            dict(zip(self.columns, line, strict=False)) for line in table[1:]
        ]


class TensorBoardScalars:
    r"""Writes rows as scalars by step, a TensorBoard run for every stage."""
    def __init__(
        self,
        folder: Path,
        resume_step: Optional[int] = None,
        resume_stage: Optional[str] = None,
    ) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise ImportError(
                "logger 'tensorboard' needs the package tensorboard: "
                'pip install "pyg-nodequant[loggers]"') from error
        self._writer = SummaryWriter
        self._writers: dict[str, Any] = {}
        self.folder = folder
        self.resume_step = resume_step
        self.resume_stage = resume_stage

    def append(self, cells: Mapping[str, str]) -> None:
        r"""Writes the numbers of a row."""
        stage = cells.get("stage", "") or "run"
        step = parse_step(cells.get("step", ""))
        if stage not in self._writers:
            self._writers[stage] = self._writer(
                str(self.folder / stage), purge_step=self.purge_step(stage))
        for name, cell in cells.items():
            if name in ("stage", "step") or cell == "":
                continue
            try:
                value = float(cell)
            except ValueError:  # text has no place in a plot
                continue
            self._writers[stage].add_scalar(name, value, step)
        self._writers[stage].flush()

    def purge_step(self, stage: str) -> Optional[int]:
        r"""The first step of the run before that no longer counts."""
        if self.resume_step is None:
            return None
        if self.resume_stage in (None, stage):
            return self.resume_step + 1
        return 0  # a later stage starts again

    def close(self) -> None:
        r"""Closes the files."""
        for writer in self._writers.values():
            writer.close()
        self._writers.clear()


def rows_until(
    rows: list[dict[str, str]],
    step: int,
    stage: Optional[str] = None,
) -> list[dict[str, str]]:
    r"""Returns the rows before the first one that comes after :obj:`step` of
    :obj:`stage`, in the order of the file.

    Example:
        >>> rows = [{"stage": "float", "step": "9"},
        ...         {"stage": "finetune", "step": "1"},
        ...         {"stage": "finetune", "step": "2"}]
        >>> len(rows_until(rows, 1, "finetune")), len(rows_until(rows, 4))
        (2, 0)
    """
    reached = False
    for i, row in enumerate(rows):
        same = stage is None or row.get("stage") == stage
        reached = reached or same
        if (same and parse_step(row.get("step", "")) > step
                or reached and not same):
            return rows[:i]
    return rows


def parse_step(cell: str) -> int:
    r"""Returns the step in a cell, 0 for an empty one."""
    try:
        return int(cell or 0)
    except ValueError as error:
        raise ValueError(f"'step' needs to be an integer "
                         f"(got '{cell}')") from error


def format_cell(value: Any) -> str:
    r"""Returns the text of a cell; floats read back bit by bit.

    Example:
        >>> [format_cell(x) for x in (None, "float", 3, 0.1, float('inf'))]
        ['', 'float', '3', '0.1', 'inf']
    """
    if hasattr(value, "item"):
        value = value.item()
    if value is None:
        return ""
    if isinstance(value, (str, bool, int)):
        return str(value)
    return repr(float(value))


__all__ = ["History"]

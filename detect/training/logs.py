"""What a run says of itself: tables as CSV files and, for TensorBoard, curves; both cut back when a run is resumed."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from detect.errors import OutputError
from detect.files import write_whole

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

STEPS, EPOCHS, VALIDATION = "steps", "epochs", "validation"


class RunLog:
    """Rows of numbers by table and step: ``steps.csv``, ``epochs.csv``, ``validation.csv``, and TensorBoard's files.

    A row is on disk when :meth:`write` returns. The first row of a table says what its columns are.

    Args:
        folder: where the files are; it is made if need be.
        from_step: rows of later steps, of a run that was cut short after its checkpoint, are taken out; 0: all rows.
        mid_epoch: the checkpoint is from before the end of an epoch, so that rows of epochs at its step are taken out of the
            tables too; TensorBoard has those points twice.
        tensorboard: whether to write for TensorBoard too.

    Raises:
        OutputError: the folder cannot be written to.
    """

    def __init__(
        self, folder: str | Path, *, from_step: int = 0, mid_epoch: bool = False, tensorboard: bool = True
    ) -> None:
        self.folder = folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for table in (STEPS, EPOCHS, VALIDATION):
                _cut_back(folder / f"{table}.csv", from_step - (mid_epoch and table != STEPS))
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from None
        self._writer = _tensorboard(folder / "tensorboard", from_step) if tensorboard else None

    def write(self, table: str, step: int, numbers: Mapping[str, float | None]) -> None:
        """Add a row; None or NaN is an empty field, and no point of a curve."""
        numbers = {name: None if value != value else value for name, value in numbers.items()}  # noqa: PLR0124
        path = self.folder / f"{table}.csv"
        is_new = not path.exists()
        row = {"step": step, **numbers}
        text = io.StringIO()
        writer = csv.DictWriter(text, list(row), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow({name: "" if value is None else value for name, value in row.items()})
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text.getvalue())
        for name, value in numbers.items() if self._writer else ():
            if value is not None and self._writer:
                self._writer.add_scalar(f"{table}/{name}", value, step)

    def close(self) -> None:
        """Finish TensorBoard's file."""
        if self._writer:
            self._writer.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_log(path: str | Path) -> list[dict[str, float]]:
    """The rows of a table; empty fields are left out."""
    with Path(path).open(encoding="utf-8", newline="") as stream:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(stream)]


def _cut_back(path: Path, from_step: int) -> None:
    """Keep the rows up to a step; a row that was cut short is of a later one."""
    if not path.exists():
        return
    header, *rows = path.read_text("utf-8").splitlines(keepends=True) or [""]
    kept = [row for row in rows if row.endswith("\n") and int(row.split(",", 1)[0]) <= from_step]
    if kept:
        write_whole(path, header + "".join(kept))
    else:
        path.unlink()


def _tensorboard(folder: Path, from_step: int) -> SummaryWriter | None:
    """A writer, or None where TensorBoard is not installed: the tables say the same."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - slow to load
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=from_step + 1 if from_step else None)

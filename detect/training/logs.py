"""A run's numbers as CSV tables and TensorBoard curves, and its speed; resuming removes what came after the checkpoint."""

from __future__ import annotations

import csv
import io
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from detect.errors import OutputError
from detect.files import write_whole

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

STEPS, EPOCHS, VALIDATION = "steps", "epochs", "validation"
RATE_STEPS = 50


class RunLog:
    """The tables ``steps.csv``, ``epochs.csv`` and ``validation.csv`` of a folder, and TensorBoard files if it is installed.

    A row is on disk when :meth:`write` returns. The first row of a table sets its columns.

    Args:
        from_step: the step of the checkpoint to resume from; rows of later steps are removed. 0 removes all rows.
        mid_epoch: whether that checkpoint is from within an epoch; rows of epochs at its step are then removed too, and
            TensorBoard has those points twice.
    """

    def __init__(
        self, folder: str | Path, *, from_step: int = 0, mid_epoch: bool = False, tensorboard: bool = True
    ) -> None:
        self.folder = folder = Path(folder)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for table in (STEPS, EPOCHS, VALIDATION):
                _truncate(folder / f"{table}.csv", from_step - (mid_epoch and table != STEPS))
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written: {error.strerror or error}") from None
        self._writer = _tensorboard(folder / "tensorboard", from_step) if tensorboard else None

    def write(self, table: str, step: int, numbers: Mapping[str, float | None]) -> None:
        """Add a row; None and NaN become an empty field and no point of a curve."""
        known = {name: value for name, value in numbers.items() if value is not None and not math.isnan(value)}
        path = self.folder / f"{table}.csv"
        text = io.StringIO()
        writer = csv.DictWriter(text, ["step", *numbers], lineterminator="\n")
        if not path.exists():
            writer.writeheader()
        writer.writerow({"step": step, **known})
        try:
            with path.open("a", encoding="utf-8") as stream:
                stream.write(text.getvalue())
        except OSError as error:
            raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from None
        if self._writer:
            for name, value in known.items():
                self._writer.add_scalar(f"{table}/{name}", value, step)

    def close(self) -> None:
        """Close the TensorBoard file."""
        if self._writer:
            self._writer.close()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class ImageRate:
    """Images a second over the last ``RATE_STEPS`` steps; what lies between epochs, such as validation, does not count.

    >>> times = iter([0.0, 2.0, 3.0])
    >>> rate = ImageRate(clock=lambda: next(times))
    >>> rate.begin_epoch(), rate.after_step(16), rate.after_step(16)
    (None, 8.0, 10.666666666666666)
    """

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self._steps: deque[tuple[float, int]] = deque(maxlen=RATE_STEPS + 1)  # when it ended, and its images

    def begin_epoch(self) -> None:
        """Start the clock anew."""
        self._steps.clear()
        self._steps.append((self.clock(), 0))

    def after_step(self, num_images: int) -> float:
        """Count a step, and return the images a second."""
        self._steps.append((self.clock(), num_images))
        (began, first), (ended, _) = self._steps[0], self._steps[-1]
        return (sum(images for _, images in self._steps) - first) / max(ended - began, 1e-9)


def read_log(path: str | Path) -> list[dict[str, float]]:
    """Read the rows of a table, without empty fields."""
    with Path(path).open(encoding="utf-8", newline="") as stream:
        return [{name: float(value) for name, value in row.items() if value} for row in csv.DictReader(stream)]


def _truncate(path: Path, from_step: int) -> None:
    """Keep the rows up to a step; a truncated row belongs to a later one."""
    if not path.exists():
        return
    header, *rows = path.read_text("utf-8").splitlines(keepends=True) or [""]
    kept = [row for row in rows if row.endswith("\n") and int(row.split(",", 1)[0]) <= from_step]
    if kept:
        write_whole(path, header + "".join(kept))
    else:
        path.unlink()


def _tensorboard(folder: Path, from_step: int) -> SummaryWriter | None:
    """A writer, or None if TensorBoard is not installed: the tables hold the same numbers."""
    try:
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415 - slow to load
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=from_step + 1 if from_step else None)

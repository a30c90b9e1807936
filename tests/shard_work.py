"""What tests compute on shards in other processes: quick to import."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from detect.data import CocoDataset
from detect.data.dataset_counts import DatasetCounts


def count(dataset: CocoDataset) -> DatasetCounts:
    return DatasetCounts.of(dataset)


def count_and_die_once(dataset: CocoDataset, *, marker: str) -> DatasetCounts:
    """Count; the first process that comes here kills itself, by its process id."""
    if not Path(marker).exists():
        Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return DatasetCounts.of(dataset)


def fail_once(dataset: CocoDataset, *, marker: str) -> DatasetCounts:
    """Count; the first attempt fails as a lost network connection does."""
    if not Path(marker).exists():
        Path(marker).touch()
        raise OSError("connection lost")
    return DatasetCounts.of(dataset)


def mistake(dataset: CocoDataset) -> DatasetCounts:
    raise ZeroDivisionError("a mistake in the program")


def die_on(dataset: CocoDataset, *, name: str) -> DatasetCounts:
    """Count; a process that reads the file of this name kills itself, as for want of memory."""
    if any(Path(file).name == name for file in dataset.files):
        os.kill(os.getpid(), signal.SIGKILL)
    return DatasetCounts.of(dataset)

"""Printing and writing: tables and notes, JSON objects, progress on stderr, files."""

from __future__ import annotations

import csv
import io
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TaskProgressColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from detect.errors import ConfigError, OutputError
from detect.files import write_whole

if TYPE_CHECKING:
    from detect.data import CocoDataset, Finding

Item = TypeVar("Item")

BAR_AFTER_S = 1.0
MAX_SHOWN = 5  # findings printed without --findings


def print_json(content: Any) -> None:
    """Print one JSON object on stdout; NaN (a mean of nothing) becomes null."""
    print(json.dumps(_finite(content), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def numbers(text: str, option: str, *, least: float) -> list[float]:
    """The numbers of a comma list.

    Raises:
        ConfigError: the text is no such list, or a number is below ``least``.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(least <= value < math.inf for value in values):
        raise ConfigError(f"{option}: expected numbers of {least:g} or more between commas, got {text!r}")
    return values


def note(text: str) -> None:
    """Print a line on stderr."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(text, markup=False)


@contextmanager
def reading_bar() -> Iterator[Any]:
    """A progress callback that shows a bar on stderr after one second."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeElapsedColumn())
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    started = time.monotonic()
    tasks: list[TaskID] = []

    def on_progress(what: str, done: int, total: int) -> None:
        if not tasks and time.monotonic() - started < BAR_AFTER_S:
            return
        if not tasks:
            bar.start()
            tasks.append(bar.add_task(what))
        bar.update(tasks[0], description=what, completed=done, total=total)

    try:
        yield on_progress
    finally:
        if tasks:
            bar.stop()


@contextmanager
def busy(what: str) -> Iterator[None]:
    """Show a spinner on stderr, if that is a terminal, during work of unknown length."""
    with Console(stderr=True).status(what):
        yield


def progress_over(items: Sequence[Item], what: str) -> Iterator[Item]:
    """Iterate over the items with a bar on stderr after one second."""
    with reading_bar() as on_progress:
        for done, item in enumerate(items):
            on_progress(what, done, len(items))
            yield item


def console() -> Console:
    """The console for results on stdout; 160 columns wide without a terminal."""
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def findings_of(dataset: CocoDataset) -> list[tuple[str, Finding]]:
    """Every finding of a dataset with its kind, ``invalid`` or ``suspicious``."""
    return [("invalid", each) for each in dataset.invalid] + [("suspicious", each) for each in dataset.suspicious]


def list_findings(dataset: CocoDataset) -> None:
    """Print every finding on stderr."""
    for kind, finding in findings_of(dataset):
        note(f"{kind}: {finding}")


def findings_csv(dataset: CocoDataset) -> str:
    """The text of ``findings.csv``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["kind", "file", "annotation_id", "image_id", "reason"])
    for kind, each in findings_of(dataset):
        writer.writerow([kind, each.file, each.annotation_id, each.image_id, each.reason])
    return text.getvalue()


def save(folder: Path, files: Mapping[str, str | bytes], *, quiet: bool = False) -> None:
    """Write files, whole or not at all, and print their paths unless ``quiet``."""
    try:
        for name, content in files.items():
            write_whole(folder / name, content)
            if not quiet:
                note(f"wrote {folder / name}")
    except OSError as error:
        raise OutputError(f"{error.filename or folder}: cannot be written: {error.strerror or error}") from None


def print_dataset(dataset: CocoDataset, resize: str, console: Console) -> None:
    """Print the size of a dataset and its findings."""
    crowd = f", {len(dataset.crowd):,} crowd regions excluded" if len(dataset.crowd) else ""
    console.print(
        f"{len(dataset.instances):,} boxes in {len(dataset.images):,} images, {len(dataset.categories):,} "
        f"categories{crowd}; resize {resize}",
        markup=False,
    )
    print_findings(dataset, console)


def print_findings(dataset: CocoDataset, console: Console) -> None:
    """Print the number of findings of each kind, and the first few."""
    print_first("invalid", dataset.invalid, console)
    print_first("suspicious but kept", dataset.suspicious, console)


def print_first(what: str, findings: Sequence[Finding], console: Console) -> None:
    """Print how many findings there are, and the first few."""
    if not findings:
        return
    console.print(f"{len(findings):,} {what}:", style="yellow")
    for finding in findings[:MAX_SHOWN]:
        console.print(f"  {finding}", markup=False, soft_wrap=True)
    if len(findings) > MAX_SHOWN:
        console.print(f"  and {len(findings) - MAX_SHOWN:,} more: --findings lists them all")


def table(*headers: str) -> Table:
    """A table without lines; the first column and columns of words are left-aligned."""
    columns = Table(box=None, header_style="bold", pad_edge=False)
    columns.add_column(headers[0], no_wrap=len(headers) > 3)
    for header in headers[1:]:
        columns.add_column(header, justify="left" if header in ("image", "category") or "shapes" in header else "right")
    return columns


def plain(text: str) -> str:
    """Text with its brackets escaped, so that they are not read as markup."""
    return text.replace("[", "\\[")

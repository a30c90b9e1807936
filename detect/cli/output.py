"""What commands print and write: tables and notes for people, objects for machines, progress on stderr, whole files."""

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
SHOWN_FINDINGS = 5


def print_json(content: Any) -> None:
    """One object on stdout; NaN, where there is nothing to average, is null."""
    print(json.dumps(_finite(content), allow_nan=False))


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and value != value else value  # noqa: PLR0124 - only NaN differs from itself


def numbers(text: str, option: str, *, least: float) -> list[float]:
    """Numbers between commas, from ``least`` on.

    Raises:
        ConfigError: something else.
    """
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(least <= value < math.inf for value in values):
        raise ConfigError(f"{option}: expected numbers of {least:g} or more between commas, got {text!r}")
    return values


def note(text: str) -> None:
    """A line for people, on stderr."""
    Console(stderr=True, soft_wrap=True, highlight=False).print(text, markup=False)


@contextmanager
def reading_bar() -> Iterator[Any]:
    """A progress callback that shows a bar on stderr once a second has gone by."""
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
    """A sign on stderr, where that is a terminal, that something is being done of which nobody knows how far it is."""
    with Console(stderr=True).status(what):
        yield


def progress_over(items: Sequence[Item], what: str) -> Iterator[Item]:
    """The items, with a bar on stderr once a second has gone by."""
    with reading_bar() as on_progress:
        for done, item in enumerate(items):
            on_progress(what, done, len(items))
            yield item


def console() -> Console:
    """For results, on stdout; wide where no terminal says how wide."""
    return Console(width=None if sys.stdout.isatty() else 160, highlight=False)


def findings_of(dataset: CocoDataset) -> list[tuple[str, Finding]]:
    """Everything refused or odd, and which of the two."""
    return [("refused", each) for each in dataset.invalid] + [("odd", each) for each in dataset.suspicious]


def list_findings(dataset: CocoDataset) -> None:
    """All of them, on stderr."""
    for kind, finding in findings_of(dataset):
        note(f"{kind}: {finding}")


def findings_csv(dataset: CocoDataset) -> str:
    """The text of ``findings.csv``: everything refused or odd."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["kind", "file", "annotation_id", "image_id", "reason"])
    for kind, each in findings_of(dataset):
        writer.writerow([kind, each.file, each.annotation_id, each.image_id, each.reason])
    return text.getvalue()


def save(folder: Path, files: Mapping[str, str | bytes], *, quiet: bool = False) -> None:
    """Write the files of a result, all made before the first is written, and say where they are, or not where ``quiet``."""
    try:
        for name, content in files.items():
            write_whole(folder / name, content)
            if not quiet:
                note(f"wrote {folder / name}")
    except OSError as error:
        raise OutputError(f"{error.filename or folder}: cannot be written: {error.strerror or error}") from None


def print_dataset(dataset: CocoDataset, resize: str, console: Console) -> None:
    """The boxes that were read, and what was wrong with the rest."""
    crowd = f", {len(dataset.crowd):,} crowd regions left out" if len(dataset.crowd) else ""
    console.print(
        f"{len(dataset.instances):,} boxes in {len(dataset.images):,} images, {len(dataset.categories):,} "
        f"categories{crowd}; resize {resize}",
        markup=False,
    )
    print_findings(dataset, console)


def print_findings(dataset: CocoDataset, console: Console) -> None:
    """The first of what was refused or is odd, and how many there are."""
    for kind, findings in (("refused", dataset.invalid), ("odd but kept", dataset.suspicious)):
        if findings:
            console.print(f"{len(findings):,} {kind}:", style="yellow")
            for finding in findings[:SHOWN_FINDINGS]:
                console.print(f"  {finding}", markup=False)
            if len(findings) > SHOWN_FINDINGS:
                console.print(f"  and {len(findings) - SHOWN_FINDINGS:,} more: --findings lists them all")


def table(*headers: str) -> Table:
    """A table without lines; the first column and columns of words to the left."""
    made = Table(box=None, header_style="bold", pad_edge=False)
    made.add_column(headers[0], no_wrap=len(headers) > 3)
    for header in headers[1:]:
        made.add_column(header, justify="left" if header in ("image", "category") or "shapes" in header else "right")
    return made


def plain(text: str) -> str:
    """Text from a file, whose brackets are no markup."""
    return text.replace("[", "\\[")

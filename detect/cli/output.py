"""Printing and writing: text and tables, JSON objects, progress on stderr, files."""

from __future__ import annotations

import itertools
import json
import math
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from contextvars import ContextVar
from pathlib import Path
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any, TypeVar

from rich.console import Console
from rich.live import Live
from rich.progress import (
    BarColumn,
    Progress,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from detect.cli.terminal import is_terminal
from detect.errors import ConfigError, OutputError
from detect.files import write_files
from detect.text_formats import csv_text
from detect.wording import listed_below, plural, printable, shortened

if TYPE_CHECKING:
    from detect.data import CocoDataset, Finding
    from detect.data.dataset_counts import DatasetCounts
    from detect.ops.exact_sums import FirstItems

Item = TypeVar("Item")

BAR_AFTER_S, REDRAWN_EVERY_S = 1.0, 0.1
LINE_EVERY_S = 30.0  # without a terminal
NAMES = ("image", "category")  # headers of columns of names


def print_json(content: Any) -> None:
    """Print one JSON object on stdout; what is not finite, such as a mean of nothing, becomes null."""
    print(json_text(content))


def json_text(content: Any, *, indent: int | None = None) -> str:
    """The text of a JSON object; what is not finite becomes null."""
    return json.dumps(_finite(content), allow_nan=False, indent=indent)


def print_answer(json: bool, content: Callable[[], Any], text: Callable[[], None]) -> None:
    """Print the content as JSON for a program, or the text for a reader."""
    if json:
        print_json(content())
    else:
        text()


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _console() -> Console:
    return Console(width=None if is_terminal(sys.stdout) else 160, highlight=False)


def show(text: str, *, style: str | None = None, soft_wrap: bool = False) -> None:
    """Print text on stdout, wrapped at the width of the terminal, or at 160 columns without one."""
    _console().print(Text(printable(text, lines=True)), style=style, soft_wrap=soft_wrap)


def show_table(headers: Sequence[str], rows: Iterable[Sequence[str]], *, left: bool = False) -> None:
    """Print a table without lines on stdout.

    The first column and columns of names and shapes are left-aligned, or all columns with ``left``. Without it, long names
    are shortened.
    """
    table = Table(box=None, header_style="bold", pad_edge=False)
    named = [not left and (number == 0 or header in NAMES) for number, header in enumerate(headers)]
    for number, header in enumerate(headers):
        words = number == 0 or left or header in NAMES or "shapes" in header
        table.add_column(
            Text(printable(header)), no_wrap=number == 0 and len(headers) > 3, justify="left" if words else "right"
        )
    for row in rows:
        cells = map(printable, row)
        table.add_row(*(Text(shortened(cell) if name else cell) for cell, name in zip(cells, named, strict=False)))
    _console().print(table)


def numbers(text: str, option: str, *, least: float) -> list[float]:
    """The numbers of a comma list, each ``least`` or more; any other text is a ConfigError."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or not all(least <= value < math.inf for value in values):
        raise ConfigError(f"{option}: expected numbers of {least:g} or more between commas, got {text!r}")
    return values


def length(text: str, option: str, *, least: float) -> tuple[float, bool]:
    """A length of ``least`` or more and whether it is in micrometres; any other text is a ConfigError.

    >>> length("4um", "--radius", least=0.01), length("3", "--radius", least=0.01)
    ((4.0, True), (3.0, False))
    """
    plain = text.strip().removesuffix("um").removesuffix("µm")
    try:
        value = float(plain)
    except ValueError:
        value = math.nan
    if not least <= value < math.inf:
        raise ConfigError(f"{option}: expected one number of {least:g} or more, got {text!r}")
    return value, plain != text.strip()


def check_not_given(options: Mapping[str, bool], what: str, path: Path | None = None) -> None:
    """Raise ConfigError if options are given, by their names, that have no meaning for this kind of data."""
    if given := [f"--{name.replace('_', '-')}" for name, is_given in options.items() if is_given]:
        raise ConfigError(f"{', '.join(given)}: not for {what}{'' if path is None else f': {path}'}")


def note(text: str) -> None:
    """Print a line on stderr, if it can be written."""
    with suppress(OSError):
        Console(stderr=True, soft_wrap=True, highlight=False).print(Text(printable(text, lines=True)))


@contextmanager
def busy(what: str) -> Iterator[Callable[[str], None]]:
    """Say on stderr, from one second on, what the command does: a spinner; without a terminal, a line every half minute.

    A bar hides the spinner. Yields a function to call with the name of each step of the work. Inside another such block, the
    work is a step of that one.
    """
    if outer := _SPINNER.get():
        with outer.step(what) as tell:
            yield tell
        return
    spinner = _Spinner(what)
    before = _SPINNER.set(spinner)
    try:
        with spinner, spinner.step("") as tell:
            yield tell
    finally:
        _SPINNER.reset(before)


class _Spinner:
    """What a command does at present, shown by a thread of its own."""

    def __init__(self, what: str) -> None:
        self._steps = [what]
        self._hidden, self._ended = 0, Event()
        self._lock = Lock()
        self._thread = Thread(target=self._run, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def words(self) -> str:
        return ": ".join(filter(None, self._steps))

    @contextmanager
    def step(self, what: str) -> Iterator[Callable[[str], None]]:
        """Show a step of the work; yields a function to call with the name of each step inside it."""
        depth = len(self._steps)
        self._steps = [*self._steps, what]

        def tell(step: str) -> None:
            self._steps = [*self._steps[: depth + 1], step]

        try:
            yield tell
        finally:
            self._steps = self._steps[:depth]

    @contextmanager
    def hidden(self) -> Iterator[None]:
        self._hidden += 1
        with self._lock:  # which waits until it is no longer drawn
            pass
        try:
            yield
        finally:
            self._hidden -= 1

    def _run(self) -> None:
        if not is_terminal(sys.stderr):
            lines_until(self._ended.wait, lambda: "" if self._hidden else self.words())
            return
        started = time.monotonic()
        self._ended.wait(BAR_AFTER_S)
        while not self._ended.is_set():
            with self._lock:
                if not self._hidden:
                    self._draw(started)
            self._ended.wait(REDRAWN_EVERY_S)

    def _draw(self, started: float) -> None:
        """Draw the spinner until it is to be hidden or the work has ended."""
        with Live(console=Console(stderr=True), transient=True, redirect_stdout=False, auto_refresh=False) as live:
            spinner = Spinner("dots")
            while not (self._hidden or self._ended.is_set()):
                spinner.update(text=Text(printable(f"{self.words()}: {duration(time.monotonic() - started)}")))
                live.update(spinner, refresh=True)
                self._ended.wait(REDRAWN_EVERY_S)


_SPINNER: ContextVar[_Spinner | None] = ContextVar("_SPINNER", default=None)


def lines_until(ended: Callable[[float], bool], words: Callable[[], str]) -> None:
    """Write every half minute what is done and for how long; ``ended(s)`` waits up to s seconds and says if it has ended.

    No line is written while there are no words.
    """
    for number in itertools.count(1):
        if ended(LINE_EVERY_S):
            return
        if what := words():
            note(f"{what}: {duration(number * LINE_EVERY_S)} so far")


@contextmanager
def reading_bar() -> Iterator[Any]:
    """A progress callback that shows a bar on stderr after one second; without a terminal, a line every half minute."""
    times = TimeElapsedColumn(), TextColumn("left:"), TimeRemainingColumn()
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), *times)
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task, lines, spinner = bar.add_task(""), ProgressLines(), _SPINNER.get()
    is_drawn, started = is_terminal(sys.stderr), time.monotonic()
    shown, is_shown = ExitStack(), Event()

    def on_progress(what: str, done: int, total: int) -> None:
        if not is_drawn:
            lines(what, done, total)
        elif time.monotonic() - started < BAR_AFTER_S:
            return
        if not is_shown.is_set():
            is_shown.set()
            shown.enter_context(spinner.hidden() if spinner else nullcontext())
            shown.enter_context(bar if is_drawn else nullcontext())
        bar.update(task, description=printable(what), completed=done, total=total)
        if done >= total:  # what follows may take long, too
            shown.close()
            is_shown.clear()

    with shown:
        yield on_progress


class ProgressLines:
    """A progress callback that writes a line every half minute: what is done, the share of it, and the time left.

    Another total, or less done than before, begins another piece of work, whose time left is estimated anew.

    Args:
        clock: the time in seconds.
        write: takes the lines; by default they go to stderr.
    """

    def __init__(
        self, *, clock: Callable[[], float] = time.monotonic, write: Callable[[str], None] | None = None
    ) -> None:
        self.clock, self.write = clock, write or note
        self.written_s = clock()
        self.start_s, self.start, self.done, self.total = self.written_s, 0, 0, -1

    def __call__(self, what: str, done: int, total: int) -> None:
        now = self.clock()
        if total != self.total or done < self.done:
            self.start_s, self.start, self.total = now, done, total
        self.done = done
        if now - self.written_s < LINE_EVERY_S:
            return
        self.written_s = now
        line = f"{what}: {done / max(total, 1):.0%}"
        if done > self.start:
            left_s = (total - done) * (now - self.start_s) / (done - self.start)
            line += f", {duration(left_s)} left"
        self.write(line)


def duration(seconds: float) -> str:
    """A time in the unit that suits it.

    >>> [duration(seconds) for seconds in (42.4, 119, 3600 * 2.5)]
    ['42 s', '2 min', '2 h 30 min']
    """
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def progress_over(items: Sequence[Item], what: str) -> Iterator[Item]:
    """Iterate over the items with a bar on stderr after one second."""
    with reading_bar() as on_progress:
        for done, item in enumerate(items):
            on_progress(what, done, len(items))
            yield item


def findings_of(dataset: CocoDataset) -> list[tuple[str, Finding]]:
    """Every finding of a dataset with its kind, ``invalid`` or ``suspicious``."""
    return [("invalid", each) for each in dataset.invalid] + [("suspicious", each) for each in dataset.suspicious]


def findings_csv(found: Iterable[tuple[str, Finding]]) -> str:
    """The text of ``findings.csv``."""
    rows = ([kind, each.file, each.annotation_id, each.image_id, each.reason] for kind, each in found)
    return csv_text(["kind", "file", "annotation_id", "image_id", "reason"], rows)


def save(folder: Path, files: Mapping[str, str | bytes], *, quiet: bool = False) -> None:
    """Write files, all or none of them, and print their paths unless ``quiet``."""
    try:
        write_files(folder, files)
    except OSError as error:
        raise cannot_write(error, folder) from None
    for name in () if quiet else files:
        note(f"wrote {folder / name}")


def warn_of_older(folder: Path, pattern: str, names: Collection[str]) -> None:
    """Warn if the folder also holds files of another run, which a pattern would match too."""
    older = sorted({path.relative_to(folder).as_posix() for path in folder.glob(pattern)}.difference(names))
    if older:
        note(f"warning: {folder} also holds {plural(len(older), 'file')} of another run, such as {older[0]}")


def cannot_write(error: OSError, path: Path) -> OutputError:
    """The error of a file or folder that cannot be written."""
    return OutputError(f"{error.filename or path}: cannot be written: {error.strerror or error}")


def print_dataset(dataset: DatasetCounts, resize: object) -> None:
    """Print the size of a dataset, the resize rule and the findings."""
    crowd = f", {dataset.num_crowd:,} crowd regions excluded" if dataset.num_crowd else ""
    images = f"{plural(dataset.num_boxes, 'box')} in {plural(dataset.num_images, 'image')}"
    show(f"{images}, {plural(len(dataset.categories), 'category')}{crowd}; resize {resize}")
    print_findings(dataset)


def print_findings(dataset: CocoDataset | DatasetCounts) -> None:
    """Print the number of findings of each kind, and the first few."""
    print_first("invalid", dataset.invalid)
    print_first("suspicious but kept", dataset.suspicious)


def print_first(what: str, findings: Sequence[Finding] | FirstItems[Finding]) -> None:
    """Print the number of findings, if there are any, and the first few."""
    for number, line in enumerate(listed_below(what, findings, others="--findings")):
        show(line, style=None if number else "yellow", soft_wrap=number > 0)

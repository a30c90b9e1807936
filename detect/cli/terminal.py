"""What a command prints reaches stdout when it has ended: a reader that stops early, or a full disk, loses no file."""

from __future__ import annotations

import io
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from typing import Any, TextIO

import typer
from typer.core import TyperGroup

from detect.errors import OutputError

SILENCED = (  # messages and modules of warnings that a user can do nothing about
    ("", "PIL"),  # broken metadata and large images
    ("", r"torch\.onnx"),  # how torch names the axes of a program
    (".*LeafSpec", ""),  # how torch uses its own classes
    ("invalid escape sequence", ""),  # the style of a framework's configuration file
)


CHECKED = "Value error, "  # typer's own, before the message of a check


class HeldOutput(io.StringIO):
    """Text for a stream, which may be None if it is closed, held until :meth:`release`."""

    def __init__(self, stream: TextIO | None) -> None:
        super().__init__()
        self.stream = stream

    def isatty(self) -> bool:
        return is_terminal(self.stream)

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """That of the stream, by which rich chooses its characters."""
        return getattr(self.stream, "encoding", None) or "utf-8"

    def release(self) -> None:
        """Write what is held. A reader that has gone wants no more of it.

        Raises:
            OutputError: the stream is closed, or cannot be written.
        """
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        if not text:
            return
        if self.stream is None or self.stream.closed:
            raise OutputError("stdout is closed: the result cannot be printed")
        try:
            self.stream.write(text.encode(self.encoding, "backslashreplace").decode(self.encoding))
            self.stream.flush()
        except BrokenPipeError:
            _discard_rest(self.stream)
        except OSError as error:
            _discard_rest(self.stream)
            raise OutputError(f"stdout cannot be written: {error.strerror or error}") from None


def silence_warnings() -> None:
    """Ignore the warnings of ``SILENCED`` in this process, which is a command's own."""
    for message, module in SILENCED:
        warnings.filterwarnings("ignore", message=message, module=module)


@contextmanager
def held_output() -> Iterator[None]:
    """Hold what is printed on stdout, and write it at the end, also after an error."""
    held = HeldOutput(sys.stdout)
    with redirect_stdout(held):
        try:
            yield
        finally:
            held.release()


def print_now() -> None:
    """Write what has been held so far."""
    if isinstance(sys.stdout, HeldOutput):
        sys.stdout.release()


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person reads a stream; no stream is closed to a person."""
    return stream is not None and not stream.closed and stream.isatty()


def discard_unwritable(stream: TextIO | None) -> None:
    """Drop what a stream holds and cannot write, for which Python would exit with another code at its end."""
    if stream is None:
        return
    try:
        stream.flush()
    except (OSError, ValueError):
        _discard_rest(stream)


def _discard_rest(stream: TextIO) -> None:
    """Send to nowhere what the stream still holds, which Python would write again at its end."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class Commands(TyperGroup):
    """All commands. An empty argument is a mistake, as of a variable without a value: ``-o ""`` names no folder."""

    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]
        for before, each in zip(["", *args], args, strict=False):
            if not each.strip() or (each.startswith("--") and each.endswith("=")):
                option = each.rstrip("=") or before
                raise typer.BadParameter(f"an empty argument{f' for {option}' if option.startswith('-') else ''}")
        return super().parse_args(ctx, args)

    def invoke(self, ctx: typer.Context) -> Any:  # type: ignore[override]
        """Run a command; what is wrong with an option is said without the name of the class of the error."""
        try:
            return super().invoke(ctx)
        except typer.BadParameter as error:
            error.message = error.message.removeprefix(CHECKED)
            raise

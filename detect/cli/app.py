"""``detect``: all commands together; a user's mistake is one line on stderr and exit code 2."""

from __future__ import annotations

import os
import sys
import warnings
from contextlib import suppress
from importlib.metadata import version
from typing import Annotated

import typer

from detect.cli import (
    advise,
    anchor_fit,
    anchors,
    backbone,
    convert_labels,
    evaluate,
    explain,
    export,
    heatmaps,
    predict,
    train,
)
from detect.cli.config import hyphens, register
from detect.cli.options import forget_datasets, with_left_out
from detect.cli.output import note
from detect.cli.terminal import Commands, discard_unwritable, held_output, silence_warnings
from detect.errors import DetectError, OutputError
from detect.wording import printable

INTERRUPTED = 130  # typer's exit code for Ctrl-C, and a shell's: 128 + SIGINT

app = typer.Typer(
    name="detect",
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"token_normalize_func": hyphens},  # --max_strides and max_iou are accepted too
    help="""Priors, heads and targets of object detectors, made from the data at hand.

    Start with `detect demo`, or with your own labels (COCO, YOLO, VOC and others):

    `detect anchors fit instances.json --resize letterbox:640 -o anchors`
    """,
)
for group in (anchors.app, backbone.app, heatmaps.app):
    app.add_typer(group)
for each in (advise.advise, evaluate.evaluate, predict.predict, explain.explain, export.export, convert_labels.convert):
    register(app, each)
app.command()(train.train)  # its options are in its CONFIG
app.command()(anchor_fit.demo)


def _print_version(wanted: bool) -> bool:
    if wanted:
        typer.echo(f"detect {version('detect-heads')}")
        raise typer.Exit
    return wanted


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Options before a command; the app has the help text."""


def main() -> None:
    """Run a command; a user's mistake is one line on stderr and exit code 2, an interruption one and 130."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads that spin stall each other on a busy machine
    try:
        forget_datasets()
        with held_output(), warnings.catch_warnings():
            silence_warnings()  # before any thread starts
            app()
    except DetectError as error:
        note(printable(f"detect: {str(error) if isinstance(error, OutputError) else with_left_out(str(error))}"))
        sys.exit(2)
    except (KeyboardInterrupt, SystemExit) as stop:  # Ctrl-C before the command has begun, or in it
        if isinstance(stop, SystemExit) and stop.code != INTERRUPTED:
            raise
        note("detect: interrupted")
        sys.exit(INTERRUPTED)
    finally:
        with suppress(KeyboardInterrupt):  # the command has ended
            discard_unwritable(sys.stderr)


if __name__ == "__main__":
    main()

"""``detect``: the commands put together, and what a mistake looks like to a user."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from detect.cli import anchors, demo, evaluate, export, heatmaps, predict, train
from detect.errors import DetectError

app = typer.Typer(
    name="detect",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    help="""Priors, heads and targets of object detectors, made from the data at hand.

    Start with `detect demo`, or with your own COCO file:

    `detect anchors fit instances.json --resize letterbox:640 -o anchors`
    """,
)
app.add_typer(anchors.app, name="anchors")
app.add_typer(heatmaps.app, name="heatmaps")
app.command("demo")(demo.demo)
app.command("evaluate")(evaluate.evaluate)
app.command("export")(export.export)
app.command("predict")(predict.predict)
app.command("train")(train.train)


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
    """Options that stand before a command; the help text is that of the app."""


def main() -> None:
    """Run a command; a user's mistake is one line on stderr and exit code 2."""
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # waiting threads that spin stall each other on a busy machine
    try:
        app()
    except DetectError as error:
        typer.echo(f"detect: {error}", err=True)
        sys.exit(2)


if __name__ == "__main__":
    main()

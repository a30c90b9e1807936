"""``detect backbone``: what a network's maps can see, and what its layers compute."""

from __future__ import annotations

import typer

from detect.cli import backbone_features
from detect.cli.config import register

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Backbones and detectors: fields of their maps, and their layers.",
)


@app.callback()
def backbone() -> None:
    """Options before a command; the app has the help text."""


register(app, backbone_features.features)

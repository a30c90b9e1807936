"""``detect train``: a configuration to a trained detector."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detect.cli.train_fields import show_fields

if TYPE_CHECKING:
    from detect.training.config import TrainConfig


def train(
    config: Annotated[Path, typer.Argument(help="YAML with the run's fields, such as configs/nuclei_retinanet.yaml.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="FIELD=VALUE", help="Fields set over the file's, such as optimisation.epochs=8."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images, as data.images=FOLDER.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from last.pt in the run's folder, where there is one.")
    ] = False,
    overfit: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="Only see whether so many images can be learned by heart; exit code 1 if not."
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")] = False,
    fields: Annotated[  # noqa: ARG001 - the callback ends the command
        bool,
        typer.Option(
            "--fields", is_eager=True, callback=show_fields, help="List every field of a configuration, and leave."
        ),
    ] = False,
) -> None:
    """Train a detector on a COCO dataset.

    `detect train configs/nuclei_retinanet.yaml optimisation.epochs=8 output.folder=runs/short`

    The run's folder gets `last.pt` and `best.pt`, `config.yaml`, `anchors.yaml`, tables of steps, epochs and validations as
    CSV, and TensorBoard's files. A run that was cut short goes on with --resume as if it had not been. Several processes:
    `torchrun --nproc-per-node 2 tools/train.py CONFIG`.
    """
    from json import dumps as json_text

    from detect.errors import DetectError
    from detect.training.config import read_train_config

    given = [*(overrides or []), *([f"data.images={json_text(str(images), ensure_ascii=False)}"] if images else [])]
    read = read_train_config(config, given)
    try:
        several = _overfit(read, overfit, json) if overfit else _train(read, resume, json)
    except DetectError as error:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            typer.echo(f"detect: {error}", err=True)
            _leave(2)
        raise
    if several:
        _leave(0)


def _train(config: TrainConfig, resume: bool, json: bool) -> bool:
    """Whether there are several processes."""
    from detect.cli.output import note, print_json, reading_bar
    from detect.training.loop import train

    with reading_bar() as on_progress:
        result = train(config, resume=resume, on_progress=on_progress, log=note)
    if result.is_main:
        told = {
            "folder": str(result.folder),
            "epochs": result.epochs,
            "steps": result.steps,
            "stopped_early": result.stopped_early,
            "seconds": round(result.seconds, 1),
            "best": result.best,
            "metrics": dict(result.metrics),
        }
        if json:
            print_json(told)
        else:
            _print_result(told)
    return result.num_processes > 1


def _overfit(config: TrainConfig, num_images: int, json: bool) -> bool:
    from dataclasses import asdict

    from detect.cli.output import print_json, reading_bar
    from detect.training.overfitting import overfit

    with reading_bar() as on_progress:
        verdict = overfit(config, num_images, on_progress=on_progress)
    if json:
        print_json({"passed": verdict.passed, **asdict(verdict)})
    else:
        print(verdict.to_text(), end="")
    if not verdict.passed:
        raise typer.Exit(1)
    return False


def _print_result(told: dict[str, Any]) -> None:
    from detect.cli.output import console, table

    early = ", stopped early" if told["stopped_early"] else ""
    print(f"{told['epochs']} epochs, {told['steps']} steps in {told['seconds']:g} s{early}: {told['folder']}")
    if told["metrics"]:
        rows = table("validation", "value")
        for name, value in told["metrics"].items():
            rows.add_row(name, f"{value:.4f}")
        console().print(rows)


def _leave(code: int) -> None:
    """End this process without taking it down in order: gloo's threads sometimes abort then, with all work done."""
    from torch import distributed

    if code == 0 and distributed.is_initialized():
        distributed.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)

"""``detect train``: from a configuration to a trained detector."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from json import dumps
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detect.cli.options import AsJson, note_fetched
from detect.cli.output import note, print_answer, reading_bar, show, show_table
from detect.cli.terminal import print_now
from detect.errors import DetectError
from detect.wording import plural

if TYPE_CHECKING:
    from detect.training.config import TrainConfig
    from detect.training.loop import TrainingResult

Schema = Mapping[str, Any]
BOUNDS = {"minimum": "from {}", "exclusiveMinimum": "above {}", "maximum": "to {}", "exclusiveMaximum": "below {}"}
KINDS = {"null": "null", "boolean": "true | false", "string": "text"}


def show_fields(wanted: bool) -> None:
    """Print every field of a configuration and exit, if wanted: the callback of an option."""
    if not wanted:
        return
    from detect.training.config import TrainConfig

    rows = []
    for name, field in fields_of(TrainConfig.model_json_schema()):
        default = dumps(_rounded(field["default"])).strip('"') if "default" in field else "required"
        rows.append([name, default, values_of(field), field.get("description", "")])
    show_table(("field", "default", "values", "meaning"), rows, left=True)
    raise typer.Exit


def train(
    config: Annotated[Path, typer.Argument(help="YAML with the run's fields, such as configs/nuclei_retinanet.yaml.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="FIELD=VALUE", help="Fields set over the file's, such as optimisation.epochs=8."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images: short for data.images=FOLDER.")] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu, cuda, mps or auto: short for optimisation.accelerator=DEVICE.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from last.pt in the run's folder, if there is one.")
    ] = False,
    overfit: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=1024,
            help="Only check that objects in this many images can be learned by heart and found; exit code 1 if not.",
        ),
    ] = None,
    json: AsJson = False,
    fields: Annotated[  # noqa: ARG001 - the callback ends the command
        bool,
        typer.Option(
            "--fields", is_eager=True, callback=show_fields, help="List every field of a configuration and exit."
        ),
    ] = False,
) -> None:
    """Train a detector on a dataset.

    `detect train configs/nuclei_retinanet.yaml optimisation.epochs=8 output.folder=runs/short`

    The run's folder gets `last.pt`, `best.pt`, `config.yaml`, `anchors.yaml`, CSV tables of steps, epochs and validations,
    and TensorBoard's files. After an interruption, --resume continues the run exactly.

    Two processes on one host: `torchrun --nproc-per-node 2 tools/train.py CONFIG`

    Two on each of two hosts, with N = 0 on the first, HOST, and N = 1 on the second: `torchrun --nnodes 2 --nproc-per-node 2
    --node-rank N --master-addr HOST --master-port 29400 tools/train.py CONFIG`

    If a process dies, all end and say which, and the same commands with --resume go on: see docs/scaling.md.
    """
    from detect.training.config import read_train_config

    shorts = {"data.images": images and str(images), "optimisation.accelerator": device}
    given = [f"{name}={dumps(value, ensure_ascii=False)}" for name, value in shorts.items() if value]
    try:
        read = read_train_config(config, [*(overrides or []), *given])
        if os.environ.get("RANK", "0") == "0":  # of several processes, the main one
            note_fetched([*read.data.train, *read.data.val])
        if overfit:
            _overfit(read, overfit, json)
        elif _train(read, resume, json):
            _leave(0)
    except DetectError as error:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            _fail(f"detect: {error}")
        raise


def _train(config: TrainConfig, resume: bool, json: bool) -> bool:
    """Train, print the result, and return whether there are several processes."""
    from detect.training.loop import train

    with reading_bar() as on_progress:
        result = train(config, resume=resume, on_progress=on_progress, log=note)
    if result.is_main:
        summary = {
            "folder": str(result.folder),
            **{name: getattr(result, name) for name in ("epochs", "steps", "stopped_early")},
            "seconds": round(result.seconds, 1),
            "best": result.best,
            "metrics": dict(result.metrics),
        }
        print_answer(json, lambda: summary, lambda: _print_result(result))
    return result.num_processes > 1


def _overfit(config: TrainConfig, num_images: int, json: bool) -> None:
    from detect.training.overfitting import overfit

    with reading_bar() as on_progress:
        verdict = overfit(config, num_images, on_progress=on_progress, log=note)
    content = {"passed": verdict.passed, **asdict(verdict)}
    print_answer(json, lambda: content, lambda: show(verdict.to_text().rstrip("\n"), soft_wrap=True))
    if not verdict.passed:
        raise typer.Exit(1)


def _print_result(result: TrainingResult) -> None:
    took = f"{plural(result.epochs, 'epoch')}, {plural(result.steps, 'step')} in {round(result.seconds, 1):g} s"
    show(f"{took}{', stopped early' if result.stopped_early else ''}: {result.folder}", soft_wrap=True)
    if result.metrics:
        rows = [(name, "-" if isnan(value) else f"{value:.4f}") for name, value in result.metrics.items()]
        show_table(("validation", "value"), rows)


def _fail(text: str) -> None:
    """End one of several processes with a message, which each host shows once."""
    from detect.training.processes import is_first_to_say, tell_torchrun

    if is_first_to_say(text):
        note(text)
    tell_torchrun(text)
    _leave(2)


def _leave(code: int) -> None:
    """End this process without the usual teardown, in which gloo's threads sometimes abort after all work is done."""
    from torch import distributed

    if code == 0 and distributed.is_initialized():
        distributed.barrier()
    print_now()
    sys.stderr.flush()
    os._exit(code)


def _rounded(default: Any) -> Any:
    """A default with four decimals, so that two thirds do not fill the line."""
    if isinstance(default, list):
        return [*map(_rounded, default)]
    return round(default, 4) if isinstance(default, float) else default


def fields_of(schema: Schema) -> Iterator[tuple[str, Schema]]:
    """Names as set on the command line, ``section.field``, and the JSON Schema of each."""
    for name, field in schema["properties"].items():
        if "$ref" not in field:
            yield name, field
            continue
        section = schema["$defs"][field["$ref"].rpartition("/")[2]]
        for inner, each in section["properties"].items():
            yield f"{name}.{inner}", each


def values_of(field: Schema) -> str:
    """The values of a field, in words.

    >>> values_of({"type": "integer", "minimum": 1, "maximum": 9}), values_of({"enum": ["l1", "giou"], "type": "string"})
    ('from 1 to 9', 'l1 | giou')
    >>> values_of({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]})
    'above 0 | null'
    """
    if "anyOf" in field:
        return " | ".join(map(values_of, field["anyOf"]))
    if "enum" in field:
        return " | ".join(map(str, field["enum"]))
    kind = field["type"]
    if kind == "array":
        inner = field.get("items") or field["prefixItems"][0]
        return f"[{values_of(inner)}, ...]" if "items" in field else f"[low, high], {values_of(inner)}"
    bounds = [words.format(f"{field[bound]:,}".removesuffix(".0")) for bound, words in BOUNDS.items() if bound in field]
    return " ".join(bounds) or ("path" if field.get("format") == "path" else KINDS.get(kind, str(kind)))

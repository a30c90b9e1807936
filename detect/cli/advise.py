"""``detect advise``: what detectors cannot learn or return of a dataset, and the settings that change it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from detect.cli import options
from detect.cli.engine import EngineOptions
from detect.cli.output import note, print_answer, save
from detect.errors import ConfigError
from detect.files import is_file, is_folder

if TYPE_CHECKING:
    from detect.catalog.detectors import Detector
    from detect.inspection.level_profile import ModelProfile

NO_PICTURES = "note: report.html has no pictures: they show the boxes themselves, which stay in their shards"

Names = Annotated[
    list[str],
    typer.Option(
        "--for",
        help="Detectors with commas between them, by names of `detect anchors known --all`; a YAML file of the same fields; "
        "or the configuration or folder of a training run. Repeatable.",
    ),
]


def advise(
    *,
    names: Names,
    val: Annotated[
        list[str] | None, typer.Option(help="Labels of the validation data, to compare with; repeatable.")
    ] = None,
    size: Annotated[
        int | None,
        typer.Option(min=8, max=16_384, help="First size of the detectors' resize rules. Default: their own."),
    ] = None,
    anchors: Annotated[
        str | None, typer.Option(help=f"{options.ANCHORS} Default: those that a detector ships with.")
    ] = None,
    share: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the objects that must be saved before a setting is changed.")
    ] = 0.001,
    image_ms: Annotated[
        float | None,
        typer.Option(min=0, help="Milliseconds per image at the present settings: costs are then also given in time."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            help="Network whose fields to put beside the objects of each detector, as `detect backbone profile` takes it."
        ),
    ] = None,
    output: options.Output = None,
    engine: EngineOptions,
    dataset: options.DatasetFiles,
    json: options.AsJson = False,
) -> None:
    """Tell which objects a detector cannot learn or return, and what to set, before any training.

    `detect advise instances.json --for yolo11,rf-detr -o advice` counts the objects that get no cell, anchor or query, that
    suppression removes, or that are beyond the detections of an image, whatever the network predicts. For each setting
    (input size, finer level, reg_max, queries, detections, NMS threshold, tiles) it tells what another value saves and
    costs, in the words of the detector's framework. It also looks at the labels. It counts objects, not precision: a larger
    input can raise AP where nothing is lost. --model also tells which objects the levels of a network see whole. With -o it
    writes a page, a table of the lost objects and the answer as JSON; --images draws the objects. With --engine dask the
    matching runs in the shards, and there are no pictures and no --model.
    """
    from detect.advice.advise import advise_by
    from detect.cli.advice_results import Answers

    asked = [_asked(name, anchors) for text in names for name in map(str.strip, text.split(",")) if name]
    if not asked:
        raise ConfigError("--for: name a detector, such as yolo11; `detect anchors known --all` lists them")
    if model and engine.engine == "dask":
        raise ConfigError("--engine dask: not for --model, which puts its levels beside all objects at once")
    profile = _profile(model) if model else None
    answers = Answers(printed=not json, with_files=output is not None, images=dataset.images, profile=profile)
    how: dict[str, Any] = {"size": size, "share": share, "image_ms": image_ms}
    with engine.open(dataset) as data:
        validation = data.beside(replace(dataset, files=val)) if val else None
        for number, (detector, own) in enumerate(asked):
            compared = validation.reduce if validation and not number else None  # the labels are the same for all
            advice = advise_by(data.reduce, detector, anchors=own, validation=compared, **how)
            answers.add(advice, data.instances(advice.rule) if answers.shows_objects else None)
        answers.left_out = data.left_out()
        print_answer(json, answers.content, answers.print_labels)
        if output:
            if dataset.images and engine.engine == "dask":
                note(NO_PICTURES)
            save(output, answers.files())
        elif not json:
            note("note: -o FOLDER writes a page with curves and the lost objects; --images draws them")
        data.finish()


def _asked(name: str, anchors: str | None) -> tuple[Detector, Any]:
    """The detector of a name or file, and its anchors if they are not its stock ones."""
    from detect.catalog.detectors import load_detector

    config, own = _training_config(name), None
    if config is None:
        detector = load_detector(name)
    else:
        from functools import partial

        from detect.training.described import anchors_of, described

        detector, own = described(config, Path(name).stem), partial(anchors_of, config)
    return detector, _given(anchors, detector) if anchors else own


def _profile(model: str) -> ModelProfile:
    """The fields of a model's maps."""
    from detect.cli.inspected import read_model
    from detect.inspection.level_profile import profile_model

    return profile_model(read_model(model))


def _given(anchors: str, detector: Detector) -> Any:
    """The anchors of --anchors, which lie on the detector's levels."""
    from detect.catalog.detectors import with_anchors

    found, strides = options.load_anchors(anchors), with_anchors(detector).strides
    if [level.stride for level in found.levels] != strides:
        own = ", ".join(f"{level.stride}" for level in found.levels)
        raise ConfigError(f"--anchors {anchors}: strides are {own}; {detector.name} has {', '.join(map(str, strides))}")
    return found


def _training_config(name: str) -> Any:
    """The configuration of a run's folder or a training YAML; None for any other name."""
    path = Path(name)
    if is_folder(path) and (path / "config.yaml").exists():
        path = path / "config.yaml"
    if path.suffix.lower() not in (".yaml", ".yml") or not is_file(path):
        return None
    from detect.errors import CatalogError
    from detect.text_formats import read_yaml

    content = read_yaml(path, CatalogError)
    if not isinstance(content, dict) or "data" not in content:
        return None
    from detect.training.config import read_train_config

    return read_train_config(path)

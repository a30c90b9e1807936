"""``detect anchors fit``, ``stability`` and ``curve``: fitted anchors, how far to trust them, and how many to take."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated

import typer

from detect.cli.fit_options import FitOptions
from detect.cli.options import EXPERTS, AsJson, DatasetFiles, Images, Output, Resize
from detect.errors import ConfigError

if TYPE_CHECKING:
    from detect.anchors.anchor_set import AnchorSet
    from detect.anchors.instances import ResizedInstances
    from detect.anchors.stability import Stability


def fit(
    *,
    options: FitOptions,
    resize: Resize = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(help="Anchors to score beside the fitted ones: a known name or an anchors.yaml; repeatable."),
    ] = None,
    images: Images = None,
    output: Output = None,
    report: Annotated[bool, typer.Option(rich_help_panel=EXPERTS, help="With -o: write report.html too.")] = True,
    dataset: DatasetFiles,
    json: AsJson = False,
) -> None:
    """Fit anchor shapes to the boxes of a COCO dataset.

    `detect anchors fit instances.json -k 9 --resize letterbox:640 -o anchors` writes `anchors/anchors.yaml`, which all
    other commands and `detect.AnchorSet.load` read, and `anchors/report.html`. `detect anchors fit instances.json --levels
    p2-p4 --per-level 3` fits the shapes of all levels together, on the detector's grid.
    """
    from detect.cli import anchor_results
    from detect.cli.output import busy, note, print_json, save
    from detect.fitting.fit import k_curve

    options.check()
    instances = dataset.read_resized(resize)
    if str(instances.rule) == "none":
        note("note: --resize none: shapes are in pixels of the original images, which few detectors see")
    sources = anchor_results.start_hashing(instances.dataset) if output else None
    with busy("fitting anchors"):
        fitted = options.fit(instances)
    sets = [fitted.anchors, *anchor_results.load_all(compare or [])]
    scores = anchor_results.score_all(instances, sets, options.convention)
    curve = k_curve(instances, seed=options.seed) if output and report else None
    if json:
        print_json(anchor_results.fit_object(scores, fitted, curve, method=options.method))
    else:
        anchor_results.print_fit(scores, fitted, curve)
    if output and sources:
        save(output, anchor_results.fit_files(scores, curve, sources.result(), with_page=report, images=images))


def stability(
    *,
    options: FitOptions,
    resize: Resize = None,
    resamples: Annotated[
        int, typer.Option(min=0, max=10_000, help="Number of resamples of the images to fit again; 0 for none.")
    ] = 100,
    validation: Annotated[
        list[str] | None,
        typer.Option(help="COCO files of other images: are the boxes covered as well there? Repeatable."),
    ] = None,
    output: Output = None,
    dataset: DatasetFiles,
    json: AsJson = False,
) -> None:
    """Show how far fitted anchors depend on the images: bootstrap intervals, and scores on other images.

    `detect anchors stability train.json -k 9 --resize letterbox:640 --resamples 100 --validation val.json`
    """
    from detect.anchors.stability import train_and_validation
    from detect.cli import anchor_results, anchor_tables
    from detect.cli.output import console, print_dataset, print_json, save

    if not resamples and not validation:
        raise ConfigError("nothing to do: give --resamples from 1, --validation FILES or both")
    options.check()
    instances = dataset.read_resized(resize)
    others = replace(dataset, files=validation).read_resized(resize) if validation else None
    anchors = options.fit(instances, prove=False).anchors
    stable = _bootstrap(instances, options, resamples) if resamples else None
    if others:
        others.require_boxes()
    generalisation = (
        train_and_validation(instances, others, anchors=anchors, convention=options.convention) if others else None
    )
    scores = anchor_results.score_all(instances, [anchors], options.convention)
    if json:
        print_json(anchor_results.stability_object(scores[0], stable, generalisation))
    else:
        print_dataset(instances.dataset, str(instances.rule), console())
        anchor_tables.print_scores(scores, console())
        anchor_tables.print_stability(stable, generalisation, console())
    if output:
        from detect.report.anchor_page import anchor_page

        title = "Stability of fitted anchors"
        page = anchor_page(scores, None, title=title, stability=stable, generalisation=generalisation)
        save(output, {"report.html": page})


def _bootstrap(instances: ResizedInstances, options: FitOptions, resamples: int) -> Stability:
    from detect.anchors.stability import bootstrap
    from detect.cli.output import reading_bar

    done = itertools.count()
    with reading_bar() as on_progress:

        def refit(drawn: ResizedInstances) -> AnchorSet:
            on_progress("fitting to resamples", next(done), resamples + 1)
            return options.fit(drawn, prove=False).anchors

        return bootstrap(instances, refit, resamples=resamples, convention=options.convention)


def curve(
    *,
    resize: Resize = None,
    dataset: DatasetFiles,
    json: AsJson = False,
) -> None:
    """Show the mean best IoU for k = 1 to 15 shapes, and the knee after which more shapes add little.

    `detect anchors curve instances.json --resize letterbox:640`
    """
    from detect.cli import anchor_results, anchor_tables
    from detect.cli.output import console, print_dataset, print_json
    from detect.fitting.fit import k_curve

    instances = dataset.read_resized(resize)
    instances.require_boxes()
    found = k_curve(instances)
    if json:
        print_json(anchor_results.curve_object(found))
    else:
        print_dataset(instances.dataset, str(instances.rule), console())
        anchor_tables.print_k_curve(found, console())

"""``detect anchors fit``, ``stability`` and ``curve``: anchors, how far to trust them, how many to take; ``detect demo``."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import detect
from detect.cli.detector_fit import DetectorOptions, fit_detector, note_unnamed
from detect.cli.engine import EngineOptions
from detect.cli.fit_options import FitOptions, Fitted, stopped_searches
from detect.cli.options import AsJson, DatasetFiles, Output, Resize, expert
from detect.cli.output import findings_of, note, print_answer, reading_bar, save
from detect.cli.terminal import print_now
from detect.errors import ConfigError

if TYPE_CHECKING:
    from detect.anchors.stability import Stability

FINE = FitOptions(levels="p2-p4", per_level="3")
STORIES = (  # sample, title, resize rule, what to fit
    ("bccd", "Blood cells in 640x480 images, as a YOLO-sized detector sees them", "letterbox:640", FitOptions()),
    ("nuclei", "Cell nuclei in 128x128 crops: small objects, so a finer pyramid", "none", FINE),
)
KNOWN = ("retinanet", "yolov3-coco")


def fit(
    *,
    target: DetectorOptions,
    options: FitOptions,
    resize: Resize = None,
    compare: Annotated[
        list[str] | None,
        typer.Option(help="Anchors to score beside the fitted ones: a known name or an anchors.yaml; repeatable."),
    ] = None,
    output: Output = None,
    report: Annotated[bool, expert(help="With -o: write report.html too; only without --engine dask.")] = True,
    engine: EngineOptions,
    dataset: DatasetFiles,
    json: AsJson = False,
) -> None:
    """Fit anchor shapes to the boxes of a dataset, for the detector that is to use them.

    `detect anchors fit instances.json --for yolov5 -o anchors` prints the text that YOLOv5 takes and writes it, with
    `anchors/anchors.yaml`, which all other commands and `detect.AnchorSet.load` read, and `anchors/report.html`. `detect
    anchors known` lists the detectors. Without --for: `-k 9 --resize letterbox:640`, or `--levels p2-p4 --per-level 3` for
    the shapes of all levels together, on the grid.
    """
    from detect.cli import anchor_results
    from detect.cli.anchor_tables import print_fit
    from detect.fitting.fit import k_curve

    objective = options.check()
    others = list(map(detect.load_anchors, compare or []))
    detector = target.load(options, resize)
    if engine.engine == "dask" and options.per_level and not (objective.on_grid or detector):
        raise ConfigError(
            "--engine dask: not for --per-level by shape, which needs all boxes at once: --objective grid"
        )
    rule = detect.parse_resize((detector.resize if detector else resize or options.resize) or "none")
    with engine.open(dataset) as data:
        boxes = data.fit_boxes(rule, options)
        if rule.name == "none":
            note("note: --resize none: shapes are in pixels of the original images, which few detectors see")
        sources = data.start_hashing() if output else None
        fitted = fit_detector(data, boxes, detector, options) if detector else options.fit(boxes)
        convention = detector.convention if detector else options.convention
        sets = [fitted.anchors, *others]
        scores = data.metric_sums(sets, [rule] * len(sets), convention)
        curve = k_curve(boxes.every.histogram, seed=options.seed) if output and report else None
        content = partial(anchor_results.fit_object, scores, fitted, curve, method=options.method)
        print_answer(json, lambda: content() | data.left_out(), lambda: print_fit(scores, fitted, curve))
        if detector is None:
            note_unnamed(options, objective.on_grid)
        if output and sources:
            files = anchor_results.fit_files(scores[0], fitted, sources.result(), data.findings)
            page = anchor_results.page_of(data, curve, "Anchors fitted to data", dataset.images) if report else {}
            save(output, files | page)
        data.finish()


def stability(
    *,
    options: FitOptions,
    resize: Resize = None,
    resamples: Annotated[
        int, typer.Option(min=0, max=10_000, help="Number of resamples of the images to fit again; 0 for none.")
    ] = 100,
    validation: Annotated[
        list[str] | None,
        typer.Option(help="Labels of other images: are the boxes covered as well there? Repeatable."),
    ] = None,
    output: Output = None,
    dataset: DatasetFiles,
    json: AsJson = False,
) -> None:
    """Show how far fitted anchors depend on the images: bootstrap intervals, and scores on other images.

    `detect anchors stability train.json -k 9 --resize letterbox:640 --resamples 100 --validation val.json`
    """
    from detect.anchors.metric_sums import MetricSums
    from detect.anchors.stability import train_and_validation
    from detect.cli import anchor_results
    from detect.cli.anchor_tables import print_stability

    if not resamples and not validation:
        raise ConfigError("nothing to do: give --resamples from 1, --validation FILES or both")
    options.check()
    resize = resize or options.resize
    instances = dataset.read_resized(resize)
    others = replace(dataset, files=validation).read_resized(resize) if validation else None
    fits: list[Fitted] = []
    fit = options.fit_each(fits)
    anchors = fit(instances)
    stable = _bootstrap(instances, fit, resamples, options.convention) if resamples else None
    generalisation = None
    if others:
        others.require_boxes()
        generalisation = train_and_validation(instances, others, anchors=anchors, convention=options.convention)
    scores = anchor_results.score_all(instances, [anchors], options.convention)
    found = (MetricSums.of(scores[0]), stable, generalisation)
    stopped = stopped_searches(fits)
    print_answer(json, lambda: anchor_results.stability_object(*found) | stopped, lambda: print_stability(*found))
    if output:
        from detect.report.anchor_page import anchor_page

        title = "Stability of fitted anchors"
        page = anchor_page(scores, None, title=title, stability=stable, generalisation=generalisation)
        save(output, {"report.html": page})


def _bootstrap(
    instances: detect.ResizedInstances,
    fit: Callable[[detect.ResizedInstances], detect.AnchorSet],
    resamples: int,
    convention: str,
) -> Stability:
    """The stability of a fit over resamples, with a bar."""
    from detect.anchors.stability import bootstrap

    done = itertools.count()
    with reading_bar() as on_progress:

        def refit(drawn: detect.ResizedInstances) -> detect.AnchorSet:
            on_progress("fitting to resamples", next(done), resamples + 1)
            return fit(drawn)

        return bootstrap(instances, refit, resamples=resamples, convention=convention)


def curve(*, resize: Resize = None, dataset: DatasetFiles, json: AsJson = False) -> None:
    """Show the mean best IoU for k = 1 to 15 shapes, and the knee after which more shapes add little.

    `detect anchors curve instances.json --resize letterbox:640`
    """
    from detect.cli.anchor_results import curve_object
    from detect.cli.anchor_tables import print_k_curve
    from detect.fitting.fit import k_curve

    instances = dataset.read_resized(resize)
    instances.require_boxes()
    found = k_curve(instances)
    print_answer(json, lambda: curve_object(found), lambda: print_k_curve(instances, found))


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")] = Path("detect-demo"),
) -> None:
    """Fit anchors to two small datasets, compare them with known ones and draw the pages, in seconds.

    `detect demo -o detect-demo`
    """
    from detect.anchors.metric_sums import MetricSums
    from detect.cli import anchor_results
    from detect.cli.anchor_tables import print_fit
    from detect.cli.read_data import sources_of
    from detect.fitting.fit import k_curve
    from detect.report.anchor_page import anchor_page
    from detect.samples import sample_annotations

    for sample, title, resize, options in STORIES:
        typer.secho(f"\n{title}", bold=True)
        instances = DatasetFiles([str(sample_annotations(sample))]).read_resized(resize)
        fitted, curve = options.fit(instances), k_curve(instances)
        metrics = anchor_results.score_all(instances, [fitted.anchors, *map(detect.load_anchors, KNOWN)])
        scores = list(map(MetricSums.of, metrics))
        files = anchor_results.fit_files(
            scores[0], fitted, sources_of(instances.dataset.files), findings_of(instances.dataset)
        )
        save(output / sample, files | {"report.html": anchor_page(metrics, curve, title=title)})
        print_fit(scores, fitted, curve)
        print_now()
    typer.echo(f"\nOpen {output / 'bccd' / 'report.html'} in a browser. Then fit to your own data:")
    typer.echo("  detect anchors fit instances.json --for yolov5 -o anchors")

"""``detect anchors fit``: from options to anchors, by shape or as they will lie on the grid."""

from __future__ import annotations

from typing import Annotated

import typer

from detect.cli.anchor_options import (
    RESIZE_HELP,
    AsJson,
    Balance,
    Config,
    Covariance,
    Files,
    Findings,
    GridOption,
    Images,
    Layout,
    Method,
    Output,
    Shrinkage,
    Strict,
)
from detect.errors import ConfigError

LEVELS = "p3-p7"
GRID, WEIGHTS, METHODS, TOLD = (
    "As the grid lays them",
    "What counts more",
    "Baselines",
    "What is told besides",
)  # panels


def fit(
    files: Files,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Number of anchor shapes in all.")] = 9,
    levels: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=GRID,
            help=f"Pyramid levels (p3-p7, p2,p4) or strides in pixels (8,16,32). Default: {LEVELS}.",
        ),
    ] = None,
    per_level: Annotated[
        int | None,
        typer.Option(min=1, max=1000, rich_help_panel=GRID, help="Instead of -k: just so many shapes on each level."),
    ] = None,
    max_anchors: Annotated[
        int | None,
        typer.Option(
            min=1, max=1000, rich_help_panel=GRID, help="Instead of -k: so many on each level at most, where they pay."
        ),
    ] = None,
    price: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            rich_help_panel=GRID,
            help="What a shape on every level must add to the score to pay for its operations, as placed.",
        ),
    ] = 0.01,
    max_strides: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=GRID,
            help="A level is for instances of up to so many of its strides, the coarsest for all: 4 keeps large ones "
            "from having many times the positive anchors of small ones. Default: no limit.",
        ),
    ] = None,
    layout: Annotated[
        Layout,
        typer.Option(
            rich_help_panel=GRID,
            help="free (w, h) lists; or sizes by ratios: octaves (mmdetection), grid (detectron2, torchvision), "
            "level-grids (ratios of each level's own).",
        ),
    ] = "free",
    scales: Annotated[
        int, typer.Option(min=1, max=30, rich_help_panel=GRID, help="Sizes on each level, of a layout.")
    ] = 3,
    ratios: Annotated[
        int, typer.Option(min=1, max=30, rich_help_panel=GRID, help="Ratios on each level, of a layout.")
    ] = 3,
    objective: Annotated[
        str | None,
        typer.Option(
            help="placed: mean IoU where the grid puts the anchors; shape: as if they shared the box's centre. Also "
            "recall@0.5 or `0.8*iou+0.2*recall@0.5`, with shape: or placed: before it. Default: placed where levels, "
            "numbers on them or a layout are given, else shape."
        ),
    ] = None,
    balance: Annotated[
        Balance,
        typer.Option(
            rich_help_panel=WEIGHTS, help="Let every category, or small, medium and large, count alike in all."
        ),
    ] = "none",
    weight: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=WEIGHTS, help="NAME=FACTOR: let a category, or small, medium, large, count so much more."
        ),
    ] = None,
    fixed: Annotated[
        list[str] | None,
        typer.Option(rich_help_panel=WEIGHTS, help="WxH: a shape that is there in any case, among the k."),
    ] = None,
    grid: GridOption = "exact",
    method: Annotated[
        Method,
        typer.Option(
            rich_help_panel=METHODS, help="optimal and kmeans are for IoU; the others are baselines to compare with."
        ),
    ] = "optimal",
    certify: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Prove the anchors to be this close to the best there can be; 1: no proof. Default: 0.01 by shape and "
            "0.02 as placed, but of many boxes no proof, which takes longer there.",
        ),
    ] = None,
    resize: Annotated[str, typer.Option(help=RESIZE_HELP)] = "none",
    seed: Annotated[
        int,
        typer.Option(min=0, max=2**32 - 1, rich_help_panel=METHODS, help="Seed of random starts; optimal has none."),
    ] = 0,
    covariance: Annotated[
        Covariance, typer.Option(rich_help_panel=METHODS, help="Form of the mixture's covariances.")
    ] = "full",
    shrinkage: Annotated[
        Shrinkage, typer.Option(rich_help_panel=METHODS, help="Of the mixture's full covariances.")
    ] = "none",
    compare: Annotated[
        list[str] | None,
        typer.Option(rich_help_panel=TOLD, help="Anchors to score beside the fitted: a known name or an anchors.yaml."),
    ] = None,
    suggest_k: Annotated[
        bool,
        typer.Option(
            "--suggest-k",
            rich_help_panel=TOLD,
            help="Show average IoU for k = 1..15 and its knee (BIC too, of mixtures).",
        ),
    ] = False,
    bootstrap: Annotated[
        int,
        typer.Option(
            min=0,
            max=10_000,
            rich_help_panel=TOLD,
            help="Fit again to so many resamples of the images: how stable it all is.",
        ),
    ] = 0,
    validation: Annotated[
        list[str] | None,
        typer.Option(rich_help_panel=TOLD, help="COCO files of other images: do the anchors cover them as well?"),
    ] = None,
    images: Images = None,
    output: Output = None,
    report: Annotated[bool, typer.Option(rich_help_panel=TOLD, help="With -o: write report.html too.")] = True,
    findings: Findings = False,
    strict: Strict = False,
    json: AsJson = False,
    config: Config = None,  # noqa: ARG001 - its callback does the work
) -> None:
    """Fit anchor shapes to the boxes of a COCO dataset.

    `detect anchors fit instances.json -k 9 --resize letterbox:640 -o anchors` writes `anchors/anchors.yaml`, which every
    other command and `detect.AnchorSet.load` read, and `anchors/report.html`.

    `detect anchors fit instances.json --levels p2-p4 --per-level 3` fits shapes and levels together, as the detector's grid
    will lay them. Where categories differ in size, `--max-strides 4` shares positive anchors among them more evenly.
    """
    from detect.anchors.anchor_set import strides_of
    from detect.cli import anchor_results
    from detect.cli.anchor_request import Request
    from detect.cli.fit_result import FitResult
    from detect.cli.output import busy, note
    from detect.fitting.objective import Objective

    for_levels = layout != "free" or any(each is not None for each in (levels, per_level, max_anchors, max_strides))
    placed = for_levels and method == "optimal"
    request = Request(
        objective=Objective.parse(objective or ("placed" if placed else "shape"), on_grid=placed),
        strides=tuple(strides_of(levels or LEVELS)),
        k=k,
        per_level=per_level,
        max_anchors=max_anchors,
        price=price,
        max_strides=max_strides,
        layout=layout,
        scales=scales,
        ratios=ratios,
        grid=grid,
        fixed=tuple(_shape(text) for text in fixed or []),
        balance=balance,
        factors=dict(_factor(text) for text in weight or []),
        method=method,
        certify=certify,
        clustering={
            "seed": seed,
            "covariance_type": covariance,
            "shrinkage": None if shrinkage == "none" else shrinkage,
        },
    )
    instances = anchor_results.read_instances(files, resize, strict=strict, list_findings=findings)
    others = (
        anchor_results.read_instances(validation, resize, strict=strict, list_findings=findings) if validation else None
    )
    if resize == "none":
        note("note: --resize none: shapes are in pixels of the images as they are, which few detectors see")
    sources = anchor_results.start_hashing(instances.dataset) if output else None
    with busy("fitting anchors"):
        fitted = request.fit(instances)
    result = FitResult(
        scores=anchor_results.score_all(instances, [fitted.anchors, *anchor_results.load_all(compare or [])], grid),
        among=fitted.among,
        method=method,
        layouts=fitted.layouts,
        curve=request.curve(instances) if suggest_k or (output is not None and report) else None,
        stability=request.stability(instances, bootstrap) if bootstrap else None,
        generalisation=request.generalisation(instances, others, fitted.anchors) if others else None,
    )
    if json:
        result.print_object()
    else:
        result.print(whole_curve=suggest_k)
    if output and sources:
        result.save(output, sources, with_page=report, images=images)


def _shape(text: str) -> tuple[float, float]:
    width, _, height = text.lower().partition("x")
    try:
        shape = float(width), float(height)
    except ValueError:
        shape = 0.0, 0.0
    if not all(0 < extent < float("inf") for extent in shape):
        raise ConfigError(f"--fixed: expected a width and a height in pixels such as 32x64, got {text!r}")
    return shape


def _factor(text: str) -> tuple[str, float]:
    name, _, factor = text.rpartition("=")
    try:
        value = float(factor)
    except ValueError:
        value = -1.0
    if not name or not 0 <= value < float("inf"):
        raise ConfigError(f"--weight: expected a name and a factor from 0 such as platelets=5, got {text!r}")
    return name, value

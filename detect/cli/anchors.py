"""``detect anchors``: fit anchors to a dataset, score any anchors on it, convert them to other frameworks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import detect
from detect.cli import anchor_fit, options
from detect.cli.config import register
from detect.cli.detector_fit import DetectorOptions
from detect.cli.engine import NO_PAGE, EngineOptions
from detect.cli.fit_options import LEVELS, TIME_LIMIT_S, FitOptions, Fitted, stopped_searches
from detect.cli.output import note, numbers, print_answer, save, show
from detect.errors import AnchorFileError

if TYPE_CHECKING:
    from detect.ops.matcher import Matcher

MANY_TO_ASSIGN = 40_000
FITTED = FitOptions(per_level="3", max_strides=4)  # where no anchors are given: each box on a level of about its size

app = typer.Typer(
    name="anchors",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Anchors: fit, score, compare levels and input sizes, convert.",
)


def score(
    *,
    target: DetectorOptions,
    anchors: Annotated[list[str] | None, typer.Option(help=f"{options.ANCHORS} Repeatable, to compare.")] = None,
    resize: options.Resize = None,
    convention: options.Convention = "exact",
    assigner: Annotated[
        options.MatcherName | None,
        typer.Option(
            help="Also match the anchors as a detector would, and count positives. task-aligned and simota choose by what a "
            "network predicts: here by the best it could."
        ),
    ] = None,
    worst: Annotated[int, typer.Option(min=0, max=10_000, help="Number of instances of lowest IoU to list.")] = 10,
    output: options.Output = None,
    engine: EngineOptions,
    dataset: options.DatasetFiles,
    json: options.AsJson = False,
) -> None:
    """Score anchors on a dataset, side by side: by shape, on the grid, and as a detector matches them.

    `detect anchors score instances.json --for yolov5 --anchors my.yaml --anchors yolov5` compares two sets under YOLOv5's
    own rule; without --for, give `--resize letterbox:640`.
    """
    from detect.cli import anchor_results
    from detect.cli.anchor_tables import print_score

    detector = target.load(FitOptions(), resize)
    if detector and not anchors:
        anchors = [detector.name]
    if not anchors:
        raise AnchorFileError(
            "no anchors given: --anchors NAME or --anchors FILE; `detect anchors known` lists the names"
        )
    sets = list(map(options.load_anchors, anchors))
    rules = [each.resize_rule for each in sets] if resize is None and not detector else []
    rules = rules or [detect.parse_resize(detector.resize if detector else resize or "none")] * len(sets)
    _note_other_rules(sets, rules)
    with engine.open(dataset) as data:
        scores = data.metric_sums(sets, rules, detector.convention if detector else convention, worst=worst)
        if assigner and sum(each.dataset.num_boxes for each in scores) > MANY_TO_ASSIGN:
            note("note: matching takes about a minute for every 40,000 boxes")
        found = data.assignments(sets, rules, convention, _matcher(assigner)) if assigner else []
        matched = data.matching(sets, detector) if detector else []
        text = partial(print_score, scores, found, matched)
        print_answer(json, lambda: anchor_results.score_objects(scores, found, matched) | data.left_out(), text)
        if output:
            save(output, anchor_results.page_of(data, None, "Anchors side by side", dataset.images))
        data.finish()


def _note_other_rules(sets: Sequence[detect.AnchorSet], rules: Sequence[detect.ResizeRule]) -> None:
    """Say which fitted anchors are in pixels after another resize rule than the one they are scored after."""
    for each, rule in zip(sets, rules, strict=True):
        if each.version and each.resize != str(rule):
            note(f"note: {each.name} was fitted to boxes after {each.resize}, and is scored after {rule}")


def _matcher(name: str) -> Matcher:
    """The matcher of a name of ``--assigner``."""
    from detect.heads.prediction_matchers import MATCHERS  # loads torch

    return MATCHERS[name.replace("-", "_")]()


def levels(
    *,
    anchors: Annotated[
        str | None, typer.Option(help=f"{options.ANCHORS} Default: {FITTED.per_level} are fitted for each of {LEVELS}.")
    ] = None,
    resize: options.Resize = None,
    convention: options.Convention = "exact",
    assigner: Annotated[
        options.LevelMatcherName, typer.Option(help="Rule that gives anchors to instances.")
    ] = "max-iou",
    time_limit: options.TimeLimit = TIME_LIMIT_S,
    output: options.Output = None,
    engine: EngineOptions,
    dataset: options.DatasetFiles,
    json: options.AsJson = False,
) -> None:
    """Show which pyramid levels the boxes use, what dropping each level loses and saves, and whether a finer one pays.

    `detect anchors levels instances.json --anchors retinanet` ends with the levels to keep; `RetinaNetHead.select_levels`
    and `AnchorGenerator.select_levels` take them, and `detect anchors fit instances.json --levels p3-p5` fits to them. No
    training is needed: the anchors are matched as a detector would match them.
    """
    from detect.cli.anchor_tables import print_level_report

    chosen = options.load_anchors(anchors) if anchors else None
    rule = chosen.resize_rule if chosen and not resize else detect.parse_resize(resize or "none")
    if chosen:
        _note_other_rules([chosen], [rule])
    fits: list[Fitted] = []
    with engine.open(dataset) as data:
        if chosen is None:
            note(f"note: no --anchors given: {FITTED.per_level} are fitted for each of {LEVELS}")
            own = replace(FITTED, convention=convention, time_limit=time_limit)
            chosen = own.fit_each(fits)(data.fit_boxes(rule, FITTED))
        report = data.level_report(rule, chosen, convention, _matcher(assigner))
        stopped = stopped_searches(fits)
        print_answer(json, lambda: report.to_dict() | stopped | data.left_out(), lambda: print_level_report(report))
        if output and report.by_instance:
            from detect.report.level_page import level_page

            save(output, {"report.html": level_page(report, title="Which pyramid levels the boxes use")})
        elif output:
            note(NO_PAGE)
        data.finish()


def sweep(
    *,
    sizes: Annotated[str, typer.Option(help="Values of the first size of the resize rule, such as 320,640,1024.")],
    resize: options.Resize = None,
    anchors: Annotated[
        str | None, typer.Option(help=f"{options.ANCHORS} Default: anchors are fitted at each size.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Number of shapes to fit.")] = 9,
    levels: Annotated[str, typer.Option(help="Pyramid levels to fit shapes for.")] = LEVELS,
    convention: options.Convention = "exact",
    time_limit: options.TimeLimit = TIME_LIMIT_S,
    dataset: options.DatasetFiles,
    json: options.AsJson = False,
) -> None:
    """Show what a larger input buys: recall, small boxes, anchors and operations at several sizes.

    `detect anchors sweep instances.json --sizes 320,480,640,800,1024 --resize letterbox:640`
    """
    from detect.anchors.sweep import rules_of_sizes, sweep_resize
    from detect.cli.anchor_tables import print_sweep

    chosen = options.load_anchors(anchors) if anchors else None
    rule = chosen.resize_rule if chosen and not resize else detect.parse_resize(resize or "none")
    rules = rules_of_sizes(rule, [round(size) for size in numbers(sizes, "--sizes", least=1)])
    fits: list[Fitted] = []
    fit = FitOptions(k=k, levels=levels, objective="shape", time_limit=time_limit).fit_each(fits)
    settings = sweep_resize(dataset.read(), chosen or fit, rules=rules, convention=convention)
    content = {"settings": [each.to_dict() for each in settings]} | stopped_searches(fits)
    print_answer(json, lambda: content, lambda: print_sweep(settings))


def convert(
    anchors: Annotated[str, typer.Argument(help=options.ANCHORS)],
    to: Annotated[
        str,
        typer.Option(
            help="A detector's name (`detect anchors known`), a YAML file that describes one, or a text format: "
            f"{', '.join(options.TEXT_FORMATS)}."
        ),
    ],
    fill: Annotated[
        bool, typer.Option("--fill", help="Fill levels that have too few anchors with shapes of other levels.")
    ] = False,
    output: Annotated[Path | None, typer.Option("-o", "--output", help="File to write instead of printing.")] = None,
) -> None:
    """Print anchors as the text that a detector or framework takes.

    `detect anchors convert anchors --to yolov5`
    """
    from detect.interop.anchor_formats import place_of_text

    chosen = options.load_anchors(anchors)
    conversion = detect.convert_anchors(chosen, to, fill=fill)
    if output:
        save(output.parent, {output.name: conversion.text + "\n"})
    else:
        show(conversion.text, soft_wrap=True)
    for each in conversion.notes:
        note(f"note: {each}")
    if place := place_of_text(chosen, to):
        note(f"goes into {place}")


def known(
    every: Annotated[bool, typer.Option("--all", help="Also those without anchors, for `detect advise`.")] = False,
) -> None:
    """List the detectors that are known by name: what `fit --for`, `score --anchors` and `convert --to` take.

    `detect anchors known`
    """
    from detect.cli.anchor_tables import print_known

    print_known(every=every)


for each in (anchor_fit.fit, anchor_fit.stability, anchor_fit.curve, score, levels, sweep, convert):
    register(app, each)
app.command()(known)

"""``detect anchors``: fit anchors to a dataset, score any anchors on it, convert them to other frameworks."""

from __future__ import annotations

from typing import Annotated

import typer

from detect.cli import anchor_fit
from detect.cli.anchor_options import (
    RESIZE_HELP,
    AsJson,
    Assigner,
    Config,
    Files,
    Findings,
    Format,
    GridOption,
    Images,
    Output,
    Strict,
)
from detect.errors import AnchorFileError

MANY_TO_ASSIGN = 40_000

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Anchors: fit, score, compare levels and sizes, convert."
)


app.command()(anchor_fit.fit)


@app.command()
def score(
    files: Files,
    anchors: Annotated[
        list[str] | None, typer.Option(help="A known name, an anchors.yaml or its folder; give several to compare.")
    ] = None,
    resize: Annotated[str | None, typer.Option(help=f"{RESIZE_HELP} Default: the rule each set was made for.")] = None,
    grid: GridOption = "exact",
    assigner: Annotated[
        Assigner | None, typer.Option(help="Match the anchors as a detector would, too, and tell what learns what.")
    ] = None,
    worst: Annotated[
        int, typer.Option(min=0, max=10_000, help="How many of the worst covered instances to list.")
    ] = 10,
    images: Images = None,
    output: Output = None,
    findings: Findings = False,
    strict: Strict = False,
    json: AsJson = False,
    config: Config = None,  # noqa: ARG001 - its callback does the work
) -> None:
    """Score anchors on a COCO dataset, side by side: by shape, as the grid places them, and by assignment.

    `detect anchors score instances.json --anchors retinanet --anchors anchors/anchors.yaml --resize shortest:800:1333`
    """
    from detect.cli import anchor_results
    from detect.cli.output import note, progress_over, save

    if not anchors:
        raise AnchorFileError(
            "no anchors given: --anchors NAME or --anchors FILE; `detect anchors known` lists the names"
        )
    sets = anchor_results.load_all(anchors)
    if resize is None:
        dataset = anchor_results.read_dataset(files, strict=strict, list_findings=findings)
        scores = anchor_results.score_by_own_rules(dataset, sets, grid)
    else:
        instances = anchor_results.read_instances(files, resize, strict=strict, list_findings=findings)
        scores = anchor_results.score_all(instances, sets, grid)
    assignments = []
    if assigner:
        if sum(len(each.instances) for each in scores) > MANY_TO_ASSIGN:
            note("note: matching the anchors of so many boxes takes a minute for each 40,000 or so")
        assignments = [anchor_results.assigned(each, grid, assigner) for each in progress_over(scores, "matching")]
    if json:
        anchor_results.print_score_objects(scores, assignments)
    else:
        anchor_results.print_score(scores, worst, assignments)
    if output:
        from detect.report.anchor_page import anchor_page

        save(output, {"report.html": anchor_page(scores, None, title="Anchors side by side", images=images)})


@app.command()
def levels(
    files: Files,
    anchors: Annotated[str, typer.Option(help="A known name, an anchors.yaml or its folder.")],
    resize: Annotated[str | None, typer.Option(help=f"{RESIZE_HELP} Default: the rule the set was made for.")] = None,
    grid: GridOption = "exact",
    assigner: Annotated[Assigner, typer.Option(help="Which anchors learn an instance.")] = "max-iou",
    output: Output = None,
    findings: Findings = False,
    strict: Strict = False,
    json: AsJson = False,
) -> None:
    """Which pyramid levels the boxes prefer, what dropping each costs and saves, whether a finer one would pay.

    `detect anchors levels instances.json --anchors retinanet` tells it in words; `RetinaNetHead.select_levels` and
    `AnchorGenerator.select_levels` take the levels to keep, and `detect anchors fit instances.json --levels p3-p5`
    fits to these. Nothing is trained: the anchors are matched as a detector would.
    """
    from detect.anchors.generator import AnchorGenerator
    from detect.anchors.known import load_anchors
    from detect.anchors.levels import level_report
    from detect.cli import anchor_results, anchor_tables
    from detect.cli.output import console, print_json, save
    from detect.ops.matcher import Atss

    chosen = load_anchors(anchors)
    instances = anchor_results.read_instances(files, resize or chosen.resize, strict=strict, list_findings=findings)
    generator = AnchorGenerator(chosen, convention=grid)
    preference = level_report(instances, generator, matcher=Atss() if assigner == "atss" else None)
    if json:
        print_json(preference.to_dict())
    else:
        anchor_tables.print_preference(preference, console())
    if output:
        from detect.report.level_page import level_page

        save(output, {"report.html": level_page(preference, title="Which pyramid levels the boxes prefer")})


@app.command()
def sweep(
    files: Files,
    sizes: Annotated[str, typer.Option(help="The first size of the resize rule, one after the other.")],
    resize: Annotated[str, typer.Option(help=RESIZE_HELP)] = "letterbox:640",
    anchors: Annotated[
        str | None, typer.Option(help="A known name or an anchors.yaml; default: fitted anew at each size.")
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Number of shapes, where they are fitted.")] = 9,
    levels: Annotated[str, typer.Option(help="Pyramid levels, where shapes are fitted.")] = "p3-p7",
    grid: GridOption = "exact",
    findings: Findings = False,
    strict: Strict = False,
    json: AsJson = False,
) -> None:
    """What a larger input buys: coverage, small boxes, anchors and operations at several sizes.

    `detect anchors sweep instances.json --sizes 320,480,640,800,1024 --resize letterbox:640`
    """
    from functools import partial

    from detect.anchors.anchor_set import strides_of
    from detect.anchors.known import load_anchors
    from detect.anchors.sweep import rules_of_sizes, sweep_resize
    from detect.cli import anchor_results, anchor_tables
    from detect.cli.output import console, numbers, print_json
    from detect.data.resize import parse_resize
    from detect.fitting.fit import fit_anchors

    rules = rules_of_sizes(parse_resize(resize), [round(size) for size in numbers(sizes, "--sizes", least=1)])
    chosen = load_anchors(anchors) if anchors else partial(fit_anchors, k=k, strides=strides_of(levels))
    dataset = anchor_results.read_dataset(files, strict=strict, list_findings=findings)
    settings = sweep_resize(dataset, chosen, rules=rules, convention=grid)
    if json:
        print_json({"settings": [setting.to_dict() for setting in settings]})
    else:
        anchor_tables.print_sweep(settings, console())


@app.command()
def convert(
    anchors: Annotated[str, typer.Argument(help="An anchors.yaml, its folder, or a known name.")],
    to: Annotated[Format, typer.Option(help="The framework.")],
) -> None:
    """Print anchors as another framework's configuration text."""
    from detect.anchors.known import load_anchors
    from detect.cli.output import note
    from detect.interop.anchor_formats import convert_anchors

    conversion = convert_anchors(load_anchors(anchors), to)
    print(conversion.text)
    for told in conversion.notes:
        note(f"note: {told}")


@app.command()
def known() -> None:
    """List the anchors that are known by name."""
    from detect.anchors.known import KNOWN_ANCHORS

    for name, anchor_set in sorted(KNOWN_ANCHORS.items()):
        levels = ", ".join(level.name for level in anchor_set.levels)
        print(f"{name:16} {anchor_set.num_anchors:3} shapes on {levels}; {anchor_set.resize}")

"""``detect anchors``: fit anchors to a dataset, score any anchors on it, convert them to other frameworks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from detect.errors import AnchorFileError

PROVED = 0.01  # how close to the best few boxes are proved to be fitted
RESIZE_HELP = (
    "The detector's resize rule: none, stretch:WxH, letterbox:S (YOLO), shortest:S:MAX (torchvision; add :detectron2 or "
    ":mmdet for their rounding). Anchors are fitted and scored in pixels after it."
)

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Anchors: fit, score, compare levels and sizes, convert."
)


def _use_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the fields of a configuration file the defaults of the command's options."""
    if path is not None and not context.resilient_parsing:
        from detect.config import FitConfig, ScoreConfig, read_config

        models: dict[str, Any] = {"fit": FitConfig, "score": ScoreConfig}
        context.default_map = read_config(path, models[str(context.info_name)])
    return path


# spelled out, so that --help and shell completion need not import what implements them; a test holds them equal to it
Method = Literal["optimal", "kmeans", "euclidean", "log-euclidean", "mixture"]
Covariance = Literal["full", "tied", "diag", "spherical"]
Shrinkage = Literal["none", "ledoit-wolf", "oas"]
Format = Literal["torchvision", "detectron2", "mmdet", "yolov5", "ultralytics-yaml", "json"]

Grid = Literal["exact", "torchvision", "detectron2", "mmdet", "effdet"]
Assigner = Literal["max-iou", "atss"]

GridOption = Annotated[
    Grid, typer.Option(help="Whose way to lay anchors on feature maps: its strides, and whether corners are rounded.")
]
Files = Annotated[list[str], typer.Argument(help="COCO annotation files (.json, .json.gz) or patterns: one dataset.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", callback=_use_config, is_eager=True, help="YAML with any of these options as fields."),
]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Folder to write to; it is made if need be.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Strict = Annotated[bool, typer.Option(help="Make the first annotation that cannot be used an error.")]
Findings = Annotated[bool, typer.Option("--findings", help="List everything that was refused or is odd.")]


@app.command()
def fit(
    files: Files,
    k: Annotated[int, typer.Option("-k", min=1, max=1000, help="Number of anchor shapes.")] = 9,
    per_level: Annotated[
        int | None,
        typer.Option(min=1, max=1000, help="Instead of -k: split boxes by size over levels, fit this many to each."),
    ] = None,
    method: Annotated[
        Method, typer.Option(help="optimal and kmeans are for IoU; the others are baselines to compare with.")
    ] = "optimal",
    certify: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=1,
            help="Prove optimal shapes to be this close to the best there can be; 1: no proof. Default: 0.01, but of over "
            "20,000 boxes no proof, which takes longer there.",
        ),
    ] = None,
    resize: Annotated[str, typer.Option(help=RESIZE_HELP)] = "none",
    levels: Annotated[
        str, typer.Option(help="Pyramid levels (p3-p7, p2,p4) or strides in pixels (8,16,32).")
    ] = "p3-p7",
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the random starts; optimal has none.")] = 0,
    covariance: Annotated[Covariance, typer.Option(help="Form of the mixture's covariances.")] = "full",
    shrinkage: Annotated[Shrinkage, typer.Option(help="Of the mixture's full covariances.")] = "none",
    compare: Annotated[
        list[str] | None, typer.Option(help="Anchors to score beside the fitted: a known name or an anchors.yaml.")
    ] = None,
    suggest_k: Annotated[
        bool, typer.Option("--suggest-k", help="Show average IoU for k = 1..15 and its knee (BIC too, of mixtures).")
    ] = False,
    output: Output = None,
    report: Annotated[bool, typer.Option(help="With -o: write report.html too.")] = True,
    findings: Findings = False,
    strict: Strict = False,
    json: AsJson = False,
    config: Config = None,  # noqa: ARG001 - its callback does the work
) -> None:
    """Fit anchor shapes to the boxes of a COCO dataset.

    `detect anchors fit instances.json -k 9 --resize letterbox:640 -o anchors` writes `anchors/anchors.yaml`, which every
    other command and `detect.AnchorSet.load` read, and `anchors/report.html`.
    """
    from detect.anchors.fitting import fit_anchors, k_curve
    from detect.anchors.pyramid import strides_of
    from detect.cli import anchor_results
    from detect.cli.output import note

    instances = anchor_results.read_instances(files, resize, strict=strict, list_findings=findings)
    if resize == "none":
        note("note: --resize none: shapes are in pixels of the images as they are, which few detectors see")
    sources = anchor_results.start_hashing(instances.dataset) if output else None
    fitted = fit_anchors(
        instances,
        k=k,
        per_level=per_level,
        method=method,
        strides=strides_of(levels),
        seed=seed,
        certify=_effort(certify, len(instances)),
        covariance_type=covariance,
        shrinkage=_or_none(shrinkage),
    )
    scores = anchor_results.score_all(instances, [fitted, *anchor_results.load_all(compare or [])])
    with_page = output is not None and report
    curve = None
    if suggest_k or with_page:
        mixture = {"covariance_type": covariance, "shrinkage": _or_none(shrinkage)} if method == "mixture" else None
        curve = k_curve(instances.histogram, seed=seed, mixture=mixture)
    if json:
        anchor_results.print_fit_object(scores, method, curve)
    else:
        anchor_results.print_fit(scores, curve, whole_curve=suggest_k)
    if output and sources:
        anchor_results.save_fit(output, scores, curve, sources, with_page=report, title="Anchors fitted to data")


def _effort(certify: float | None, num_boxes: int) -> float | None:
    from detect.anchors.fitting import FEW_BOXES

    if certify is None:
        certify = PROVED if num_boxes <= FEW_BOXES else 1.0
    return certify if certify < 1 else None


def _or_none(shrinkage: Shrinkage) -> str | None:
    return None if shrinkage == "none" else shrinkage


@app.command()
def score(
    files: Files,
    anchors: Annotated[
        list[str] | None, typer.Option(help="A known name, an anchors.yaml or its folder; give several to compare.")
    ] = None,
    resize: Annotated[str | None, typer.Option(help=f"{RESIZE_HELP} Default: the rule each set was made for.")] = None,
    worst: Annotated[
        int, typer.Option(min=0, max=10_000, help="How many of the worst covered instances to list.")
    ] = 10,
    output: Output = None,
    findings: Findings = False,
    strict: Strict = False,
    json: AsJson = False,
    config: Config = None,  # noqa: ARG001 - its callback does the work
) -> None:
    """Score anchors on a COCO dataset, side by side.

    `detect anchors score instances.json --anchors retinanet --anchors anchors/anchors.yaml --resize shortest:800:1333`
    """
    from detect.cli import anchor_results
    from detect.cli.output import save

    if not anchors:
        raise AnchorFileError(
            "no anchors given: --anchors NAME or --anchors FILE; `detect anchors known` lists the names"
        )
    sets = anchor_results.load_all(anchors)
    if resize is None:
        dataset = anchor_results.read_dataset(files, strict=strict, list_findings=findings)
        scores = anchor_results.score_by_own_rules(dataset, sets)
    else:
        instances = anchor_results.read_instances(files, resize, strict=strict, list_findings=findings)
        scores = anchor_results.score_all(instances, sets)
    if json:
        anchor_results.print_score_objects(scores)
    else:
        anchor_results.print_score(scores, worst)
    if output:
        save(output, {"report.html": anchor_results.page(scores, None, title="Anchors side by side")})


@app.command()
def levels(
    files: Files,
    anchors: Annotated[str, typer.Option(help="A known name, an anchors.yaml or its folder.")],
    resize: Annotated[str | None, typer.Option(help=f"{RESIZE_HELP} Default: the rule the set was made for.")] = None,
    grid: GridOption = "exact",
    assigner: Annotated[Assigner, typer.Option(help="Which anchors learn an instance.")] = "max-iou",
    findings: Findings = False,
    strict: Strict = False,
    json: AsJson = False,
) -> None:
    """Which pyramid levels the boxes prefer, what dropping each costs and saves, whether a finer one would pay.

    `detect anchors levels instances.json --anchors retinanet` tells it in words; `RetinaNetHead.select_levels` and
    `AnchorGrid.select_levels` take the levels to keep. Nothing is trained: the anchors are matched as a detector would.
    """
    from detect.anchors.assignment import Atss
    from detect.anchors.grid import DIALECTS, AnchorGrid
    from detect.anchors.known import load_anchors
    from detect.anchors.levels import level_preference
    from detect.cli import anchor_results, anchor_tables
    from detect.cli.output import console, print_json

    chosen = load_anchors(anchors)
    instances = anchor_results.read_instances(files, resize or chosen.resize, strict=strict, list_findings=findings)
    strides, rounded = ("exact", False) if grid == "exact" else (DIALECTS[grid].strides, DIALECTS[grid].rounded)
    laid = AnchorGrid(chosen, strides=strides, rounded=rounded)
    preference = level_preference(instances, laid, rule=Atss() if assigner == "atss" else None)
    if json:
        print_json(preference.to_dict())
    else:
        anchor_tables.print_preference(preference, console())


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

    from detect.anchors.fitting import fit_anchors
    from detect.anchors.grid import DIALECTS
    from detect.anchors.known import load_anchors
    from detect.anchors.pyramid import strides_of
    from detect.anchors.sweep import rules_of_sizes, sweep_resize
    from detect.cli import anchor_results, anchor_tables
    from detect.cli.output import console, numbers, print_json
    from detect.resize import parse_resize

    rules = rules_of_sizes(parse_resize(resize), [round(size) for size in numbers(sizes, "--sizes", least=1)])
    chosen = load_anchors(anchors) if anchors else partial(fit_anchors, k=k, strides=strides_of(levels))
    dataset = anchor_results.read_dataset(files, strict=strict, list_findings=findings)
    strides, rounded = ("exact", False) if grid == "exact" else (DIALECTS[grid].strides, DIALECTS[grid].rounded)
    settings = sweep_resize(dataset, chosen, rules, strides=strides, rounded=rounded)
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

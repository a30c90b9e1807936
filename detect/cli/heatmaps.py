"""``detect heatmaps``: targets from landmarks, what they can give at best, and how good predicted points are."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

app = typer.Typer(
    no_args_is_help=True, rich_markup_mode="markdown", help="Keypoints as heatmaps: targets, their limits, scores."
)


def _use_config(context: typer.Context, path: Path | None) -> Path | None:
    """Make the fields of a configuration file the defaults of the command's options."""
    if path is not None and not context.resilient_parsing:
        from detect.config import CeilingConfig, RenderConfig, ScorePointsConfig, read_config

        models: dict[str, Any] = {"render": RenderConfig, "oracle": CeilingConfig, "score": ScorePointsConfig}
        context.default_map = read_config(path, models[str(context.info_name)])
    return path


# spelled out, so that --help and shell completion need not import what implements them; a test holds them equal to it
Source = Literal["keypoints", "boxes"]
Pixel = Literal["center", "corner"]
Shape = Literal["gaussian", "disc", "pixel"]
Blend = Literal["max", "sum"]
Occluded = Literal["draw", "ignore"]
Pack = Literal["npz", "pt"]
Goal = Literal["f1", "count"]

Files = Annotated[list[str], typer.Argument(help="COCO annotation files (.json, .json.gz) or patterns: one dataset.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", callback=_use_config, is_eager=True, help="YAML with any of these options as fields."),
]
From = Annotated[
    Source,
    typer.Option("--from", help="What the points are: keypoints, or the centres of boxes, a map for each category."),
]
PixelOption = Annotated[
    Pixel,
    typer.Option(
        help="Of keypoints: pixel i has its centre at i (indices of pixels), or its left corner (continuous)."
    ),
]
Merge = Annotated[bool, typer.Option("--merge", help="One map for all points, not one for each type of landmark.")]
Radius = Annotated[float, typer.Option(min=0.01, max=100_000, help="A point is found within this many image pixels.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]
Strict = Annotated[bool, typer.Option(help="Make the first annotation or result that cannot be used an error.")]
Findings = Annotated[bool, typer.Option("--findings", help="List everything that was refused or is odd.")]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Folder to write to; it is made if need be.")]


@app.command()
def render(
    files: Files,
    output: Output = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the images, for pictures of maps over them.")] = None,
    source: From = "keypoints",
    stride: Annotated[float, typer.Option(min=0.25, max=10_000, help="Image pixels to a cell of the map.")] = 4.0,
    sigma: Annotated[
        float, typer.Option(min=0.05, max=10_000, help="Of the bells, in cells; of a disc its radius.")
    ] = 2.0,
    sigma_of_size: Annotated[
        float | None,
        typer.Option(
            min=0.001, max=10, help="Sigma as this fraction of the box's width and height, but at least --sigma."
        ),
    ] = None,
    shape: Annotated[Shape, typer.Option(help="What a point is drawn as.")] = "gaussian",
    blend: Annotated[Blend, typer.Option(help="Value where Gaussians overlap: the maximum, or the sum.")] = "max",
    occluded: Annotated[
        Occluded, typer.Option(help="Points of visibility 1: draw them like others, or give them weight 0.")
    ] = "draw",
    pixel_origin: PixelOption = "center",
    merge: Merge = False,
    pack: Annotated[Pack, typer.Option(help="Files of NumPy, or of torch.")] = "npz",
    per_shard: Annotated[int, typer.Option(min=1, max=100_000, help="Images in a file, at most.")] = 64,
    pictures: Annotated[int, typer.Option(min=0, max=400, help="How many images overlays.png shows.")] = 12,
    findings: Findings = False,
    strict: Strict = False,
    json: AsJson = False,
    config: Config = None,  # noqa: ARG001 - its callback does the work
) -> None:
    """Draw target heatmaps for the landmarks of a COCO dataset.

    `detect heatmaps render instances.json --images images -o targets` writes `targets/targets-00000.npz` and so on, to
    train on, `targets/overlays.png`, to look at, and `targets/targets.json`, which says what is in each file. Without -o it
    only counts.

    A file holds images of one size: `heatmaps` (images, types, rows, columns), and for each point drawn `positives` (image,
    type, row, column), `offsets` from the cell's centre and `sizes` of the box, both (x, y) in cells. `weights`, like the
    maps, are there where something is to be ignored: crowds, objects of which no keypoint is labelled, occluded points.
    """
    from json import dumps

    from detect.cli import heatmap_results
    from detect.cli.output import console, print_json, reading_bar, save

    found = heatmap_results.read_landmarks(
        files, source, pixel_origin=pixel_origin, merge=merge, strict=strict, list_findings=findings
    )
    options = {"shape": shape, "blend": blend, "occluded": occluded}
    drawing = heatmap_results.Drawing(stride, sigma, sigma_of_size, options)
    if output and pictures:
        save(output, {"overlays.png": heatmap_results.overlays(found, drawing, images, pictures)})
    told = []
    with reading_bar() as on_progress:
        for about, content in heatmap_results.shards(found, drawing, per_shard=per_shard, pack=pack):
            if output:
                save(output, {about["file"]: heatmap_results.packed_shard(content, pack)}, quiet=True)
            told.append(about)
            on_progress("drawing", sum(each["images"] for each in told), len(found.dataset.images))
    index = heatmap_results.index_of(found, drawing, told)
    if output:
        save(output, {"targets.json": dumps(index, indent=2) + "\n"})
        heatmap_results.note_older_shards(output, told)
    if json:
        print_json(index)
    else:
        heatmap_results.print_index(index, found.dataset, console())


@app.command()
def oracle(
    files: Files,
    source: From = "keypoints",
    strides: Annotated[str, typer.Option(help="Image pixels to a cell, one after the other.")] = "2,4,8",
    sigmas: Annotated[str, typer.Option(help="Of the bells, in cells, one after the other.")] = "1,1.5,2,3",
    radius: Radius = 3.0,
    threshold: Annotated[float, typer.Option(min=0.001, max=0.999, help="A peak is higher than this.")] = 0.3,
    split: Annotated[bool, typer.Option(help="Tell points apart that are too close to be peaks of their own.")] = True,
    pixel_origin: PixelOption = "center",
    merge: Merge = False,
    output: Output = None,
    findings: Findings = False,
    strict: Strict = False,
    json: AsJson = False,
    config: Config = None,  # noqa: ARG001 - its callback does the work
) -> None:
    """What a perfect network would reach: targets drawn and read back, at several strides and sigmas.

    `detect heatmaps oracle instances.json --strides 2,4,8 -o ceiling` prints a row for each and writes
    `ceiling/report.html`. Points that merge at a stride, or are read back farther off than --radius, are lost before
    training begins. Of the strides that lose next to nothing the coarsest is marked, with the sigma that loses least.
    """
    from detect.cli import heatmap_results, heatmap_scores
    from detect.cli.output import console, numbers, print_json, save

    grid = (
        numbers(strides, "--strides", least=0.25),
        numbers(sigmas, "--sigmas", least=0.05),
    )
    found = heatmap_results.read_landmarks(
        files, source, pixel_origin=pixel_origin, merge=merge, strict=strict, list_findings=findings
    )
    ceilings = heatmap_scores.ceilings_of(found, *grid, radius=radius, threshold=threshold, split=split)
    if json:
        print_json(heatmap_scores.ceilings_object(ceilings))
    else:
        heatmap_scores.print_ceilings(ceilings, found.dataset, console())
    if output:
        from detect.report.oracle_page import oracle_page

        page = oracle_page(ceilings, found, title="What a perfect network would reach")
        save(output, {"report.html": page})


@app.command()
def score(
    truth: Annotated[
        list[str], typer.Option("--gt", help="The truth: a COCO file or pattern. Give it again for further shards.")
    ],
    pred: Annotated[
        Path, typer.Option(help="COCO results: a list of image_id, category_id, score, and keypoints (or bbox).")
    ],
    source: From = "keypoints",
    radius: Radius = 3.0,
    radii: Annotated[
        str | None, typer.Option(help="Of average precision, such as 1,2,3; by default the one --radius.")
    ] = None,
    threshold: Annotated[float | None, typer.Option(help="Only predictions of this score or more count.")] = None,
    choose: Annotated[
        Goal | None, typer.Option(help="Choose the threshold on this data: best F1, or least error of the count.")
    ] = None,
    oks_sigmas: Annotated[
        str | None,
        typer.Option(help="One for each keypoint, such as .026,.025: add COCO's own evaluation, by pycocotools."),
    ] = None,
    pixel_origin: PixelOption = "center",
    merge: Merge = False,
    findings: Findings = False,
    strict: Strict = False,
    json: AsJson = False,
    config: Config = None,  # noqa: ARG001 - its callback does the work
) -> None:
    """Score predicted points: precision, recall, F1, how far off, how many, whether any.

    `detect heatmaps score --gt instances.json --pred results.json --radius 3 --choose f1`

    Points of an image and type are paired one to one, as many as can be within the radius. Predictions in crowds and on
    objects of which no keypoint is labelled do not count, unless a true point is near. An error is the distance of a pair,
    AP the average precision over all scores, presence AUC how well the highest score says whether there is any point.
    """
    from detect.cli import heatmap_results, heatmap_scores
    from detect.cli.output import console, numbers, print_json

    of_radii = None if radii is None else numbers(radii, "--radii", least=0.01)
    of_keypoints = None if oks_sigmas is None else numbers(oks_sigmas, "--oks-sigmas", least=1e-6)
    scoring = heatmap_scores.Scoring(source, radius, of_radii, threshold, choose, of_keypoints)
    found = heatmap_results.read_landmarks(
        truth, source, pixel_origin=pixel_origin, merge=merge, strict=strict, list_findings=findings
    )
    scored = heatmap_scores.score_file(found, pred, scoring, strict=strict, list_findings=findings)
    if json:
        print_json(scored)
    else:
        heatmap_scores.print_scored(scored, found.dataset, console())

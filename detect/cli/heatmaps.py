"""``detect heatmaps``: targets from landmarks, the best that they allow, and scores of predicted points."""

from __future__ import annotations

from json import dumps
from typing import Annotated, Literal

import typer

from detect.cli import options
from detect.cli.config import register
from detect.cli.heatmap_baseline import baseline
from detect.cli.heatmap_peaks import peaks
from detect.cli.heatmap_score import score
from detect.cli.options import expert
from detect.cli.output import numbers, print_answer, reading_bar, save, warn_of_older

app = typer.Typer(
    name="heatmaps",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    help="Keypoints as heatmaps: targets, their limits, scores.",
)

# spelled out, as in options.py
Shape = Literal["gaussian", "disc", "pixel"]
Blend = Literal["max", "sum"]
Occluded = Literal["draw", "ignore"]
Unlabelled = Literal["ignore", "background", "map"]


def render(
    *,
    output: options.Output = None,
    stride: Annotated[float, typer.Option(min=0.25, max=10_000, help="Image pixels per cell of the map.")] = 4.0,
    sigma: Annotated[
        float,
        typer.Option(min=0.05, max=10_000, help="Standard deviation of the Gaussians, or radius of a disc, in cells."),
    ] = 2.0,
    shape: Annotated[Shape, typer.Option(help="What is drawn for a point.")] = "gaussian",
    blend: Annotated[Blend, typer.Option(help="Value where Gaussians overlap: the larger one, or the sum.")] = "max",
    points: options.PointOptions,
    sigma_of_size: Annotated[
        float | None,
        expert(min=0.001, max=10, help="Sigma as this fraction of the box's width and height, but at least --sigma."),
    ] = None,
    occluded: Annotated[Occluded, expert(help="Points of visibility 1: draw them, or give them weight 0.")] = "draw",
    unlabelled: Annotated[
        Unlabelled,
        expert(
            help="An unlabelled keypoint of a partly labelled object: weight 0 in the object's box, background, or weight "
            "0 in the whole map of its type."
        ),
    ] = "ignore",
    pack: Annotated[Literal["npz", "pt"], expert(help="Files for NumPy, or for torch.")] = "npz",
    per_shard: Annotated[int, expert(min=1, max=100_000, help="Maximum number of images in a file.")] = 64,
    num_pictures: options.NumPictures = 12,
    dataset: options.DatasetFiles,
    json: options.AsJson = False,
) -> None:
    """Draw target heatmaps for the landmarks of a dataset.

    `detect heatmaps render instances.json --images images -o targets` writes `targets/targets-00000.npz` and so on, to
    train on, `targets/overlays.png`, to look at, and `targets/targets.json`, which describes each file. Without -o it only
    counts.

    A file holds images of one size: `heatmaps` (images, types, rows, columns), and for each point drawn `positives` (image,
    type, row, column), `offsets` from the cell's centre and `sizes` of the box, both (x, y) in cells. `weights` have the
    shape of the maps and are there only if something is to be ignored: crowds, keypoints without a label, or
    occluded points. With --orientation `orientations` are cosine and sine of each drawn point's angle, with axis of twice
    the angle, and NaN if it is unknown.
    """
    from detect.cli.heatmap_targets import TargetFiles, packed_shard, print_index

    landmarks = points.read(dataset)
    drawn = {"shape": shape, "blend": blend, "occluded": occluded}
    targets = TargetFiles(landmarks, stride, sigma, sigma_of_size, drawn, unlabelled)
    if output and num_pictures:
        save(output, {"overlays.png": targets.overlays(dataset.images, num_pictures)})
    written = []
    with reading_bar() as on_progress:
        for about, content in targets.shards(per_shard=per_shard, pack=pack):
            if output:
                save(output, {about["file"]: packed_shard(content, pack)}, quiet=True)
            written.append(about)
            on_progress("drawing", sum(each["images"] for each in written), len(landmarks.dataset.images))
    index = targets.index(written)
    if output:
        save(output, {"targets.json": dumps(index, indent=2) + "\n"})
        warn_of_older(output, "targets-*.*", {each["file"] for each in written})
    print_answer(json, lambda: index, lambda: print_index(index, landmarks.dataset))


def oracle(
    *,
    strides: Annotated[str, typer.Option(help="Image pixels per cell: a comma list.")] = "2,4,8",
    sigmas: Annotated[
        str, typer.Option(help="Standard deviations of the Gaussians in cells: a comma list.")
    ] = "1,1.5,2,3",
    radius: Annotated[
        float, typer.Option(min=0.01, max=100_000, help="Distance in image pixels within which a point is found.")
    ] = 3.0,
    threshold: Annotated[float, typer.Option(min=0.001, max=0.999, help="Minimum height of a peak.")] = 0.3,
    split: Annotated[bool, typer.Option(help="Separate points that are too close to have peaks of their own.")] = True,
    points: options.PointOptions,
    output: options.Output = None,
    dataset: options.DatasetFiles,
    json: options.AsJson = False,
) -> None:
    """Score a perfect network: targets drawn and read back, at several strides and sigmas.

    `detect heatmaps oracle instances.json --strides 2,4,8 -o oracle` prints one row for each setting and writes
    `oracle/report.html`. Points that merge at a stride, or that are read back farther away than --radius, are lost before
    training begins. The coarsest stride that loses almost nothing is marked, with its best sigma.
    """
    from detect.cli.evaluation_results import oracle_object, print_oracle, round_trips

    settings = numbers(strides, "--strides", least=0.25), numbers(sigmas, "--sigmas", least=0.05)
    landmarks = points.read(dataset)
    scores = round_trips(landmarks, *settings, radius=radius, threshold=threshold, split=split)
    print_answer(json, lambda: oracle_object(scores, landmarks), lambda: print_oracle(scores, landmarks))
    if output:
        from detect.report.oracle_page import oracle_page

        page = oracle_page(scores, landmarks, title="What a perfect network would reach")
        save(output, {"report.html": page})


for each in (render, oracle, baseline, peaks, score):
    register(app, each)

"""``detect demo``: the whole story on the samples inside the package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer


@dataclass(frozen=True)
class _Story:
    sample: str
    told: str
    resize: str
    levels: str
    per_level: int | None
    """As the grid lays them; or nine in all, by shape."""


STORIES = (
    _Story("bccd", "Blood cells in 640x480 images, as a YOLO-sized detector sees them", "letterbox:640", "p3-p7", None),
    _Story("nuclei", "Cell nuclei in 128x128 crops: small objects, so a finer pyramid", "none", "p2-p4", 3),
)
NINE = 9
KNOWN = ("retinanet", "yolov3-coco")


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")] = Path("detect-demo"),
) -> None:
    """Fit anchors to two small datasets, compare them with known ones and draw the pages. Takes seconds."""
    from detect.anchors.anchor_set import strides_of
    from detect.cli import anchor_results
    from detect.cli.anchor_request import PROVED, PROVED_PLACED
    from detect.cli.fit_result import FitResult
    from detect.fitting.fit import fit_anchors, k_curve
    from detect.fitting.fit_levels import fit_levels
    from detect.samples import sample_annotations

    for story in STORIES:
        typer.secho(f"\n{story.told}", bold=True)
        files = [str(sample_annotations(story.sample))]
        instances = anchor_results.read_instances(files, story.resize, strict=False, list_findings=False)
        strides = strides_of(story.levels)
        if story.per_level is None:
            fitted, among = fit_anchors(instances, k=NINE, strides=strides, certify=PROVED), f"for k = {NINE}"
        else:
            fit = fit_levels(instances, strides, per_level=story.per_level, certify=PROVED_PLACED)
            fitted, among = fit.anchors, f"with {fit.numbers}"
        scores = anchor_results.score_all(instances, [fitted, *anchor_results.load_all(KNOWN)])
        curve = k_curve(instances.histogram)
        result = FitResult(scores, among, curve=curve)
        result.print()
        sources = anchor_results.start_hashing(instances.dataset)
        result.save(output / story.sample, sources, title=story.told)
    typer.echo(f"\nOpen {output / STORIES[0].sample / 'report.html'} in a browser. Next, on your own data:")
    typer.echo("  detect anchors fit instances.json --resize letterbox:640 -o anchors")

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
    k: int


STORIES = (
    _Story("bccd", "Blood cells in 640x480 images, as a YOLO-sized detector sees them", "letterbox:640", "p3-p7", 9),
    _Story("nuclei", "Cell nuclei in 128x128 crops: small objects, so a finer pyramid", "none", "p2-p4", 9),
)
KNOWN = ("retinanet", "yolov3-coco")


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")] = Path("detect-demo"),
) -> None:
    """Fit anchors to two small datasets, compare them with known ones and draw the pages. Takes seconds."""
    from detect.anchors.fitting import fit_anchors, k_curve
    from detect.anchors.pyramid import strides_of
    from detect.cli import anchor_results
    from detect.samples import sample_annotations

    for story in STORIES:
        typer.secho(f"\n{story.told}", bold=True)
        files = [str(sample_annotations(story.sample))]
        instances = anchor_results.read_instances(files, story.resize, strict=False, list_findings=False)
        fitted = fit_anchors(instances, k=story.k, strides=strides_of(story.levels))
        scores = anchor_results.score_all(instances, [fitted, *anchor_results.load_all(KNOWN)])
        curve = k_curve(instances.histogram)
        anchor_results.print_fit(scores, curve)
        sources = anchor_results.start_hashing(instances.dataset)
        anchor_results.save_fit(output / story.sample, scores, curve, sources, title=story.told)
    typer.echo(f"\nOpen {output / STORIES[0].sample / 'report.html'} in a browser. Next, on your own data:")
    typer.echo("  detect anchors fit instances.json --resize letterbox:640 -o anchors")

"""``detect demo``: fits, tables and pages on the samples inside the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from detect.cli.fit_options import FitOptions
from detect.cli.options import DatasetFiles

STORIES = (  # sample, title, resize rule, what to fit
    ("bccd", "Blood cells in 640x480 images, as a YOLO-sized detector sees them", "letterbox:640", FitOptions()),
    (
        "nuclei",
        "Cell nuclei in 128x128 crops: small objects, so a finer pyramid",
        "none",
        FitOptions(levels="p2-p4", per_level=3),
    ),
)
KNOWN = ("retinanet", "yolov3-coco")


def demo(
    output: Annotated[Path, typer.Option("-o", "--output", help="Folder for the results.")] = Path("detect-demo"),
) -> None:
    """Fit anchors to two small datasets, compare them with known ones and draw the pages, in seconds.

    `detect demo -o detect-demo`
    """
    from detect.cli import anchor_results
    from detect.cli.output import save
    from detect.fitting.fit import k_curve
    from detect.samples import sample_annotations

    for sample, title, resize, options in STORIES:
        typer.secho(f"\n{title}", bold=True)
        instances = DatasetFiles([str(sample_annotations(sample))]).read_resized(resize)
        sources = anchor_results.start_hashing(instances.dataset)
        fitted, curve = options.fit(instances), k_curve(instances)
        scores = anchor_results.score_all(instances, [fitted.anchors, *anchor_results.load_all(KNOWN)])
        anchor_results.print_fit(scores, fitted, curve)
        save(output / sample, anchor_results.fit_files(scores, curve, sources.result(), title=title))
    typer.echo(f"\nOpen {output / 'bccd' / 'report.html'} in a browser. Then fit to your own data:")
    typer.echo("  detect anchors fit instances.json --resize letterbox:640 -o anchors")

"""``detect predict``: what a trained detector finds in image files, as COCO results and as pictures."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from detect.cli.detection_marks import Drawer
    from detect.loading.dataset import DetectionData


def predict(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint, or a run's folder, of which the best is taken.")],
    images: Annotated[list[Path], typer.Argument(help="Image files, and folders of them.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="Folder for results.json, images.json and pictures.")
    ] = Path("predictions"),
    picture_score: Annotated[
        float,
        typer.Option(
            min=0,
            max=1,
            help="Results of this score or more are drawn; results.json has all above the model's score threshold.",
        ),
    ] = 0.3,
    pictures: Annotated[bool, typer.Option(help="Draw what was found over each image.")] = True,
    skip_broken: Annotated[bool, typer.Option(help="Leave out images that cannot be read, and say which.")] = False,
    batch_size: Annotated[int, typer.Option(min=1, max=65_536, help="Images at once.")] = 16,
    device: Annotated[str, typer.Option(help="To run the detector on, such as cuda.")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="Print what was found as one JSON object.")] = False,
) -> None:
    """Find objects in images: COCO results and pictures.

    `detect predict runs/nuclei photos -o predictions` writes `results.json`, a list of results in COCO's format whose
    images and categories are those of `images.json`, and `pictures/`, each image with the boxes or points found in it.
    """
    from detect.cli.detection_marks import Drawer
    from detect.cli.detector import load_on
    from detect.cli.output import note, print_json, reading_bar, save
    from detect.data.coco_results import results_json
    from detect.loading.dataset import DetectionData
    from detect.loading.image_files import dataset_from_files, images_json
    from detect.training.inference import find_objects

    trained = load_on(checkpoint, device)
    dataset, folder = dataset_from_files(images, trained.labels)
    with reading_bar() as on_progress:
        data = DetectionData(
            dataset,
            folder,
            resize=trained.resize,
            channels=trained.channels,
            on_broken="skip" if skip_broken else "fail",
            category_ids=trained.category_ids,
            on_progress=on_progress,
        )
    for broken in data.broken:
        note(f"skipped: {broken.reason}")
    pixel_origin = trained.config.data.pixel_origin
    with reading_bar() as on_progress:
        results = find_objects(
            trained.model,
            data,
            labels=trained.labels,
            batch_size=batch_size,
            device=device,
            pixel_origin=pixel_origin,
            on_progress=on_progress,
        )
    save(output, {"results.json": results_json(results, dataset), "images.json": images_json(dataset)})
    if pictures:
        _draw(output / "pictures", data, Drawer(dataset, results, picture_score, pixel_origin=pixel_origin))
    found = {"images": len(data), "skipped": len(data.broken), "results": len(results.scores)}
    if json:
        print_json({**found, "output": str(output)})
    else:
        drawn = int((results.scores >= picture_score).sum())
        typer.echo(
            f"{found['results']:,} results in {found['images']:,} images, {drawn:,} of score {picture_score:g} or more"
        )


def _draw(folder: Path, data: DetectionData, drawer: Drawer) -> None:
    """One picture for each image; drawn and written one by one."""
    import io

    from detect.cli.output import note, progress_over, save
    from detect.data.images import open_image
    from detect.report.pictures import detection_picture

    names = picture_names(data.dataset.images.file_names)
    for row in progress_over(data.image_rows.tolist(), "drawing"):
        image = open_image(data.folder, data.dataset.images.file_names[row])
        stream = io.BytesIO()
        detection_picture(image, drawer.found(row)).save(stream, "PNG")
        save(folder, {names[row]: stream.getvalue()}, quiet=True)
    note(f"wrote {len(data):,} pictures to {folder}")


def picture_names(file_names: Sequence[str]) -> list[str]:
    """Names that end in .png; where two images would share one, they keep their own ending too.

    >>> picture_names(["a/cell.jpg", "a/cell.tif", "b/cell.jpg"])
    ['a/cell.jpg.png', 'a/cell.tif.png', 'b/cell.png']
    """
    short = [PurePosixPath(name).with_suffix(".png").as_posix() for name in file_names]
    times = Counter(short)
    return [each if times[each] == 1 else f"{name}.png" for each, name in zip(short, file_names, strict=True)]

"""``detect predict`` on a slide larger than memory: tile by tile, with points in the formats of ``heatmaps peaks``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image, UnidentifiedImageError

from detect.cli.output import check_not_given, note, print_answer, reading_bar, save, show
from detect.data.images import is_too_large
from detect.errors import ConfigError, ResizeError
from detect.files import exists, is_folder, open_regular
from detect.wording import plural

if TYPE_CHECKING:
    from detect.data.point_files import FoundPoints
    from detect.training.checkpoints import TrainedDetector
    from detect.training.slides import SlideDetector

ZARR = ("zarr.json", ".zgroup", ".zarray")
TILES = "1024:128"


def is_slide(path: Path) -> bool:
    """Whether a path is read in parts: zarr, OME-TIFF, or a TIFF with more pixels than Pillow opens."""
    if is_folder(path):
        return any((path / name).exists() for name in ZARR)
    name = path.name.lower()
    if name.endswith((".ome.tif", ".ome.tiff")):
        return True
    if not name.endswith((".tif", ".tiff")) or not exists(path):
        return False
    try:
        with open_regular(path) as stream, Image.open(stream) as image:
            return is_too_large(image)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        return True
    except (UnidentifiedImageError, OSError, SyntaxError, ValueError):
        return False  # it is named with the other images that cannot be read


def slide_among(images: list[Path], to: str | None, **of_images: object) -> Path | None:
    """The slide, if one is given; it is predicted alone, has a format of points, and none of the options of images."""
    slides = [path for path in images if is_slide(path)]
    if slides and len(images) > 1:
        raise ConfigError(f"{slides[0]}: a slide is predicted alone: one command for each")
    if to is not None and not slides:
        raise ConfigError(f"--to {to}: for slides (zarr, OME-TIFF, TIFFs too large to open); images get results.json")
    if slides:
        check_not_given({name: value not in (None, False) for name, value in of_images.items()}, "slides", slides[0])
    return slides[0] if slides else None


def predict_slide(
    trained: TrainedDetector,
    path: Path,
    output: Path,
    *,
    to: str,
    tiles: str | None,
    shown: tuple[float, str],
    device: str,
    json: bool,
) -> None:
    """Find the points of one slide and write them to ``output``; an interrupted run goes on where it was.

    Points of the score ``shown`` or more are counted beside all; a text says where it is from.
    """
    from detect.data.point_files import point_files
    from detect.data.volumes import open_array
    from detect.training.slides import SlideDetector
    from detect.training.tile_journal import identity_of, open_journal

    slide = open_array(path)
    try:
        detector = SlideDetector.of(trained, slide, tiles=f"tiles:{tiles or TILES}", device=device)
    except ResizeError:
        raise ConfigError(f"--slice {tiles}: expected SIZE:OVERLAP in pixels: 1024:128") from None
    settings = {name: getattr(detector, name) for name in ("tile_px", "overlap_px", "reach", "device")}
    with open_journal(output, identity_of(trained.name, path, settings)) as journal, reading_bar() as on_progress:
        note(_way(detector))
        if trained.config.data.orientation != "none":
            note("warning: the points of a slide have no angles, those of images have")
        if len(journal):
            note(f"going on: {plural(len(journal), 'tile')} done")
        peaks = detector.find(journal=journal, on_progress=on_progress)
        found = _points(detector, trained, peaks)
        files = point_files(found, to, pixel_origin=trained.config.data.pixel_origin)
        save(output, files)
    content: dict[str, Any] = {
        "points": len(found.scores),
        "by_type": found.counts(),
        "exact": detector.reach is not None,
    }
    counts = ", ".join(f"{name}: {count:,}" for name, count in found.counts().items())
    above = f"{int((found.scores >= shown[0]).sum()):,} of score {shown[0]:.3g} or more{shown[1]}"
    print_answer(
        json,
        lambda: {**content, "files": [*files]},
        lambda: show(f"{plural(len(found.scores), 'point')} ({counts}), {above}", soft_wrap=True),
    )


def _way(detector: SlideDetector) -> str:
    """A line that says how the tiles are read, and whether the points are those of the whole slide."""
    if detector.reach is None:
        return (
            f"note: the network has an operation over the whole image (such as a group norm), so that no tiles can give the "
            f"points of the whole slide: tiles of {detector.tile_px:,} px have statistics of their own, overlap by "
            f"{detector.overlap_px:,} px, and what two of them find is merged; --slice SIZE:OVERLAP changes both"
        )
    before, after = max(detector.reach.before), max(detector.reach.after)
    return (
        f"tiles of {detector.tile_px:,} px, read with the {before:,} px before and {after:,} px after them on which the "
        "network's answer depends: the points are those of the whole slide"
    )


def _points(detector: SlideDetector, trained: TrainedDetector, peaks: Any) -> FoundPoints:
    from detect.data.point_files import FoundPoints
    from detect.training.slides import inside_slide

    labels, slide = trained.labels, detector.slide
    image_wh = slide.extents[1], slide.extents[0]
    peaks = inside_slide(peaks, image_wh, float(detector.model.stride))
    return FoundPoints(
        slide.path.name,
        image_wh,
        peaks.cells.numpy(),
        peaks.scores.double().numpy(),
        peaks.types.numpy(),
        labels.type_names,
        [labels.keypoint_table(number) for number in range(len(labels.type_names))],
        dict(zip(labels.category_ids, labels.category_names, strict=True)),
        slide.spacing_xyz,
    )

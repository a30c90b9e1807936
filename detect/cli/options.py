"""Options that several commands take, each spelled once.

Choices are spelled out, so that ``--help`` and shell completion import nothing heavy; a test holds them equal to the code.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

import detect
from detect.cli.output import findings_of, note, reading_bar

if TYPE_CHECKING:
    from detect.anchors.anchor_set import AnchorSet
    from detect.data.dataset_counts import DatasetCounts
    from detect.keypoints.coco_keypoints import CocoKeypoints

expert = partial(typer.Option, rich_help_panel="For experts")  # an option in the help panel below everyone's

Method = Literal["optimal", "kmeans", "euclidean", "log-euclidean"]
Layout = Literal["free", "octaves", "grid", "level-grids"]
Balance = Literal["none", "category", "size"]
ConventionName = Literal["exact", "torchvision", "detectron2", "mmdet", "effdet"]
LevelMatcherName = Literal["max-iou", "atss"]
MatcherName = Literal["max-iou", "atss", "task-aligned", "simota"]
PointSource = Literal["keypoints", "boxes"]
PixelOriginName = Literal["center", "corner"]
OrientationName = Literal["none", "directed", "axis"]
Goal = Literal["f1", "count"]
UnlabelledInScores = Literal["ignore", "wrong"]
ExifName = Literal["auto", "apply", "ignore"]
BoxFormName = Literal["xywh", "xyxy", "cxcywh", "normalised", "normalised-xyxy", "normalised-cxcywh"]

TEXT_FORMATS = (
    *("yolov5", "darknet", "darknet-cells", "mmdet", "mmdet-yolo", "mmdet-ssd", "torchvision", "torchvision-ssd"),
    *("detectron2", "effdet", "anchors.yaml", "json"),
)
ANCHORS = (
    "Anchors: a detector's name; an anchors.yaml or its folder; a YOLOv5 or detectron2 YAML, a darknet .cfg, an mmdetection "
    "config; or numbers such as '10,13 16,30 33,23'."
)

Files = Annotated[
    list[str],
    typer.Argument(
        metavar="FILES",
        help="Labels: files, folders or patterns, all one dataset. COCO, YOLO (a folder or data.yaml), VOC, "
        "LabelMe, CVAT, Label Studio, Darknet lists, metadata.jsonl, points as CSV, GeoJSON; told from the content. Folders "
        "that `detect convert --to parquet` wrote, also by URL (s3, gs, https).",
    ),
]
Resize = Annotated[
    str | None,
    typer.Option(
        help="The detector's resize rule: none, stretch:WxH, letterbox:S or letterbox:WxH (YOLO), shortest:S:MAX "
        "(torchvision; add :detectron2 or :mmdet for their rounding), tiles:S:OVERLAP (pixels, or a share: 0.2). "
        "Anchors are fitted and scored in pixels after it. Default: the rule that given anchors were made for, or none."
    ),
]
BoxForm = Annotated[
    BoxFormName,
    expert("--bbox", help="Numbers of a box in the files; normalised: as shares of the image's width and height."),
]
Exif = Annotated[
    ExifName | None,
    expert(
        help="Images with an EXIF orientation: labels refer to the upright image (apply), to the stored pixels (ignore), "
        "or to what the size in the labels fits (auto). Default: auto, or that of the run."
    ),
]
IgnoreCategory = Annotated[
    list[str] | None, expert(help="Name of a category whose annotations are left out; repeatable.")
]
Convention = Annotated[
    ConventionName, expert(help="Framework whose grid the anchors lie on: strides, rounding, offset.")
]
Findings = Annotated[bool, typer.Option("--findings", help="List everything invalid or suspicious.")]
Strict = Annotated[bool, typer.Option("--strict", help="Make the first invalid annotation or result an error.")]
Images = Annotated[
    Path | None, typer.Option(help="Folder of the images: for their sizes, if the labels need them, and for pictures.")
]
NumPictures = Annotated[int, typer.Option(min=0, max=400, help="Number of images to show.")]
PictureScore = Annotated[
    float | None,
    typer.Option(
        min=0,
        max=1,
        help="Pictures and confusions take results of this score or more. Default: the score of the highest F1 on the run's "
        "validation data; without one, that on these images if they have labels, else 0.3.",
    ),
]
Output = Annotated[Path | None, typer.Option("-o", "--output", help="Folder to write to; made if it does not exist.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object.")]

Source = Annotated[
    PointSource, typer.Option("--from", help="The points: keypoints, or centres of boxes with one type per category.")
]
PixelOrigin = Annotated[
    PixelOriginName,
    typer.Option(help="Where keypoint coordinate i lies: at the centre of pixel i (pixel indices), or at its corner."),
]
Orientation = Annotated[
    OrientationName,
    typer.Option(
        help="Points with angles: the two keypoints of an object, its head and its tail, become one in the middle, and one "
        "point has the angle of its annotation (angle, rotation or attributes.rotation: degrees, clockwise on screen, 0 to "
        "the right). axis: both ends are alike, so angles are from 0 to 180 degrees."
    ),
]
Threshold = Annotated[float | None, typer.Option(help="Minimum score of predicted points that count.")]
Radius = Annotated[
    list[float] | None,
    typer.Option(min=0.01, max=100_000, help="Distance in image pixels within which a point is found; repeatable."),
]
UnlabelledScore = Annotated[
    UnlabelledInScores,
    typer.Option(
        "--unlabelled",
        help="A predicted keypoint inside an object that lacks this label but has others: ignore it, or count it as wrong.",
    ),
]

Confidence = Annotated[
    float,
    typer.Option(min=0.01, max=0.999, help="Probability with which an interval of a count holds the true count."),
]
EmptyImages = Annotated[
    Literal["apart", "included"],
    typer.Option(
        help="Counts: images without points, in which none is found, are left out of the calibration, so that the others "
        "keep the confidence, or are included, so that it is that of all images.",
    ),
]
MicronsPerPixel = Annotated[
    float | None,
    typer.Option(
        min=1e-6,
        max=1e6,
        help="Size of a pixel in micrometres: adds false positives per square millimetre, predicted points without a true "
        "one within 5 px, outside ignored regions, by the area of the images outside these regions; over all images, and "
        "over those without true points.",
    ),
]
TimeLimit = Annotated[
    float,
    expert(
        min=0,
        max=1e9,
        help="Seconds that a search for anchors and its proof may take: it then ends with the best it has, which is said.",
    ),
]
Device = Annotated[str, typer.Option(help="Device to run the detector on, such as cpu, cuda or cuda:1.")]
Slice = Annotated[
    str | None,
    typer.Option(
        "--slice",
        metavar="SIZE:OVERLAP",
        help="Run on overlapping tiles of larger images, such as 640:0.2 (pixels, or a share), and merge what is found. "
        "The overlap should exceed the largest object by a fifth.",
    ),
]
Turns = Annotated[
    bool,
    typer.Option(
        "--turns",
        help="Landmarks: average the heatmaps over the eight turns and reflections of an image, which takes eight times as "
        "long. For a run with augment.turns.",
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, max=65_536, help="Images per batch.")]
Checkpoint = Annotated[Path, typer.Argument(help="A checkpoint, or a run's folder (its best checkpoint).")]


_READ: list[detect.CocoDataset | DatasetCounts] = []  # by the command that runs


def remember(dataset: detect.CocoDataset | DatasetCounts) -> None:
    """Remember a dataset that the command reads, for :func:`with_left_out`."""
    _READ.append(dataset)


def with_left_out(message: str) -> str:
    """The message of a command's error, and what was left out of the datasets that it has read."""
    for dataset in _READ:
        message = dataset.with_left_out(message)
    return message


def forget_datasets() -> None:
    """Forget the datasets of an earlier command in this process."""
    _READ.clear()


@dataclass(frozen=True)
class DatasetFiles:
    """The files of a dataset, and what to do about their findings."""

    files: Files
    images: Images = None
    findings: Findings = False
    strict: Strict = False
    bbox: BoxForm = "xywh"
    exif: Exif = None
    ignore_category: IgnoreCategory = None

    def __post_init__(self) -> None:
        note_fetched(self.files or ())

    @property
    def option(self) -> str | None:
        """The first option given that changes or checks what the files hold."""
        given = {
            "--images": self.images,
            "--bbox": self.bbox != "xywh",
            "--exif": self.exif,
            "--ignore-category": self.ignore_category,
            "--strict": self.strict,
            "--findings": self.findings,
        }
        return next((name for name, value in given.items() if value), None)

    def read(self, *, keypoints: bool = False, angles: bool = False) -> detect.CocoDataset:
        """The dataset that the files hold together; its findings are listed if asked for."""
        with reading_bar() as on_progress:
            form: Any = {
                "bbox": self.bbox,
                "exif": self.exif or "auto",
                "strict": self.strict,
                "on_progress": on_progress,
            }
            dataset = detect.read_dataset(self.files, images=self.images, keypoints=keypoints, angles=angles, **form)
        dataset = dataset.without_categories(self.ignore_category or (), "--ignore-category")
        remember(dataset)
        for warning in dataset.warnings:
            note(f"warning: {warning}")
        for kind, finding in findings_of(dataset) if self.findings else ():
            note(f"{kind}: {finding}")
        return dataset

    def read_resized(self, resize: str | None) -> detect.ResizedInstances:
        """The instances under a resize rule, by default none."""
        rule = detect.parse_resize(resize or "none")  # before a long read, not after it
        return detect.ResizedInstances.of(self.read(), rule)


def note_fetched(files: Iterable[str]) -> None:
    """Say which files will be read through the network."""
    from detect.data.parquet_files import is_fetched

    for each in filter(is_fetched, files):
        note(f"{each}: read through the network, part by part; nothing of it is kept")


def load_anchors(name: str) -> AnchorSet:
    """Load anchors, and note what was assumed because their file does not state it."""
    anchors = detect.load_anchors(name)
    for each in anchors.assumed:
        note(f"note: {anchors.name}: assumed {each}")
    return anchors


def note_angles(points: CocoKeypoints) -> CocoKeypoints:
    """Note where the angles of points were read; the same points."""
    if points.about_angles:
        note(points.about_angles)
    return points


@dataclass(frozen=True)
class PointOptions:
    """Which points of a dataset to take."""

    source: Source = "keypoints"
    pixel_origin: PixelOrigin = "center"
    merge: Annotated[bool, typer.Option("--merge", help="Treat all points as one type.")] = False
    orientation: Orientation = "none"

    def read(self, files: DatasetFiles) -> CocoKeypoints:
        """The points of a dataset's files; where their angles were read is noted."""
        dataset = files.read(keypoints=self.source != "boxes", angles=self.orientation != "none")
        how: dict[str, Any] = {"merge": self.merge, "orientation": self.orientation}
        if self.source == "boxes":
            points = detect.box_keypoints(dataset, **how)
        else:
            points = detect.coco_keypoints(dataset, pixel_origin=self.pixel_origin, **how)
        return note_angles(points)

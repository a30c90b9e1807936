"""The commands that ``tools/chaos.py`` runs, on small real data: nuclei, a slide of them, and detectors trained on them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

NUM_IMAGES = 12


@dataclass(frozen=True)
class Case:
    """A command line.

    In ``words``, {v} is one of the two ``variants``, whose outputs differ; {out} is where it writes, in the folder {box};
    {work} holds the inputs. ``fresh`` outputs may not exist before. A command whose run was killed goes on by the same words
    and ``again``. ``grows``: files that have more content at the end than on the way. ``times``: a pattern of what is a time
    and may differ.
    """

    command: str
    words: str
    variants: tuple[str, str] = ("a", "b")
    kind: str = ""
    fresh: bool = False
    again: str = ""
    grows: tuple[str, ...] = ()
    times: bytes = b""

    @property
    def name(self) -> str:
        return f"{self.command} {self.kind}".strip()


TRAIN = "train {work}/%s.yaml data.train=[{work}/{v}.json] output.folder={out} output.save_steps=1"
RUN_FILES = (".pt", ".csv")
EXPLAIN_TIMES = rb'"seconds": [0-9.]+|[0-9.]+(?=</bdi></td><td><bdi>)'  # in JSON; in the table's last column of numbers
CASES = (
    Case("advise", "advise {work}/{v}.json --for yolo11,rf-detr -o {out}"),
    Case("anchors fit", "anchors fit {work}/{v}.json -k 3 --images {work}/images -o {out}"),
    Case("anchors stability", "anchors stability {work}/{v}.json -k 3 --resamples 4 -o {out}"),
    Case("anchors score", "anchors score {work}/{v}.json --anchors retinanet --anchors yolov5 -o {out}"),
    Case("anchors levels", "anchors levels {work}/{v}.json --anchors retinanet -o {out}"),
    Case(
        "anchors convert",
        "anchors convert {v} --to mmdet -o {out}/anchors.py",
        ("mmdet-retinanet", "mmdet-faster-rcnn"),
    ),
    Case("backbone profile", "backbone profile tiny {work}/{v}.json -o {out}"),
    Case("backbone layers", "backbone layers {v} -o {out}", ("tiny", "lite0")),
    Case("backbone features", "backbone features {work}/boxes {work}/{v}.png -o {out}"),
    Case("convert", "convert {work}/{v}.json --to coco -o {out}", kind="to coco", fresh=True),
    Case("convert", "convert {work}/{v}.json --to yolo -o {out}", kind="to yolo", fresh=True),
    Case("convert", "convert {work}/{v}.json --to voc -o {out}", kind="to voc", fresh=True),
    Case("convert", "convert {work}/{v}.json --to parquet -o {out}", kind="to parquet", fresh=True),
    Case("convert", "convert {work}/{v}.parts --to coco -o {out}", kind="from parquet", fresh=True),
    Case("demo", "demo -o {out}"),
    Case("evaluate", "evaluate {work}/{v}.json --run {work}/boxes --images {work}/images -o {out}", kind="boxes"),
    Case("evaluate", "evaluate --run {box}/run --radius {v} -o {out}", ("3", "5"), kind="points"),
    Case("explain", "explain {work}/boxes {work}/{v}.png --at 64,64 -o {out}", times=EXPLAIN_TIMES),
    Case("export", "export {work}/points --num-images 2 --max-candidates {v} -o {out}", ("100", "200")),
    Case(
        "heatmaps baseline",
        "heatmaps baseline {work}/{v}.json --images {work}/images --validation {work}/a.json -o {out}",
    ),
    Case("heatmaps oracle", "heatmaps oracle {work}/{v}.json --strides 2,4 -o {out}"),
    Case("heatmaps peaks", "heatmaps peaks {work}/{v}.zarr --threshold 0.5 -o {out}"),
    Case("heatmaps render", "heatmaps render {work}/{v}.json --images {work}/images -o {out}"),
    Case("predict", "predict {work}/boxes {work}/{v}.png -o {out}", kind="images"),
    Case("predict", "predict {work}/points {work}/{v}.zarr --slice 64:0 -o {out}", kind="slide"),
    Case("train", TRAIN % "boxes", kind="boxes", fresh=True, again="--resume", grows=RUN_FILES),
    Case("train", TRAIN % "points", kind="points", fresh=True, again="--resume", grows=RUN_FILES),
)


def make_inputs(work: Path, run: Callable[[Sequence[str]], None]) -> None:
    """Write the inputs of all cases to a folder; ``run`` runs a command line."""
    from detect.samples import sample_annotations

    sample = sample_annotations("nuclei")
    shutil.copytree(sample.parent / "images", work / "images")
    for number, name in enumerate("ab"):
        images = make_labels(sample, work / f"{name}.json", slice(NUM_IMAGES * number, NUM_IMAGES * (number + 1)))
        shutil.copy(work / "images" / images[0], work / f"{name}.png")
        make_slide([work / "images" / image for image in images], work / f"{name}.zarr")
        run(["convert", f"{work}/{name}.json", "--to", "parquet", "-o", f"{work}/{name}.parts"])
    for name, task in (("boxes", "boxes"), ("points", "landmarks")):
        (work / f"{name}.yaml").write_text(json.dumps(configuration(work, task)), "utf-8")  # JSON is YAML
        run(["train", f"{work}/{name}.yaml", f"output.folder={work}/{name}"])
    shutil.copytree(work / "points", work / "given" / "run")


def make_labels(source: Path, path: Path, part: slice) -> list[str]:
    """Write the labels of some images of 128 x 128; the names of these."""
    content = json.loads(source.read_text("utf-8"))
    images = [each for each in content["images"] if (each["width"], each["height"]) == (128, 128)][part]
    ids = {each["id"] for each in images}
    own = [each for each in content["annotations"] if each["image_id"] in ids]
    path.write_text(json.dumps({**content, "images": images, "annotations": own}), "utf-8")
    return [each["file_name"] for each in images]


def make_slide(images: Sequence[Path], path: Path) -> None:
    """Put images side by side in two rows of a zarr array."""
    import numpy as np
    import zarr
    from PIL import Image

    pixels = [np.asarray(Image.open(image).convert("L")) for image in images]
    rows = [np.concatenate(pixels[start::2], axis=1) for start in (0, 1)]
    whole = np.concatenate(rows)
    zarr.create_array(path, shape=whole.shape, chunks=(64, 64), dtype="uint8")[:] = whole


def configuration(work: Path, task: str) -> dict[str, Any]:
    """A run of two epochs of three steps, with low thresholds, so that something is found."""
    labels = [f"{work}/a.json"]
    return {
        "task": task,
        "data": {"train": labels, "val": labels, "images": f"{work}/images", "channels": 1},
        "model": {"pyramid_channels": 32, "num_convs": 1, "threshold": 0.01, "score_threshold": 0.01},
        "optimisation": {"epochs": 2, "batch_size": 4, "warmup_steps": 2},
        "output": {"validate_epochs": 1, "tensorboard": False},
    }

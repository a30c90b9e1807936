"""Reading COCO files and fitting anchors, beside other packages, on data made here: a COCO file of 860,001 annotations with
polygons, and its boxes. By YOLOv5's own measure, on the boxes of the samples.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.measuring import Measuring, Table

NUM_ANNOTATIONS = 860_001  # COCO train2017's instances
NUM_IMAGES = 118_287
NUM_SMALL = 36_781  # COCO val2017's
K = 9
YOLOV5_OBJECTIVE = "ratio"


def make_coco_file(path: Path, num_annotations: int = NUM_ANNOTATIONS, num_images: int = NUM_IMAGES) -> None:
    """A COCO-like file: sizes log-normal as COCO's are, images of its usual sizes, one polygon of 9 to 42 points each."""
    random = np.random.default_rng(0)
    image_wh = np.array([[640, 480], [640, 427], [480, 640], [500, 375], [640, 640]])[random.integers(0, 5, num_images)]
    rows = np.sort(random.integers(0, num_images, num_annotations))
    size, ratio = np.exp(random.normal(np.log(70), 1.0, rows.size)), np.exp(random.normal(0, 0.6, rows.size))
    wh = np.stack([size / np.sqrt(ratio), size * np.sqrt(ratio)], axis=1)
    wh = np.clip(wh, 2, image_wh[rows] - 1).round(2)
    xy = (random.random(wh.shape) * (image_wh[rows] - wh)).round(2)
    names = [f"{number:012d}.jpg" for number in range(num_images)]
    images = [
        {"id": number, "width": int(w), "height": int(h), "file_name": name, "license": 1}
        for number, ((w, h), name) in enumerate(zip(image_wh, names, strict=True))
    ]
    categories = [{"id": number, "name": f"category {number}", "supercategory": ""} for number in range(1, 81)]
    encode = msgspec.json.encode
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as stream:
        stream.write(b'{"info":{},"licenses":[],"images":' + encode(images))
        stream.write(b',"categories":' + encode(categories) + b',"annotations":[')
        for number, (row, box) in enumerate(zip(rows.tolist(), np.concatenate([xy, wh], axis=1), strict=True)):
            stream.write(b"," if number else b"")
            stream.write(encode(_annotation(number, row, box, int(random.integers(9, 43)))))
        stream.write(b"]}")


def _annotation(number: int, image_id: int, box: np.ndarray, num_points: int) -> dict[str, object]:
    angles = np.linspace(0, 2 * np.pi, num_points)
    points = box[:2] + box[2:] / 2 * (1 + np.stack([np.cos(angles), np.sin(angles)], axis=1))
    return {
        "segmentation": [points.round(2).ravel().tolist()],
        "area": float((box[2] * box[3] * 0.6).round(4)),
        "iscrowd": 0,
        "image_id": image_id,
        "bbox": box.tolist(),
        "category_id": number % 80 + 1,
        "id": number + 1,
    }


def read_ours(path: Path) -> None:
    from detect import read_coco

    started = Measuring()
    dataset = read_coco(path)
    started.report()
    assert len(dataset.instances) > 0  # noqa: S101 - kept alive until it is measured


def read_pycocotools(path: Path) -> None:
    from pycocotools.coco import COCO

    started = Measuring()
    dataset = COCO(str(path))
    started.report()
    assert dataset.anns  # noqa: S101


def read_json(path: Path) -> None:
    started = Measuring()
    with path.open("rb") as stream:
        content = json.load(stream)
    started.report()
    assert content  # noqa: S101


def whole_command(path: Path, *options: str) -> None:
    """detect anchors fit, from the file to anchors.yaml and report.html, its imports and all."""
    started = Measuring()
    from detect.cli.app import app

    folder = path.parent / "anchors"
    app(["anchors", "fit", str(path), "-k", str(K), "-o", str(folder), *options], standalone_mode=False)
    started.report()


def command_without_page(path: Path) -> None:
    """The same up to anchors.yaml alone."""
    whole_command(path, "--no-report")


def command_with_kmeans(path: Path) -> None:
    """Clustered, not optimal."""
    whole_command(path, "--no-report", "--method", "kmeans")


def fit_ours(path: Path) -> None:
    from detect.anchors.histogram import ShapeHistogram
    from detect.fitting.fit import fit_shapes

    boxes = np.load(path)
    started = Measuring()
    shapes = fit_shapes(ShapeHistogram.of(boxes), K, "kmeans")
    started.report(lambda: _scores(shapes, boxes))


def fit_optimal(path: Path, *, certify: float | None = None) -> None:
    from detect.anchors.histogram import ShapeHistogram
    from detect.fitting.search import optimal_anchors

    boxes = np.load(path)
    started = Measuring()
    shapes = optimal_anchors(ShapeHistogram.of(boxes), K, certify=certify).shapes
    started.report(lambda: _scores(shapes, boxes))


def fit_certified(path: Path) -> None:
    """With the proof that nothing is better by more than 2 %."""
    fit_optimal(path, certify=0.02)


def fit_ours_on_all_boxes(path: Path) -> None:
    from detect import IoUKMeans

    boxes = np.load(path)
    started = Measuring()
    shapes = IoUKMeans(K, n_init=1).fit(boxes).cluster_centers_
    started.report(lambda: _scores(shapes, boxes))


def fit_lloyd(path: Path) -> None:
    """The loop that anchor scripts run, in vectorised NumPy: IoU with every centre, then medians, until nothing moves."""
    boxes = np.load(path)
    started = Measuring()
    centers = boxes[np.random.default_rng(0).choice(len(boxes), K, replace=False)]
    labels = np.full(len(boxes), -1)
    for _ in range(300):
        overlap = np.minimum(boxes[:, None], centers).prod(axis=2)
        new = (overlap / (boxes.prod(axis=1)[:, None] + centers.prod(axis=1) - overlap)).argmax(axis=1)
        if (new == labels).all():
            break
        labels = new
        centers = np.stack([np.median(boxes[labels == label], axis=0) for label in range(K)])
    started.report(lambda: _scores(centers, boxes))


def fit_scikit_learn(path: Path) -> None:
    from sklearn.cluster import KMeans

    boxes = np.load(path)
    started = Measuring()
    shapes = KMeans(K, n_init=10, random_state=0).fit(boxes).cluster_centers_
    started.report(lambda: _scores(shapes, boxes))


def fit_ratio(path: Path, *, certify: float | None = None) -> None:
    """For YOLOv5's rule of matching."""
    from detect.anchors.histogram import ShapeHistogram
    from detect.fitting.search import optimal_anchors

    boxes = np.load(path)
    started = Measuring()
    histogram = ShapeHistogram.of(boxes, cells_per_octave=1024)
    shapes = optimal_anchors(histogram, K, objective=YOLOV5_OBJECTIVE, certify=certify).shapes
    started.report(lambda: _yolov5_scores(shapes, boxes))


def fit_ratio_certified(path: Path) -> None:
    """With the proof that nothing is better by more than 1 %."""
    fit_ratio(path, certify=0.01)


def fit_yolov5_ratio(path: Path) -> None:
    """YOLOv5's own fit, by its own measure."""
    fit_yolov5(path, _yolov5_scores)


def fit_yolov5(path: Path, scores: Callable[[np.ndarray, np.ndarray], dict[str, float]] | None = None) -> None:
    """YOLOv5's own fit; what its package loads beside it (OpenCV, pandas) is left out, since the fit needs none of it."""
    import importlib.util
    import logging
    import types

    spec = importlib.util.find_spec("yolov5")
    if spec is None or spec.submodule_search_locations is None:
        raise SystemExit("yolov5 is not installed: pip install --no-deps yolov5 tqdm")
    folder = Path(spec.submodule_search_locations[0])
    parts: dict[str, dict[str, object]] = {
        "yolov5": {},
        "yolov5.utils": {"TryExcept": lambda _: lambda function: function},
        "yolov5.utils.general": {
            "LOGGER": logging.getLogger("yolov5"),
            "TQDM_BAR_FORMAT": "{bar}",
            "colorstr": lambda *text: text[-1],
        },
    }
    for name, content in parts.items():
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(content)
    file = importlib.util.spec_from_file_location("autoanchor", folder / "utils" / "autoanchor.py")
    if file is None or file.loader is None:
        raise SystemExit("this yolov5 has no utils/autoanchor.py")
    autoanchor = importlib.util.module_from_spec(file)
    file.loader.exec_module(autoanchor)
    boxes = np.load(path)
    labels = np.concatenate([np.zeros((len(boxes), 3)), boxes / 640], axis=1)
    dataset = types.SimpleNamespace(shapes=np.array([[640.0, 640.0]]), labels=[labels])
    started = Measuring()
    shapes = autoanchor.kmean_anchors(dataset, n=K, img_size=640, thr=4.0, gen=1000, verbose=False)
    started.report(lambda: (scores or _scores)(shapes, boxes))


def _scores(shapes: np.ndarray, boxes: np.ndarray) -> dict[str, float]:
    from detect.ops.box_arrays import best_shape_iou

    return {"average IoU": float(best_shape_iou(boxes, np.asarray(shapes, float))[0].mean())}


def _yolov5_scores(shapes: np.ndarray, boxes: np.ndarray) -> dict[str, float]:
    """As the package computes its fitness, best possible recall and mean ratio."""
    ratio = boxes[:, None] / shapes
    best = np.minimum(ratio, 1 / ratio).min(axis=2).max(axis=1)
    fitness = float((best * (best > 1 / 4)).mean())
    return {"fitness": fitness, "recall": float((best > 1 / 4).mean()), "mean ratio": float(best.mean())}


WORK: dict[str, Callable[[Path], None]] = {
    work.__name__: work
    for work in (
        read_ours,
        read_pycocotools,
        read_json,
        whole_command,
        command_without_page,
        command_with_kmeans,
        fit_ours,
        fit_optimal,
        fit_certified,
        fit_ours_on_all_boxes,
        fit_lloyd,
        fit_scikit_learn,
        fit_yolov5,
        fit_ratio,
        fit_ratio_certified,
        fit_yolov5_ratio,
    )
}


def tables(folder: Path, num_annotations: int = NUM_ANNOTATIONS) -> list[Table]:
    """What to compare, on data made for it."""
    annotations = folder / f"coco_{num_annotations}.json"
    if not annotations.exists():
        print(f"making {annotations}", file=sys.stderr)
        make_coco_file(annotations, num_annotations, max(1, num_annotations * NUM_IMAGES // NUM_ANNOTATIONS))
    from detect import ResizedInstances, read_coco
    from detect.samples import sample_annotations

    samples = {}
    for name in ("bccd", "nuclei"):
        path = folder / f"boxes_{name}.npy"
        samples[path] = ResizedInstances.of(read_coco(sample_annotations(name)), "letterbox:640").shapes
        np.save(path, samples[path])
    boxes = read_coco(annotations).instances.boxes_xywh[:, 2:].copy()
    few = boxes[np.random.default_rng(0).choice(len(boxes), min(NUM_SMALL, len(boxes)), replace=False)]
    np.save(folder / "boxes.npy", boxes)
    np.save(folder / "few_boxes.npy", few)
    megabytes = annotations.stat().st_size / 1e6
    reading = {
        "read_ours": "detect.read_coco",
        "read_pycocotools": "pycocotools.COCO",
        "read_json": "json.load",
        "command_with_kmeans": "detect anchors fit -o --no-report --method kmeans: read, fit, score, write",
        "command_without_page": "detect anchors fit -o --no-report: the same, with optimal shapes",
        "whole_command": "detect anchors fit -o: the same, and the page",
    }
    fits = {
        "fit_ours": "detect: histogram and k-means in IoU, 10 starts",
        "fit_optimal": "detect.optimal_anchors, no proof",
        "fit_certified": "the same, with a proof to 2 %",
        "fit_ours_on_all_boxes": "detect.IoUKMeans on all boxes, 1 start",
        "fit_lloyd": "Lloyd's loop in NumPy (IoU, medians), 1 start",
        "fit_scikit_learn": "scikit-learn KMeans on (w, h), 10 starts",
    }
    by_ratio = {
        "fit_ratio": f"detect.optimal_anchors, {YOLOV5_OBJECTIVE}",
        "fit_ratio_certified": "the same, with a proof to 1 %",
        "fit_yolov5_ratio": "yolov5 kmean_anchors, 1000 generations",
    }
    with_yolo = fits | {"fit_yolov5": "yolov5 kmean_anchors, 1000 generations"}
    return [
        Table(f"Reading {num_annotations:,} annotations ({megabytes:.0f} MB)", annotations, reading),
        Table(f"k = {K} on {len(boxes):,} boxes", folder / "boxes.npy", fits),
        Table(f"k = {K} on {len(few):,} boxes", folder / "few_boxes.npy", with_yolo),
        *(
            Table(f"k = {K} on {len(shapes):,} boxes of {path.stem}, by YOLOv5's own measure", path, by_ratio)
            for path, shapes in samples.items()
        ),
    ]

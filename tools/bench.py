"""Side by side with other packages, in one run: python tools/bench.py [--rounds 3] [-o docs/benchmarks.md].

Every measurement is a process of its own: seconds and peak memory of one piece of work, its imports left out of the time.
Competitors take turns, round by round, and what is printed are medians and their ratios to ours. The data are made here:
a COCO file of 860,001 annotations with polygons, and its boxes.
"""

from __future__ import annotations

import argparse
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

DATA = Path("bench-data")
NUM_ANNOTATIONS = 860_001  # COCO train2017's instances
NUM_IMAGES = 118_287
NUM_SMALL = 36_781  # COCO val2017's
K = 9


@dataclass(frozen=True)
class Result:
    """Seconds gone by, CPU seconds, peak megabytes and, of fits, the average IoU on all boxes."""

    seconds: float
    cpu_seconds: float
    megabytes: float
    average_iou: float | None = None


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

    started = _start()
    dataset = read_coco(path)
    _report(started)
    assert len(dataset.instances) > 0  # noqa: S101 - kept alive until it is measured


def read_pycocotools(path: Path) -> None:
    from pycocotools.coco import COCO

    started = _start()
    dataset = COCO(str(path))
    _report(started)
    assert dataset.anns  # noqa: S101


def read_json(path: Path) -> None:
    started = _start()
    with path.open("rb") as stream:
        content = json.load(stream)
    _report(started)
    assert content  # noqa: S101


def whole_command(path: Path, *options: str) -> None:
    """detect anchors fit, from the file to anchors.yaml and report.html, its imports and all."""
    started = _start()
    from detect.cli.app import app

    folder = path.parent / "anchors"
    app(["anchors", "fit", str(path), "-k", str(K), "-o", str(folder), *options], standalone_mode=False)
    _report(started)


def command_without_page(path: Path) -> None:
    """The same up to anchors.yaml alone."""
    whole_command(path, "--no-report")


def fit_ours(path: Path) -> None:
    from detect.anchors.fitting import fit_shapes
    from detect.anchors.histogram import ShapeHistogram

    boxes = np.load(path)
    started = _start()
    shapes = fit_shapes(ShapeHistogram.of(boxes), K)
    _report(started, shapes, boxes)


def fit_ours_on_all_boxes(path: Path) -> None:
    from detect import IoUKMeans

    boxes = np.load(path)
    started = _start()
    shapes = IoUKMeans(K, n_init=1).fit(boxes).cluster_centers_
    _report(started, shapes, boxes)


def fit_lloyd(path: Path) -> None:
    """The loop that anchor scripts run, in vectorised NumPy: IoU with every centre, then medians, until nothing moves."""
    boxes = np.load(path)
    started = _start()
    centers = boxes[np.random.default_rng(0).choice(len(boxes), K, replace=False)]
    labels = np.full(len(boxes), -1)
    for _ in range(300):
        overlap = np.minimum(boxes[:, None], centers).prod(axis=2)
        new = (overlap / (boxes.prod(axis=1)[:, None] + centers.prod(axis=1) - overlap)).argmax(axis=1)
        if (new == labels).all():
            break
        labels = new
        centers = np.stack([np.median(boxes[labels == label], axis=0) for label in range(K)])
    _report(started, centers, boxes)


def fit_scikit_learn(path: Path) -> None:
    from sklearn.cluster import KMeans

    boxes = np.load(path)
    started = _start()
    shapes = KMeans(K, n_init=10, random_state=0).fit(boxes).cluster_centers_
    _report(started, shapes, boxes)


def fit_yolov5(path: Path) -> None:
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
    started = _start()
    shapes = autoanchor.kmean_anchors(dataset, n=K, img_size=640, gen=1000, verbose=False)
    _report(started, shapes.astype(float), boxes)


def _start() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _peak_megabytes() -> float:
    """Of this process alone; what getrusage tells also counts the process that it was forked from."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1024  # type: ignore[index]


def _report(started: tuple[float, float], shapes: np.ndarray | None = None, boxes: np.ndarray | None = None) -> None:
    seconds, cpu_seconds = (now - then for now, then in zip(_start(), started, strict=True))
    megabytes = _peak_megabytes()
    average = None
    if shapes is not None and boxes is not None:
        from detect.boxes import best_shape_iou

        average = float(best_shape_iou(boxes, np.asarray(shapes, float))[0].mean())
    print("RESULT", json.dumps([seconds, cpu_seconds, megabytes, average]), flush=True)


WORK: dict[str, Callable[[Path], None]] = {
    work.__name__: work
    for work in (
        read_ours,
        read_pycocotools,
        read_json,
        whole_command,
        command_without_page,
        fit_ours,
        fit_ours_on_all_boxes,
        fit_lloyd,
        fit_scikit_learn,
        fit_yolov5,
    )
}


def measure(work: str, path: Path) -> Result | None:
    """One piece of work in a process of its own; None where it cannot run."""
    command = [sys.executable, __file__, "--work", work, "--on", str(path)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    lines = [line for line in run.stdout.splitlines() if line.startswith("RESULT ")]
    if not lines:
        print(f"  {work}: not measured: {run.stderr.strip().splitlines()[-1:]}", file=sys.stderr)
        return None
    return Result(*json.loads(lines[-1].removeprefix("RESULT ")))


def compare(title: str, path: Path, names: dict[str, str], rounds: int) -> str:
    """A table: the first of ``names`` is ours, and every ratio is to it."""
    results: dict[str, list[Result]] = {work: [] for work in names}
    for number in range(rounds):
        for work in names:
            print(f"{title}: round {number + 1} of {rounds}: {work}", file=sys.stderr)
            result = measure(work, path)
            if result:
                results[work].append(result)
    ours = _median(results[next(iter(names))])
    lines = [f"## {title}", "", "| | s | ratio | CPU s | peak MB | ratio | average IoU |", "|---|" + "---:|" * 6]
    for work, name in names.items():
        if not results[work]:
            lines.append(f"| {name} | not installed | | | | | |")
            continue
        median = _median(results[work])
        iou = "" if median.average_iou is None else f"{median.average_iou:.4f}"
        times, memory = median.seconds / ours.seconds, median.megabytes / ours.megabytes
        lines.append(
            f"| {name} | {median.seconds:.2f} | {times:.1f} | {median.cpu_seconds:.2f} "
            f"| {median.megabytes:.0f} | {memory:.1f} | {iou} |"
        )
    return "\n".join(lines)


def _median(results: list[Result]) -> Result:
    averages = [result.average_iou for result in results if result.average_iou is not None]
    return Result(
        statistics.median(result.seconds for result in results),
        statistics.median(result.cpu_seconds for result in results),
        statistics.median(result.megabytes for result in results),
        statistics.median(averages) if averages else None,
    )


def run_all(rounds: int, num_annotations: int, num_images: int) -> str:
    """All tables, on data made for them."""
    annotations = DATA / f"coco_{num_annotations}.json"
    if not annotations.exists():
        print(f"making {annotations}", file=sys.stderr)
        make_coco_file(annotations, num_annotations, num_images)
    from detect import read_coco

    boxes = read_coco(annotations).instances.boxes_xywh[:, 2:].copy()
    few = boxes[np.random.default_rng(0).choice(len(boxes), min(NUM_SMALL, len(boxes)), replace=False)]
    np.save(DATA / "boxes.npy", boxes)
    np.save(DATA / "few_boxes.npy", few)
    megabytes = annotations.stat().st_size / 1e6
    reading = {
        "read_ours": "detect.read_coco",
        "read_pycocotools": "pycocotools.COCO",
        "read_json": "json.load",
        "command_without_page": "detect anchors fit -o --no-report: read, fit, score, write",
        "whole_command": "detect anchors fit -o: the same, and the page",
    }
    fits = {
        "fit_ours": "detect: histogram and k-means in IoU, 10 starts",
        "fit_ours_on_all_boxes": "detect.IoUKMeans on all boxes, 1 start",
        "fit_lloyd": "Lloyd's loop in NumPy (IoU, medians), 1 start",
        "fit_scikit_learn": "scikit-learn KMeans on (w, h), 10 starts",
    }
    with_yolo = fits | {"fit_yolov5": "yolov5 kmean_anchors, 1000 generations"}
    return "\n\n".join(
        [
            compare(f"Reading {num_annotations:,} annotations ({megabytes:.0f} MB)", annotations, reading, rounds),
            compare(f"k = {K} on {len(boxes):,} boxes", DATA / "boxes.npy", fits, rounds),
            compare(f"k = {K} on {len(few):,} boxes", DATA / "few_boxes.npy", with_yolo, rounds),
        ]
    )


def main() -> None:
    """Measure one piece of work (for the processes started here), or all of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each (default 3)")
    parser.add_argument("--annotations", type=int, default=NUM_ANNOTATIONS, help="size of the file (default 860001)")
    parser.add_argument("-o", "--output", type=Path, help="write the tables here as well")
    parser.add_argument("--work", choices=sorted(WORK), help=argparse.SUPPRESS)
    parser.add_argument("--on", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        WORK[arguments.work](arguments.on)
        return
    num_images = max(1, arguments.annotations * NUM_IMAGES // NUM_ANNOTATIONS)
    text = run_all(arguments.rounds, arguments.annotations, num_images)
    print(text)
    if arguments.output:
        from detect.files import write_whole

        head = (
            "# Benchmarks\n\nMade by `make bench` (tools/bench.py): each row a process of its own, seconds of the work "
            "without imports (the whole command with them), medians over rounds in which the rows take turns; ratios are to "
            "the first row of a table. 2 cores, no GPU, a noisy machine: the ratios carry over, the seconds do not.\n\n"
        )
        write_whole(arguments.output, head + text + "\n")


if __name__ == "__main__":
    main()

"""How often intervals of counts hold the true count, on nuclei of sources that the detector was not trained on.

    python tools/count_coverage.py runs/nuclei_landmarks/last.pt

The images are the validation crops, which all have nuclei; the same with empty windows of 64 pixels that no box of a nucleus
touches; and the quarters of the crops, of which many are empty. They are divided many times: at random, by source, and by
brightness, so that the darker half of the sources calibrates the brighter one and the reverse. Printed are the mean coverage
of 90 % intervals and their mean width, for the calibrated counts without empty images in the calibration and with them,
residuals that are not scaled, and Poisson intervals.
"""

from __future__ import annotations

import json
import math
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64
from numpy import ndarray
from PIL import Image
from scipy.special import gammaincinv

from detect.cli.detectors import load_on, open_images, run_detector
from detect.data import read_coco
from detect.data.coco_dataset import image_sources
from detect.evaluation.coco_points import point_results
from detect.evaluation.count_intervals import CountCalibration, CountPrediction, CountTotal, KnownCounts
from detect.keypoints.coco_keypoints import coco_keypoints

NUCLEI = Path(__file__).parent.parent / "data" / "nuclei"
SIDE = 64
SPLITS = 200
CONFIDENCE = 0.9
COLUMNS = (
    *("split", "images", "covered", "with a nucleus", "width", "empty included", "with a nucleus", "width"),
    *("unscaled", "width", "Poisson", "width"),
    *("total", "error of the total", "total of a source"),
)
Window = tuple[dict[str, Any], int, int, int]  # image, x, y, side


def main() -> None:
    """Print a table for each set of images, and one row for each way of dividing them."""
    content = json.loads((NUCLEI / "nuclei_val.json").read_text("utf-8"))
    whole = [(image, 0, 0, 2 * SIDE) for image in content["images"]]
    empty = list(_empty_windows(content))
    quarters = [(image, x, y, SIDE) for image in content["images"] for y in (0, SIDE) for x in (0, SIDE)]
    for name, windows in (("crops", whole), ("crops and empty windows", whole + empty), ("quarters", quarters)):
        known, brightness = _counted(sys.argv[1], content, windows)
        num_empty = np.count_nonzero(known.truth == 0)
        print(f"\n{name}: {len(known.truth)} images, {num_empty} empty, {known.truth.sum()} nuclei")
        print(*COLUMNS, sep=" | ")
        for way in ("images", "sources", "dark to bright", "bright to dark"):
            rows = [_scores(known, half) for half in _halves(known, brightness, way)]
            print(way, *(f"{value:.3g}" for value in np.nanmean(rows, axis=0)), sep=" | ")


def _empty_windows(content: dict[str, Any]) -> Iterator[Window]:
    """The first window without a box in each image that has one."""
    for image in content["images"]:
        taken = np.zeros((2 * SIDE, 2 * SIDE), bool)
        for each in content["annotations"]:
            if each["image_id"] == image["id"]:
                x, y, width, height = map(int, each["bbox"])
                taken[y : y + height + 1, x : x + width + 1] = True
        free = (tuple(place) for place in np.ndindex(SIDE + 1, SIDE + 1))
        found = next(((x, y) for y, x in free if not taken[y : y + SIDE, x : x + SIDE].any()), None)
        if found:
            yield (image, *found, SIDE)


def _counted(run: str, content: dict[str, Any], windows: list[Window]) -> tuple[KnownCounts, ndarray]:
    """What the detector finds in windows of the images, each read alone, and the mean brightness of each source."""
    with tempfile.TemporaryDirectory() as folder:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        grey: list[float] = []
        for number, (image, x, y, side) in enumerate(windows, 1):
            cut = Image.open(NUCLEI / "images" / image["file_name"]).crop((x, y, x + side, y + side))
            cut.save(Path(folder) / f"{number}.png")
            grey.append(float(np.asarray(cut).mean()))
            own = {"id": number, "file_name": f"{number}.png", "width": side, "height": side}
            images.append(own | {"source": image["source"]})
            for each in (each for each in content["annotations"] if each["image_id"] == image["id"]):
                px, py = each["keypoints"][0] - x, each["keypoints"][1] - y
                if min(px, py) >= -0.5 and max(px, py) < side - 0.5:
                    moved = {"image_id": number, "bbox": [px, py, 1, 1], "keypoints": [px, py, 2]}
                    annotations.append(each | moved | {"id": len(annotations) + 1})
        labels = Path(folder) / "labels.json"
        labels.write_text(json.dumps(content | {"images": images, "annotations": annotations}), "utf-8")
        dataset, trained = read_coco(labels, keypoints=True), load_on(run, "cpu")
        points, sources = coco_keypoints(dataset), image_sources(dataset)
        data = open_images(trained, dataset, Path(folder), landmarks=points)
        table = point_results(run_detector(trained, data, device="cpu", batch_size=16), points)
    truth = np.array([len(own) for own in table.truth], np.int64)
    by_source = np.bincount(sources, grey) / np.bincount(sources)
    return KnownCounts.of(table.scores, truth, sources), by_source[sources]


def _halves(known: KnownCounts, brightness: ndarray, way: str) -> Iterator[Bool[ndarray, " b"]]:
    """The images to calibrate on, in many ways or one."""
    draws = np.random.default_rng(0)
    if "bright" in way:
        yield (brightness < np.median(brightness)) == way.startswith("dark")
        return
    group = known.sources if way == "sources" else np.arange(len(known.truth))
    for _ in range(SPLITS):
        yield np.isin(group, draws.permutation(group.max() + 1)[: (group.max() + 1) // 2])


def _scores(known: KnownCounts, half: Bool[ndarray, " b"]) -> list[float]:
    """The columns of a row, for the other half."""
    learned, test = known.take(np.flatnonzero(half)), known.take(np.flatnonzero(~half))
    calibration = CountCalibration.fit(learned)
    found, total = calibration.predict(test.scores, confidence=CONFIDENCE), calibration.total(test.scores)
    every = CountCalibration.fit(learned, empty="included").predict(test.scores, confidence=CONFIDENCE)
    errors = np.sort(np.abs(learned.truth - calibration.rule.predict(learned.scores)[0]))
    reach = int(errors[math.ceil((len(errors) + 1) * CONFIDENCE) - 1])
    plain = _inside(test.truth, np.maximum(found.count - reach, 0), found.count + reach)
    tail = (1 - CONFIDENCE) / 2
    low = np.where(found.count > 0, gammaincinv(np.maximum(found.count, 1), tail), 0)
    poisson = _inside(test.truth, np.ceil(low), np.floor(gammaincinv(found.count + 1, 1 - tail)))
    own = float(_holds(total, test.truth))
    alone = [test.take(np.flatnonzero(test.sources == source)) for source in np.unique(test.sources)]
    by_source = [_holds(calibration.total(each.scores), each.truth) for each in alone]
    error = float(total.count / test.truth.sum() - 1)
    return [
        len(test.truth),
        *_covered(test.truth, found),
        *_covered(test.truth, every),
        *plain,
        *poisson,
        own,
        error,
        float(np.mean(by_source)),
    ]


def _covered(truth: Int64[ndarray, " b"], found: CountPrediction) -> list[float]:
    """The share of images whose interval holds the count, that of images with a nucleus, and the mean width."""
    share, width = _inside(truth, found.low, found.high)
    present = truth > 0
    return [share, _inside(truth[present], found.low[present], found.high[present])[0], width]


def _holds(total: CountTotal, truth: Int64[ndarray, " b"]) -> bool:
    return total.low <= truth.sum() <= total.high


def _inside(truth: Int64[ndarray, " b"], low: ndarray, high: ndarray) -> list[float]:
    return [float(((low <= truth) & (truth <= high)).mean()), float((high - low).mean())]


if __name__ == "__main__":
    main()

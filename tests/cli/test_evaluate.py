"""``detect evaluate`` as a user types it: the numbers of pycocotools run by hand, and what a mistake looks like."""

from __future__ import annotations

import contextlib
import csv
import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import part_content, written
from numpy.testing import assert_allclose, assert_array_equal
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from rod_images import write_rods

from detect.data import read_coco, read_results
from detect.loading.dataset import DetectionData
from detect.samples import sample_annotations
from detect.training.checkpoints import load_detector, read_checkpoint, save_checkpoint
from detect.training.inference import find_objects

NUCLEI = sample_annotations("nuclei")
IMAGES = NUCLEI.parent / "images"
TWELVE = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")
TWELVE += ("ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")


def by_hand(truth: Path, results: Path) -> np.ndarray:
    """As pycocotools' own documentation goes about it."""
    with contextlib.redirect_stdout(io.StringIO()):
        objects = COCO(str(truth))
        evaluation = COCOeval(objects, objects.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats


def twelve(scores: dict[str, Any]) -> list[float]:
    return [-1.0 if scores[name] is None else scores[name] for name in TWELVE]


@pytest.fixture
def truth(tmp_path) -> Path:
    """The first images of the nuclei, an id with a gap, a category without objects, a crowd, an image without boxes."""
    content = json.loads(NUCLEI.read_text("utf-8"))
    images = content["images"][:8]
    ids = {image["id"] for image in images}
    annotations = [each | {"category_id": 4} for each in content["annotations"] if each["image_id"] in ids]
    annotations[0]["iscrowd"] = 1
    bare = annotations[-1]["image_id"]
    annotations = [each for each in annotations if each["image_id"] != bare]
    categories = [{"id": 4, "name": "nucleus"}, {"id": 9, "name": "[debris]"}]
    return written(tmp_path / "truth.json", {"images": images, "categories": categories, "annotations": annotations})


@pytest.fixture
def results(tmp_path, truth) -> Path:
    """Boxes near the true ones, some twice, some of the wrong category, some of nothing; scores with ties."""
    draws = np.random.default_rng(2)
    content = json.loads(truth.read_text("utf-8"))
    found = []
    for each in content["annotations"] * 2:
        box = np.array(each["bbox"]) + draws.normal(0, 1.5, 4) * [1, 1, 1, 1]
        category = int(draws.choice([4, 4, 4, 9]))
        found.append(result(each["image_id"], category, np.abs(box).tolist(), round(float(draws.random()), 1)))
    found += [result(image["id"], 4, [5.0, 5.0, 20.0, 20.0], 0.35) for image in content["images"]]
    return written(tmp_path / "results.json", found)


def result(image: int, category: int, box: list[float], score: float) -> dict[str, Any]:
    return {"image_id": image, "category_id": category, "bbox": box, "score": score}


def test_a_detector_s_numbers_are_pycocotools_on_the_file_it_writes(detect, truth, tmp_path, trained):
    folder = trained("boxes", threshold=0.001)
    run = detect("evaluate", truth, "--run", folder, "--images", IMAGES, "-o", tmp_path / "out", "--json")
    assert run.code == 0
    found = tmp_path / "out" / "results.json"
    assert len(json.loads(found.read_text("utf-8"))) > 100
    assert_array_equal(twelve(run.json["overall"]), by_hand(truth, found))
    again = detect("evaluate", truth, "--results", found, "--json").json
    assert again["overall"] == run.json["overall"]
    detector, dataset = load_detector(folder), read_coco(truth)
    data = DetectionData(dataset, IMAGES, resize=detector.resize, channels=1, category_ids=detector.category_ids)
    wanted, written_down = find_objects(detector.model, data, labels=detector.labels), read_results(found, dataset)
    assert_array_equal(written_down.scores, wanted.scores)
    assert_array_equal(written_down.boxes_xywh, wanted.boxes_xywh)


@pytest.mark.parametrize("task", ["boxes", "landmarks"])
def test_evaluating_a_run_is_evaluating_the_file_that_predict_writes(detect, truth, tmp_path, trained, task):
    folder = trained(task, threshold=0.011 if task == "boxes" else 0.0095)
    own = detect("evaluate", truth, "--run", folder, "--images", IMAGES, "--json").json
    assert own["results"] > 100
    content = json.loads(truth.read_text("utf-8"))
    order = sorted(content["images"], key=lambda image: image["id"])
    photos = [IMAGES / image["file_name"] for image in order]
    assert detect("predict", folder, *photos, "-o", tmp_path, "--num-pictures", 0).code == 0
    numbers = {image["id"]: number for number, image in enumerate(order, 1)}  # predict numbers its images from 1
    content["images"] = [image | {"id": numbers[image["id"]]} for image in order]
    content["annotations"] = [each | {"image_id": numbers[each["image_id"]]} for each in content["annotations"]]
    renumbered = written(tmp_path / "renumbered.json", content)
    assert own == detect("evaluate", renumbered, "--results", tmp_path / "results.json", "--json").json


def test_confusions_are_at_the_run_s_best_threshold(detect, truth, tmp_path, trained):
    folder = trained("boxes", threshold=0.011)
    arguments = ("evaluate", truth, "--run", folder, "--images", IMAGES, "--json")
    detect(*arguments, "-o", tmp_path / "out")
    scores = [each["score"] for each in json.loads((tmp_path / "out" / "results.json").read_text("utf-8"))]
    best = float(np.median(scores))
    before = read_checkpoint(folder / "best.pt")
    save_checkpoint(folder / "best.pt", replace(before, metrics={"best_threshold": best, "best_f1": 0.5}))
    confusion = detect(*arguments).json["confusion"]
    assert confusion["threshold"] == best
    counted = sum(sum(row[:2]) for row in confusion["counts"]) + confusion["num_ignored"]
    assert counted == sum(score >= best for score in scores)
    assert detect(*arguments, "--picture-score", 0.5).json["confusion"]["threshold"] == 0.5


def test_large_images_are_scored_on_tiles(detect, truth, trained):
    folder = trained("boxes", threshold=0.011)
    arguments = ("evaluate", truth, "--run", folder, "--images", IMAGES, "--json")
    whole = detect(*arguments).json
    assert detect(*arguments, "--slice", "128:0.25").json == whole
    assert detect(*arguments, "--slice", "64:16").json["results"] != whole["results"]


def test_what_is_written(detect, truth, results, tmp_path):
    run = detect("evaluate", truth, "--results", results, "--images", IMAGES, "-o", tmp_path / "out")
    assert run.code == 0
    assert "AP50" in run.out
    assert "[debris]" in run.out
    assert "per image evaluation" not in run.out  # pycocotools is quiet
    out = tmp_path / "out"
    assert sorted(path.name for path in out.iterdir()) == ["curves.csv", "metrics.json", "report.html", "scores.csv"]
    metrics = json.loads((out / "metrics.json").read_text("utf-8"))
    assert_array_equal(twelve(metrics["overall"]), by_hand(truth, results))
    rows = list(csv.DictReader((out / "curves.csv").read_text("utf-8").splitlines()))
    own = [float(row["precision"]) for row in rows if (row["category"], row["at"]) == ("nucleus", "IoU .50")]
    assert_allclose(np.mean(own), metrics["overall"]["ap50"])
    page = (out / "report.html").read_text("utf-8")
    assert f"{metrics['overall']['ap']:.3f}" in page
    assert "data:image/png;base64," in page


def test_an_empty_results_file_scores_0(detect, truth, tmp_path):
    run = detect("evaluate", "--results", written(tmp_path / "none.json", []), truth, "--json")
    assert (run.code, run.json["overall"]["ap"], run.json["results"]) == (0, 0, 0)


def test_results_of_few_images_and_corners_in_place_of_sizes_are_named(detect, truth, tmp_path):
    content = json.loads(truth.read_text("utf-8"))
    perfect = [result(each["image_id"], 4, each["bbox"], 0.5) for each in content["annotations"]]
    assert "warning" not in detect("evaluate", truth, "--results", written(tmp_path / "good.json", perfect)).err
    corners = [
        result(each["image_id"], 4, [*(x := each["bbox"])[:2], x[0] + x[2], x[1] + x[3]], 0.5) for each in perfect
    ]
    few = [each for each in corners if each["image_id"] == corners[0]["image_id"]]
    err = detect("evaluate", truth, "--results", written(tmp_path / "few.json", few)).err
    assert "warning: 6 of 7 images with annotations have no result" in err
    assert f"of {len(few)} boxes end beyond their image" in err


def test_invalid_results_are_counted_and_listed(detect, truth, tmp_path):
    image = json.loads(truth.read_text("utf-8"))["images"][0]["id"]
    content = [result(image, 5, [1, 1, 9, 9], 0.5), result(10**6, 4, [1, 1, 9, 9], 0.5)]
    path = written(tmp_path / "mixed.json", [*content, result(image, 4, [1, 1, 9, 9], 0.5)])
    run = detect("evaluate", truth, "--results", path)
    assert "2 invalid among the results:" in run.out
    assert "no category has the id 5" in run.out
    assert "no image has this id" in run.out
    listed = detect("evaluate", truth, "--results", path, "--findings").err
    assert listed.count(f"invalid: {path}: ") == 2
    for arguments in (("--results", path, "--strict"), ("--results", written(tmp_path / "none.json", content))):
        run = detect("evaluate", truth, *arguments)  # strict, or with no valid result at all
        assert (run.code, run.err.count("\n")) == (2, 1)


def test_landmarks_are_scored_as_heatmaps_score_scores_them(detect, tmp_path):
    """That command is tested by hand; here on the true points moved by 1.5 px."""
    few = part_content("nuclei", step=8)
    truth = written(tmp_path / "few.json", few)
    found = [
        {"image_id": each["image_id"], "category_id": 1, "score": 0.2 + 0.6 * (number % 2),
         "keypoints": [each["keypoints"][0] + 1.5, each["keypoints"][1], 1]}
        for number, each in enumerate(few["annotations"])
    ]  # fmt: skip
    path = written(tmp_path / "points.json", found)
    for options in ((), ("--threshold", 0.5, "--radius", 1, "--radius", 3)):
        own = detect("evaluate", truth, "--results", path, *options, "--json").json
        mean = len(few["annotations"]) / len(few["images"])
        assert own.pop("counts")["nucleus"]["bins"][0]["counted"] == pytest.approx(mean)
        assert own == detect("heatmaps", "score", truth, "--results", path, *options, "--json").json
    assert own["task"] == "landmarks"
    assert 0 < own["overall"][1]["micro"]["f1"] < 1
    assert own["overall"][0]["micro"]["f1"] < 0.2


def test_a_landmark_run_is_scored_on_the_data_it_validates_on(detect, refused, tmp_path, trained):
    folder = trained("landmarks", threshold=0.5)
    content = json.loads(NUCLEI.read_text("utf-8"))
    content["categories"][0]["id"] = 4
    content["annotations"] = [each | {"category_id": 4} for each in content["annotations"] if each["image_id"] <= 8]
    content["images"] = [each for each in content["images"] if each["id"] <= 8]
    files = written(tmp_path / "points.json", content)
    run = detect("evaluate", files, "--run", folder, "--images", IMAGES, "-o", tmp_path / "out", "--json")
    assert run.code == 0
    assert run.json["overall"][0]["threshold"] is None  # the detector's own leaves nothing out
    assert run.json["overall"][0]["num_predicted"] == 0
    assert (tmp_path / "out" / "results.json").exists()
    assert "category" in refused("evaluate", "--run", folder)


def test_a_run_that_held_out_a_share_is_scored_on_that_share(detect, tmp_path, trained):
    folder = trained("boxes", names={1: "nucleus"}, threshold=0.001, data={"val": [], "val_share": 0.25})
    content = json.loads(NUCLEI.read_text("utf-8"))
    content["images"] = content["images"][3::4]  # by id
    kept = {image["id"] for image in content["images"]}
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] in kept]
    held_out = written(tmp_path / "held_out.json", content)
    run = detect("evaluate", folder, "--bbox", "xyxy", "--ignore-category", "nucleus")
    assert (run.code, run.err) == (
        2,
        "detect: --bbox, --ignore-category: the run's own validation data is read as in training; "
        "give FILES to read others\n",
    )
    own = detect("evaluate", "--run", folder, "--json").json
    assert own["images"] == 20
    assert own == detect("evaluate", folder, held_out, "--images", IMAGES, "--json").json
    assert own["overall"]["ap"] > 0


def test_images_that_are_skipped_are_not_scored_as_missed(detect, truth, tmp_path, trained):
    folder = trained("boxes", threshold=0.001)
    content = json.loads(truth.read_text("utf-8"))
    first = content["images"][0]
    photos = tmp_path / "photos"
    for image in content["images"][1:]:
        (photos / image["file_name"]).parent.mkdir(parents=True, exist_ok=True)
        (photos / image["file_name"]).write_bytes((IMAGES / image["file_name"]).read_bytes())
    run = detect("evaluate", truth, "--run", folder, "--images", photos, "--on-broken", "skip", "--json")
    assert run.code == 0
    assert run.err.count("skipped: ") == 1
    assert first["file_name"] in run.err
    content["images"] = content["images"][1:]
    content["annotations"] = [each for each in content["annotations"] if each["image_id"] != first["id"]]
    others = written(tmp_path / "others.json", content)
    assert run.json == detect("evaluate", folder, others, "--images", photos, "--json").json


def test_a_run_may_stand_before_the_files(detect, truth, trained):
    folder = trained("boxes", threshold=0.001)
    typed = detect("evaluate", truth, "--run", folder, "--images", IMAGES, "--json").json
    for before in (folder, folder / "best.pt"):
        assert detect("evaluate", before, truth, "--images", IMAGES, "--json").json == typed


def test_a_run_s_training_files_need_not_be_there(detect, truth, trained):
    folder = trained("boxes", threshold=0.001, data={"train": ["nowhere.json"], "val": [str(truth)]})
    assert detect("evaluate", "--run", folder).code == 0


MISTAKES = {
    "another name": (
        ["{renamed}", "--run", "{run}", "--images", "{images}"],
        "category 4 is 'cell'; it was learned as 'nucleus'",
    ),
    "no images": (["{truth}", "--run", "{run}"], "--images: needed"),
    "no such run": (["{truth}", "--run", "nowhere", "--images", "{images}"], "nowhere: No such file"),
    "not a checkpoint": (["{truth}", "--run", "{truth}", "--images", "{images}"], "not a checkpoint"),
    "nothing to score": (["{truth}"], "is neither a run's folder nor a checkpoint (.pt): give --run RUN, or --results"),
    "nothing at all": ([], "give --run RUN, or --results FILE"),
    "two things to score": (["{truth}", "--run", "{run}", "--results", "{results}"], "give one of the two"),
    "no annotations": (["--results", "{results}"], "detect evaluate FILES --results FILE"),
    "no such device": (["{truth}", "--run", "{run}", "--images", "{images}", "--device", "gpu"], "--device gpu:"),
    "missing images": (["{truth}", "--run", "{run}", "--images", "{empty}"], "8 of 8 images cannot be used"),
    "no results": (["{truth}", "--results", "nowhere.json"], "nowhere.json: No such file"),
    "no tiles": (
        ["{truth}", "--run", "{run}", "--images", "{images}", "--slice", "64"],
        "--slice 64: expected SIZE:OVER",
    ),
    "a baseline without a run": (["{truth}", "--results", "{results}", "--baseline"], "--baseline: is fitted to a run"),
    "boxes with a threshold": (["{truth}", "--results", "{results}", "--threshold", "0.5"], "only for landmarks"),
    "no landmarks": (
        ["{boxes}", "--results", "{results}", "--task", "landmarks"],
        "no annotation has a labelled keypoint",
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_one_line(refused, truth, results, tmp_path, mistake, trained):
    arguments, message = MISTAKES[mistake]
    (tmp_path / "empty").mkdir()
    boxes = json.loads(truth.read_text("utf-8"))
    for each in boxes["annotations"]:
        del each["keypoints"]
    places = {
        "run": trained("boxes", threshold=0.001),
        "truth": truth,
        "results": results,
        "images": IMAGES,
        "empty": tmp_path / "empty",
        "boxes": written(tmp_path / "boxes.json", boxes),
        "renamed": written(tmp_path / "renamed.json", {**boxes, "categories": [{"id": 4, "name": "cell"}]}),
    }
    assert message in refused("evaluate", *(argument.format(**places) for argument in arguments))


@pytest.mark.slow
@pytest.mark.parametrize("orientation", ["directed", "axis"])
def test_rods_over_nuclei_are_learned_with_their_angles(detect, tmp_path, orientation):
    """Within 5 px, half of the angles are within 4 degrees after 240 steps, on the page too, and drawn by predict."""
    heads = orientation == "directed"
    train, val = (
        write_rods(tmp_path / "rods", num_images=count, seed=seed, heads=heads, name=name)
        for name, count, seed in (("train", 160, 1), ("val", 48, 2))
    )
    config = {
        "task": "landmarks",
        "data": {"train": [str(train)], "val": [str(val)], "images": str(train.parent), "channels": 1},
        "model": {"pyramid_channels": 32, "num_convs": 1},
        "augment": {"turns": True},
        "optimisation": {"epochs": 12, "batch_size": 8},
        "output": {"folder": str(tmp_path / "run"), "validate_epochs": 12, "tensorboard": False},
    }
    path = tmp_path / "rods.yaml"
    path.write_text(json.dumps(config), "utf-8")  # which is YAML too
    assert detect("train", path, f"data.orientation={orientation}").code == 0
    scores = json.loads(detect("evaluate", "--run", tmp_path / "run", "--json", "-o", tmp_path / "out").out)
    assert scores["overall"][-1]["angle"]["median"] < 4
    assert scores["overall"][-1]["micro"]["f1"] > 0.9
    assert "angle error, deg" in (tmp_path / "out" / "report.html").read_text("utf-8")
    results = read_results(tmp_path / "out" / "results.json", read_coco(val))
    low = -180 if heads else 0
    assert ((results.angles_deg >= low) & (results.angles_deg < 180)).all()

"""The evidence's own parts, and the tool as a whole on a tiny run."""

from __future__ import annotations

import doctest
import json
import math
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree as ET

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image
from torch.testing import assert_close

from detect.anchors.grid import AnchorGrid
from detect.anchors.instances import ResizedInstances
from detect.coco import read_coco
from detect.detectors.backbones import build_backbone
from detect.errors import FitError
from detect.heads.retinanet import HeadOutput
from detect.heads.targets import ImageTargets
from detect.keypoints.landmarks import Landmarks
from detect.resize import parse_resize
from detect.samples import sample_annotations
from detect.shapes import BACKGROUND, IGNORE
from detect.training.evaluation import evaluate_boxes

TOOLS = Path(__file__).resolve().parents[1] / "tools"
sys.path.insert(0, str(TOOLS))

import evidence  # noqa: E402
from evidence_parts import (  # noqa: E402
    classical,
    correlations,
    document,
    drawing,
    free_predictors,
    gathered,
    plan,
    records,
    resampling,
    scoring,
    slots,
    training_runs,
    wording,
)

PARTS = [classical, correlations, document, drawing, free_predictors, gathered, plan, records, resampling, scoring]
PARTS += [slots, training_runs, wording]


@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_examples_in_docstrings_run(part: ModuleType):
    assert doctest.testmod(part).failed == 0


# free predictors


@pytest.fixture
def placed():
    """Levels of 2 x 2 cells of 8 px and 1 x 1 of 16 px, two predictors to a cell: rows 0 to 7, then 8 and 9."""
    anchors = free_predictors.free_priors((8, 16), 2)
    return AnchorGrid(anchors).place([(2, 2), (1, 1)])


def test_an_instance_has_the_level_of_its_size_and_the_cell_of_its_centre(placed):
    boxes = torch.tensor([[8.0, 0, 16, 8], [0, 8, 12, 16], [0, 0, 23, 23]])
    # roots of areas 8, 9.8 and 23; the middle of 16 and 32 in logs is 22.6: P3, P3, P4
    # centres (12, 4): row 0, column 1; (6, 12): row 1, column 0
    assert free_predictors.predictors_of(placed, boxes) == [[2, 3], [4, 5], [8, 9]]


def test_an_instance_outside_the_map_has_the_nearest_cell(placed):
    assert free_predictors.predictors_of(placed, torch.tensor([[14.0, -9, 22, -1]])) == [[2, 3]]


def test_the_predictor_that_overlaps_most_is_responsible(placed):
    predicted = torch.zeros(10, 4)
    predicted[2] = torch.tensor([8.0, 0, 16, 5])  # IoU 5 / 8, of the own cell
    predicted[3] = torch.tensor([8.0, 0, 16, 6])  # 6 / 8
    predicted[0] = torch.tensor([8.0, 0, 16, 8])  # 1, of another cell: ignored
    predicted[4] = torch.tensor([8.0, 0, 16, 3])  # 3 / 8: background
    matches = free_predictors.responsible(predicted, placed, torch.tensor([[8.0, 0, 16, 8]]))
    wanted = [BACKGROUND] * 10
    wanted[0] = wanted[2] = IGNORE
    wanted[3] = 0
    assert matches.tolist() == wanted


def test_an_overlap_of_a_half_is_ignored_and_less_is_background(placed):
    predicted = torch.zeros(10, 4)
    predicted[0] = torch.tensor([8.0, 0, 16, 4])  # 4 / 8
    predicted[1] = torch.tensor([8.0, 0, 16, 3.9])
    matches = free_predictors.responsible(predicted, placed, torch.tensor([[8.0, 0, 16, 8]]))
    assert matches[:2].tolist() == [IGNORE, BACKGROUND]
    assert matches[2] == 0  # of equals, here 0 and 0, the first


def test_two_instances_of_a_cell_share_its_predictors_the_best_pair_first(placed):
    boxes = torch.tensor([[8.0, 0, 16, 8], [8, 0, 16, 7], [8, 0, 16, 6]])
    predicted = torch.zeros(10, 4)
    predicted[2] = torch.tensor([8.0, 0, 16, 7])  # 7/8 of the first, 1 of the second, 6/7 of the third
    predicted[3] = torch.tensor([8.0, 0, 16, 4])  # 4/8, 4/7, 4/6
    # the second takes row 2; of the others the third has more of row 3; the first is learned by none
    matches = free_predictors.responsible(predicted, placed, boxes)
    assert matches[2:4].tolist() == [1, 2]


def test_an_image_without_instances_is_all_background(placed):
    matches = free_predictors.responsible(torch.rand(10, 4), placed, torch.zeros(0, 4))
    assert matches.tolist() == [BACKGROUND] * 10


def test_losses_of_free_predictors_by_hand(placed):
    # predictor 2 gives the box itself, all logits are 0: p = 1/2
    # focal: one positive 1/4 * 1/4 ln 2, no other overlaps by half, nine negatives 3/4 * 1/4 ln 2; one positive divides
    box = torch.tensor([[8.0, 0, 16, 8]])
    deltas = torch.zeros(1, 10, 4)
    deltas[0, :, 2:] = -3.0
    criterion = free_predictors.FreePredictorCriterion(box_loss="giou", box_weight=2.0)
    deltas[0, 2] = criterion.coder.encode(box[0], placed.boxes[2])
    found = criterion(HeadOutput(torch.zeros(1, 10, 1), deltas), placed, [ImageTargets(box, torch.tensor([0]))])
    assert_close(found.classification, torch.tensor((1 / 16 + 9 * 3 / 16) * math.log(2)))
    assert_close(found.box, torch.tensor(0.0), atol=1e-6, rtol=0)


def test_a_crowd_is_not_taught_to_be_background_where_the_prediction_lies(placed):
    criterion = free_predictors.FreePredictorCriterion()
    crowd = ImageTargets(torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), torch.tensor([[-99.0, -99, 99, 99]]))
    output = HeadOutput(torch.zeros(1, 10, 1), torch.zeros(1, 10, 4))
    assert float(criterion(output, placed, [crowd]).classification) == 0


def test_positives_per_instance_are_one_but_in_crowded_cells():
    boxes = [[8, 0, 8, 8], [8, 0, 8, 7], [8, 0, 8, 6], [0, 8, 8, 8], [0, 0, 23, 23]]
    content = {
        "images": [{"id": 1, "width": 24, "height": 24}],
        "categories": [{"id": 1, "name": "cell"}],
        "annotations": [
            {"id": n, "image_id": 1, "category_id": 1, "bbox": box, "iscrowd": 0} for n, box in enumerate(boxes, 1)
        ],
    }
    instances = ResizedInstances.of(read_coco(content), parse_resize("none"))
    priors = free_predictors.free_priors((8, 16), 2)
    assert free_predictors.positives_per_instance(instances, priors) == 4 / 5  # three in a cell of two predictors


def test_free_predictors_learn(placed):
    criterion = free_predictors.FreePredictorCriterion(box_loss="giou")
    output = HeadOutput(torch.zeros(1, 10, 1, requires_grad=True), torch.zeros(1, 10, 4, requires_grad=True))
    target = ImageTargets(torch.tensor([[9.0, 1, 16, 8]]), torch.tensor([0]))
    sum(criterion(output, placed, [target])).backward()
    moved = output.deltas.grad[0].abs().sum(dim=1) > 0
    assert moved.nonzero().flatten().tolist() == [2]


# slots


def test_instances_are_in_the_slots_of_their_places():
    points = np.array([[1.0, 2], [3, 4], [5, 6], [7, 8], [9, 9]])
    image, seen = np.array([1, 0, 1, 1, 1]), np.array([2, 2, 0, 1, 2])
    targets = Landmarks(points, image, np.zeros(5, np.int64), seen, 3)
    placed, present = slots.slot_targets(targets, 3, device="cpu")
    assert present.tolist() == [[True, False, False], [True, False, True], [False] * 3]  # the hidden one leaves a gap
    assert_close(placed[1], torch.tensor([[1.0, 2], [0, 0], [7, 8]]))  # the fourth of the image has no slot


def test_losses_of_slots_by_hand():
    output = torch.tensor([[[0.0, 0.5, 0.5], [math.log(3), 0.2, 0.9]]])
    points, present = torch.tensor([[[0.52, 0.8], [0.0, 0.0]]]), torch.tensor([[True, False]])
    losses = slots.slot_losses(output, points, present)
    # presence: -ln .5 and -ln .25, their mean; x: .02^2 / (2 * .05) = .004, y: .3 - .05 / 2 = .275; one point
    assert_close(losses.presence, torch.tensor((math.log(2) + math.log(4)) / 2))
    assert_close(losses.point, torch.tensor(5 * (0.004 + 0.275)))


def test_slots_without_any_point_learn_absence_alone():
    output = torch.zeros(2, 10, 3, requires_grad=True)
    losses = slots.slot_losses(output, torch.zeros(2, 10, 2), torch.zeros(2, 10, dtype=torch.bool))
    assert losses.point.item() == 0
    sum(losses).backward()
    assert bool((output.grad[..., 0] > 0).all())
    assert bool((output.grad[..., 1:] == 0).all())


def test_slots_are_read_in_pixels_of_the_input():
    backbone = build_backbone("small", strides=(2, 4, 8, 16, 32), in_channels=1, seed=0)
    detector = slots.SlotDetector(backbone, seed=1).eval()
    detector.output.weight.data.zero_()
    bias = detector.output.bias.data.view(10, 3)
    bias[:, 0] = -1.0
    bias[4] = torch.tensor([2.0, -0.25, 0.25])  # the middle less and plus a quarter
    peaks = detector.detect(torch.rand(2, 1, 32, 64), torch.tensor([[32, 64]] * 2))
    assert_close(peaks.cells, torch.tensor([[16.0, 24.0]] * 2))
    assert peaks.image.tolist() == [0, 1]
    assert_close(peaks.scores, torch.full((2,), 2.0).sigmoid())


# without learning


def test_otsu_parts_where_the_classes_differ_most():
    values = np.random.default_rng(0).normal(size=500) + np.repeat([0.0, 4.0], 250)
    low, high = values.min(), values.max()
    edges = np.linspace(low, high, 33)
    middles = (edges[1:] + edges[:-1]) / 2
    binned = middles[np.clip(((values - low) / (high - low) * 32).astype(int), 0, 31)]
    between = {}
    for middle in middles[:-1]:  # the definition, of the binned values: variance within is least
        below, above = binned[binned <= middle], binned[binned > middle]
        between[middle] = len(below) * below.var() + len(above) * above.var()
    assert_allclose(classical.otsu_threshold(values, bins=32), min(between, key=between.__getitem__))


def test_otsu_of_a_flat_image_finds_nothing():
    assert classical.otsu_threshold(np.full((4, 4), 0.3)) == 0.3
    assert len(classical.find_components(np.full((4, 4), 0.3), 1.0).scores) == 0


def test_components_have_edges_and_centroids_of_pixel_indices():
    image = np.zeros((10, 20))
    image[2:5, 4:8], image[7:9, 15:17] = 1.0, 0.8
    found = classical.find_components(image, 0.0)
    assert_array_equal(found.boxes, [[4, 2, 8, 5], [15, 7, 17, 9]])
    assert_allclose(found.centroids, [[5.5, 3.0], [15.5, 7.5]])
    assert_allclose(found.scores, [math.sqrt(12 / 200), 0.8 * math.sqrt(4 / 200)])  # brightness outside is 0
    assert_array_equal(found.at_least(5).areas, [12])


# scores for weighted images


@pytest.fixture
def made():
    """Images 1 to 12 with boxes of two categories, and detections near some of them."""
    random = np.random.default_rng(3)
    annotations, columns = [], []
    for image in range(12):
        for _ in range(random.integers(0, 5)):
            box = [*random.integers(0, 50, 2).tolist(), *random.integers(8, 30, 2).tolist()]
            category = int(random.integers(1, 3))
            entry = {"id": len(annotations) + 1, "image_id": image + 1, "category_id": category, "bbox": box}
            annotations.append(entry | {"iscrowd": 0, "area": box[2] * box[3]})
            if random.random() < 0.8:
                moved = (np.array(box) + random.integers(-3, 4, 4)).tolist()
                columns.append((image, category, random.random(), moved))
        columns.append((image, 1, random.random(), [*random.integers(0, 50, 2).tolist(), 9, 9]))
    images = [{"id": n, "file_name": f"{n}.png", "width": 100, "height": 100} for n in range(1, 13)]
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    content = {"images": images, "annotations": annotations, "categories": categories}
    rows, of_category, scores, boxes = (np.array(column) for column in zip(*columns, strict=True))
    return content, records.box_results(rows, of_category, scores, boxes.astype(float))


def test_average_precision_is_that_of_pycocotools(made):
    content, results = made
    dataset = read_coco(content)
    wanted = evaluate_boxes(dataset, results).overall
    assert_allclose(scoring.BoxMatches.of(dataset, results).average_precision(), (wanted.ap, wanted.ap50), atol=1e-12)


def test_a_weight_stands_for_copies_of_an_image(made):
    content, results = made
    weights = np.array([0, 1, 2, 3, 1, 1, 0, 2, 1, 1, 4, 0])
    copies = np.repeat(np.arange(12), weights)
    annotations, parts = [], []
    for row, image in enumerate(copies.tolist()):
        own = [each for each in content["annotations"] if each["image_id"] == image + 1]
        annotations += [each | {"image_id": row + 1, "id": len(annotations) + n} for n, each in enumerate(own, 1)]
        parts.append(np.flatnonzero(results.image_rows == image))
    images = [{"id": n + 1, "file_name": f"{n}.png", "width": 100, "height": 100} for n in range(len(copies))]
    dataset = read_coco(content | {"images": images, "annotations": annotations})
    taken = np.concatenate(parts)
    rows = np.repeat(np.arange(len(copies)), [len(part) for part in parts])
    columns = (results.category_ids[taken], results.scores[taken], results.boxes_xywh[taken])
    wanted = evaluate_boxes(dataset, records.box_results(rows, *columns)).overall
    found = scoring.BoxMatches.of(read_coco(content), results).average_precision(weights.astype(float))
    assert_allclose(found, (wanted.ap, wanted.ap50), atol=1e-12)


def test_no_detections_at_all_score_nothing(made):
    dataset = read_coco(made[0])
    nothing = records.box_results(*np.zeros((2, 0), np.int64), np.zeros(0), np.zeros((0, 4)))
    assert scoring.BoxMatches.of(dataset, nothing).average_precision() == (0.0, 0.0)


def test_sources_are_told_by_the_file_or_are_the_images_themselves(made, tmp_path):
    content = made[0]
    path = tmp_path / "some.json"
    path.write_text(json.dumps(content))
    assert len(set(scoring.sources_of(read_coco(path)).tolist())) == 12
    for number, image in enumerate(content["images"]):
        image["source"] = "abc"[number % 3]
    path.write_text(json.dumps(content))
    assert scoring.sources_of(read_coco(path)).tolist() == [0, 1, 2] * 4


# what is kept


def test_kept_detections_are_the_best_hundred_to_a_tenth_of_a_pixel():
    scores = np.linspace(0, 1, 120)
    boxes = np.tile([1.04, 2.26, 3.0, 4.0], (121, 1))
    boxes[-1] = [-0.5, 3000, 0.04, 300]
    results = records.box_results(np.repeat([0, 2], [120, 1]), np.full(121, 7), np.append(scores, 0.5), boxes)
    found = records.unpacked_boxes(records.packed_boxes(results))
    assert np.bincount(found.image_rows).tolist() == [100, 0, 1]
    assert_allclose(found.boxes_xywh[-1], [-0.5, 3000, 0, 300])
    assert_allclose(found.scores[:100], scores[:19:-1], atol=1 / 65535)
    assert_allclose(found.boxes_xywh[0], [1.0, 2.3, 3.0, 4.0])
    assert found.category_ids[-1] == 7


def test_kept_detections_are_counted_by_category_as_coco_counts_them():
    results = records.box_results(np.zeros(180, np.int64), np.repeat([3, 5], 90), np.ones(180), np.ones((180, 4)))
    assert len(records.unpacked_boxes(records.packed_boxes(results)).scores) == 180


def test_no_detections_are_kept_too():
    nothing = records.box_results(*np.zeros((2, 0), np.int64), np.zeros(0), np.zeros((0, 4)))
    found = records.unpacked_boxes(records.packed_boxes(nothing))
    assert (found.scores.shape, found.boxes_xywh.shape) == ((0,), (0, 4))


def test_rows_are_appended_and_read_again(tmp_path):
    path = tmp_path / "new" / "runs.csv"
    assert records.read_rows(path) == []
    first = records.Row("nuclei", "fitted", 20, 0, ap=0.5, threads=2, detail="P2: 3, P3: 3")
    other = records.Row("nuclei", "otsu", 0, 0, ap50=0.25)
    records.append_row(path, first)
    records.append_row(path, other)
    assert records.read_rows(path) == [first, other]
    assert len(path.read_text("utf-8").splitlines()) == 3
    assert [each.name for each in path.parent.iterdir()] == ["runs.csv"]


def test_a_row_that_cannot_be_written_leaves_the_table_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "runs.csv"
    records.append_row(path, records.Row("nuclei", "fitted", 20, 0, ap=0.5))
    before = path.read_bytes()

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        records.append_row(path, records.Row("nuclei", "fitted", 20, 1, ap=0.6))
    assert path.read_bytes() == before


# resampling


def test_resamples_draw_sources_as_a_whole():
    draws = resampling.Draws.of(np.array([0, 0, 1, 2]), resamples=50)
    assert_array_equal(draws.weights[:, 0], draws.weights[:, 1])
    assert_array_equal(draws.weights[:, [0, 2, 3]].sum(axis=1), np.full(50, 3))


def test_seeds_are_drawn_in_pairs():
    draws = resampling.Draws.of(np.arange(4), resamples=200)
    scores = {seed: np.full(200, float(seed)) for seed in range(3)}
    others = {seed: scores[seed] - 0.1 for seed in range(3)}
    spread = draws.mean_over_seeds(scores)
    assert spread.min() < 0.5
    assert spread.max() > 1.5
    gap = draws.difference(0.1, scores, others)
    assert_allclose((gap.low, gap.high), (0.1, 0.1))
    assert gap.side == 1
    assert draws.difference(0.1, scores, {7: scores[0]}) is None


# the document


def a_row(variant: str, seed: int, ap: float, epochs: int = 20, **more: float) -> records.Row:
    known = {"average_iou": ap, "placed_average_iou": ap, "placed_recall": ap, "anchors": 100.0, "epoch_seconds": 2.0}
    return records.Row("nuclei", variant, epochs, seed, ap=ap, ap50=ap + 0.2, **{**known, **more})


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    """A document of made-up rows: three seeds of two variants, one seed of a third, curves, heatmap and slots."""
    output = tmp_path_factory.mktemp("docs")
    table, folder = output / "evidence" / "runs.csv", output / "evidence" / "detections"
    rows = [a_row("fitted", seed, 0.5 + seed / 10) for seed in range(3)]
    rows += [a_row("default", seed, 0.1 + seed / 10, epoch_seconds=4.0) for seed in range(3)]
    rows += [a_row("single", 0, 0.7), a_row("fitted", 0, 0.6, 45), a_row("free-predictors", 0, 0.4, 45)]
    rows += [records.Row("nuclei", "heatmap", 40, seed, f1_3px=0.5, f1_5px=0.75, count_mae=0.5) for seed in range(2)]
    rows += [records.Row("nuclei", "slots", 40, seed, f1_3px=0.25, f1_5px=0.5, count_mae=1.0) for seed in range(2)]
    truth = read_coco("data/nuclei/nuclei_val.json")
    found = [np.arange(142), np.ones(142, np.int64), np.ones(142), np.tile([0.0, 0, 9, 9], (142, 1))]
    counts = np.tile([4, 4, 2, 3], (142, 1))
    nothing = records.box_results(*(column[:0] for column in found))
    perfect = records.box_results(
        truth.instances.image_rows,
        truth.instances.category_ids,
        np.ones(len(truth.instances)),
        truth.instances.boxes_xywh,
    )
    for row in rows:
        records.append_row(table, row)
        if row.ap is None:
            arrays = {"counts": counts if row.variant == "heatmap" else counts - [0, 1, 1, 1]}
        else:
            curve = np.array([[10, 10 * row.epoch_seconds, row.ap / 2], [20, 20 * row.epoch_seconds, row.ap]])
            arrays = {**records.packed_boxes(nothing if row.variant == "default" else perfect), "curve": curve}
        records.save_arrays(folder / f"{row.run.key}.npz", arrays)
    assert evidence.main(["--report", "-o", str(output)]) == 0
    return output


def test_the_document_gives_means_deviations_and_differences(report):
    text = (report / "evidence.md").read_text("utf-8")
    (line,) = [each for each in text.splitlines() if each.startswith("| default: ") and "± 0.100" in each]
    cells = [cell.strip() for cell in line.split("|")[2:-1]]
    # means of .1, .2, .3 and of .5, .6, .7; on all resamples AP is 0 against 1
    assert cells[:2] == ["3", "0.200 ± 0.100"]
    assert cells[2] == "0.000 to 0.000"
    assert cells[3] == "0.400 ± 0.100"
    assert cells[4] == "-0.400 (-1.000 to -1.000)"
    assert cells[5] == "worse"
    assert "better by more than the noise: none; worse by more than the noise: default; within noise: single." in text


def test_the_document_compares_at_equal_time(report):
    text = (report / "evidence.md").read_text("utf-8")
    # fitted needs 40 s, default 80: after 40 s default is where its first validation was, at half its AP
    assert "The fastest took 40 s." in text
    assert "| default | 80 | 0.100 ± 0.050 | 0.200 ± 0.100 |" in text
    assert "| fitted | 40 | 0.600 ± 0.100 | 0.600 ± 0.100 |" in text


def test_the_document_tells_of_free_predictors_given_time(report):
    text = (report / "evidence.md").read_text("utf-8")
    assert "free-predictors less fitted: not known yet after 20 epochs; -0.200 (+0.000 to +0.000) AP" in text


def test_the_document_compares_landmarks(report):
    text = (report / "evidence.md").read_text("utf-8")
    # counts: 2 * 2 / 8 = .5 less 2 * 1 / 7 in every resample; the rows say .5 and .25
    assert "F1 at 3 px +0.250 (+0.214 to +0.214), better" in text
    assert "count MAE -0.500 (-1.000 to -1.000), better" in text


def test_the_document_tells_what_is_missing(report):
    text = (report / "evidence.md").read_text("utf-8")
    assert "- nuclei/single, 20 epochs: seeds 1 and 2" in text
    assert "- nuclei/otsu\n" in text
    assert "## bccd\n\nNothing has been run yet." in text
    assert f"{83 - 13} planned runs are not in the tables" in text


def test_pictures_are_xml_and_named_in_the_document(report):
    named = re.findall(r"\((evidence/[^)]*svg)\)", (report / "evidence.md").read_text("utf-8"))
    assert len(named) == 3
    for name in named:
        root = ET.fromstring((report / name).read_text("utf-8"))  # noqa: S314
        assert len(root.findall(".//{*}circle")) >= 4


def test_correlations_leave_free_predictors_out(report):
    rows = records.read_rows(report / "evidence" / "runs.csv")
    rows.append(a_row("free-predictors", 0, 0.01, average_iou=0.99, placed_recall=0.99))
    found = gathered.gather(plan.NUCLEI, rows, report / "evidence" / "detections")
    text = correlations.correlation_section(found, 20, {})
    assert (
        "Spearman's rank correlation +1.00 over 3 configurations (free-predictors, hollow" in text
    )  # AP was made equal to both predictors
    assert "within noise: difference of the correlations +0.000" in text


def test_an_empty_table_is_told_to_be_empty(tmp_path):
    assert evidence.main(["--report", "-o", str(tmp_path)]) == 0
    text = (tmp_path / "evidence.md").read_text("utf-8")
    assert "## nuclei\n\nNothing has been run yet." in text
    assert "83 planned runs are not in the tables" in text


def test_drawings_put_points_where_their_values_are():
    text = drawing.draw([drawing.Series("a & b", [(0.0, 0.0), (1.0, 2.0)])], x_title="x", y_title="y")
    dots = re.findall(r'cx="([\d.]+)" cy="([\d.]+)"', text)
    assert dots[:2] == [("60.0", "350.0"), ("440.0", "20.0")]  # the corners of the plot
    assert "a &amp; b" in text


# the tool


def test_the_plan_has_every_variant_and_no_run_twice():
    runs = plan.planned_runs([plan.NUCLEI, plan.BCCD])
    assert len(runs) == len(set(runs)) == 83
    assert {run.variant for run in runs} == set(plan.VARIANTS)
    assert [run.key for run in plan.planned_runs([plan.NUCLEI], only=["nuclei/otsu"])] == ["nuclei-otsu-0-0"]


def test_an_unknown_name_is_refused(capsys):
    assert evidence.main(["--only", "nuclei/nothing", "--list"]) == 2
    assert "no run is called nuclei/nothing" in capsys.readouterr().err


def test_anchors_of_all_variants_fit_the_data():
    config = training_runs.config_of(plan.Run("nuclei", "fitted", 20, 0), plan.NUCLEI, Path("unused"))
    few = read_coco(sample_annotations("nuclei"))
    instances = ResizedInstances.of(few, parse_resize("none"))
    shapes = {}
    for variant in (
        "default",
        "single",
        "stride-rule",
        "kmeans",
        "kmeans-ranked",
        "free-predictors",
        "wide",
        "dropped",
    ):
        anchors = training_runs.choose_anchors(variant, plan.NUCLEI, instances, config)
        shapes[variant] = [(level.stride, len(level.shapes)) for level in anchors.levels]
    assert shapes["default"] == [(stride, 9) for stride in (8, 16, 32, 64, 128)]
    assert shapes["single"] == [(4, 1), (8, 1), (16, 1)]
    assert shapes["stride-rule"] == [(4, 9), (8, 9), (16, 9), (32, 9)]
    assert sum(count for _, count in shapes["kmeans"]) == 9
    assert shapes["kmeans-ranked"] == [(4, 3), (8, 3), (16, 3)]
    assert shapes["free-predictors"] == [(4, 3), (8, 3), (16, 3)]
    assert shapes["wide"] == [(stride, 3) for stride in (4, 8, 16, 32, 64)]
    assert set(shapes["dropped"]) < set(shapes["wide"])


def test_the_stride_rule_by_hand():
    (first, *_) = training_runs._by_stride((4, 8), "none").levels
    # 2 * 4 * 2^(1/3) = 10.08; of height / width 1/2: 10.08 * sqrt 2 by 10.08 / sqrt 2
    wanted = (8 * 2 ** (1 / 3) * math.sqrt(2), 8 * 2 ** (1 / 3) / math.sqrt(2))
    assert any(np.allclose(shape, wanted, atol=1e-4) for shape in first.shapes)  # noqa: TID251
    assert training_runs._by_stride((4, 8), "none").center_offset == 0.5


@pytest.fixture
def tiny_matrix(tmp_path, monkeypatch) -> Path:
    """The nuclei replaced by eight images of bright squares, with small networks."""
    random = np.random.default_rng(0)
    images, annotations = [], []
    for number in range(1, 9):
        pixels = random.integers(0, 40, (32, 32)).astype(np.uint8)
        for _ in range(1 + number % 2):
            x, y, side = (int(value) for value in random.integers([0, 0, 8], [16, 16, 15]))
            pixels[y : y + side, x : x + side] = 200
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": 1, "bbox": [x, y, side, side]}
            point = {"keypoints": [x + (side - 1) / 2, y + (side - 1) / 2, 2], "num_keypoints": 1}
            annotations.append(entry | point | {"iscrowd": 0, "area": side * side})
        source = {"source": f"s{number // 3}"}
        images.append({"id": number, "file_name": f"{number}.png", "width": 32, "height": 32} | source)
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    categories = [{"id": 1, "name": "square", "keypoints": ["centre"], "skeleton": []}]
    file = tmp_path / "a.json"
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))
    overrides = [f"data.train=[{file}]", f"data.val=[{file}]", f"data.images={tmp_path}", "optimisation.batch_size=4"]
    small = replace(plan.NUCLEI, overrides=(*overrides, "model.num_convs=0", "model.pyramid_channels=32"))
    monkeypatch.setattr(evidence, "NUCLEI", small)
    return tmp_path


def test_a_small_matrix_is_run_once_and_reported(tiny_matrix, capsys):
    names = ["fitted", "free-predictors", "heatmap", "slots", "otsu", "otsu-points"]
    line = ["--only", *(f"nuclei/{name}" for name in names), "--seeds", "0", "--epochs", "1"]
    line += ["-o", str(tiny_matrix / "docs"), "--work", str(tiny_matrix / "work")]
    assert evidence.main(line) == 0
    rows = {row.variant: row for row in records.read_rows(tiny_matrix / "docs" / "evidence" / "runs.csv")}
    assert set(rows) == set(names)
    assert rows["fitted"].anchors == 3 * (64 + 16 + 4)
    assert rows["fitted"].positives > 0
    assert rows["fitted"].epoch_seconds > 0
    assert rows["free-predictors"].positives == 1
    assert rows["otsu"].ap > 0.5  # bright squares, some of which overlap
    assert rows["otsu-points"].f1_3px > 0.5
    assert not list((tiny_matrix / "work").iterdir())
    capsys.readouterr()
    assert evidence.main(line) == 0
    assert " of 6" not in capsys.readouterr().err  # nothing was left to run
    text = (tiny_matrix / "docs" / "evidence.md").read_text("utf-8")
    assert "### Boxes, 1 epochs" in text


def test_a_run_that_fails_is_told_and_the_others_are_done(tiny_matrix, capsys, monkeypatch):
    def fail(*_: object, **__: object) -> None:
        raise FitError("no boxes")

    monkeypatch.setattr(training_runs, "choose_anchors", fail)
    line = ["--only", "nuclei/fitted", "nuclei/otsu", "--seeds", "0", "-o", str(tiny_matrix / "docs")]
    assert evidence.main([*line, "--work", str(tiny_matrix / "work")]) == 2
    assert "evidence: nuclei-fitted-20-0: no boxes" in capsys.readouterr().err
    assert [row.variant for row in records.read_rows(tiny_matrix / "docs" / "evidence" / "runs.csv")] == ["otsu"]


def test_a_run_without_its_detections_is_run_again(tiny_matrix):
    line = ["--only", "nuclei/otsu", "-o", str(tiny_matrix / "docs")]
    assert evidence.main(line) == 0
    (kept,) = (tiny_matrix / "docs" / "evidence" / "detections").iterdir()
    kept.unlink()
    assert evidence.main(line) == 0
    assert kept.exists()
    assert len(records.read_rows(tiny_matrix / "docs" / "evidence" / "runs.csv")) == 1

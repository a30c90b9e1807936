"""What the options of a fit do, and which of them exclude each other."""

from __future__ import annotations

from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detect.anchors.instances import ResizedInstances
from detect.cli.fit_options import FitOptions
from detect.data import read_coco
from detect.data.resize import parse_resize
from detect.errors import DetectError, FitError
from detect.samples import sample_annotations

BCCD = str(sample_annotations("bccd"))
NUCLEI = str(sample_annotations("nuclei"))


@pytest.mark.parametrize("method", ["euclidean", "log-euclidean"])
def test_other_methods(detect, method):
    content = detect("anchors", "fit", NUCLEI, "-k", 3, "--method", method, "--json").json
    assert content["method"] == method
    assert len(content["shapes"]) == 3


def test_levels_are_fitted_on_the_grid_and_beat_shapes_alone(detect):
    arguments = ("anchors", "fit", NUCLEI, "--levels", "p2-p4")
    on_grid = detect(*arguments, "--per-level", 2, "--json").json
    assert [len(level["shapes"]) for level in on_grid["levels"]] == [2, 2, 2]
    assert on_grid["objective"] == "grid_average_iou"
    assert on_grid["grid_average_iou"] <= on_grid["upper_bound"] <= on_grid["grid_average_iou"] * 1.02
    by_shape = detect(*arguments, "-k", 6, "--objective", "shape", "--json").json
    free = detect(*arguments, "-k", 6, "--penalty", 0, "--json").json
    assert by_shape["objective"] == "average_iou"
    assert by_shape["average_iou"] > free["average_iou"]
    assert by_shape["grid_average_iou"] < free["grid_average_iou"] - 0.005
    told = detect(*arguments, "--per-level", 2).out
    assert f"at most {on_grid['upper_bound']:.4f} possible with 2 shapes on each level: within" in told


def test_the_side_ratio_is_an_objective_by_shape_with_a_proof(detect):
    arguments = ("anchors", "fit", NUCLEI, "-k", 3, "--levels", "p3-p5", "--json")
    content = detect(*arguments, "--objective", "ratio").json
    assert content["objective"] == "average_side_ratio"
    assert content["average_side_ratio"] <= content["upper_bound"] <= content["average_side_ratio"] * 1.0101
    blend = detect(*arguments, "--objective", "0.8*ratio+0.2*recall@0.25").json
    assert blend["objective"] == "side_ratio_objective"
    assert blend["yolov5_ratio_recall"] >= content["yolov5_ratio_recall"]


def test_a_fit_starts_from_given_anchors_and_tells_what_it_gained(detect, tmp_path):
    arguments = ("anchors", "fit", NUCLEI, "--start", "yolov2-voc", "--certify", 1)
    content = detect(*arguments, "--json").json
    assert len(content["shapes"]) == 5  # as many as the start has
    assert content["resize"] == "stretch:416x416"  # as the start was made for
    start = content["start"]
    assert start["name"] == "yolov2-voc"
    assert start["score"] + start["gained"] == pytest.approx(content["average_iou"], abs=1e-4)
    assert start["gained"] > 0.1
    told = detect(*arguments, "-o", tmp_path, "--no-report").out
    assert f"start yolov2-voc: {start['score']:.4f} -> {start['score'] + start['gained']:.4f} (+" in told
    again = detect("anchors", "fit", NUCLEI, "--start", tmp_path, "--certify", 1, "--json").json
    assert 0 <= again["start"]["gained"] < 1e-3


def test_rare_categories_can_be_made_to_count_alike(detect):
    arguments = ("anchors", "fit", BCCD, "-k", 1, "--resize", "letterbox:640", "--certify", 1)
    alike = detect(*arguments, "--json").json
    balanced = detect(*arguments, "--balance", "category", "--json").json
    heavy = detect(*arguments, "--weight", "Platelets=50", "--json").json
    assert balanced["objective"] == "weighted_average_iou"
    areas = [np.prod(each["shapes"][0]) for each in (alike, balanced, heavy)]
    assert areas[1] > 1.05 * areas[0]  # white cells, which are few, are larger than the red ones, of which most are
    assert areas[2] < 0.5 * areas[0]  # platelets are far smaller


def test_fixed_shapes_are_kept(detect):
    content = detect("anchors", "fit", NUCLEI, "-k", 3, "--fixed", "33x44", "--json").json
    assert [33.0, 44.0] in content["shapes"]
    assert len(content["shapes"]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--fixed", "3y4"), "--fixed: expected a width and a height in pixels such as 32x64, got '3y4'"),
        (("--fixed", "0x4"), "--fixed: expected a width and a height"),
        (("--weight", "cell"), "--weight: expected a name and a factor from 0 such as platelets=5, got 'cell'"),
        (("--weight", "dog=2"), "no category or size is named 'dog'"),
        (("--objective", "area"), "objective 'area' is not iou, recall@T"),
        (("--objective", "grid", "--fixed", "3x4"), "--method and --fixed need an objective by shape"),
        (
            ("--objective", "shape", "--layout", "grid"),
            "--layout, --max-per-level and --max-strides need an objective on",
        ),
        (("--per-level", "2", "--max-per-level", "3"), "--per-level, --max-per-level and --layout each set"),
        (
            ("-k", "9", "--per-level", "3"),
            "-k, --per-level, --max-per-level and --layout each set the number of shapes",
        ),
        (("--scales", "2"), "--scales and --ratios are the numbers of a layout: --layout octaves, grid or level-grids"),
        (("--per-level", "3,no"), "--per-level: expected numbers from 1 to 1000 such as 3 or 4,6,6, got '3,no'"),
        (("--per-level", "3,3"), "5 levels need 5 numbers of shapes, got 3, 3 shapes on the levels"),
        (("--per-level", "3,3", "--objective", "shape"), "--per-level with several numbers needs an objective on the"),
        (("--start", "nope"), "nope: no such file; known by name: "),
        (("--start", "yolov2-voc", "-k", "4"), "the start has 5 shapes, more than the 4 to be fitted"),
        (
            ("--start", "yolov2-voc", "--levels", "p2-p4"),
            "the start yolov2-voc has anchors on stride 32, the fit on 4, 8",
        ),
        (("--method", "kmeans", "--balance", "size"), "weights need the method optimal"),
    ],
)
def test_options_that_do_not_go_together_are_one_line(refused, arguments, message):
    assert message in refused("anchors", "fit", NUCLEI, "--resize", "stretch:128x128", *arguments)


FEW = read_coco(
    {
        "images": [{"id": 1, "width": 200, "height": 200, "file_name": "a.png"}],
        "categories": [{"id": 1, "name": "a"}],
        "annotations": [
            {"id": number, "image_id": 1, "category_id": 1, "bbox": [3, 4, 5 * number, 190 - 20 * number]}
            for number in range(1, 9)
        ],
    }
)
RANGES = {  # of each option, its ends as the help gives them and a value between
    "k": [None, 1, 3, 1000],
    "levels": [None, "p3", "p2-p4", "1,1048576"],
    "per_level": [None, "1", "1000", "1,2,3", "1000,1000,1000"],
    "max_per_level": [None, 1, 1000],
    "penalty": [0.0, 0.01, 1.0],
    "max_strides": [None, 1e-9, 4.0, 1e300],
    "layout": ["free", "octaves", "grid", "level-grids"],
    "scales": [1, 2, 30],
    "ratios": [1, 2, 30],
    "fixed": [None, ["1e-9x1e9"], ["10x10", "10x10"]],
    "method": ["optimal", "kmeans", "euclidean", "log-euclidean"],
    "objective": [None, "grid", "shape", "recall@0.5", "shape:recall@1"],
    "certify": [None, 0.0, 1e-4, 1.0],
    "balance": ["none", "category", "size"],
    "convention": ["exact", "torchvision", "effdet"],
}


@settings(max_examples=25)
@given(st.data())
def test_any_options_within_their_ranges_are_fitted_or_refused_with_the_rule(data):
    names = data.draw(st.lists(st.sampled_from(sorted(RANGES)), max_size=4, unique=True))
    chosen = {name: data.draw(st.sampled_from(RANGES[name]), label=name) for name in names}
    with suppress(DetectError):
        fitted = FitOptions(**chosen).fit(ResizedInstances.of(FEW, parse_resize("none")))
        assert np.isfinite(fitted.anchors.shapes).all()
        assert fitted.anchors.num_anchors > 0


@pytest.mark.parametrize(
    "own", [{"per_level": "1000"}, {"max_per_level": 1000}, {"layout": "grid", "scales": 30, "ratios": 30}]
)
def test_more_shapes_than_a_fit_takes_over_all_levels_are_refused(own):
    with pytest.raises(FitError, match="shapes on 5 levels: at most 1,000 in all"):
        FitOptions(**own).fit(ResizedInstances.of(FEW, parse_resize("none")))


def test_a_fixed_shape_that_no_box_is_near_takes_a_cluster():
    with pytest.raises(FitError, match="9 clusters need 9 distinct shapes, fixed ones among them"):
        FitOptions(fixed=["1e-9x1e9"]).fit(ResizedInstances.of(FEW, parse_resize("none")))

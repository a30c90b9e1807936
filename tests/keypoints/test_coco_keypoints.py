"""Keypoints of a COCO dataset: types, ignored regions, centres of boxes, heads and tails."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from builders import label_folder
from coco_files import ONE_BOX_TEXT
from numpy.testing import assert_allclose, assert_array_equal
from rods import BALL, ROD, landmarks
from rods import dataset_of as rods_and_balls

from detect.data import CocoDataset, read_coco
from detect.data.read_dataset import read_dataset
from detect.errors import CocoError
from detect.keypoints.coco_keypoints import CocoKeypoints, box_keypoints, coco_keypoints
from detect.samples import sample_annotations


def dataset_of(*annotations: dict[str, Any]) -> CocoDataset:
    """Two images of 100 x 80 pixels and a third without annotations; categories of two and of one keypoint."""
    entries = [
        {"id": number, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 30], **entry}
        for number, entry in enumerate(annotations, 1)
    ]
    return read_coco(
        {
            "images": [{"id": number, "width": 100, "height": 80} for number in (1, 2, 3)],
            "categories": [{"id": 1, "name": "person"}, {"id": 5, "name": "ball"}],
            "annotations": entries,
        },
        keypoints=True,
    )


PAIR = [12, 13, 2, 14, 15, 1]
POINT = '{"type": "Feature", "geometry": {"type": "Point", "coordinates": [3.5, 4.5]}, "properties": {}}'


def test_each_category_has_its_own_types():
    found = coco_keypoints(
        dataset_of(
            {"keypoints": PAIR, "image_id": 2},
            {"keypoints": [50, 60, 2], "category_id": 5},
            {"keypoints": [1, 1, 0, 4, 4, 2]},
        )
    )
    landmarks = found.landmarks
    assert found.type_names == ("person 0", "person 1", "ball")
    assert_array_equal(landmarks.points, [[50, 60], [1, 1], [4, 4], [12, 13], [14, 15]])
    assert_array_equal(landmarks.image, [0, 0, 0, 1, 1])
    assert_array_equal(landmarks.types, [2, 0, 1, 0, 1])
    assert_array_equal(landmarks.visibility, [2, 0, 2, 2, 1])
    assert_array_equal(found.dataset.instances.ids[found.rows], [2, 3, 3, 1, 1])
    assert_array_equal(found.sizes_wh, [[20, 30]] * 5)
    assert (landmarks.num_images, landmarks.num_types) == (3, 3)


@pytest.mark.parametrize("pixel_origin", ["center", "corner"])
@pytest.mark.parametrize(
    ("name", "text"),  # a point in the middle of the pixel of row 4 and column 3, in the words of each format
    [
        ("a.geojson", POINT),
        ("a.json", '{"shapes": [{"label": "a", "shape_type": "point", "points": [[3.5, 4.5]]}], "imagePath": "a.png"}'),
        ("a.csv", "x,y,pixel_origin\n3.5,4.5,corner\n"),
        ("a.csv", "x,y,pixel_origin\n3,4,center\n"),
    ],
)
def test_a_point_is_where_its_file_says_whatever_the_convention_asked_for(tmp_path, name, text, pixel_origin):
    label_folder(tmp_path, {name: text, "a.png": (20, 10)})
    found = coco_keypoints(read_dataset(tmp_path / name, images=tmp_path, keypoints=True), pixel_origin=pixel_origin)
    assert_array_equal(found.landmarks.points, [[3, 4] if pixel_origin == "center" else [3.5, 4.5]])
    assert_array_equal(np.concatenate(found.dataset.annotations.keypoints)[:, :2], found.landmarks.points)


def test_files_that_differ_in_what_they_state_are_warned_of(tmp_path):
    label_folder(tmp_path, {"a.csv": "x,y,pixel_origin\n3,4,corner\n", "b.csv": "x,y\n3,4\n", "c.json": ONE_BOX_TEXT})
    label_folder(tmp_path, {"d.geojson": POINT})
    for names, is_warned in (
        (("a.csv", "c.json"), False),
        (("a.csv", "d.geojson"), True),
        (("b.csv", "d.geojson"), True),
    ):
        found = read_dataset([tmp_path / name for name in names], keypoints=True)
        assert any("half a pixel off" in each for each in found.warnings) is is_warned
        assert found.pixel_origin == (None if is_warned else "center")


def test_merged_they_are_all_of_one_type():
    dataset = dataset_of({"keypoints": PAIR}, {"keypoints": [50, 60, 2], "category_id": 5})
    for found in (coco_keypoints(dataset, merge=True), box_keypoints(dataset, merge=True)):
        assert not found.landmarks.types.any()
        assert found.landmarks.num_types == len(found.type_names) == 1


def test_crowds_and_instances_without_a_labelled_point_are_ignored():
    found = coco_keypoints(
        dataset_of(
            {"keypoints": PAIR, "iscrowd": 1, "bbox": [0, 0, 5, 5]},
            {"keypoints": [0, 0, 0, 0, 0, 0], "bbox": [1, 2, 3, 4], "image_id": 2},
            {"bbox": [5, 6, 7, 8], "image_id": 2},
            {"keypoints": PAIR, "image_id": 2},
        )
    )
    assert_array_equal(found.landmarks.points, [[12, 13], [14, 15]])
    # boxes are continuous, the points are not: the middle of pixel 0 is .5 there and 0 here
    for boxes, expected in zip(found.ignored, [[[0, 0, 5, 5]], [[1, 2, 4, 6], [5, 6, 12, 14]], []], strict=True):
        assert_array_equal(boxes + 0.5, np.reshape(expected, (-1, 4)))


def test_boxes_are_points_at_their_centres_in_continuous_pixels():
    found = box_keypoints(
        dataset_of({}, {"category_id": 5, "bbox": [0, 0, 1, 3]}, {"iscrowd": 1, "bbox": [1, 1, 1, 1]})
    )
    assert found.pixel_origin == "corner"
    assert_array_equal(found.landmarks.points, [[20, 25], [0.5, 1.5]])
    assert_array_equal(found.landmarks.types, [0, 1])
    assert_array_equal(found.ignored[0], [[1, 1, 2, 2]])


def test_images_are_taken_in_any_order():
    every = coco_keypoints(read_coco(sample_annotations("nuclei"), keypoints=True))
    images = [3, 60, 7]
    batch = every.take(images)
    assert batch.landmarks.num_images == 3
    for number, image in enumerate(images):
        own, whole = batch.landmarks.image == number, every.landmarks.image == image
        assert own.any()
        assert_array_equal(batch.landmarks.points[own], every.landmarks.points[whole])
        assert_array_equal(batch.rows[own], every.rows[whole])


def test_interior_nuclei_lie_half_a_pixel_before_the_middle_of_their_box():
    dataset = read_coco(sample_annotations("nuclei"), keypoints=True)
    points, centers = coco_keypoints(dataset).landmarks.points, box_keypoints(dataset).landmarks.points
    x, y, width, height = dataset.instances.boxes_xywh.T
    inside = (x > 0) & (y > 0) & (x + width < 128) & (y + height < 128)
    assert_allclose((points - centers)[inside].mean(axis=0), [-0.5, -0.5], atol=0.1)  # the two conventions


@pytest.mark.parametrize("annotation", [{}, {"keypoints": [1, 1, 0]}])
def test_what_has_no_points_is_refused(annotation):
    with pytest.raises(CocoError, match=r"\(in memory\): no annotation has a labelled keypoint"):
        coco_keypoints(dataset_of(annotation))


def named(*categories: dict[str, Any]) -> CocoKeypoints:
    """One instance of each category, with ``count`` keypoints."""
    annotations = [
        {"id": each["id"], "image_id": 1, "category_id": each["id"], "keypoints": [3, 4, 2] * each["count"]}
        for each in categories
    ]
    images = [{"id": 1, "width": 100, "height": 80}]
    return coco_keypoints(
        read_coco({"images": images, "categories": list(categories), "annotations": annotations}, keypoints=True)
    )


ANT = {"id": 1, "name": "ant", "keypoints": ["head", "waist", "tail"], "count": 3}


def test_types_are_named_by_category_and_keypoint():
    ball = {"id": 2, "name": "ball", "keypoints": ["centre"], "count": 1}  # needs no name but its category's
    assert named(ANT, ball).type_names == ("ant: head", "ant: waist", "ant: tail", "ball")
    assert named(ANT | {"keypoints": ["head", "tail"]}).type_names == ("ant 0", "ant 1", "ant 2")
    without = named({"id": 1, "name": "ant", "keypoints": [1, 2, 3], "count": 3})
    assert without.type_names == ("ant 0", "ant 1", "ant 2")
    assert "keypoints is a list, not a list of names: left out" in without.dataset.suspicious[0].reason


def test_keypoints_in_another_order_than_in_the_training_data_are_refused():
    trained = named(ANT)
    other = named(ANT | {"keypoints": ["tail", "waist", "head"]})
    with pytest.raises(CocoError, match=r"'ant: tail', .* here, but \['ant: head', .* in the training data"):
        other.with_types(trained.type_names, trained.category_types)
    unnamed = named({"id": 1, "name": "ant", "count": 3}).with_types(trained.type_names, trained.category_types)
    assert unnamed.type_names == trained.type_names


def test_no_boxes_are_no_landmarks():
    with pytest.raises(CocoError, match="no valid boxes"):
        box_keypoints(dataset_of())


def test_an_instance_with_another_number_of_keypoints_is_a_region_to_ignore():
    found = coco_keypoints(dataset_of({"keypoints": PAIR}, {"keypoints": [1, 2, 2]}, {"keypoints": PAIR}))
    assert len(found.landmarks.points) == 4
    assert [len(each) for each in found.ignored if len(each)] == [1]
    finding = found.dataset.suspicious[-1]
    assert finding.annotation_id == 2
    assert finding.reason == "1 keypoint where most of its category have 2: its region is ignored"


def test_a_head_and_a_tail_are_one_point_in_the_middle_with_an_angle():
    """The first head is right of its tail, the second above, the third is occluded; the last tail is not labelled."""
    found = landmarks(
        {"keypoints": [30, 10, 2, 10, 10, 2]},
        {"keypoints": [8, 4, 2, 8, 10, 2], "image_id": 2},
        {"keypoints": [5, 5, 1, 5, 5, 2], "image_id": 2},
        {"keypoints": [5, 5, 2, 0, 0, 0], "image_id": 2},
        orientation="directed",
    )
    points = found.landmarks
    assert_array_equal(points.points, [[20, 10], [8, 7], [5, 5]])
    assert_array_equal(np.rad2deg(points.angles), [0, -90, np.nan])
    assert_array_equal(points.visibility, [2, 2, 1])
    assert_array_equal(found.rows, [0, 1, 2])
    assert (found.type_names, found.category_types, points.num_types) == (("rod",), {1: (0,)}, 1)
    assert [each.tolist() for each in found.ignored] == [[], [[9.5, 9.5, 29.5, 39.5]]]
    assert_array_equal(found.take([1]).landmarks.angles, points.angles[1:])
    assert [each.tolist() for each in points.angles_per_image()[:1]] == [[0]]
    assert landmarks(ROD).landmarks.angles_per_image() is None


def test_an_axis_is_the_same_with_head_and_tail_exchanged():
    random = np.random.default_rng(0)
    heads, tails = random.uniform(0, 200, (2, 20, 2)).round(2)
    both = [
        landmarks(*({"keypoints": [*a, 2, *b, 2]} for a, b in zip(*ends, strict=True)), orientation="axis").landmarks
        for ends in ((heads.tolist(), tails.tolist()), (tails.tolist(), heads.tolist()))
    ]
    assert_allclose(both[0].points, both[1].points)
    assert_allclose(np.cos(2 * both[0].angles), np.cos(2 * both[1].angles), atol=1e-9)
    assert_allclose(np.sin(2 * both[0].angles), np.sin(2 * both[1].angles), atol=1e-9)


def test_oriented_categories_have_a_type_each_or_one_together():
    other = {"keypoints": [1, 1, 2, 1, 5, 2], "category_id": 5}
    found = landmarks(ROD, other, orientation="directed")
    assert_array_equal(found.landmarks.types, [0, 1])
    assert (found.type_names, found.category_types) == (("rod", "ball"), {1: (0,), 5: (1,)})
    merged = landmarks(ROD, other, orientation="directed", merge=True)
    assert_array_equal(merged.landmarks.types, [0, 0])
    assert (merged.type_names, merged.category_types) == (("rod / ball",), {1: (0,), 5: (0,)})


def test_what_has_no_head_and_tail_is_refused():
    message = (
        "category 'ball' has 1 keypoint and no annotation a number in angle, rotation, attributes.rotation: "
        "orientation=axis needs two, the head and the tail, or one point with an angle"
    )
    with pytest.raises(CocoError, match=message):
        landmarks(ROD, BALL, orientation="axis")
    with pytest.raises(CocoError, match="'rod' has 3 keypoints: orientation=axis needs two, the head"):
        landmarks({"keypoints": [1, 1, 2] * 3}, orientation="axis")
    with pytest.raises(CocoError, match="no annotation has both a labelled head and a labelled tail"):
        landmarks({"keypoints": [1, 1, 2, 0, 0, 0]}, orientation="axis")
    with pytest.raises(ValueError, match="orientation is one of none, directed, axis, got 'up'"):
        landmarks(ROD, orientation="up")


def oriented(*annotations: dict[str, Any], **options: Any) -> CocoKeypoints:
    content = rods_and_balls(*annotations)
    return coco_keypoints(read_coco(content, keypoints=True, angles=True), **{"orientation": "directed", **options})


def test_one_point_has_the_angle_of_its_annotation():
    """Degrees clockwise on screen from the x axis; the second has none, the third is more than a turn."""
    found = oriented(BALL | {"angle": 30}, BALL, BALL | {"angle": -400.0, "keypoints": [3, 4, 1]})
    points = found.landmarks
    assert_array_equal(points.points, [[50, 60], [50, 60], [3, 4]])
    assert_allclose(np.rad2deg(points.angles), [30, np.nan, -400])
    assert_array_equal(points.visibility, [2, 2, 1])
    assert (found.type_names, found.category_types, found.orientation) == (("ball",), {5: (0,)}, "directed")
    assert found.about_angles == (
        "(in memory): angles are 'angle', in degrees, clockwise on screen, 0 to the right: 2 of 3 points have one"
    )
    assert_array_equal(found.take([1]).landmarks.angles, points.angles)
    merged = oriented(BALL | {"angle": 30}, merge=True)
    assert_allclose(merged.landmarks.angles, np.deg2rad([30]))


def test_an_angle_is_that_of_a_head_and_tail_in_this_direction():
    random = np.random.default_rng(3)
    middles, degrees = random.uniform(50, 150, (9, 2)).round(3), random.uniform(-180, 180, 9)
    arms = 20 * np.stack([np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))], axis=1)
    ends = [{"keypoints": [*m + a, 2, *m - a, 2]} for m, a in zip(middles, arms, strict=True)]
    own = [{"keypoints": [*m, 2], "rotation": each} for m, each in zip(middles, degrees, strict=True)]
    two, one = (oriented(*annotations).landmarks for annotations in (ends, own))
    assert_allclose(one.points, two.points)
    assert_allclose(one.angles, two.angles)
    assert_array_equal(one.types, two.types)


def test_categories_may_differ_in_where_their_angles_are():
    found = oriented(ROD | {"angle": 77}, BALL | {"angle": 30}, ROD | {"keypoints": [1, 1, 2, 0, 0, 0]})
    assert_allclose(np.rad2deg(found.landmarks.angles), [-135, 30])  # head (12, 13), tail (14, 15)
    assert_array_equal(found.landmarks.types, [0, 1])
    assert found.category_types == {1: (0,), 5: (1,)}
    assert "1 of 1 point have" in found.about_angles
    assert len(found.ignored[0]) == 1  # its tail is not labelled
    assert oriented(ROD).about_angles == ""


@pytest.mark.parametrize(("pixel_origin", "center"), [("center", [19.5, 24.5]), ("corner", [20, 25])])
def test_without_keypoints_the_centres_of_boxes_have_angles(pixel_origin, center):
    boxes = {"attributes": {"rotation": 90.0}}, {"attributes": {"rotation": 0.0}, "category_id": 5}
    found = oriented(*boxes, pixel_origin=pixel_origin)
    assert_array_equal(found.landmarks.points, [center, center])
    assert_allclose(found.landmarks.angles, [np.pi / 2, 0])
    assert (found.pixel_origin, found.type_names) == (pixel_origin, ("rod", "ball"))
    dataset = read_coco(rods_and_balls(*boxes), angles=True)
    centers = box_keypoints(dataset, orientation="axis")
    assert_array_equal(centers.landmarks.points, [[20, 25]] * 2)
    assert_allclose(centers.landmarks.angles, [np.pi / 2, 0])
    assert (centers.pixel_origin, centers.orientation) == ("corner", "axis")


def test_boxes_without_angles_have_no_orientation():
    with pytest.raises(CocoError, match="no annotation has a labelled keypoint"):
        oriented({})
    with pytest.raises(CocoError, match="category 'rod' has 1 keypoint and no annotation a number in angle, rotation"):
        box_keypoints(read_coco(rods_and_balls({}), angles=True), orientation="directed")

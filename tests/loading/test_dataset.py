"""A dataset's images with their targets, sound and unsound, one by one and in batches."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from builders import photo
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image, ImageOps
from rod_images import write_rods
from torch.testing import assert_close

from detect.data import CocoDataset, read_coco
from detect.data.resize import parse_resize
from detect.errors import CocoError, ImageError, ResizeError
from detect.heads.image_targets import checked_targets
from detect.keypoints.coco_keypoints import box_keypoints, coco_keypoints
from detect.keypoints.targets import render_heatmaps
from detect.loading.augment import Augment
from detect.loading.dataset import DetectionData, Draw, Sample, collate
from detect.samples import sample_annotations

NUCLEI = sample_annotations("nuclei")


@pytest.fixture(scope="module")
def nuclei() -> CocoDataset:
    return read_coco(NUCLEI, keypoints=True)


def nuclei_data(nuclei: CocoDataset, **options: Any) -> DetectionData:
    return DetectionData(nuclei, NUCLEI.parent / "images", resize=parse_resize("none"), **options)


def write_images(folder: Path, **sizes_wh: tuple[int, int]) -> None:
    for name, size in sizes_wh.items():
        Image.new("L", size, 100).save(folder / f"{name}.png")


def dataset_of(names: list[str], annotations: list[dict[str, Any]], *, wh: tuple[int, int] = (40, 20)) -> CocoDataset:
    """Images of one size with ids 10, 11, ...; categories 3 and 8."""
    images = [
        {"id": 10 + number, "width": wh[0], "height": wh[1], "file_name": name} for number, name in enumerate(names)
    ]
    entries = [
        {"id": number, "category_id": 3, "bbox": [4, 6, 8, 10], **each} for number, each in enumerate(annotations, 1)
    ]
    categories = [{"id": 3, "name": "a"}, {"id": 8, "name": "b"}]
    return read_coco({"images": images, "annotations": entries, "categories": categories}, keypoints=True)


def data_of(dataset: CocoDataset, folder: Path, rule: str = "none", **options: Any) -> DetectionData:
    return DetectionData(dataset, folder, resize=rule, **options)


def assert_same(one: Sample, other: Sample) -> None:
    for name in ("image", "image_hw", "points", "types", "visibility", "unlabelled", "unlabelled_types"):
        assert_close(getattr(one, name), getattr(other, name), rtol=0, atol=0)
    assert_close(one.targets.boxes, other.targets.boxes, rtol=0, atol=0)
    assert one.image_row == other.image_row


def test_boxes_and_points_are_in_pixels_of_the_network_s_input(tmp_path):
    write_images(tmp_path, a=(40, 20))
    dataset = dataset_of(["a.png"], [{"image_id": 10, "category_id": 8, "keypoints": [7, 10, 2]}])
    sample = data_of(dataset, tmp_path, "letterbox:80")[0]
    # twice as large, 20 rows above: (4, 6, 12, 16) -> (8, 32, 24, 52); pixel 7 has its centre at 7.5, so 15, which is 14.5
    assert_allclose(sample.targets.boxes, [[8, 32, 24, 52]], rtol=1e-6)
    assert_allclose(sample.points, [[14.5, 40.5]], rtol=1e-6)
    assert sample.targets.classes.tolist() == [1]
    assert sample.image.shape == (3, 80, 80)
    assert sample.image_hw.tolist() == [60, 80]
    assert_allclose(sample.image[:, 20:60], np.full((3, 40, 80), 100 / 255), rtol=1e-5)


def test_a_batch_is_padded_right_and_below_with_black(tmp_path):
    write_images(tmp_path, a=(40, 20), b=(30, 50))
    wide, tall = (
        data_of(dataset_of([f"{name}.png"], [{"image_id": 10, "keypoints": [1, 2, 2, 3, 4, 1]}], wh=wh), tmp_path)[0]
        for name, wh in (("a", (40, 20)), ("b", (30, 50)))
    )
    batch = collate([wide, tall])
    assert batch.images.shape == (2, 3, 50, 40)
    assert len(batch) == 2
    assert batch.image_hw.tolist() == [[20, 40], [50, 30]]
    assert batch.images[0, :, 20:].max() == batch.images[1, :, :, 30:].max() == 0
    assert_close(batch.images[1, :, :, :30], tall.image, rtol=0, atol=0)
    assert [len(targets.boxes) for targets in batch.targets] == [1, 1]
    keypoints = batch.keypoints
    assert_array_equal(keypoints.points, [[1, 2], [3, 4], [1, 2], [3, 4]])
    assert_array_equal(keypoints.image, [0, 0, 1, 1])
    assert_array_equal(keypoints.types, [0, 1, 0, 1])
    assert_array_equal(keypoints.visibility, [2, 1, 2, 1])
    assert (keypoints.num_images, keypoints.num_types) == (2, 2)


def test_a_batch_moves_to_a_device_whole(nuclei):
    batch = collate([nuclei_data(nuclei)[place] for place in range(3)]).to("meta")
    tensors = [batch.images, batch.image_hw, batch.image_rows]
    tensors += [batch.keypoints.points, batch.keypoints.image, batch.keypoints.types, batch.keypoints.visibility]
    tensors += [each for image in batch.targets for each in (image.boxes, image.classes, image.ignored)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


def test_nothing_of_the_nuclei_is_lost(nuclei):
    data = nuclei_data(nuclei)
    batch = collate([data[place] for place in range(len(data))])
    assert sum(len(targets.boxes) for targets in batch.targets) == len(nuclei.instances)
    assert_array_equal(batch.image_rows, np.arange(len(nuclei.images)))
    assert_allclose(batch.keypoints.points, np.concatenate(nuclei.instances.keypoints)[:, :2], rtol=1e-6)
    assert (batch.keypoints.visibility == 2).all()
    # and the maps that are drawn of them have them all
    assert render_heatmaps(batch.keypoints, (128, 128), stride=2).counts.sum() == len(nuclei.instances)


def test_a_sample_depends_on_epoch_image_and_copy_alone(nuclei):
    data, again = (nuclei_data(nuclei, augment=Augment(turns=True), seed=3) for _ in range(2))
    sample = data[Draw(4, 7)]
    for place in (3, 9):
        again[Draw(1, place)]
    assert_same(again[Draw(4, 7)], sample)
    assert_same(again[4, 7], sample)
    assert_same(again[7], again[Draw(0, 7)])
    for other in (
        data[Draw(5, 7)],
        data[Draw(4, 7, 1)],
        nuclei_data(nuclei, augment=Augment(turns=True), seed=4)[Draw(4, 7)],
    ):
        assert (other.image - sample.image).abs().max() > 0.01


def test_augmented_boxes_stay_in_the_image_and_none_vanishes_unseen(nuclei):
    data = nuclei_data(nuclei, augment=Augment(turns=True))
    rows = range(0, len(data), 2)
    num_points = np.isin(nuclei.instances.image_rows, rows).sum()
    for epoch in range(2):
        batch = collate([data[Draw(epoch, place)] for place in rows])
        for row, targets in enumerate(batch.targets):
            height, width = batch.image_hw[row].tolist()
            boxes = torch.cat([targets.boxes, targets.ignored])
            assert (boxes[:, 2:] > boxes[:, :2]).all()
            assert (boxes >= 0).all()
            assert (boxes[:, 2:] <= torch.tensor([width, height]) + 1e-4).all()
        labelled = batch.keypoints.points[batch.keypoints.visibility > 0]
        assert ((labelled >= -0.5) & (labelled <= 127.5)).all()
        assert len(batch.keypoints.points) == num_points


def test_points_lie_in_their_boxes_after_augmentation_as_before(nuclei):
    """In each image the points that are left are the labelled ones, in the order of the instances."""
    data = nuclei_data(nuclei, augment=Augment(turns=True, min_visible=0.0))
    num_checked = 0
    for place in range(0, len(data), 3):
        sample = data[Draw(2, place)]
        boxes, points = sample.targets.boxes, sample.points + 0.5
        if len(boxes) == len(points):  # else one went out of the picture
            whole = (boxes[:, :2] > 0).all(dim=1) & (boxes[:, 2:] < 128).all(dim=1)
            inside = (points > boxes[:, :2]) & (points < boxes[:, 2:])
            assert inside[whole].all()
            num_checked += int(whole.sum())
    assert num_checked > 20


def test_keypoints_may_be_the_centres_of_boxes(tmp_path):
    write_images(tmp_path, a=(40, 20))
    dataset = dataset_of(["a.png"], [{"image_id": 10}, {"image_id": 10, "category_id": 8}])
    sample = data_of(dataset, tmp_path, "stretch:80x40", keypoints=box_keypoints(dataset))[0]
    # middles are continuous: (8, 11) twice as large
    assert_allclose(sample.points, [[16, 22], [16, 22]], rtol=1e-6)
    assert sample.types.tolist() == [0, 1]
    assert sample.num_types == 2


def test_without_keypoints_there_are_no_points_and_one_type(tmp_path):
    write_images(tmp_path, a=(40, 20))
    data = data_of(dataset_of(["a.png"], [{"image_id": 10}]), tmp_path)
    batch = collate([data[0]])
    assert (data.num_types, len(batch.keypoints.points), batch.keypoints.num_types) == (1, 0, 1)


# What is wrong with data, one after the other.


def test_classes_are_those_trained_on_where_they_are_given(tmp_path):
    write_images(tmp_path, a=(40, 20))
    dataset = dataset_of(["a.png"], [{"image_id": 10, "category_id": 8}])
    assert data_of(dataset, tmp_path, category_ids=[1, 3, 8])[0].targets.classes.tolist() == [2]
    with pytest.raises(CocoError, match="annotations have category 8; the classes are 3"):
        data_of(dataset, tmp_path, category_ids=[3])


def test_without_a_list_of_categories_those_of_the_annotations_count(tmp_path):
    write_images(tmp_path, a=(40, 20))
    image = {"id": 1, "width": 40, "height": 20, "file_name": "a.png"}
    annotations = [
        {"id": row, "image_id": 1, "category_id": category, "bbox": [1, 1, 5, 5]} for row, category in ((1, 9), (2, 4))
    ]
    data = data_of(read_coco({"images": [image], "annotations": annotations}), tmp_path)
    assert data.category_ids == (4, 9)
    assert data[0].targets.classes.tolist() == [1, 0]


def test_an_image_without_boxes_is_drawn_like_others(tmp_path):
    write_images(tmp_path, a=(40, 20), b=(40, 20))
    dataset = dataset_of(["a.png", "b.png"], [{"image_id": 11, "keypoints": [5, 6, 2]}])
    batch = collate([data_of(dataset, tmp_path, augment=Augment(turns=False))[place] for place in (0, 1)])
    assert [len(targets.boxes) for targets in batch.targets] == [0, 1]
    assert batch.targets[0].boxes.shape == (0, 4)
    assert batch.keypoints.image.tolist() == [1]
    only = collate([data_of(dataset, tmp_path)[0]])
    assert only.keypoints.points.shape == (0, 2)


def test_a_box_outside_is_refused_and_one_partly_outside_is_clipped(tmp_path):
    write_images(tmp_path, a=(40, 20))
    boxes = [{"image_id": 10, "bbox": [50, 5, 10, 10]}, {"image_id": 10, "bbox": [35, 5, 10, 10]}]
    dataset = dataset_of(["a.png"], boxes)
    assert_allclose(data_of(dataset, tmp_path)[0].targets.boxes, [[35, 5, 40, 15]], rtol=1e-6)
    assert "lies wholly outside its 40x20 image" in str(dataset.invalid[0])
    assert "reaches outside its 40x20 image: clipped" in str(dataset.suspicious[0])


def test_a_crowd_is_a_region_to_ignore(tmp_path):
    write_images(tmp_path, a=(40, 20))
    dataset = dataset_of(["a.png"], [{"image_id": 10, "iscrowd": 1}, {"image_id": 10, "keypoints": [9, 9, 2]}])
    batch = collate([data_of(dataset, tmp_path, "stretch:80x40")[0]])
    assert_allclose(batch.targets[0].ignored, [[8, 12, 24, 32]], rtol=1e-6)
    assert len(batch.targets[0].boxes) == 1
    assert_allclose(
        batch.unlabelled[0], [[7.5, 11.5, 23.5, 31.5]], rtol=1e-6
    )  # where nobody said what points there are


def test_a_box_without_extent_in_single_precision_is_counted_and_in_no_sample(tmp_path):
    # the floats about 39.5 are 3.8e-6 apart; stretched to half the width they are half as far apart about half of it
    write_images(tmp_path, a=(40, 20))
    sliver = {"image_id": 10, "bbox": [39.5, 5, 1.5e-6, 10]}
    dataset = dataset_of(["a.png"], [{"image_id": 10, "category_id": 8}, sliver, {**sliver, "iscrowd": 1}])
    for rule in ("none", "stretch:20x20"):
        data = data_of(dataset, tmp_path, rule)
        targets = data[0].targets
        assert data.num_degenerate_boxes == 1
        assert (len(targets.boxes), targets.classes.tolist(), len(targets.ignored)) == (1, [1], 0)
        assert len(checked_targets([targets], num_classes=2)) == 1
    assert data_of(dataset_of([], []), tmp_path).num_degenerate_boxes == 0


def test_every_augmented_target_can_be_learned(nuclei):
    data = nuclei_data(nuclei, augment=Augment(turns=True, min_visible=0.0, zoom=(0.5, 4.0)))
    targets = [data[Draw(epoch, place)].targets for epoch, place in enumerate(range(len(data)))]
    assert len(checked_targets(targets, num_classes=1)) == len(data)


def broken_folder(tmp_path: Path) -> CocoDataset:
    """A sound image, one cut off in the middle, one that is missing, one of another size and one that is a text."""
    random = np.random.default_rng(0)
    write_images(tmp_path, sound=(40, 20), other=(20, 40))
    Image.fromarray(random.integers(0, 256, (20, 40, 3), np.uint8)).save(tmp_path / "cut.jpg")
    whole = (tmp_path / "cut.jpg").read_bytes()
    (tmp_path / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("not an image")
    names = ["cut.jpg", "sound.png", "missing.png", "other.png", "text.png"]
    return dataset_of(names, [{"image_id": 10}, {"image_id": 11}, {"image_id": 13}])


def test_broken_and_missing_images_are_an_error_that_names_and_counts_them(tmp_path):
    with pytest.raises(ImageError) as raised:
        data_of(broken_folder(tmp_path), tmp_path)
    message = str(raised.value)
    assert message.startswith("4 of 5 images cannot be used: ")
    for part in (
        "cut.jpg: ",
        "runcated",
        "missing.png: No such file",
        "other.png: the image is 20x40",
        "text.png: not an",
    ):
        assert part in message
    assert "sound.png" not in message


def test_broken_images_are_skipped_where_that_is_asked_for_and_listed(tmp_path):
    data = data_of(broken_folder(tmp_path), tmp_path, on_broken="skip")
    assert len(data) == 1
    assert [image.image_row for image in data.broken] == [0, 2, 3, 4]
    assert data[0].image_row == 1
    assert len(data[0].targets.boxes) == 1


def test_of_broken_images_alone_there_is_nothing_to_skip_to(tmp_path):
    with pytest.raises(ImageError, match=r"1 of 1 images cannot be used: .*a\.png: No such file"):
        data_of(dataset_of(["a.png"], []), tmp_path, on_broken="skip")


def test_an_image_that_breaks_later_is_named(tmp_path):
    write_images(tmp_path, a=(40, 20))
    data = data_of(dataset_of(["a.png"], []), tmp_path)
    (tmp_path / "a.png").unlink()
    with pytest.raises(ImageError, match=r"a\.png: No such file"):
        data[0]


def test_a_skipped_image_does_not_change_the_pixels_of_the_others(tmp_path):
    """Randomness goes by the row of the dataset, not by the place among those that are left."""
    write_images(tmp_path, a=(40, 20), b=(40, 20))
    dataset = dataset_of(["a.png", "b.png"], [])
    both = data_of(dataset, tmp_path, augment=Augment(turns=True))[Draw(1, 1)]
    (tmp_path / "a.png").unlink()
    assert_same(data_of(dataset, tmp_path, augment=Augment(turns=True), on_broken="skip")[Draw(1, 0)], both)


def test_a_deep_image_beyond_its_range_is_broken_and_named(tmp_path):
    Image.fromarray(np.full((20, 40), 2.5, np.float32)).save(tmp_path / "deep.tiff")
    with pytest.raises(ImageError, match=r"1 of 1 images cannot be used: .*deep\.tiff: values from 2\.5 to 2\.5"):
        data_of(dataset_of(["deep.tiff"], []), tmp_path)


def test_an_empty_dataset_has_no_images_and_no_fault(tmp_path):
    assert len(data_of(dataset_of([], []), tmp_path)) == 0


def test_images_that_the_rule_does_not_take_are_refused_at_once(tmp_path):
    with pytest.raises(ResizeError, match="cut by cut_tiles for tiles:16:4"):
        data_of(dataset_of(["a.png"], []), tmp_path, "tiles:16:4")


@pytest.mark.parametrize("options", [{"on_broken": "ignore"}, {"seed": -1}])
def test_a_choice_that_is_not_known_is_named(tmp_path, options):
    with pytest.raises(ValueError, match="on_broken is 'fail' or 'skip', and a seed at least 0, got"):
        data_of(dataset_of([], []), tmp_path, **options)


@pytest.mark.parametrize(
    ("orientation", "upright", "exif"),
    [(6, True, "auto"), (6, False, "auto"), (3, True, "auto"), (3, False, "ignore")],
)
def test_pixels_under_the_box_of_a_turned_photo_are_those_of_pillow(tmp_path, orientation, upright, exif):
    with Image.open(photo(tmp_path / "a.jpg", orientation=orientation, wh=(40, 20))) as image:
        expected = ImageOps.exif_transpose(image) if upright else image.copy()
    dataset = dataset_of(["a.jpg"], [{"image_id": 10}], wh=expected.size)
    data = data_of(replace(dataset, exif=exif), tmp_path, channels=1)
    x0, y0, x1, y1 = data[0].targets.boxes[0].int().tolist()
    assert_allclose(data[0].image[0, y0:y1, x0:x1] * 255, np.asarray(expected.crop((4, 6, 12, 16))), atol=1e-3)
    assert (data.exif_warning is not None) == (orientation == 3 and exif == "auto")  # its size does not tell


@pytest.mark.parametrize("resize", ["none", "letterbox:120", "stretch:120x80"])
def test_angles_are_those_of_head_and_tail_moved_by_the_same_augmentation(tmp_path, resize):
    write = partial(write_rods, tmp_path, num_images=3, seed=0, heads=True)
    files = write(), write(), write(name="angles", with_angles=True)
    options = {"resize": resize, "channels": 1, "augment": Augment(turns=True, zoom=(1, 1)), "seed": 4}
    datasets = [read_coco(file, keypoints=True, angles=True) for file in files]
    two, one, own = (
        DetectionData(each, tmp_path, keypoints=coco_keypoints(each, orientation=orientation), **options)
        for each, orientation in zip(datasets, ("none", "directed", "directed"), strict=True)
    )
    for epoch in range(6):
        ends, *batches = (collate([data[epoch, place] for place in range(3)]).keypoints for data in (two, one, own))
        heads, tails = ends.points[::2], ends.points[1::2]
        for batch in batches:
            assert_close(batch.points, (heads + tails) / 2)
            assert_close(batch.angles, torch.atan2(*(heads - tails).flip(1).unbind(dim=1)), rtol=0, atol=1e-4)
    assert ends.angles is None
    assert_close(collate([one[0]]).to("cpu").keypoints.angles, one[0].angles)

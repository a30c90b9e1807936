"""What a run reads: data, labels, mean and deviation."""

from __future__ import annotations

import numpy as np
import pytest
from builders import changed
from numpy.testing import assert_allclose, assert_array_equal
from torch.testing import assert_close

from detect.data import read_coco
from detect.errors import CocoError, ConfigError
from detect.loading.sampling import EpochBatchSampler, image_loader
from detect.training.data_warnings import data_warnings
from detect.training.devices import launch
from detect.training.inputs import data_checksum, epoch_batches, hold_out, read_inputs


def test_training_is_augmented_and_validation_is_not(tiny):
    inputs = read_inputs(tiny("augment.noise=0.5"))
    assert inputs.train.augment.noise == 0.5
    assert inputs.val.augment is None
    assert read_inputs(tiny("augment.enabled=false")).train.augment is None


def test_mean_and_deviation_are_those_of_the_pixels_unless_given(tiny, squares):
    inputs = read_inputs(tiny())
    pixels = np.stack([inputs.train[place].image[0].numpy() for place in range(8)])
    unaugmented = np.stack([inputs.val[place].image[0].numpy() for place in range(8)])
    assert pixels.shape == (8, 32, 32)
    assert_allclose([inputs.mean, inputs.std], [[unaugmented.mean()], [unaugmented.std()]], rtol=1e-5)
    given = read_inputs(tiny("data.mean=[0.5]", "data.std=[0.25]"))
    assert (given.mean, given.std) == ((0.5,), (0.25,))


def test_a_share_held_out_is_in_one_part_alone(squares):
    dataset = read_coco(squares / "annotations.json", keypoints=True)
    train, val = hold_out(dataset, 0.25)
    assert val.images.ids.tolist() == [4, 8]
    assert sorted([*train.images.ids.tolist(), *val.images.ids.tolist()]) == dataset.images.ids.tolist()
    for part in (train, val):  # each box is still with its image
        own = part.annotations
        before = np.searchsorted(dataset.annotations.ids, own.ids)
        assert_array_equal(own.boxes_xywh, dataset.annotations.boxes_xywh[before])
        images = dataset.images.ids[dataset.annotations.image_rows[before]]
        assert_array_equal(part.images.ids[own.image_rows], images)
        assert [part.images.file_names[row] for row in own.image_rows] == [f"{image}.png" for image in images]
    train, val = hold_out(dataset, 0.01)  # one image at least
    assert (train.images.ids.tolist(), val.images.ids.tolist()) == ([1, 2, 3, 4, 5, 6, 7], [8])


def test_the_checksum_tells_other_labels_and_other_usable_images(tiny, squares, tmp_path):
    def move(content):
        content["annotations"][3]["bbox"][0] += 1

    inputs = read_inputs(tiny())
    checksum = data_checksum(inputs)
    assert data_checksum(read_inputs(tiny("seed=5", "data.num_workers=1"))) == checksum
    moved = changed(squares, tmp_path, "moved.json", move)
    assert (
        len({data_checksum(read_inputs(tiny(f"data.{part}={moved}"))) for part in ("train", "val")} | {checksum}) == 3
    )
    assert data_checksum(read_inputs(tiny("data.val=[]"))) != checksum
    inputs.train.image_rows = inputs.train.image_rows[:-1]
    assert data_checksum(inputs) != checksum


def test_nothing_to_train_on(tiny, squares, tmp_path):
    none = changed(squares, tmp_path, "none.json", lambda content: content.update(images=[], annotations=[]))
    with pytest.raises(ConfigError, match=r"none\.json: no images to train on"):
        read_inputs(tiny(f"data.train={none}"))


def test_a_category_of_another_name_in_the_validation_data_is_refused(tiny, squares, tmp_path):
    def rename(content):
        content["categories"][0]["name"] = "Square"

    def swap(content):
        content["categories"][0]["name"] = "circle"

    read_inputs(tiny(f"data.val={changed(squares, tmp_path, 'same.json', rename)}"))
    with pytest.raises(CocoError, match=r"other\.json: category 7 is 'circle'; it was learned as 'square'"):
        read_inputs(tiny(f"data.val={changed(squares, tmp_path, 'other.json', swap)}"))


def test_validation_data_may_lack_a_keypoint_type_of_the_training_data(tiny, squares, tmp_path):
    def second(content):
        content["categories"].insert(0, {"id": 3, "name": "dot", "keypoints": ["centre"], "skeleton": []})
        content["annotations"][0]["category_id"] = 3

    train = changed(squares, tmp_path, "both.json", second)
    inputs = read_inputs(tiny(f"data.train={train}", task="landmarks"))
    assert inputs.labels.category_types == inputs.val.keypoints.category_types == {3: (0,), 7: (1,)}
    points = inputs.val.keypoints.landmarks
    assert (set(points.types.tolist()), points.num_types) == ({1}, 2)
    assert inputs.val[0].types.tolist() == [1] * len(inputs.val[0].points)


def test_categories_that_training_lacks_are_named_with_the_option_that_leaves_them_out(tiny, squares, tmp_path):
    def more(content):
        content["categories"] += [{"id": 8, "name": "Dot"}, {"id": 9, "name": "hole"}]
        for entry, category in zip(content["annotations"], (8, 9, 9), strict=False):
            entry["category_id"] = category

    file = changed(squares, tmp_path, "more.json", more)
    for task in ("boxes", "landmarks"):
        with pytest.raises(CocoError, match=r"more\.json: category 8, 'Dot', is not one of .*: 'square': ") as caught:
            read_inputs(tiny(f"data.val={file}", task=task))
        assert """'data.ignore_categories=["Dot", "hole"]' (--ignore-category 'Dot' --ignore-category 'hole')""" in str(
            caught.value
        )
    config = tiny(f"data.val={file}", "data.ignore_categories=[dot, hole]")
    inputs = read_inputs(config)
    assert len(inputs.val.dataset.annotations) == len(inputs.train.dataset.annotations) - 3
    assert "warning: left out: 3 annotations of 'Dot', 'hole' (data.ignore_categories)" in data_warnings(
        config, inputs, assignment=None
    )
    config = tiny(f"data.train={file}", "data.val=[]", "data.ignore_categories=[Square, squares]")
    inputs = read_inputs(config)
    lines = data_warnings(config, inputs, assignment=None)
    assert any(
        line.endswith("more.json: no category 'squares' to leave out (data.ignore_categories)") for line in lines
    )
    assert inputs.labels.category_names == ("Dot", "hole")
    assert len(inputs.train.dataset.annotations) == 3


def test_files_that_do_not_name_their_categories_are_taken_by_their_ids(tiny, squares, tmp_path):
    nameless = changed(squares, tmp_path, "nameless.json", lambda content: content.pop("categories"))
    assert read_inputs(tiny(f"data.val={nameless}")).val.category_ids == (7,)
    assert read_inputs(tiny(f"data.train={nameless}")).labels.category_names == ("category 7",)


def test_overfitting_takes_few_images_as_they_are(tiny):
    inputs = read_inputs(tiny(), overfit=3)
    assert (len(inputs.train), inputs.train.augment, inputs.val) == (3, None, None)
    with pytest.raises(ConfigError, match="there are 8 images with objects"):
        read_inputs(tiny(), overfit=9)


def test_keypoints_are_read_for_the_task_landmarks_alone(tiny):
    assert read_inputs(tiny()).labels.type_names == ()
    assert read_inputs(tiny(task="landmarks")).labels.category_types == {7: (0,)}


def test_images_to_validate_on_that_are_skipped_are_not_scored(tiny, tmp_path, squares):
    for number in range(1, 9):
        if number != 3:
            (tmp_path / f"{number}.png").write_bytes((squares / f"{number}.png").read_bytes())
    for task in ("boxes", "landmarks"):
        val = read_inputs(tiny(f"data.images={tmp_path}", "data.on_broken=skip", task=task)).val
        assert val.dataset.images.ids.tolist() == [1, 2, 4, 5, 6, 7, 8]
        assert len(val.broken) == 1
        assert [sample.image_row for sample in map(val.__getitem__, range(7))] == list(range(7))
        whole = read_inputs(tiny(task=task)).val
        for place, other in enumerate([0, 1, 3, 4, 5, 6, 7]):
            assert_close(val[place].image, whole[other].image)
            assert_close(val[place].targets.boxes, whole[other].targets.boxes)
            assert_close(val[place].points, whole[other].points)
    assert val.keypoints.landmarks.num_images == 7
    assert_allclose(val.keypoints.sizes_wh, val.dataset.instances.boxes_xywh[:, 2:])  # a point for each instance


def test_the_parts_of_a_batch_have_its_images(tiny):
    config = tiny("optimisation.batch_size=4", "optimisation.accumulate=2")
    data = read_inputs(config).train
    whole = list(EpochBatchSampler(len(data), batch_size=4))
    loader = image_loader(data, epoch_batches(config, data, launch(config)), num_workers=0)
    parts = [part.image_rows.tolist() for part in loader]
    assert [len(part) for part in parts] == [2, 2, 2, 2]
    for number, batch in enumerate(whole):
        assert sorted(draw.place for draw in batch) == sorted(parts[2 * number] + parts[2 * number + 1])


def test_a_batch_that_cannot_be_divided(tiny):
    config = tiny("optimisation.accumulate=3")
    with pytest.raises(ConfigError, match="a batch of 2 images cannot be divided among 1 processes with 3 parts"):
        epoch_batches(config, read_inputs(config).train, launch(config))


def test_a_share_of_the_training_images_lies_with_them(tiny, squares, tmp_path):
    config = tiny("data.val=[]", "data.val_share=0.25", f"data.val_images={tmp_path / 'elsewhere'}")
    assert read_inputs(config).val.files.folder == squares

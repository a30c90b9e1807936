"""Objects cut by tiles: every tile is tried, and the tiled dataset has them in pieces."""

from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from detect.advice.tile_cuts import smallest_overlap, tile_cuts
from detect.anchors.instances import ResizedInstances
from detect.data import read_coco
from detect.data.tiles import cut_tiles, tile_starts
from detect.samples import sample_annotations


def objects(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Boxes at half pixels, images from smaller than a tile to many tiles wide."""
    draws = np.random.default_rng(seed)
    image_wh = draws.integers(30, 300, (12, 2))
    rows = draws.integers(0, 12, 500)
    corners = np.floor(draws.random((500, 2)) * image_wh[rows] * 2) / 2
    ends = np.minimum(corners + draws.integers(1, 120, (500, 2)) / 2, image_wh[rows])
    return np.concatenate([corners, ends], axis=1), rows, image_wh


@pytest.mark.parametrize(("size", "overlap"), [(64, 0), (64, 13), (64, 32), (64, 63), (100, 20), (301, 5)])
def test_an_object_is_whole_if_any_tile_holds_it(size, overlap):
    boxes, rows, image_wh = objects(0)
    found = tile_cuts(boxes, rows, image_wh=image_wh, size=size, overlap=overlap)

    def held(box: np.ndarray, wh: np.ndarray) -> bool:
        return all(
            any(
                start <= box[axis] and box[2 + axis] <= start + size
                for start in tile_starts(int(wh[axis]), size, overlap)
            )
            for axis in (0, 1)
        )

    assert_array_equal(found.is_whole, [held(box, image_wh[row]) for box, row in zip(boxes, rows, strict=True)])
    tiles = [math.prod(len(tile_starts(length, size, overlap)) for length in wh) for wh in image_wh.tolist()]
    assert_array_equal(found.num_tiles, tiles)
    assert_array_equal(found.cut, np.flatnonzero(~found.is_whole))


def test_objects_that_are_whole_have_a_piece_of_their_own_size_in_the_tiled_dataset():
    dataset = read_coco(sample_annotations("bccd"))
    instances = ResizedInstances.of(dataset, "none")
    cuts = tile_cuts(instances.boxes, dataset.instances.image_rows, image_wh=dataset.images.wh, size=160, overlap=40)
    tiled = cut_tiles(dataset, "tiles:160:40").instances
    largest = {}
    for annotation, (_, _, width, height) in zip(tiled.ids.tolist(), tiled.boxes_xywh.tolist(), strict=True):
        largest[annotation] = max(largest.get(annotation, 0.0), width * height)
    areas = dict(
        zip(dataset.instances.ids.tolist(), dataset.instances.boxes_xywh[:, 2:].prod(axis=1).tolist(), strict=True)
    )
    whole = {each for each, area in areas.items() if largest[each] >= area * (1 - 1e-9)}
    assert set(dataset.instances.ids[cuts.is_whole].tolist()) == whole
    assert 0.3 < cuts.is_whole.mean() < 0.99


def test_from_the_smallest_overlap_on_the_share_holds():
    boxes, rows, image_wh = objects(1)
    fits = (boxes[:, 2:] - boxes[:, :2] <= 130).all(axis=1)
    least = smallest_overlap(boxes, rows, image_wh=image_wh, size=130, share=0.97)
    shares = [
        tile_cuts(boxes[fits], rows[fits], image_wh=image_wh, size=130, overlap=overlap).is_whole.mean()
        for overlap in range(66)
    ]
    assert least > 10
    assert min(shares[least:]) >= 0.97 > shares[least - 1]
    assert smallest_overlap(boxes, rows, image_wh=image_wh, size=32, share=0.999) is None


def test_no_objects_need_no_overlap():
    assert smallest_overlap(np.zeros((0, 4)), np.zeros(0, int), image_wh=np.array([[200, 200]]), size=64) == 0


@pytest.mark.parametrize("overlap", [-1, 64])
def test_an_overlap_is_smaller_than_the_tile(overlap):
    with pytest.raises(ValueError, match="need 0 <= overlap < size"):
        tile_cuts(np.zeros((0, 4)), np.zeros(0, int), image_wh=np.array([[200, 200]]), size=64, overlap=overlap)

"""Sparse matching gives what the matrix of all pairs gives, on every anchor."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.testing import assert_close

from detect.anchors.generator import AnchorGenerator
from detect.anchors.grid_convention import CONVENTIONS
from detect.anchors.instances import ResizedInstances
from detect.anchors.known import load_anchors
from detect.data import read_coco
from detect.data.resize import parse_resize
from detect.ops import grid_matcher
from detect.ops.grid_matcher import LevelGrid, nearest_anchors
from detect.ops.matcher import BACKGROUND, Atss, MaxIoU, match_boxes
from detect.samples import sample_annotations

MATCHERS = [
    MaxIoU(),
    MaxIoU(low_quality_mode="forced"),
    MaxIoU(allow_low_quality_matches=False),
    MaxIoU(fg_iou_thresh=0.7, bg_iou_thresh=0.05),
]
SIZES = [tuple(x * 2 ** (third / 3) for third in range(3)) for x in (32.0, 64.0, 128.0, 256.0, 512.0)]


def level_hw(image_hw: tuple[int, int], strides=(8, 16, 32, 64, 128)) -> list[tuple[int, int]]:
    return [(-(-image_hw[0] // stride), -(-image_hw[1] // stride)) for stride in strides]


def random_boxes(count: int, seed: int, side: float, median: float = 60) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    size = median * torch.exp(torch.randn(count, 1, generator=random) * 1.2)
    ratio = torch.exp(torch.randn(count, 1, generator=random) * 0.7)
    wh = torch.cat([size / ratio, size * ratio], dim=1).clamp(0.5, side)
    xy = torch.rand(count, 2, generator=random) * (side - wh)
    return torch.cat([xy, xy + wh], dim=1)


@pytest.mark.parametrize("matcher", MATCHERS, ids=str)
@pytest.mark.parametrize(
    ("num_boxes", "side", "convention"),
    [(10, 800, "torchvision"), (1000, 250, "torchvision"), *((100, 300, convention) for convention in CONVENTIONS)],
)
def test_random_boxes(matcher, num_boxes, side, convention):
    anchors = AnchorGenerator.of_sizes(SIZES, convention=convention).generate(level_hw((side, side)), (side, side))
    boxes = random_boxes(num_boxes, seed=num_boxes, side=side)
    boxes[::3] = boxes[::3].round()  # whole pixels: many ties
    sparse = matcher.match(anchors.level_grids, boxes)
    assert_close(sparse, match_boxes(anchors.boxes, boxes, matcher=matcher))
    assert (sparse >= 0).any()


@pytest.mark.parametrize("matcher", MATCHERS[:2], ids=str)
@pytest.mark.parametrize(
    ("sample", "resize", "name"),
    [("bccd", "letterbox:640", "retinanet"), ("bccd", "none", "yolov3-coco"), ("nuclei", "none", "retinanet")],
)
def test_sample_annotations(matcher, sample, resize, name):
    instances = ResizedInstances.of(read_coco(sample_annotations(sample)), parse_resize(resize))
    grid = AnchorGenerator(load_anchors(name))
    strides = [level.stride for level in grid.anchors.levels]
    image_rows = instances.dataset.instances.image_rows
    for row in np.unique(image_rows)[:: 6 if matcher.low_quality_mode == "own" else 18]:
        of_image = image_rows == row
        width, height = instances.canvas_wh[of_image][0].tolist()
        anchors = grid.generate(level_hw((height, width), strides))
        boxes = torch.from_numpy(instances.boxes[of_image]).float()
        assert_close(matcher.match(anchors.level_grids, boxes), match_boxes(anchors.boxes, boxes, matcher=matcher))


corners = st.floats(-100, 300, width=32) | st.integers(-100, 300).map(float)
sides = st.floats(0, 400, width=32) | st.sampled_from([0.0, 0.01, 1.0, 8.0, 16.0, 400.0])
any_box = st.tuples(corners, corners, sides, sides).map(lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3]))


@given(
    st.lists(any_box, max_size=6),
    st.lists(st.tuples(st.floats(1, 200), st.floats(1, 200)), min_size=1, max_size=3),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.sampled_from([3.0, 8.0, 17.5, 64.0]),
    st.sampled_from(MATCHERS),
)
def test_any_boxes_on_any_grids(boxes, shapes, hw, stride, matcher):
    half = torch.tensor(shapes) / 2
    cell_boxes = torch.cat([-half, half], dim=1) + stride / 2
    level_grids = [LevelGrid(*hw, (stride, stride), cell_boxes), LevelGrid(2, 3, (40.0, 30.0), cell_boxes[:1])]
    boxes = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    anchors = torch.cat([level.boxes() for level in level_grids])
    assert_close(matcher.match(level_grids, boxes), match_boxes(anchors, boxes, matcher=matcher))


def test_boxes_inside_one_anchor_and_around_all():
    level = LevelGrid(6, 6, (8.0, 8.0), torch.tensor([[-16.0, -16.0, 24.0, 24.0], [0.0, 0.0, 8.0, 8.0]]))
    tiny, huge = [20.3, 20.3, 20.6, 20.7], [-500.0, -500.0, 900.0, 900.0]
    for boxes in ([tiny], [huge], [tiny, huge], [huge, tiny, tiny]):
        rows = torch.tensor(boxes)
        for matcher in MATCHERS:
            assert_close(matcher.match([level], rows), match_boxes(level.boxes(), rows, matcher=matcher))


def nearest_of_all(level: LevelGrid, boxes: torch.Tensor, count: int) -> torch.Tensor:
    """Every distance, sorted: of equals the first anchor is nearer."""
    anchors = level.boxes()
    apart = ((boxes[:, None, :2] + boxes[:, None, 2:]) / 2).double() - (anchors[:, :2] + anchors[:, 2:]).double() / 2
    return apart.square().sum(dim=2).argsort(dim=1, stable=True)[:, :count]


@given(
    st.lists(any_box, max_size=6),
    st.lists(st.tuples(st.floats(1, 200), st.floats(1, 200), st.sampled_from([0.0, 4.0])), min_size=1, max_size=3),
    st.tuples(st.integers(1, 12), st.integers(1, 12)),
    st.sampled_from([(8.0, 8.0), (4.0, 16.0), (17.5, 3.0)]),
    st.integers(1, 20),
)
def test_the_nearest_anchors_are_the_first_of_all_sorted_by_distance(boxes, kinds, hw, stride_xy, count):
    cell_boxes = torch.tensor([[x - w / 2, x - h / 2, x + w / 2, x + h / 2] for w, h, x in kinds])
    level, boxes = LevelGrid(*hw, stride_xy, cell_boxes), torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)
    boxes = torch.cat([boxes, boxes.round(), (boxes / 4).round() * 4])  # centres midway between those of cells: ties
    assert_close(nearest_anchors(level, boxes, count), nearest_of_all(level, boxes, count))


@pytest.mark.parametrize("chunk", [1, 20_000, 2**22])
@pytest.mark.parametrize("convention", ["mmdet", "torchvision"])
def test_atss_on_the_grid_is_atss_among_all_anchors(monkeypatch, chunk, convention):
    monkeypatch.setattr(grid_matcher, "CHUNK_CANDIDATES", chunk)
    anchors = AnchorGenerator.of_sizes(SIZES, convention=convention).generate(level_hw((300, 200)), (300, 200))
    boxes = random_boxes(60, seed=0, side=250)
    boxes[::2] = (boxes[::2] / 4).round() * 4
    anywhere = [LevelGrid(1, 1, (1.0, 1.0), level.boxes()) for level in anchors.level_grids]  # no grid to make use of
    matches = Atss(per_shape=False).match(anchors.level_grids, boxes)
    assert_close(matches, Atss(per_shape=False).match(anywhere, boxes))
    assert (matches >= 0).sum() > 60


def test_atss_beside_a_million_anchors_takes_no_matrix():
    anchors = AnchorGenerator.of_sizes(SIZES, convention="mmdet").generate(level_hw((2368, 2368)))
    boxes = random_boxes(2500, seed=1, side=2368)
    assert len(anchors.boxes) > 1_000_000
    start = time.process_time()
    matches = Atss().match(anchors.level_grids, boxes)
    assert time.process_time() - start < 10  # half a second on one core; all pairs take more than half a minute
    assert len(matches[matches >= 0].unique()) > 2000


def test_no_boxes_and_double_precision():
    anchors = AnchorGenerator.of_sizes(SIZES).generate(level_hw((256, 256)), (256, 256), dtype=torch.float64)
    assert (MaxIoU().match(anchors.level_grids, torch.zeros(0, 4)) == BACKGROUND).all()
    boxes = random_boxes(20, seed=0, side=256).double()
    assert_close(MaxIoU().match(anchors.level_grids, boxes), match_boxes(anchors.boxes, boxes))
    with pytest.raises(ValueError, match="at least one level grid"):
        MaxIoU().match([], boxes)

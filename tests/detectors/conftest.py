"""Real images for whole detectors: crops of nuclei with their boxes and centroids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from detect.data import read_coco
from detect.data.images import open_image
from detect.heads.image_targets import ImageTargets
from detect.keypoints.coco_keypoints import coco_keypoints
from detect.keypoints.keypoints import Keypoints
from detect.ops.box_arrays import xywh_to_xyxy

NUCLEI = Path(__file__).parents[2] / "data" / "nuclei"


@dataclass(frozen=True)
class NucleiBatch:
    """The first images of the training set, grey, from 0 to 1."""

    images: Tensor
    image_hw: Tensor
    targets: list[ImageTargets]
    landmarks: Keypoints


@pytest.fixture(scope="session")
def nuclei_batch() -> NucleiBatch:
    dataset = read_coco(str(NUCLEI / "nuclei_train.json"), keypoints=True)
    rows = list(range(4))
    images = [np.asarray(open_image(NUCLEI / "images", dataset.images.file_names[row]).convert("L")) for row in rows]
    targets = []
    for row in rows:
        boxes = xywh_to_xyxy(dataset.instances.boxes_xywh[dataset.instances.image_rows == row])
        targets.append(ImageTargets(torch.from_numpy(boxes).float(), torch.zeros(len(boxes), dtype=torch.int64)))
    return NucleiBatch(
        torch.from_numpy(np.stack(images))[:, None].float() / 255,
        torch.tensor([image.shape for image in images]),
        targets,
        coco_keypoints(dataset).take(rows).landmarks,
    )

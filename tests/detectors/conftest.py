"""Real images for whole detectors: crops of nuclei with their boxes and centroids."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from detect.boxes import xywh_to_xyxy
from detect.coco import read_coco
from detect.heads.targets import ImageTargets
from detect.images import open_image
from detect.keypoints.coco_landmarks import keypoint_landmarks
from detect.keypoints.landmarks import Landmarks

NUCLEI = Path(__file__).parents[2] / "data" / "nuclei"


@dataclass(frozen=True)
class NucleiBatch:
    """The first images of the training set, grey, from 0 to 1."""

    images: Tensor
    image_hw: Tensor
    targets: list[ImageTargets]
    landmarks: Landmarks


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
        keypoint_landmarks(dataset).take(rows).landmarks,
    )

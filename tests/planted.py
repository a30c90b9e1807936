"""Networks whose answer is known to come from one patch of the image, and detectors of the shipped configurations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn
from torch.nn import functional

from detect.anchors.anchor_set import AnchorSet
from detect.detectors.landmarks import LandmarkDetector
from detect.detectors.retinanet import RetinaNetDetector
from detect.inspection.targets import Scalar, class_logit
from detect.loading.labels import LabelMap
from detect.training.builder import build_detector
from detect.training.config import parse_config

SIDE = 28
PATCH = (10.0, 9.0, 17.0, 16.0)  # x0, y0, x1, y1: the pixels that the answer of StripeFinder can depend on
ROW, COLUMN = 12, 13  # its middle, the cell that answers
CONFIGS = Path(__file__).resolve().parents[1] / "configs"


class StripeFinder(nn.Module):
    """Finds vertical stripes by hand-made weights: an edge filter, a sum of its responses, and a shortcut.

    It has what libraries of attribution stumble over: an activation that is a function, in place, a norm, a shortcut,
    and a layer that is used at two levels. Horizontal stripes and flat areas give 0.
    """

    def __init__(self) -> None:
        super().__init__()
        self.edges = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(2)
        self.sum = nn.Conv2d(2, 2, 5, padding=2)
        self.read = nn.Conv2d(2, 1, 1)
        kernel = torch.tensor([[-1.0, 2.0, -1.0]]).expand(3, 3) / 3
        with torch.no_grad():
            self.edges.weight.copy_(torch.stack([kernel, -kernel])[:, None])
            self.norm.bias.fill_(-0.3)  # weak responses do not count
            self.sum.weight.fill_(0.04)
            self.sum.bias.fill_(0.0)
            self.read.weight.fill_(1.0)
            self.read.bias.fill_(-0.5)
        self.eval()

    def forward(self, images: Tensor) -> list[Tensor]:
        cells = functional.relu(self.norm(self.edges(images)), inplace=True)
        levels = []
        for each in (cells, functional.avg_pool2d(cells, 2)):
            summed = functional.relu(self.sum(each), inplace=True)
            summed = summed + each  # keeps the middle of the patch
            levels.append(self.read(summed))
        return levels


def stripes_at(row: int = ROW, column: int = COLUMN, *, seed: int = 0) -> Tensor:
    """Vertical stripes of 7 x 7 pixels around a cell, horizontal ones elsewhere, and little noise: (1, h, w)."""
    random = torch.Generator().manual_seed(seed)
    rows, columns = torch.meshgrid(torch.arange(SIDE), torch.arange(SIDE), indexing="ij")
    image = 0.1 + 0.8 * (rows % 2).float()
    inside = ((rows - row).abs() <= 3) & ((columns - column).abs() <= 3)
    image = torch.where(inside, 0.1 + 0.8 * ((columns - column) % 2 == 0).float(), image)
    return (image + 0.02 * torch.rand(SIDE, SIDE, generator=random))[None]


class Answer(nn.Module):
    """An answer of a module as a module, as Captum's hooks need it."""

    def __init__(self, module: nn.Module, answer: Callable[[nn.Module], Scalar]) -> None:
        super().__init__()
        self.module, self.answer = module, answer

    def forward(self, images: Tensor) -> Tensor:
        return self.answer(self.module)(images)


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    """A module in evaluation mode with random weights of this seed."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return make().eval()


def stripe_answer(module: StripeFinder):
    """The response in the middle of the patch."""
    return lambda images: module(images)[0][:, 0, ROW, COLUMN]


def shipped_retinanet(**model: object) -> RetinaNetDetector:
    """The detector of configs/nuclei_retinanet.yaml, with random weights."""
    content = yaml.safe_load((CONFIGS / "nuclei_retinanet.yaml").read_text("utf-8"))
    content["model"] |= model
    anchors = AnchorSet.of([[(9, 9)] * 3, [(18, 18)] * 3, [(36, 36)] * 3], strides=(4, 8, 16))
    detector = build_detector(parse_config(content), LabelMap((1,), ("nucleus",)), anchors=anchors)
    assert isinstance(detector, RetinaNetDetector)
    return detector.eval()


def shipped_landmarks() -> LandmarkDetector:
    """The detector of configs/nuclei_landmarks.yaml, with random weights."""
    content = yaml.safe_load((CONFIGS / "nuclei_landmarks.yaml").read_text("utf-8"))
    labels = LabelMap((1,), ("nucleus",), ("nucleus",), {1: (0,)})
    detector = build_detector(parse_config(content), labels)
    assert isinstance(detector, LandmarkDetector)
    return detector.eval()


def nuclei_image(side: int = 64) -> Tensor:
    """Two bright discs on black, with noise: (1, h, w)."""
    random = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    image = 0.05 * torch.rand(side, side, generator=random)
    for row, column, radius in ((side // 3, side // 3, side // 6), (side * 2 // 3, side * 3 // 4, side // 8)):
        image += 0.6 * ((y - row) ** 2 + (x - column) ** 2 < radius**2)
    return image[None].clamp(max=1)


def strongest_logit(detector: RetinaNetDetector, image: Tensor) -> Scalar:
    """The class logit of the anchor whose logit differs most from that of a black image."""
    return class_logit(detector, strongest_anchor(detector, image), 0)


def strongest_anchor(detector: RetinaNetDetector, image: Tensor) -> int:
    with torch.no_grad():
        logits = detector(torch.stack([image, torch.zeros_like(image)])).logits[..., 0]
    return int((logits[0] - logits[1]).abs().argmax())

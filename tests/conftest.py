"""What tests share: the samples inside the package, and the shapes of their boxes."""

from __future__ import annotations

import jaxtyping
import pytest
from hypothesis import settings

from detect.anchors.instances import ResizedInstances
from detect.coco import read_coco
from detect.resize import parse_resize
from detect.samples import sample_annotations

settings.register_profile("detect", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("detect")


@pytest.fixture(scope="session")
def bccd() -> ResizedInstances:
    """Blood cells, as a YOLO-sized detector sees them."""
    return ResizedInstances.of(read_coco(sample_annotations("bccd")), parse_resize("letterbox:640"))


@pytest.fixture(scope="session")
def nuclei() -> ResizedInstances:
    """Nuclei, in pixels of their own small images."""
    return ResizedInstances.of(read_coco(sample_annotations("nuclei")), parse_resize("none"))


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Annotations are not checked, as in a user's process: what is refused is refused by the code itself."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)

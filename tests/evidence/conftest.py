"""The evidence is a tool beside the package: its modules are found where it lies."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))

FEW = 5


@pytest.fixture(scope="session", autouse=True)
def few_resamples() -> Iterator[None]:
    """Intervals over few resamples, where a test does not ask for more."""
    from evidence_parts.resampling import Draws

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Draws, "of", partial(Draws.of, resamples=FEW))
        yield

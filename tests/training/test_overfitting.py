"""A few images learned by heart and found again, or not, and why."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from builders import changed
from rod_images import write_rods

from detect.training.diagnosis import Diagnosis, ImageStatistics
from detect.training.overfitting import MAX_ANGLE_DEG, OverfitVerdict, overfit

QUICK = "optimisation.learning_rate=1e-2"


@pytest.mark.parametrize("task", ["boxes", "landmarks"])
def test_few_images_are_learned_by_heart_and_their_objects_found(tiny, task):
    verdict = overfit(tiny(QUICK, task=task), 2, num_steps=60)
    assert verdict.passed, verdict.to_text()
    assert verdict.score > 0.9
    assert verdict.num_positives > 0
    assert verdict.num_objects == 3  # of the images 1 and 2
    assert verdict.causes == ()
    assert verdict.to_text().startswith(f"learned by heart: {verdict.metric} ")


def test_nothing_is_found_at_a_rate_of_nothing(tiny):
    slow = overfit(tiny("optimisation.learning_rate=1e-9", "model.score_threshold=0.5"), 2, num_steps=3, max_steps=9)
    assert not slow.passed
    assert slow.num_steps == 3  # the score does not rise
    assert "nothing has a score above model.score_threshold=0.5" in slow.causes
    assert any("too small" in finding for finding in slow.diagnosis.findings)
    assert "expected more than 0.9" in slow.to_text()


def test_training_goes_on_while_the_score_rises_but_not_for_ever(tiny, monkeypatch):
    scores = iter([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.5, 0.5, 0.6])
    monkeypatch.setattr("detect.training.overfitting.evaluate_boxes", lambda *_: Scores(next(scores)))
    verdict = overfit(tiny(), 1, num_steps=3, max_steps=12)
    assert (verdict.num_steps, verdict.score) == (8, 0.5)  # the last two rounds did not rise
    scores = iter(0.01 * step for step in range(100))
    assert overfit(tiny(), 1, num_steps=3, max_steps=5).num_steps == 5


class Scores:
    """An evaluation by its AP50."""

    def __init__(self, ap50: float) -> None:
        self.ap50, self.overall, self.by_category = ap50, self, {}


def test_normalised_labels_are_not_trained_on(tiny, squares, tmp_path):
    def normalise(content):
        for each in content["annotations"]:
            each["bbox"] = [number / 32 for number in each["bbox"]]

    train = changed(squares, tmp_path, "normalised.json", normalise)
    verdict = overfit(tiny(f"data.train={train}"), 2)
    assert not verdict.passed
    assert verdict.num_steps == 0
    assert "\n- boxes are under 1 px: normalised?" in verdict.to_text()
    mended = overfit(tiny(f"data.train={train}", "data.bbox=normalised"), 2, num_steps=3, max_steps=3)
    assert (mended.wrong, mended.num_steps) == ((), 3)


def test_categories_that_are_missed_are_named(tiny, squares, tmp_path):
    def second(content):
        content["categories"].append({"id": 9, "name": "ghost"})
        content["annotations"].append({"id": 99, "image_id": 1, "category_id": 9, "bbox": [0, 30, 32, 1]})

    train = changed(squares, tmp_path, "two.json", second)
    lines: list[str] = []
    fields = (QUICK, f"data.train={train}", "data.val=[]", "model.allow_low_quality_matches=false")
    verdict = overfit(tiny(*fields), 2, num_steps=30, max_steps=30, log=lines.append)
    assert not verdict.passed
    assert any(cause.startswith("no anchor reaches 40% of 1 of 4 boxes") for cause in verdict.causes)
    assert any(cause.startswith("not found (AP50): ghost 0.000") for cause in verdict.causes)
    assert any(line.startswith("no positive anchors for category ghost (1 box)") for line in lines)


def test_angles_are_learned_by_heart_too(tiny, tmp_path, monkeypatch):
    file = write_rods(tmp_path / "rods", num_images=2, seed=5, heads=True, with_angles=True)
    own = (f"data.train=[{file}]", "data.val=[]", f"data.images={file.parent}", "data.orientation=directed")
    told = list[str]()
    config = tiny(*own, "model.stride=2", "optimisation.learning_rate=3e-3", task="landmarks")
    verdict = overfit(config, 2, num_steps=150, log=told.append)
    assert verdict.passed, verdict.to_text()
    assert verdict.angle_error_deg <= MAX_ANGLE_DEG
    assert f"and a median angle error of {verdict.angle_error_deg:.1f} degrees on 2 images" in verdict.to_text()
    assert [each for each in told if "angles are 'angle'" in each]
    monkeypatch.setattr("detect.training.overfitting.MAX_ANGLE_DEG", 1e-3)
    failed = replace(verdict, angle_error_deg=40.0)
    assert not failed.passed
    assert "expected more than 0.9 and at most 0.001 degrees" in failed.to_text()


def test_training_goes_on_while_angles_get_better(tiny, monkeypatch):
    """The points are found in the first round; the angles in the fifth."""
    errors = iter([90.0, 60.0, 40.0, 20.0, 5.0])
    monkeypatch.setattr("detect.training.overfitting.evaluate_landmarks", lambda *_, **__: PointsFound(next(errors)))
    verdict = overfit(tiny(task="landmarks"), 1, num_steps=3, max_steps=12)
    assert (verdict.num_steps, verdict.angle_error_deg, verdict.passed) == (5, 5.0, True)
    errors = iter([90.0] * 99)
    verdict = overfit(tiny(task="landmarks"), 1, num_steps=3, max_steps=12)
    assert (verdict.num_steps, verdict.angle_error_deg, verdict.passed) == (3, 90.0, False)


class PointsFound:
    """An evaluation in which all points are found, with this median error of their angles."""

    def __init__(self, median: float) -> None:
        self.overall, self.by_type = [self], {}
        self.micro, self.angle = SimpleNamespace(f1=1.0), SimpleNamespace(median=median)


def test_the_verdict_says_what_was_reached():
    images = ImageStatistics(mean=0.0, std=1.0, minimum=-1.0, maximum=1.0)
    diagnosis = Diagnosis(0.41, 1e-3, images, 8, {}, {"head": 0.0}, ("no gradient reaches head",))
    reached = {"score": 0.95, "first_loss": 2.0, "last_loss": 0.4}
    passed = OverfitVerdict(4, 8, "AP50", num_positives=30, num_steps=300, diagnosis=diagnosis, **reached)
    assert passed.passed
    assert passed.to_text() == (
        "learned by heart: AP50 0.950 on 4 images after 300 steps (8 objects, 30 positives, loss 2 -> 0.4)\n"
    )
    for failed, cause in (
        (replace(passed, score=0.9, causes=("5 of 8 boxes are under 1 px",)), "- 5 of 8 boxes are under 1 px\n"),
        (replace(passed, num_positives=0), "- there are no positives, so nothing is learned\n"),
    ):
        assert not failed.passed
        assert failed.to_text().startswith("NOT learned by heart: AP50 0.9")
        assert cause in failed.to_text()
        assert "no gradient reaches head" in failed.to_text()

"""A few images learned by heart and found again, or not, and why."""

from __future__ import annotations

from dataclasses import replace

import pytest
from builders import changed

from detect.errors import ConfigError
from detect.training.diagnosis import Diagnosis, ImageStatistics
from detect.training.overfitting import OverfitVerdict, overfit

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
    assert any(line.startswith("no positive anchors for category ghost (1 boxes)") for line in lines)


def test_there_must_be_enough_images_with_objects(tiny):
    with pytest.raises(ConfigError, match="--overfit 9: there are 8 images with objects"):
        overfit(tiny(), 9)


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

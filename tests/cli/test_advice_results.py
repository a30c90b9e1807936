"""Advice as tables and notes: nothing where nothing applies."""

from __future__ import annotations

from builders import dataset_of

from detect.advice.advise import advise
from detect.cli.advice_results import Answers, advice_object, notes


def test_notes_tell_what_applies_alone():
    fine = advise(dataset_of([[100, 100, 90, 60]]), "rf-detr")
    assert notes(fine) == []
    crowded = advise(dataset_of([[5.0 * number, 0, 40, 40] for number in range(120)]), "ultralytics-rt-detr")
    assert notes(crowded) == [
        "COCO's AP counts 100 detections of an image and category: 20 objects (16.7%) cannot count",
        "in mosaics of 4 images 37.50% of the objects have no query left, unless crops cut objects away",
    ]
    large = advise(dataset_of([[100.0 * number, 100.0 * number, 30, 30] for number in range(20)], side=2560), "yolo11")
    assert notes(large) == [
        "tiles of 640 px with an overlap of 7 px cut 0 objects: 25.0 tiles an image, 25 times the compute"
    ]


def test_answers_keep_the_objects_of_each_detector_and_the_labels_of_the_first(capsys):
    answers = Answers(printed=True, with_files=True, images=None)
    dataset = dataset_of([[5, 5, 3, 3], [5, 5, 3, 3.1], [60, 60, 90, 80]])
    for name in ("yolo11-8.3", "rf-detr"):
        answers.add(advise(dataset, name))
    answers.print_labels()
    out = capsys.readouterr().out
    assert out.index("yolo11-8.3 at") < out.index("rf-detr at") < out.index("labels")
    assert {row[0] for row in answers.lost} == {"yolo11-8.3"}
    outcomes = [("no positive", "lost"), ("suppressed", "contested")]
    expected = [(*outcome, number) for outcome in outcomes for number in (0, 1)]
    assert [tuple(row[1:4]) for row in answers.lost] == expected
    files = answers.files()
    assert set(files) == {"advice.json", "lost.csv", "report.html"}
    assert advice_object(advise(dataset, "rf-detr")) == answers.objects[1]

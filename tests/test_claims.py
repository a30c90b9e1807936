"""Sentences outside the reports say what the reports measured: about AP, the rows of finished trainings."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from statistics import mean

import pytest

from detect.cli.explain import DEFAULT_METHOD

ROOT = Path(__file__).resolve().parents[1]
EVIDENCE = (ROOT / "docs" / "evidence.md").read_text("utf-8")
PAGES = [ROOT / "README.md", *(ROOT / "docs" / f"{name}.md" for name in ("anchors", "training", "inside"))]
TOLD = " ".join(" ".join(page.read_text("utf-8").split()) for page in PAGES)
WITH_CLAIMS = [*(str(page.relative_to(ROOT)) for page in PAGES), "CONTRIBUTING.md", "configs", "detect", "examples"]
FIGURE = r"(?<![\d.])[01]?\.\d{1,3}\b"


def ap(dataset: str, variant: str, epochs: int) -> float:
    """The mean AP over the seeds of a variant."""
    with (ROOT / "docs" / "evidence" / "runs.csv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["dataset"] == dataset and row["variant"] == variant]
    return mean(float(row["ap"]) for row in rows if int(row["epochs"]) == epochs)


def correlation(dataset: str, number: str, heading: str) -> float:
    """Spearman's correlation of a number of the anchors with AP, from the column of this heading."""
    (section,) = re.findall(rf"### Which number predicts AP, {dataset}\n(.*?)\n#", EVIDENCE + "\n#", re.DOTALL)
    head, *rows = [line.strip("|").split(" | ") for line in section.splitlines() if line.startswith("| ")]
    (column,) = [place for place, title in enumerate(head) if title.strip().startswith(heading)]
    (row,) = [row for row in rows if row[0].strip() == number]
    return float(row[column].split()[0])


def configurations(dataset: str, heading: str) -> str:
    """How many configurations such a column is of."""
    return re.findall(
        rf"{re.escape(heading)} \((\d+) configurations\)", EVIDENCE.split(f"predicts AP, {dataset}\n")[1]
    )[0]


def bccd(variant: str) -> float:
    return ap("bccd", variant, 12)


PLAIN, WEIGHED = "positives as they are", "positives weighed"


def everywhere(number: str) -> list[float]:
    """The correlations of a number of the anchors with AP: blood cells without weights and with them, nuclei."""
    return [
        correlation(*column)
        for column in (("bccd", number, PLAIN), ("bccd", number, WEIGHED), ("nuclei", number, PLAIN))
    ]


CLAIMS = {  # a sentence of README.md or a page beside it, and what its figures are
    r"with fitted anchors from (\S+) to (\S+), and with RetinaNet's own from (\S+) to (\.\d+)": lambda: [
        bccd(variant) for variant in ("fitted", "fitted-balanced", "default", "default-balanced")
    ],
    r"Spearman's correlation is (\S+) on blood cells without weights, (\S+) with weights and (\.\d+) on nuclei": lambda: (
        everywhere("S")
    ),
    r"Evenness alone has (\S+), (\S+) and (\.\d+),": lambda: everywhere("evenness"),
    r"recall on the grid (\S+), (\S+) and (\.\d+),": lambda: everywhere("recall at .5 on the grid"),
    r"average IoU on the grid (-\S+), (-\S+) and (\.\d+)\.": lambda: everywhere("average IoU on the grid"),
    r"reach an AP of (\S+), the fitted ones (\.\d+)": lambda: [bccd("by-size-balanced"), bccd("fitted-balanced")],
}
ELSEWHERE = (  # figures measured by others of the project's tables, with tests of their own
    r"Spearman's correlation -\.97 and -\.84",  # docs/advice.md
    r"\.61 AP on other sources, \.42 without learning",  # docs/first_detector.md
    r"ten to fifteen minutes on two cores: \.60 AP",  # of the shipped configurations: .605,
    r"after 40 epochs: \.59 to \.60 AP",  # .602 and .594
    r"average precision \(AP\) and recall \(AR\) over IoU \.50 to \.95",  # what it is
    r"AP at IoU \.5, or F1",
)


@pytest.mark.parametrize("sentence", CLAIMS)
def test_figures_of_the_readme_are_those_of_the_evidence(sentence):
    told = re.search(sentence, TOLD)
    assert told, sentence
    for figure, measured in zip(told.groups(), CLAIMS[sentence](), strict=True):
        digits = len(figure.partition(".")[2])
        assert float(figure) == pytest.approx(measured, abs=0.51 * 10**-digits)


def parts_of(file: Path) -> list[str]:
    """The sentences of a text, or the lines of a program or configuration, without the known claims."""
    text = file.read_text("utf-8")
    if file.suffix == ".md":
        text = " ".join(text.split())
    for known in (*CLAIMS, *ELSEWHERE):
        text = re.sub(known, "", text)
    return re.split(r"(?<=[.:;!?])\s(?=[A-Z#`|])", text) if file.suffix == ".md" else text.splitlines()


@pytest.mark.parametrize("place", WITH_CLAIMS)
def test_every_figure_of_ap_is_among_the_claims(place):
    path = ROOT / place
    files = [path] if path.is_file() else [each for kind in ("*.py", "*.yaml") for each in sorted(path.rglob(kind))]
    assert files
    told = [each for file in files for each in parts_of(file) if re.search(r"\bAP\b", each)]
    assert [each for each in told if re.search(FIGURE, each)] == []


def test_the_correlations_are_of_as_many_configurations():
    assert {configurations("bccd", heading) for heading in (PLAIN, WEIGHED)} == {"7"}


def test_links_into_the_evidence_lead_to_its_sections():
    headings = re.findall(r"^#+ (.*)$", EVIDENCE, re.MULTILINE)
    anchors = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    linked = [
        link
        for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"))
        for link in re.findall(r"evidence\.md#([\w-]+)\)", path.read_text("utf-8"))
    ]
    assert linked
    assert set(linked) <= anchors


def test_the_default_method_of_explain_is_the_one_that_passes_every_test_on_both_detectors():
    report = (ROOT / "docs" / "attributions.md").read_text("utf-8")
    assert f"\n- all: {DEFAULT_METHOD}.\n" in report
    assert TOLD.count(f"only {DEFAULT_METHOD}, the default, passes every test for both") == 2

"""``detect heatmaps oracle`` as a user types it."""

from __future__ import annotations

from detect.samples import sample_annotations

NUCLEI = sample_annotations("nuclei")


def test_a_perfect_network_finds_the_nuclei_at_stride_4_and_not_at_8(detect, tmp_path):
    arguments = ("heatmaps", "oracle", NUCLEI, "--strides", "4,8", "--sigmas", "2")
    content = detect(*arguments, "--json", "-o", tmp_path).json
    fine, coarse = content["settings"]
    assert fine["micro"]["f1"] >= 0.995 > coarse["micro"]["f1"]
    assert fine["merged"] < coarse["merged"]
    assert content["coarsest_good"] == {"stride": 4, "sigma": 2}
    assert "What a perfect network would reach" in (tmp_path / "report.html").read_text("utf-8")


def test_the_table_marks_the_coarsest_good_one_or_warns(detect, truth):
    result = detect("heatmaps", "oracle", truth, "--strides", "2,4", "--sigmas", "1,2")
    (marked,) = [line for line in result.out.splitlines() if line.endswith("<- coarsest good one")]
    assert marked.split()[:3] == ["4", "2", "1.0000"]
    assert result.err == ""
    coarse = detect("heatmaps", "oracle", truth, "--strides", "64", "--sigmas", "1", "--no-split", "--radius", 1)
    assert "warning: no setting reaches an F1 of 0.995" in coarse.err

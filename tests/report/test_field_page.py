"""The page of fields: what the tables and figures show is what was computed."""

from __future__ import annotations

import re

from builders import instances_of
from pages import table_rows
from torch import nn

from detect.inspection.level_profile import profile_model, profile_objects
from detect.inspection.models import model_of
from detect.report.field_page import field_page, growth_panel, objects_panel


def profiled():
    net = nn.Sequential(nn.Conv2d(1, 2, 7, stride=4, padding=3), nn.Conv2d(2, 2, 3, stride=2, padding=1))
    profile = profile_model(model_of("<net>", net))
    return profile, profile_objects(profile, instances_of([[0, 0, 8, 8], [0, 0, 9, 9]], image_wh=(64, 64)))


def test_the_page_escapes_names_and_holds_both_figures():
    profile, objects = profiled()
    page = field_page(profile, objects)
    assert "<net>" not in page
    assert len(re.findall(r'id="objects-by-level"', page)) == 1
    assert "\ufffd" not in page.split("<body>")[1].split("<script")[0]
    assert '"growth": {' in page
    assert ["C3", "8", "15"] in [[row[0], row[1], row[4]] for row in table_rows(page) if len(row) > 4]  # 7 + 2 * 4
    assert '"objects-by-level": {' not in field_page(profile, None)


def test_figures_draw_every_layer_and_every_object():
    profile, objects = profiled()
    drawn = growth_panel(profile.layers).figure
    assert [list(trace.y) for trace in drawn.data] == [[7], [15]]
    bars = objects_panel(objects, "objects").figure.data[0]
    assert sum(bars.y) == 2

"""Scatter plots as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import cycle

from evidence_parts.plan import BALANCED

WIDTH_PX, HEIGHT_PX = 640, 400
LEFT, RIGHT, TOP, BOTTOM = 60, 200, 20, 50
COLORS = (
    *("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9"),
    *("#000000", "#999999", "#8c510a", "#5e3c99", "#66a61e", "#bcbd22"),
)


@dataclass(frozen=True)
class Series:
    """Points of one name and colour, with optional vertical bars.

    A variant with weighed positives has the colour of the variant without.
    """

    name: str
    points: Sequence[tuple[float, float]]
    spread: Sequence[tuple[float, float]] = ()
    """Lower and upper end of each point's vertical bar."""
    hollow: bool = False


def draw(series: Sequence[Series], *, x_title: str, y_title: str) -> str:
    """Write an SVG file as text; all numbers must be finite."""
    x_values = [x for each in series for x, _ in each.points]
    y_values = [y for each in series for _, y in each.points] + [
        y for each in series for bar in each.spread for y in bar
    ]
    x_axis, y_axis = _Axis.over(x_values, LEFT, WIDTH_PX - RIGHT), _Axis.over(y_values, HEIGHT_PX - BOTTOM, TOP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH_PX} {HEIGHT_PX}" font-family="sans-serif" '
        f'font-size="12"><rect width="{WIDTH_PX}" height="{HEIGHT_PX}" fill="white"/>'
    ]
    for value in x_axis.ticks:
        x = x_axis.at(value)
        parts.append(_line(x, TOP, x, HEIGHT_PX - BOTTOM, "#dddddd"))
        parts.append(_text(x, HEIGHT_PX - BOTTOM + 16, f"{value:g}", "middle"))
    for value in y_axis.ticks:
        y = y_axis.at(value)
        parts.append(_line(LEFT, y, WIDTH_PX - RIGHT, y, "#dddddd"))
        parts.append(_text(LEFT - 6, y + 4, f"{value:g}", "end"))
    parts.append(_text((LEFT + WIDTH_PX - RIGHT) / 2, HEIGHT_PX - 12, x_title, "middle"))
    middle = (TOP + HEIGHT_PX - BOTTOM) / 2
    parts.append(f'<g transform="rotate(-90 16 {middle:.1f})">{_text(16, middle, y_title, "middle")}</g>')
    plain = [each.name.removesuffix(BALANCED) for each in series]
    colors = dict(zip(dict.fromkeys(plain), cycle(COLORS), strict=False))
    for number, (each, name) in enumerate(zip(series, plain, strict=True)):
        parts += _drawn(each, colors[name], x_axis, y_axis)
        parts += _legend(each, colors[name], TOP + 12 + 20 * number)
    return "\n".join([*parts, "</svg>\n"])


@dataclass(frozen=True)
class _Axis:
    low: float
    high: float
    start_px: float
    end_px: float
    ticks: tuple[float, ...]

    @classmethod
    def over(cls, values: Sequence[float], start_px: float, end_px: float) -> _Axis:
        """An axis whose ends are round numbers."""
        low, high = min(values, default=0.0), max(values, default=1.0)
        extent = (high - low) or abs(high) or 1.0
        power = 10.0 ** math.floor(math.log10(extent / 4))
        step = next(power * factor for factor in (1, 2, 5, 10) if extent / (power * factor) <= 6)
        first, last = math.floor(low / step), max(math.ceil(high / step), math.floor(low / step) + 1)
        ticks = tuple(round(number * step, 10) for number in range(first, last + 1))
        return cls(first * step, last * step, start_px, end_px, ticks)

    def at(self, value: float) -> float:
        return self.start_px + (value - self.low) / (self.high - self.low) * (self.end_px - self.start_px)


def _drawn(series: Series, color: str, x_axis: _Axis, y_axis: _Axis) -> list[str]:
    places = [(x_axis.at(x), y_axis.at(y)) for x, y in series.points]
    bars = [
        _line(x, y_axis.at(low), x, y_axis.at(high), color)
        for (x, _), (low, high) in zip(places, series.spread, strict=False)
    ]
    return bars + [_dot(x, y, color, series.hollow) for x, y in places]


def _legend(series: Series, color: str, y: float) -> list[str]:
    x = WIDTH_PX - RIGHT + 16
    return [_dot(x, y - 4, color, series.hollow), _text(x + 10, y, series.name, "start")]


def _dot(x: float, y: float, color: str, hollow: bool) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" stroke="{color}" fill="{"white" if hollow else color}"/>'


def _line(x0: float, y0: float, x1: float, y1: float, color: str) -> str:
    return f'<line x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}" stroke="{color}"/>'


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'
